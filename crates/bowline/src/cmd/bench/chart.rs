//! Latency and answers over time, in characters.

use bowline_load::html::{grouped, time};
use bowline_load::report::{Time, Times};

use crate::ui::{Tone, Ui};

/// Columns and rows of the picture.
const COLUMNS: usize = 64;
const ROWS: usize = 9;
/// Columns before it.
const MARGIN: usize = 9;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What happened in the slots that share a column.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Column {
    p50: u64,
    p90: u64,
    max: u64,
    failed: u64,
    answered_per_second: f64,
}

/// On a logarithmic scale, with a legend; nothing if no request was answered.
pub(super) fn lines(times: &Times, ui: &Ui) -> Vec<String> {
    let columns = columns(times);
    let greatest = columns.iter().map(|column| column.max).max().unwrap_or(0);
    let least = columns.iter().map(|column| column.p50).filter(|us| *us > 0).min().unwrap_or(0);
    if greatest == 0 || least == 0 {
        return Vec::new();
    }
    let scale = Scale::new(least, greatest);
    let legend = [(Tone::Good, "█ p50"), (Tone::Warning, "▒ p90"), (Tone::Bad, "░ slowest")];
    let legend: Vec<String> = legend.into_iter().map(|(tone, words)| ui.paint(tone, words)).collect();
    let mut lines = vec![format!("  latency   {}", legend.join("  "))];
    for row in (0..ROWS).rev() {
        // Every other row has a mark, the highest one too.
        let mark = if row % 2 == 0 { time(scale.value(row)) } else { String::new() };
        let cells: String = columns.iter().map(|column| cell(column, row, &scale, ui)).collect();
        lines.push(format!("{} {}", ui.paint(Tone::Faint, format!("{mark:>MARGIN$} ┤")), cells.trim_end()));
    }
    lines.push(axis(times, columns.len(), ui));
    lines.push(answers(&columns, ui));
    if columns.iter().any(|column| column.failed > 0) {
        let marks: String = columns.iter().map(|column| if column.failed > 0 { '×' } else { ' ' }).collect();
        lines.push(format!("{:>MARGIN$}   {}", "failed", ui.paint(Tone::Bad, marks.trim_end())));
    }
    lines.push(String::new());
    lines
}

/// At most [`COLUMNS`], each of as many slots.
fn columns(times: &Times) -> Vec<Column> {
    let due = times.slots.iter().rposition(|slot| slot.due > 0).map_or(0, |last| last + 1);
    let per_column = due.div_ceil(COLUMNS).max(1);
    times.slots[..due].chunks(per_column).map(|slots| column(slots, times.width_ms)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a picture has eight heights")]
fn column(slots: &[Time], width_ms: u64) -> Column {
    let most = |of: fn(&Time) -> Option<u64>| slots.iter().filter_map(of).max().unwrap_or(0);
    let answered: u64 = slots.iter().map(|slot| slot.answered).sum();
    let ms = width_ms.max(1) * u64::try_from(slots.len()).unwrap_or(1);
    Column {
        p50: most(|slot| slot.p50_us),
        p90: most(|slot| slot.p90_us),
        max: most(|slot| slot.max_us),
        failed: slots.iter().map(|slot| slot.failed).sum(),
        answered_per_second: answered as f64 * 1e3 / ms as f64,
    }
}

/// Rows as powers between two values.
struct Scale {
    least: f64,
    /// Of a row to the one below.
    ratio: f64,
}

impl Scale {
    /// At least one factor of ten, so that noise does not look like mountains.
    #[expect(clippy::cast_precision_loss, reason = "marks have two digits")]
    fn new(least: u64, greatest: u64) -> Self {
        let least = least as f64 * 0.8;
        let span = (greatest as f64 / least).max(10.0);
        Self { least, ratio: span.powf(1.0 / (ROWS - 1) as f64) }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "microseconds of a run")]
    #[expect(clippy::cast_possible_wrap, reason = "nine rows")]
    fn value(&self, row: usize) -> u64 {
        (self.least * self.ratio.powi(row as i32)).round() as u64
    }

    /// Whether a value reaches the middle of a row.
    #[expect(clippy::cast_precision_loss, reason = "nine rows")]
    fn reaches(&self, us: u64, row: usize) -> bool {
        us > 0 && us as f64 >= self.least * self.ratio.powf(row as f64 - 0.5)
    }
}

fn cell(column: &Column, row: usize, scale: &Scale, ui: &Ui) -> String {
    if scale.reaches(column.p50, row) {
        ui.paint(Tone::Good, '█')
    } else if scale.reaches(column.p90, row) {
        ui.paint(Tone::Warning, '▒')
    } else if scale.reaches(column.max, row) {
        ui.paint(Tone::Bad, '░')
    } else {
        " ".to_owned()
    }
}

#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn axis(times: &Times, columns: usize, ui: &Ui) -> String {
    let due = times.slots.iter().rposition(|slot| slot.due > 0).map_or(0, |last| last + 1);
    let end = format!("{:.1}s", due as f64 * times.width_ms as f64 / 1e3);
    let line = "─".repeat(columns.saturating_sub(end.len() + 3));
    ui.paint(Tone::Faint, format!("{:>MARGIN$} └ 0s {line} {end}", ""))
}

fn answers(columns: &[Column], ui: &Ui) -> String {
    let greatest = columns.iter().map(|column| column.answered_per_second).fold(1.0, f64::max);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 8")]
    let bar = |column: &Column| match (column.answered_per_second / greatest * 8.0).ceil() as usize {
        0 => ' ',
        height => BARS[height.min(8) - 1],
    };
    let bars: String = columns.iter().map(bar).collect();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate of requests")]
    let most = grouped(greatest.round() as u64);
    format!(
        "{:>MARGIN$}   {}  {}",
        "answers",
        ui.paint(Tone::Link, bars),
        ui.paint(Tone::Faint, format!("{most}/s at most"))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(p50: u64, max: u64, answered: u64, failed: u64) -> Time {
        Time { due: 10, failed, answered, p50_us: Some(p50), p90_us: Some(max / 2), max_us: Some(max) }
    }

    fn times(slots: Vec<Time>) -> Times {
        Times { width_ms: 100, slots }
    }

    #[test]
    fn a_stall_stands_out_of_the_picture() {
        let mut slots = vec![slot(1_000, 2_500, 10, 0); 20];
        slots[10] = slot(400_000, 500_000, 0, 3);
        let lines = lines(&times(slots), &Ui::new(true));
        let high = lines[1].clone();
        assert!(high.starts_with("   500 ms ┤"), "{high}");
        assert_eq!(high.chars().filter(|c| "█▒░".contains(*c)).count(), 1, "{high}");
        let answers = lines.iter().find(|line| line.contains("answers")).unwrap();
        assert!(answers.contains("██████████ █████████  100/s at most"), "{answers}");
        assert!(lines.iter().any(|line| line.contains("failed             ×")), "{lines:#?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 100));
    }

    #[test]
    fn a_long_run_fits_and_an_empty_one_has_no_picture() {
        assert_eq!(columns(&times(vec![slot(1, 2, 1, 0); 240])).len(), 60);
        assert!(lines(&times(Vec::new()), &Ui::new(true)).is_empty());
    }
}
