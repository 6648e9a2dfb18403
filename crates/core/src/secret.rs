//! A value that never prints.

use std::fmt;
use zeroize::Zeroizing;

/// A secret in clear. `Debug` and `Display` do not show it; memory is wiped when it is dropped.
///
/// Architecture invariant: a `Secret` is never part of an event, an API answer, a log line or a metric.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The value itself. The name is long so that every use is seen in review.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A value as editors, terminals and `echo` write it: one end of a line behind it is not part of it.
pub fn without_line_end(mut value: Vec<u8>) -> Vec<u8> {
    if value.ends_with(b"\n") {
        value.pop();
        if value.ends_with(b"\r") {
            value.pop();
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_end_of_a_line_is_no_part_of_a_value() {
        let check = |text: &str, value: &str| assert_eq!(without_line_end(text.into()), value.as_bytes(), "{text:?}");
        check("a", "a");
        check("a\n", "a");
        check("a\r\n", "a");
        check("a\n\n", "a\n");
        check("a\r", "a\r");
        check("\n", "");
    }

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }
}
