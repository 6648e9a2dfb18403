//! Quantities of the file: bytes, shares, processor time, rates.

use std::fmt;
use std::time::Duration;

/// A count to calculate with: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "a count above 2^53 is rounded by a 2^-53rd of it")]
pub fn float(count: u64) -> f64 {
    count as f64
}

/// A number of bytes. Written `64KiB`, `20MiB`, `1GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match UNITS.iter().find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// Bytes for reading, to one decimal of the largest unit: `12.3 GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round(pub Bytes);

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let Self(Bytes(n)) = self;
        match UNITS.iter().find(|(unit, _)| n >= unit) {
            // In integers: a tenth of a unit, rounded down.
            Some((unit, name)) => write!(f, "{}.{} {name}", n / unit, n % unit * 10 / unit),
            None => write!(f, "{n} B"),
        }
    }
}

/// A share of a whole in parts per million, at most 1,000,000. Written `70%`, `99.9%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Share(u32);

impl Share {
    pub const WHOLE: Self = Self(1_000_000);

    /// From parts per million; `None` above the whole.
    pub const fn from_ppm(ppm: u32) -> Option<Self> {
        if ppm <= Self::WHOLE.0 { Some(Self(ppm)) } else { None }
    }

    pub fn ppm(self) -> u32 {
        self.0
    }

    pub fn as_fraction(self) -> f64 {
        f64::from(self.0) / f64::from(Self::WHOLE.0)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 10_000, self.0 % 10_000);
        match part {
            0 => write!(f, "{whole}%"),
            _ => write!(f, "{whole}.{}%", format!("{part:04}").trim_end_matches('0')),
        }
    }
}

/// Processor time in thousandths of a core. Written `1.0`, `0.25`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MilliCpu(pub u32);

/// A part of the traffic, in hundredths: the weights of a split sum to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Weight(u8);

impl Weight {
    pub const ALL: Self = Self(100);

    pub fn new(percent: u8) -> Option<Self> {
        (percent <= 100).then_some(Self(percent))
    }

    pub fn get(self) -> u8 {
        self.0
    }

    /// What is left.
    #[must_use]
    pub fn rest(self) -> Self {
        Self(Self::ALL.0 - self.0)
    }

    /// Of the baseline of a canary of this share: the same, as long as there is as much.
    #[must_use]
    pub fn baseline(self) -> Self {
        self.min(self.rest())
    }
}

/// So many in so long. Written `50/s`, `10/m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub per: Duration,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "s",
            60 => "m",
            3600 => "h",
            _ => "d",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_print_as_they_are_written() {
        assert_eq!(Bytes(20 << 20).to_string(), "20MiB");
        assert_eq!(Bytes(1000).to_string(), "1000B");
        assert_eq!(Share::from_ppm(999_000).unwrap().to_string(), "99.9%");
        assert_eq!(Share::from_ppm(700_000).unwrap().to_string(), "70%");
        assert_eq!(Share::from_ppm(50).unwrap().to_string(), "0.005%");
        assert_eq!(Rate { count: 50, per: Duration::from_secs(1) }.to_string(), "50/s");
    }
}
