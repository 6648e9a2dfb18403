//! Why an image is not made, kept or read.

use std::io;
use std::path::Path;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::units::Bytes;

use crate::digest::BlobDigest;
use crate::layer::MAX_LAYER;
use crate::tar::TarError;
use crate::tree::MAX_ENTRIES;

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{path} cannot be read")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path} cannot be written")]
    Write {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("the archive cannot be written")]
    Archive(#[source] io::Error),
    #[error("{0} changed while it was read")]
    Changed(String),
    #[error("{0} is neither a file, a folder nor a link: no image can have it")]
    Kind(String),
    #[error(
        "{0:?} is no path that an image can have: its names are UTF-8, none is empty, '.' or '..', and none begins with '.wh.'"
    )]
    Name(String),
    #[error("{0} cannot be both a folder and something else")]
    Conflict(String),
    #[error(
        "a layer with more than {MAX_ENTRIES} entries, or more than {} unpacked, is none that engines take",
        Bytes(MAX_LAYER)
    )]
    TooLarge,
    #[error("blob {0} is not there")]
    Absent(BlobDigest),
    #[error("blob {expected} holds something else: {found}")]
    Damaged { expected: BlobDigest, found: BlobDigest },
    #[error("blob {0} is larger than a document of an image may be")]
    LongDocument(BlobDigest),
    #[error("the {what} {digest} cannot be understood")]
    Document {
        what: &'static str,
        digest: BlobDigest,
        #[source]
        source: serde_json::Error,
    },
    #[error("the image {digest} contradicts itself: {why}")]
    Contradiction { digest: BlobDigest, why: &'static str },
    #[error("layer {digest} is packed as {media}, which is not read here")]
    Packing { digest: BlobDigest, media: String },
    #[error("layer {digest} unpacks to something else than the image says")]
    Unpacked { digest: BlobDigest },
    #[error("the archive cannot be read")]
    Tar(#[from] TarError),
    #[error(
        "the archive holds no image: neither index.json nor manifest.json is in it, or it names what is not there ({0})"
    )]
    NoImage(String),
    #[error("the image is for {there}; none of it is for {wanted}")]
    Platform { there: String, wanted: String },
}

impl ImageError {
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Read { path, source }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Write { path, source }
    }
}

impl From<ImageError> for Fault {
    fn from(error: ImageError) -> Self {
        let kind = match &error {
            ImageError::Kind(_)
            | ImageError::Name(_)
            | ImageError::Conflict(_)
            | ImageError::TooLarge
            | ImageError::Platform { .. } => FaultKind::Invalid,
            ImageError::Read { .. }
            | ImageError::Write { .. }
            | ImageError::Archive(_)
            | ImageError::Changed(_)
            | ImageError::Absent(_)
            | ImageError::Damaged { .. }
            | ImageError::LongDocument(_)
            | ImageError::Document { .. }
            | ImageError::Contradiction { .. }
            | ImageError::Packing { .. }
            | ImageError::Unpacked { .. }
            | ImageError::Tar(_)
            | ImageError::NoImage(_) => FaultKind::Failed,
        };
        let fault = Self::new(kind, "the image cannot be made or read").source(&error);
        if let ImageError::Changed(_) = error {
            fault.hint("nothing may write into the folder while an image is made of it")
        } else if let ImageError::Absent(_) | ImageError::Damaged { .. } = error {
            fault.hint("build or pull the image again")
        } else if let ImageError::Packing { .. } = error {
            fault.hint("take an image whose layers are gzip or not packed at all")
        } else {
            fault
        }
    }
}
