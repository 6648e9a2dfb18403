//! No bytes make the parser panic, nor the printing of its errors.

#![expect(clippy::unwrap_used, reason = "the helpers of tests, too, may fail them")]

use bowline_core::id::EnvName;
use bowline_spec::{Defaults, canonical, decode, parse, print};
use proptest::prelude::*;
use proptest::sample::Index;

const WHOLE: &str = include_str!("files/whole.toml");

/// Reads it, shows all errors in every form, and prints what could be read.
fn survive(bytes: &[u8]) {
    let text = match decode(bytes, "bowline.toml") {
        Ok(text) => text,
        Err(errors) => return drop((errors.render(true), errors.iter().count())),
    };
    let defaults = Defaults { folder_name: text.chars().take(8).collect(), ..Default::default() };
    match parse(&text, "bowline.toml", &EnvName::new("production").unwrap(), &defaults) {
        Ok(parsed) => {
            let again = parse(&print(&parsed.app), "bowline.toml", &parsed.app.environment.name, &defaults);
            assert_eq!(again.expect("what is printed is valid").app, parsed.app);
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors.iter() {
                assert!(error.line >= 1 && error.column >= 1 && !error.message.is_empty());
            }
            drop((errors.render(false), errors.render(true)));
        }
    }
    drop(canonical::from_json(&text));
}

/// A part of a line put elsewhere, cut out, doubled, or replaced.
fn mutate(text: &mut Vec<u8>, from: Index, length: usize, to: Index, what: u8, junk: &[u8]) {
    if text.is_empty() {
        return text.extend(junk);
    }
    let from = from.index(text.len());
    let end = (from + length).min(text.len());
    let piece: Vec<u8> = match what % 4 {
        0 => text.drain(from..end).collect(),
        1 => text[from..end].to_vec(),
        2 => Vec::new(),
        _ => junk.to_vec(),
    };
    if what % 4 == 2 {
        text.drain(from..end);
    }
    let to = to.index(text.len() + 1);
    text.splice(to..to, piece);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        survive(&bytes);
    }

    #[test]
    fn any_text_of_toml_letters(text in "[\\[\\]{}=.,\"'#a-c0-9 \n\t\\\\é-]{0,120}") {
        survive(text.as_bytes());
    }

    #[test]
    fn a_file_with_mistakes(edits in prop::collection::vec(any::<(Index, u8, Index, u8, [u8; 3])>(), 1..6)) {
        let mut text = WHOLE.as_bytes().to_vec();
        for (from, length, to, what, junk) in edits {
            mutate(&mut text, from, usize::from(length), to, what, &junk);
        }
        survive(&text);
    }

    #[test]
    fn a_value_of_another_kind(at in any::<Index>(), value in "(true|-?[0-9]{1,30}|1e9|nan|\\[\\]|\\[1\\]|\\{\\}|1979-05-27|\"[^\"\\\\\n]{0,6}\"|\\{ *secret *= *3 *\\})") {
        let lines: Vec<&str> = WHOLE.lines().filter(|line| line.contains('=')).collect();
        let line = lines[at.index(lines.len())];
        let (key, _) = line.split_once('=').unwrap();
        survive(WHOLE.replacen(line, &format!("{key}= {value}"), 1).as_bytes());
    }
}

#[test]
fn deep_nesting_is_an_error() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let text = format!("a = {}1{}", open.repeat(5000), close.repeat(5000));
        survive(text.as_bytes());
    }
    survive(format!("[{}]", vec!["a"; 5000].join(".")).as_bytes());
    survive(format!("{}1", "[".repeat(20_000)).as_bytes());
}
