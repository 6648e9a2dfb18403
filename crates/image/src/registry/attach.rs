//! What belongs to an image and lies beside it: bills of materials, as referrers (OCI distribution specification 1.1), and
//! under a tag made of the image's digest where a registry knows none.

use bowline_core::release::ImageDigest;
use hyper::Method;

use super::error::RegistryError;
use super::remote::{Ask, Remote, refused};
use crate::blob::{Blob, Blobs, MAX_DOCUMENT};
use crate::digest::BlobDigest;
use crate::document::{Descriptor, Index, Manifest, media};
use crate::error::ImageError;
use crate::image::json;

/// Largest thing that is fetched as a referrer, in bytes.
const MAX_ATTACHED: u64 = 64 << 20;

impl Remote {
    /// Puts a document beside an image that is there. Twice the same is once.
    ///
    /// # Errors
    /// The registry cannot be reached or refuses.
    pub async fn attach(
        &mut self,
        subject: &Blob,
        kind: &str,
        document: &[u8],
        blobs: &Blobs,
    ) -> Result<ImageDigest, RegistryError> {
        let config = self.push_bytes(media::EMPTY, b"{}", blobs).await?;
        let blob = self.push_bytes(kind, document, blobs).await?;
        let manifest = Manifest {
            artifact_type: Some(kind.to_owned()),
            subject: Some(Descriptor::of(subject)),
            ..Manifest::new(&config, [Descriptor::of(&blob)].into_iter())
        };
        let bytes = json(&manifest);
        let digest = BlobDigest::of(&bytes);
        let size = bytes.len() as u64;
        let answer = self.push_manifest(&digest.to_string(), media::MANIFEST, bytes).await?;
        if answer.field("oci-subject").is_none() {
            let one = Blob { media: media::MANIFEST.to_owned(), digest, size };
            let one = Descriptor { artifact_type: Some(kind.to_owned()), ..Descriptor::of(&one) };
            let mut all = self.tagged(subject.digest).await?;
            all.retain(|other| other.digest != digest);
            all.push(one);
            self.push_manifest(&tag(subject.digest), media::INDEX, json(&Index::new(all))).await?;
        }
        Ok(digest.into())
    }

    /// What lies beside an image, of this kind.
    pub async fn attached(&mut self, subject: BlobDigest, kind: &str) -> Result<Vec<Descriptor>, RegistryError> {
        let ask = Ask::new(Method::GET, self.place(&format!("referrers/{subject}"))).accept(media::INDEX)?;
        let mut answer = self.ask(&ask).await?;
        let mut all = match answer.status.as_u16() {
            // Some answer with a page for people.
            200 => {
                let bytes = answer.document(MAX_DOCUMENT as usize).await?;
                match serde_json::from_slice::<Index>(&bytes) {
                    Ok(index) => index.manifests,
                    Err(_) => self.tagged(subject).await?,
                }
            }
            404 | 400 | 405 => self.tagged(subject).await?,
            _ => return Err(refused(&ask, answer).await),
        };
        all.retain(|one| one.artifact_type.as_deref() == Some(kind));
        Ok(all)
    }

    /// The document of one that lies beside an image.
    pub async fn attachment(&mut self, one: &Descriptor, blobs: &Blobs) -> Result<Vec<u8>, RegistryError> {
        let absent = || RegistryError::Absent(one.digest.to_string());
        let found = self.document(&one.digest.to_string(), Some(one.digest)).await?.ok_or_else(absent)?;
        let understood = |source| ImageError::Document { what: "manifest", digest: one.digest, source };
        let manifest: Manifest = serde_json::from_slice(&found.bytes).map_err(understood)?;
        let layer = manifest.layers.first().ok_or_else(absent)?.blob();
        self.fetch(&layer, MAX_ATTACHED, blobs).await?;
        std::fs::read(blobs.path(layer.digest)).map_err(RegistryError::Read)
    }

    async fn tagged(&mut self, subject: BlobDigest) -> Result<Vec<Descriptor>, RegistryError> {
        let Some(found) = self.document(&tag(subject), None).await? else { return Ok(Vec::new()) };
        let digest = found.digest;
        let understood = |source| ImageError::Document { what: "list of referrers", digest, source };
        Ok(serde_json::from_slice::<Index>(&found.bytes).map_err(understood)?.manifests)
    }
}

/// `sha256-HEX`.
fn tag(subject: BlobDigest) -> String {
    subject.to_string().replace(':', "-")
}
