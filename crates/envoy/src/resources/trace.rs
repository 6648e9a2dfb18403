//! Traces: a script passes on W3C Trace Context or begins it, as the embedded edge does, and tells the access log.

use bowline_core::route::{RANDOM_BITS, rejection_threshold};
use bowline_core::units::Share;

/// Goes before all other filters: what they refuse is a span, too.
pub(super) const NAME: &str = "bowline.trace";

/// `sample`: of the traces that begin here; `None`: Envoy is a span of none.
pub(super) fn script(sample: Option<Share>) -> String {
    format!("local FROM = {}\n{}", from(sample), include_str!("trace.lua"))
}

/// As Lua writes it. Digits are compared as texts, and none of them comes behind this word.
fn from(sample: Option<Share>) -> String {
    match sample.map(rejection_threshold) {
        None => "nil".to_owned(),
        Some(threshold) if threshold >> RANDOM_BITS == 0 => format!("\"{threshold:014x}\""),
        Some(_) => "\"none\"".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_told_in_the_digits_that_ids_are_compared_with() {
        let check = |ppm: Option<u32>, expected: &str| assert_eq!(from(ppm.and_then(Share::from_ppm)), expected);
        check(None, "nil");
        check(Some(1_000_000), "\"00000000000000\"");
        check(Some(250_000), "\"c0000000000000\"");
        check(Some(999_999), "\"000010c6f7b000\"");
        check(Some(0), "\"none\"");
        assert!("none" > "ffffffffffffff");
    }
}
