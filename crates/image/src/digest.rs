//! SHA-256 of what is written, while it is written.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use bowline_core::id::Digest;
use bowline_core::release::{ImageDigest, ImageReferenceError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// What a blob is known by: of its bytes, as `sha256:` and 64 hexadecimal digits. No other function is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobDigest(pub Digest);

impl BlobDigest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Digest(Sha256::digest(bytes).into()))
    }
}

impl fmt::Display for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ImageDigest(self.0).fmt(f)
    }
}

impl FromStr for BlobDigest {
    type Err = ImageReferenceError;

    fn from_str(text: &str) -> Result<Self, ImageReferenceError> {
        text.parse().map(|ImageDigest(digest)| Self(digest))
    }
}

impl From<BlobDigest> for ImageDigest {
    fn from(BlobDigest(digest): BlobDigest) -> Self {
        Self(digest)
    }
}

impl Serialize for BlobDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BlobDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Hands on what is written, and knows what it was.
#[derive(Debug)]
pub struct Hashing<W> {
    out: W,
    hash: Sha256,
    bytes: u64,
}

impl<W> Hashing<W> {
    pub fn new(out: W) -> Self {
        Self { out, hash: Sha256::new(), bytes: 0 }
    }

    /// So far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What it wrote to, the digest of all that was written, and how much that was.
    pub fn end(self) -> (W, BlobDigest, u64) {
        (self.out, BlobDigest(Digest(self.hash.finalize().into())), self.bytes)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a byte at a time, and refuses every second time.
    struct Slow(Vec<u8>, bool);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.0.extend(bytes.first());
            Ok(bytes.len().min(1))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_taken_is_hashed_and_nothing_else() {
        let mut out = Hashing::new(Slow(Vec::new(), false));
        out.write_all(b"abc").unwrap();
        let (Slow(bytes, _), digest, size) = out.end();
        assert_eq!((bytes.as_slice(), size), (b"abc".as_slice(), 3));
        // FIPS 180-2, B.1.
        let expected = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((digest.to_string().as_str(), BlobDigest::of(b"abc")), (expected, digest));
        assert_eq!(serde_json::to_string(&digest).unwrap(), format!("{expected:?}"));
        assert_eq!(serde_json::from_str::<BlobDigest>(&format!("{expected:?}")).unwrap(), digest);
        assert!(serde_json::from_str::<BlobDigest>("\"sha512:00\"").is_err());
    }
}
