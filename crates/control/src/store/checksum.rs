//! Keyed checksums: of a row, of a set of rows, of the chain of commits.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use rusqlite::types::Value;
use sha2::Sha256;
use zeroize::Zeroizing;

/// An HMAC-SHA-256.
pub(super) type Tag = [u8; 32];

/// Names a key without telling it.
pub(super) type KeyId = [u8; 16];

/// The key of all checksums, derived from the master key.
#[derive(Clone)]
pub struct ChecksumKey {
    key: Zeroizing<[u8; 32]>,
    id: KeyId,
}

impl fmt::Debug for ChecksumKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChecksumKey(…)")
    }
}

impl ChecksumKey {
    pub fn new(key: Zeroizing<[u8; 32]>) -> Self {
        let mut key = Self { key, id: [0; 16] };
        let tag = key.tag(b"id", &[]);
        key.id.copy_from_slice(&tag[..16]);
        key
    }

    pub(super) fn id(&self) -> KeyId {
        self.id
    }

    /// Over a label and parts, each with its length before it, so that no two lists read the same.
    pub(super) fn tag(&self, label: &[u8], parts: &[&[u8]]) -> Tag {
        let mut mac = self.start(label);
        for part in parts {
            update(&mut mac, part);
        }
        mac.finalize().into_bytes().into()
    }

    /// Over a table's name and all columns of a row in their order, types included.
    pub(super) fn row(&self, table: &str, columns: &[Value]) -> Tag {
        let mut mac = self.start(b"row");
        update(&mut mac, table.as_bytes());
        for column in columns {
            match column {
                Value::Null => mac.update(&[0]),
                Value::Integer(n) => {
                    mac.update(&[1]);
                    mac.update(&n.to_be_bytes());
                }
                Value::Real(x) => {
                    mac.update(&[2]);
                    mac.update(&x.to_bits().to_be_bytes());
                }
                Value::Text(text) => {
                    mac.update(&[3]);
                    update(&mut mac, text.as_bytes());
                }
                Value::Blob(bytes) => {
                    mac.update(&[4]);
                    update(&mut mac, bytes);
                }
            }
        }
        mac.finalize().into_bytes().into()
    }

    fn start(&self, label: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.as_slice()).expect("HMAC takes a key of any length");
        update(&mut mac, label);
        mac
    }
}

fn update(mac: &mut Hmac<Sha256>, part: &[u8]) {
    mac.update(&(part.len() as u64).to_be_bytes());
    mac.update(part);
}

/// The keys a store may be written with: the current one, and while a rotation is under way the one before.
#[derive(Debug, Clone)]
pub struct Keys {
    pub current: ChecksumKey,
    pub retiring: Option<ChecksumKey>,
}

impl Keys {
    pub(super) fn find(&self, id: KeyId) -> Option<&ChecksumKey> {
        std::iter::once(&self.current).chain(&self.retiring).find(|key| key.id() == id)
    }
}

/// Digest of a set of rows: their number and the sum of their checksums modulo 2^256, so that one row can be taken
/// out and another put in without reading the rest (AdHash, Bellare and Micciancio 1997). It exposes rows that are
/// missing or are an older version of themselves, which a checksum per row cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SetDigest {
    pub(super) rows: u64,
    pub(super) sum: Tag,
}

impl SetDigest {
    pub(super) fn add(&mut self, tag: &Tag) {
        self.rows = self.rows.wrapping_add(1);
        let mut carry = 0;
        for (sum, byte) in self.sum.iter_mut().zip(tag).rev() {
            let total = u16::from(*sum) + u16::from(*byte) + carry;
            *sum = total.to_be_bytes()[1];
            carry = total >> 8;
        }
    }

    pub(super) fn remove(&mut self, tag: &Tag) {
        self.rows = self.rows.wrapping_sub(1);
        let mut borrow = 0;
        for (sum, byte) in self.sum.iter_mut().zip(tag).rev() {
            let total = 256 + i16::from(*sum) - i16::from(*byte) - borrow;
            *sum = total.to_be_bytes()[1];
            borrow = i16::from(total < 256);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_digest_forgets_what_is_removed_in_any_order(kept: Vec<[u8; 32]>, gone: Vec<[u8; 32]>) {
            let mut expected = SetDigest::default();
            kept.iter().for_each(|tag| expected.add(tag));
            let mut digest = SetDigest::default();
            gone.iter().chain(&kept).for_each(|tag| digest.add(tag));
            gone.iter().rev().for_each(|tag| digest.remove(tag));
            prop_assert_eq!(digest, expected);
        }
    }

    #[test]
    fn columns_cannot_slide_into_each_other() {
        let key = ChecksumKey::new(Zeroizing::new([7; 32]));
        let text = |s: &str| Value::Text(s.to_owned());
        let rows = [
            vec![text("ab"), text("c")],
            vec![text("a"), text("bc")],
            vec![text("abc")],
            vec![Value::Blob(b"ab".to_vec()), text("c")],
            vec![text("ab"), text("c"), Value::Null],
            vec![Value::Integer(1)],
            vec![Value::Real(f64::from_bits(1))],
        ];
        let tags: std::collections::BTreeSet<_> = rows.iter().map(|row| key.row("t", row)).collect();
        assert_eq!(tags.len(), rows.len());
        assert_ne!(key.row("t", &rows[0]), key.row("u", &rows[0]));
    }
}
