//! Which key comes before which: what an object is, then what it is called, then what it says.

use std::cmp::Ordering;

/// These come first, in this order; all others follow by the alphabet.
const FIRST: [&str; 17] = [
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "namespace",
    "labels",
    "annotations",
    "immutable",
    "type",
    "selector",
    "spec",
    "host",
    "path",
    "pathType",
    "image",
    "command",
    "args",
];

pub(super) fn compare(a: &str, b: &str) -> Ordering {
    (rank(a), a).cmp(&(rank(b), b))
}

fn rank(key: &str) -> usize {
    FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len())
}
