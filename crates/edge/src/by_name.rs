//! Values by name, in pieces that are shared: what is like another one of ten thousand but for a few names is made in the time that
//! these few take.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

/// Of ten thousand names each piece has forty, which is what a change of one copies.
const PIECES: usize = 256;

type Piece<V> = HashTable<(Arc<str>, V)>;

/// Names come from configuration alone, so that nobody can choose them to collide; anybody may ask for any.
#[derive(Debug, Clone)]
pub(crate) struct ByName<V> {
    hasher: DefaultHashBuilder,
    pieces: Box<[Arc<Piece<V>>]>,
}

impl<V> Default for ByName<V> {
    fn default() -> Self {
        let empty = Arc::new(HashTable::new());
        Self { hasher: DefaultHashBuilder::default(), pieces: vec![empty; PIECES].into() }
    }
}

impl<V> ByName<V> {
    pub(crate) fn get(&self, name: &str) -> Option<&V> {
        let hash = self.hasher.hash_one(name);
        self.pieces[piece(hash)].find(hash, |(other, _)| **other == *name).map(|(_, value)| value)
    }
}

impl<V: Clone> ByName<V> {
    pub(crate) fn insert(&mut self, name: Arc<str>, value: V) {
        let hash = self.hasher.hash_one(&*name);
        let piece = Arc::make_mut(&mut self.pieces[piece(hash)]);
        match piece.entry(hash, |(other, _)| *other == name, |(other, _)| self.hasher.hash_one(&**other)) {
            Entry::Occupied(mut entry) => entry.get_mut().1 = value,
            Entry::Vacant(entry) => {
                entry.insert((name, value));
            }
        }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if self.get(name).is_none() {
            return;
        }
        let hash = self.hasher.hash_one(name);
        if let Ok(entry) = Arc::make_mut(&mut self.pieces[piece(hash)]).find_entry(hash, |(other, _)| **other == *name)
        {
            entry.remove();
        }
    }
}

/// The table within looks at the lowest bits and the highest.
fn piece(hash: u64) -> usize {
    usize::try_from(hash >> 32).expect("a machine of 64 bits") % PIECES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_whose_copies_do_not_change(steps in prop::collection::vec((0_u16..600, prop::option::of(0_u8..9)), 1..900)) {
            let (mut names, mut model) = (ByName::default(), BTreeMap::new());
            let mut before = (names.clone(), model.clone());
            for (at, (name, value)) in steps.into_iter().enumerate() {
                let text = format!("h{name}.example.com");
                match value {
                    Some(value) => {
                        names.insert(text.as_str().into(), value);
                        model.insert(text, value);
                    }
                    None => {
                        names.remove(&text);
                        model.remove(&text);
                    }
                }
                if at % 100 == 0 {
                    before = (names.clone(), model.clone());
                }
            }
            for name in (0..600).map(|name| format!("h{name}.example.com")) {
                prop_assert_eq!(names.get(&name), model.get(&name));
                prop_assert_eq!(before.0.get(&name), before.1.get(&name));
            }
        }
    }

    #[test]
    fn what_does_not_change_is_shared() {
        let mut names = ByName::default();
        (0..10_000).for_each(|name| names.insert(format!("h{name}.example.com").into(), name));
        let before = names.clone();
        names.insert("new.example.com".into(), 0);
        names.remove("h7.example.com");
        names.remove("absent.example.com");
        let shared = names.pieces.iter().zip(&before.pieces).filter(|(one, other)| Arc::ptr_eq(one, other));
        assert!(shared.count() >= PIECES - 2);
        assert!(names.pieces.iter().all(|piece| piece.len() < 100), "the names are spread over all pieces");
    }
}
