//! How long a fault may be where it is sent: a client takes no line of a streamed answer without end, and whoever reads wants
//! the end of an output. A test beside the client holds its limit against these.

use std::borrow::Cow;

/// Bytes of the detail, and of one of its lines where it is longer.
const DETAIL: usize = 32 << 10;
const DETAIL_LINE: usize = 2 << 10;
/// Of the message, and of the hint.
const TEXT: usize = 4 << 10;
/// Of all causes.
const CAUSES: usize = 8 << 10;
/// Of what says that something is left out.
const MARK: usize = 64;

/// Preformatted text: its last lines, each cut where it is too long.
pub(crate) fn detail(text: String) -> String {
    if text.len() <= DETAIL {
        return text;
    }
    let mut kept = Vec::new();
    let mut room = DETAIL - MARK;
    for line in text.lines().rev() {
        let line = cut(line, DETAIL_LINE);
        let Some(left) = room.checked_sub(line.len() + 1) else { break };
        room = left;
        kept.push(line);
    }
    match text.lines().count() - kept.len() {
        0 => {}
        left_out => kept.push(format!("… {left_out} earlier lines are left out").into()),
    }
    kept.reverse();
    kept.join("\n")
}

/// The message, or the hint.
pub(crate) fn text(text: String) -> String {
    cut(&text, TEXT).into_owned()
}

/// From the nearest cause on; the root goes first.
pub(crate) fn causes(causes: Vec<String>) -> Vec<String> {
    let mut room = CAUSES;
    let mut kept = Vec::new();
    for cause in causes {
        let cause = cut(&cause, TEXT).into_owned();
        let Some(left) = room.checked_sub(cause.len()) else { break };
        room = left;
        kept.push(cause);
    }
    kept
}

fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    let begin = &text[..text.floor_char_boundary(most - MARK)];
    format!("{begin} … {} bytes more", text.len() - begin.len()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_keeps_its_end_and_says_what_is_left_out() {
        let short = "a\n\n b".to_owned();
        assert_eq!(detail(short.clone()), short);
        let long: String = (0..50).map(|n| format!("{n:02} {}\n", "é".repeat(8 << 10))).collect();
        let bounded = detail(long);
        assert!(bounded.len() <= DETAIL, "{}", bounded.len());
        let lines: Vec<&str> = bounded.lines().collect();
        assert_eq!(lines[0], "… 34 earlier lines are left out");
        assert!(lines[1].starts_with("34 é") && lines[16].starts_with("49 é"), "{lines:?}");
        assert!(lines.last().unwrap().ends_with("é … 14404 bytes more"), "{:?}", lines.last());
        let one = detail("x".repeat(1 << 20));
        assert!(one.len() <= DETAIL_LINE && one.ends_with(" bytes more"));
    }

    #[test]
    fn other_texts_are_bounded_and_short_ones_stay_as_they_are() {
        assert_eq!(text("why".to_owned()), "why");
        assert!(text("x".repeat(1 << 20)).len() <= TEXT);
        let many = causes((0..1_000).map(|n| format!("{n} {}", "x".repeat(9_000))).collect());
        assert!(many.len() == 2 && many.iter().map(String::len).sum::<usize>() <= CAUSES, "{}", many.len());
    }
}
