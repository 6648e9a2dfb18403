//! Images on their way from a registry: nothing is kept under a digest that it does not have.

use std::io::Write;

use bowline_core::release::{ImageDigest, Reference};
use hyper::Method;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};

use super::error::{RegistryError, is_absence, said};
use super::http::Answer;
use super::push::{DIGEST, agrees, pause};
use super::remote::{Ask, MAX_WORDS, Remote, refused};
use crate::blob::{Blob, Blobs, MAX_DOCUMENT};
use crate::digest::BlobDigest;
use crate::document::{Index, is_index, media};
use crate::error::ImageError;
use crate::image::{Image, MAX_LAYERS, settings};
use crate::layer::MAX_LAYER;
use crate::platform::Platform;

/// How often a registry may send on for one blob: to where it keeps bytes, and from one name of that to another.
const MAX_REDIRECTS: usize = 5;

/// Everything that an image may be.
const MANIFESTS: [&str; 4] = [media::MANIFEST, media::INDEX, media::DOCKER_MANIFEST, media::DOCKER_LIST];

/// A document as it came: of this digest.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) media: String,
    pub(super) digest: BlobDigest,
    pub(super) bytes: Vec<u8>,
}

/// What 404 was said with.
struct Words {
    what: String,
    body: Vec<u8>,
}

impl Remote {
    /// What a name leads to now; `None`: to nothing, by the registry's own words. A list of images has a digest of its own.
    ///
    /// # Errors
    /// The registry cannot be reached or refuses, or what answers 404 does not say as a registry does that it has not got it.
    pub async fn head(&mut self, name: &Reference) -> Result<Option<ImageDigest>, RegistryError> {
        let ask = Ask::new(Method::HEAD, self.place(&format!("manifests/{}", name.wanted())));
        let ask = ask.accept(&MANIFESTS.join(", "))?;
        let answer = self.ask(&ask).await?;
        match answer.status.as_u16() {
            // The answer to HEAD has no words.
            404 => return self.worded(name).await,
            200 => {}
            _ => return Err(refused(&ask, answer).await),
        }
        match answer.field(DIGEST).map(str::parse::<BlobDigest>) {
            Some(Ok(found)) => {
                let pinned = name.digest.map(|digest| BlobDigest(digest.0));
                match pinned.filter(|pinned| *pinned != found) {
                    Some(expected) => Err(RegistryError::Digest { expected, found }),
                    None => Ok(Some(found.into())),
                }
            }
            // It does not say: its bytes do.
            Some(Err(_)) | None => self.worded(name).await,
        }
    }

    /// The same by a whole answer.
    async fn worded(&mut self, name: &Reference) -> Result<Option<ImageDigest>, RegistryError> {
        match self.answered(&name.wanted(), name.digest.map(|digest| BlobDigest(digest.0))).await? {
            Ok(document) => Ok(Some(document.digest.into())),
            Err(words) if is_absence(&words.body) => Ok(None),
            Err(Words { what, body }) => Err(RegistryError::Refused { what, status: 404, said: said(&body) }),
        }
    }

    /// The image of this name for `platform`, with all of its layers, unpacked once to see that they are what it says.
    /// Blocks on the disk between two pieces from the network.
    ///
    /// # Errors
    /// It is not there, not for this platform, or not what its digest says.
    pub async fn pull(&mut self, name: &Reference, platform: &Platform, blobs: &Blobs) -> Result<Image, RegistryError> {
        let absent = || RegistryError::Absent(name.to_string());
        let pinned = name.digest.map(|digest| BlobDigest(digest.0));
        let mut found = self.document(&name.wanted(), pinned).await?.ok_or_else(absent)?;
        if is_index(&found.media) {
            let digest = found.digest;
            let understood = |source| ImageError::Document { what: "index", digest, source };
            let index: Index = serde_json::from_slice(&found.bytes).map_err(understood)?;
            let missing = || ImageError::Platform { there: index.platforms(), wanted: platform.to_string() };
            let chosen = index.choose(platform).ok_or_else(missing)?.digest;
            found = self.document(&chosen.to_string(), Some(chosen)).await?.ok_or_else(absent)?;
        }
        let digest = found.digest;
        let understood = |source| ImageError::Document { what: "manifest", digest, source };
        let manifest: crate::document::Manifest = serde_json::from_slice(&found.bytes).map_err(understood)?;
        if manifest.layers.len() > MAX_LAYERS {
            let why = "it has more layers than any engine takes";
            return Err(ImageError::Contradiction { digest, why }.into());
        }
        for (before, wanted) in [&manifest.config].into_iter().chain(&manifest.layers).enumerate() {
            self.passes(before + 1, manifest.layers.len() + 1, wanted.size);
            let most = if wanted.digest == manifest.config.digest { MAX_DOCUMENT } else { MAX_LAYER };
            self.fetch(&wanted.blob(), most, blobs).await?;
            if before == 0 {
                is_for(platform, wanted.digest, blobs)?;
            }
        }
        let kept = blobs.keep(&found.media, &found.bytes)?;
        let image = Image::read(&kept, blobs)?;
        let (verified, own) = (image.clone(), blobs.clone());
        let verified = tokio::task::spawn_blocking(move || verified.verify(&own)).await;
        verified.expect("it neither panics nor is aborted")?;
        Ok(image)
    }

    /// `None`: it is answered 404.
    pub(super) async fn document(
        &mut self,
        wanted: &str,
        pinned: Option<BlobDigest>,
    ) -> Result<Option<Document>, RegistryError> {
        Ok(self.answered(wanted, pinned).await?.ok())
    }

