//! A message as one reader understands it, so that what two of them understand can be compared.

use std::fmt;

/// Names in lower case; sorted by name, and in the order they came in where names are equal.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Fields(pub(crate) Vec<(String, Vec<u8>)>);

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, value)| (name, value.escape_ascii().to_string()))).finish()
    }
}

impl Fields {
    pub(crate) fn new<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: impl IntoIterator<Item = (N, V)>) -> Self {
        let lower = |name: &[u8]| String::from_utf8_lossy(name).to_ascii_lowercase();
        let mut fields: Vec<_> =
            fields.into_iter().map(|(name, value)| (lower(name.as_ref()), value.as_ref().to_vec())).collect();
        fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        Self(fields)
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_slice())
    }
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) payload: Vec<u8>,
    /// Its end was read. False: the connection ended before, or what came is no body.
    pub(crate) whole: bool,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"{}", self.payload.escape_ascii(), if self.whole { "" } else { " and no end" })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) fields: Fields,
    pub(crate) body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) body: Body,
}
