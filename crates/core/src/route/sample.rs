//! Which of the traces that begin at an edge are recorded, whichever edge it is.

use crate::units::Share;

/// So many of a trace's last bits are random (W3C Trace Context, level 2, 3.2.2.5).
pub const RANDOM_BITS: u32 = 56;

/// Recorded are those traces whose random bits are not less than this: the rejection threshold of OpenTelemetry's consistent probability sampling, by
/// which others take the same traces. Of no trace it is more than the bits can be.
pub fn rejection_threshold(share: Share) -> u64 {
    // A share has 20 bits.
    let taken = ((u64::from(share.ppm()) << 44) / u64::from(Share::WHOLE.ppm())) << (RANDOM_BITS - 44);
    (1 << RANDOM_BITS) - taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_that_of_the_digits_that_others_say() {
        let check = |ppm: u32, expected: u64| {
            assert_eq!(rejection_threshold(Share::from_ppm(ppm).unwrap()), expected, "{ppm}");
        };
        check(1_000_000, 0);
        check(0, 1 << RANDOM_BITS);
        check(500_000, 0x80_0000_0000_0000);
        // `th:c` of OpenTelemetry's `tracestate`.
        check(250_000, 0xc0_0000_0000_0000);
    }
}