    async fn answered(
        &mut self,
        wanted: &str,
        pinned: Option<BlobDigest>,
    ) -> Result<Result<Document, Words>, RegistryError> {
        let ask = Ask::new(Method::GET, self.place(&format!("manifests/{wanted}")));
        let ask = ask.accept(&MANIFESTS.join(", "))?;
        let mut tries = 0;
        let mut answer = loop {
            tries += 1;
            let failed = match self.ask(&ask).await {
                Ok(mut answer) if answer.status.as_u16() == 404 => {
                    let body = answer.document(MAX_WORDS).await.unwrap_or_default();
                    return Ok(Err(Words { what: ask.words(), body }));
                }
                Ok(answer) if answer.status.as_u16() == 200 => break answer,
                Ok(answer) => refused(&ask, answer).await,
                Err(error) => error,
            };
            pause(failed, tries).await?;
        };
        // Far less than any memory.
        let bytes = answer.document(MAX_DOCUMENT as usize).await?;
        let digest = BlobDigest::of(&bytes);
        if let Some(expected) = pinned.filter(|pinned| *pinned != digest) {
            return Err(RegistryError::Digest { expected, found: digest });
        }
        agrees(&answer, digest)?;
        let media = media_type(&answer, &bytes);
        if !is_of_one_kind(&media, &bytes) {
            let why = "it can be read as an image and as a list of them";
            return Err(RegistryError::Answer { what: "a manifest".to_owned(), why });
        }
        Ok(Ok(Document { media, digest, bytes }))
    }

    /// A blob that is not here yet.
    pub(super) async fn fetch(&mut self, blob: &Blob, most: u64, blobs: &Blobs) -> Result<(), RegistryError> {
        if blob.size > most {
            return Err(RegistryError::TooLong(most));
        }
        let mut tries = 0;
        while !blobs.has(blob.digest, blob.size) {
            tries += 1;
            match self.fetch_once(blob, blobs).await {
                Ok(()) => break,
                Err(error) => pause(error, tries).await?,
            }
        }
        Ok(())
    }

    async fn fetch_once(&mut self, blob: &Blob, blobs: &Blobs) -> Result<(), RegistryError> {
        let mut answer = self.redirected(Ask::new(Method::GET, self.place(&format!("blobs/{}", blob.digest)))).await?;
        let said = answer.field(CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<u64>().ok());
        if said.is_some_and(|said| said > blob.size) {
            return Err(RegistryError::TooLong(blob.size));
        }
        let mut draft = blobs.draft()?;
        while let Some(piece) = answer.piece().await? {
            if draft.bytes() + piece.len() as u64 > blob.size {
                return Err(RegistryError::TooLong(blob.size));
            }
            draft.write_all(&piece).map_err(|source| ImageError::Write { path: "a blob".to_owned(), source })?;
        }
        match draft.keep_as(&blob.media, blob.digest) {
            Ok(_) => Ok(()),
            Err(ImageError::Damaged { expected, found }) => Err(RegistryError::Digest { expected, found }),
            Err(error) => Err(error.into()),
        }
    }

    /// 200, from wherever the registry sends on to.
    async fn redirected(&mut self, mut ask: Ask) -> Result<Answer, RegistryError> {
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.ask(&ask).await?;
            match answer.status.as_u16() {
                200 => return Ok(answer),
                301 | 302 | 303 | 307 | 308 => {
                    let missing =
                        || RegistryError::Answer { what: "a blob".to_owned(), why: "it does not say where to" };
                    let location = answer.field(LOCATION.as_str()).ok_or_else(missing)?;
                    ask.place = ask.place.follow(location)?;
                }
                404 => return Err(RegistryError::Absent(ask.place.to_string())),
                _ => return Err(refused(&ask, answer).await),
            }
        }
        Err(RegistryError::Redirects(MAX_REDIRECTS))
    }
}

/// By the configuration, before the layers come.
fn is_for(platform: &Platform, config: BlobDigest, blobs: &Blobs) -> Result<(), ImageError> {
    let config = settings(config, blobs)?;
    let there = Platform { os: config.os, architecture: config.architecture };
    match there == *platform {
        true => Ok(()),
        false => Err(ImageError::Platform { there: there.to_string(), wanted: platform.to_string() }),
    }
}

/// A digest names one image only if the document says itself what it is: the type beside it is hashed by nobody (CVE-2021-41190).
fn is_of_one_kind(media: &str, bytes: &[u8]) -> bool {
    let Ok(serde_json::Value::Object(document)) = serde_json::from_slice(bytes) else { return true };
    let own = document.get("mediaType").and_then(serde_json::Value::as_str);
    let others: &[&str] = if is_index(media) { &["config", "layers"] } else { &["manifests"] };
    own.is_none_or(|own| own == media) && !others.iter().any(|field| document.contains_key(*field))
}

/// As the answer says it; where it says nothing that helps, as the document does.
fn media_type(answer: &Answer, bytes: &[u8]) -> String {
    let said = answer.field(CONTENT_TYPE.as_str()).unwrap_or_default();
    let said = said.split(';').next().unwrap_or_default().trim();
    if MANIFESTS.contains(&said) {
        return said.to_owned();
    }
    let document: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    let own = document.as_ref().and_then(|document| document.get("mediaType")).and_then(serde_json::Value::as_str);
    own.unwrap_or(media::MANIFEST).to_owned()
}
