//! The value of a secret, as a person gives it: in a file, or through a pipe.

use std::io::{self, Read};

use bowline_api::wire::MAX_SECRET;
use bowline_core::secret::without_line_end;

/// Room for the end of a line, which is no part of a value, and for one byte that is too much.
const BEYOND: usize = 3;

/// Why what was given is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("it is empty")]
    Empty,
    #[error("a secret has at most {MAX_SECRET} bytes")]
    TooLarge,
}

/// All that is given, and no more than is needed to know that it is too much.
pub(crate) fn read(from: impl Read) -> io::Result<Vec<u8>> {
    let mut written = Vec::new();
    let limit = u64::try_from(MAX_SECRET + BEYOND).expect("64 KiB fit");
    from.take(limit).read_to_end(&mut written)?;
    Ok(written)
}

/// The value of what is written.
pub(crate) fn of(written: Vec<u8>) -> Result<Vec<u8>, Unfit> {
    let value = without_line_end(written);
    match value.len() {
        0 => Err(Unfit::Empty),
        1..=MAX_SECRET => Ok(value),
        _ => Err(Unfit::TooLarge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_a_byte_and_no_more_than_are_kept() {
        let check = |length: usize, end: &str, expected: Result<usize, Unfit>| {
            let written = [&vec![b'x'; length][..], end.as_bytes()].concat();
            let got = of(read(&written[..]).unwrap()).map(|value| value.len());
            assert_eq!(got, expected, "{length} {end:?}");
        };
        check(0, "", Err(Unfit::Empty));
        check(0, "\r\n", Err(Unfit::Empty));
        check(1, "\n", Ok(1));
        check(MAX_SECRET, "\r\n", Ok(MAX_SECRET));
        check(MAX_SECRET + 1, "", Err(Unfit::TooLarge));
        check(10 * MAX_SECRET, "\n", Err(Unfit::TooLarge));
    }
}
