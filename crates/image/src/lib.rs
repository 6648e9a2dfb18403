//! Images without a daemon: layers and documents of the OCI, made so that one source gives one digest, kept by digest,
//! and sent to registries or into one archive that every engine loads.
//!
//! Architecture invariant: nothing of the machine, the clock or the order of a folder gets into a digest but what a
//! recipe names.
//! Architecture invariant: what comes from a registry or an archive is nothing until its digest was seen.

pub mod base;
pub mod engine;
pub mod registry;
pub mod sbom;

mod adopt;
mod archive;
mod blob;
mod collect;
mod digest;
mod document;
mod error;
mod image;
mod layer;
mod layout;
mod moved;
mod platform;
mod tar;
mod tree;

pub use adopt::{Adoption, RunsAs, adopt};
pub use archive::{Saved, load};
pub use blob::{Blob, Blobs, Draft};
pub use collect::{Collected, REST};
pub use digest::{BlobDigest, Hashing};
pub use document::{Config, Descriptor, History, Index, Manifest, RootFs, RunConfig, media};
pub use error::ImageError;
pub use image::{Image, Labels, Recipe, Run, USER, make};
pub use layer::{Layer, MAX_LAYER};
pub use layout::{Layout, LayoutImage};
pub use platform::Platform;
pub use tree::{Content, Entry, MAX_ENTRIES, Tree};
