//! Images and blobs on their way to a registry.

use std::time::Duration;

use bowline_core::release::{ImageDigest, Reference, Repository};
use bowline_fault_points::{Point, reach};
use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_RANGE, LOCATION};

use super::error::RegistryError;
use super::http::{Answer, Content};
use super::place::Place;
use super::remote::{Ask, Remote, refused};
use crate::blob::{Blob, Blobs};
use crate::digest::BlobDigest;
use crate::image::Image;

/// How often an upload is begun that breaks off.
pub(super) const TRIES: u32 = 3;
/// Before the second try; before the third, twice as long.
pub(super) const PAUSE: Duration = Duration::from_millis(500);
/// One piece of a layer where the whole is refused as too large, in bytes: what proxies before registries let through.
const PIECE: u64 = 16 << 20;

const BINARY: &str = "application/octet-stream";
pub(super) const DIGEST: &str = "docker-content-digest";

/// What a push has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    pub digest: ImageDigest,
    /// Blobs whose bytes were sent.
    pub sent: Vec<BlobDigest>,
    /// Taken over from another repository there.
    pub mounted: Vec<BlobDigest>,
    /// There already.
    pub there: Vec<BlobDigest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Sent,
    Mounted,
    There,
}

impl Remote {
    /// Sends what is not there yet, and then the manifest: until that is there, the name leads where it did.
    /// `near`: see [`super::Client::remote`].
    ///
    /// # Errors
    /// The registry cannot be reached, refuses, or ends up with something else.
    pub async fn push(
        &mut self,
        image: &Image,
        name: &Reference,
        blobs: &Blobs,
        near: Option<&Repository>,
    ) -> Result<Pushed, RegistryError> {
        let digest = ImageDigest::from(image.manifest.digest);
        if let Some(other) = name.digest.filter(|named| *named != digest) {
            return Err(RegistryError::Digest { expected: BlobDigest(other.0), found: image.manifest.digest });
        }
        let mut pushed = Pushed { digest, sent: Vec::new(), mounted: Vec::new(), there: Vec::new() };
        let blobs_of_it: Vec<&Blob> =
            image.blobs().into_iter().filter(|blob| blob.digest != image.manifest.digest).collect();
        for (before, blob) in blobs_of_it.iter().enumerate() {
            self.passes(before + 1, blobs_of_it.len(), blob.size);
            let came = self.push_blob(blob, blobs, near).await.map_err(|error| too_large(error, blob, image))?;
            match came {
                Came::Sent => pushed.sent.push(blob.digest),
                Came::Mounted => pushed.mounted.push(blob.digest),
                Came::There => pushed.there.push(blob.digest),
            }
        }
        let wanted = match (&name.tag, name.digest) {
            (Some(tag), _) => tag.clone(),
            (None, _) => name.wanted(),
        };
        let bytes = blobs.document(image.manifest.digest)?;
        reach(Point::ImagePushing);
        self.push_manifest(&wanted, &image.manifest.media, bytes).await?;
        reach(Point::ImagePushed);
        Ok(pushed)
    }

    /// Under a tag or its own digest. What the answer says in its fields.
    pub(super) async fn push_manifest(
        &mut self,
        wanted: &str,
        media: &str,
        bytes: Vec<u8>,
    ) -> Result<Answer, RegistryError> {
        let digest = BlobDigest::of(&bytes);
        let place = self.place(&format!("manifests/{wanted}"));
        let ask = Ask::new(Method::PUT, place).content(media, Content::Bytes(bytes.into()))?;
        let mut tries = 0;
        loop {
            tries += 1;
            let failed = match self.ask(&ask).await {
                Ok(answer) if answer.status.is_success() => {
                    agrees(&answer, digest)?;
                    return Ok(answer);
                }
                Ok(answer) => refused(&ask, answer).await,
                Err(error) => error,
            };
            pause(failed, tries).await?;
        }
    }

    async fn push_blob(
        &mut self,
        blob: &Blob,
        blobs: &Blobs,
        near: Option<&Repository>,
    ) -> Result<Came, RegistryError> {
        let (mut tries, mut in_pieces) = (0, false);
        loop {
            tries += 1;
            let came = match self.has(blob.digest).await {
                Ok(true) => return Ok(Came::There),
                Ok(false) => self.upload(blob, blobs, near, in_pieces).await,
                Err(error) => Err(error),
            };
            match came {
                Ok(came) => return Ok(came),
                // A proxy's limit is for a request, not for what many of them bring.
                Err(RegistryError::Refused { status: 413, .. }) if !in_pieces && blob.size > PIECE => {
                    (in_pieces, tries) = (true, 0);
                }
                Err(error) => pause(error, tries).await?,
            }
        }
    }

    /// Small blobs that are made on the way.
    pub(super) async fn push_bytes(&mut self, media: &str, bytes: &[u8], blobs: &Blobs) -> Result<Blob, RegistryError> {
        let blob = blobs.keep(media, bytes)?;
        self.push_blob(&blob, blobs, None).await?;
        Ok(blob)
    }

    async fn has(&mut self, digest: BlobDigest) -> Result<bool, RegistryError> {
        let ask = Ask::new(Method::HEAD, self.place(&format!("blobs/{digest}")));
        let answer = self.ask(&ask).await?;
        match answer.status.as_u16() {
            // Some send on to where the bytes are.
            200 | 301 | 302 | 303 | 307 | 308 => Ok(true),
            404 => Ok(false),
            _ => Err(refused(&ask, answer).await),
        }
    }

    async fn upload(
        &mut self,
        blob: &Blob,
        blobs: &Blobs,
        near: Option<&Repository>,
        in_pieces: bool,
    ) -> Result<Came, RegistryError> {
        let mut place = self.place("blobs/uploads/");
        if let Some(near) = near.filter(|near| near.registry() == self.repository().registry()) {
            place = place.with("mount", &blob.digest.to_string()).with("from", near.path());
        }
        let ask = Ask::new(Method::POST, place).content(BINARY, Content::Bytes(Bytes::new()))?;
        let begun = self.ask(&ask).await?;
        match begun.status.as_u16() {
            201 => {
                agrees(&begun, blob.digest)?;
                return Ok(Came::Mounted);
            }
            202 => {}
            _ => return Err(refused(&ask, begun).await),
        }
        let mut session = self.session(&begun)?;
        drop(begun);
        let file = |from, length| Content::File { path: blobs.path(blob.digest), from, length };
        let mut rest = file(0, blob.size);
        if in_pieces {
            let mut at = 0;
            while at < blob.size {
                let length = PIECE.min(blob.size - at);
                session = self.piece(&session, at, file(at, length), length).await?;
                at += length;
            }
            rest = Content::Bytes(Bytes::new());
        }
        let ask = Ask::new(Method::PUT, session.with("digest", &blob.digest.to_string())).content(BINARY, rest)?;
        let done = self.ask(&ask).await?;
        if !done.status.is_success() {
            return Err(refused(&ask, done).await);
        }
        agrees(&done, blob.digest)?;
        Ok(Came::Sent)
    }

    async fn piece(&mut self, session: &Place, at: u64, content: Content, length: u64) -> Result<Place, RegistryError> {
        let ask = Ask::new(Method::PATCH, session.clone()).content(BINARY, content)?;
        let ask = ask.field(CONTENT_RANGE, &format!("{at}-{}", at + length - 1))?;
        let answer = self.ask(&ask).await?;
        match answer.status.as_u16() {
            200 | 202 | 204 => self.session(&answer),
            _ => Err(refused(&ask, answer).await),
        }
    }

    fn session(&self, answer: &Answer) -> Result<Place, RegistryError> {
        let missing = || RegistryError::Answer { what: "an upload".to_owned(), why: "it does not say where to" };
        self.follow(answer.field(LOCATION.as_str()).ok_or_else(missing)?)
    }
}

/// What a registry says that it has now.
pub(super) fn agrees(answer: &Answer, expected: BlobDigest) -> Result<(), RegistryError> {
    match answer.field(DIGEST).map(str::parse::<BlobDigest>) {
        None => Ok(()),
        Some(Ok(found)) if found == expected => Ok(()),
        Some(Ok(found)) => Err(RegistryError::Digest { expected, found }),
        Some(Err(_)) => Err(RegistryError::Answer { what: "a digest".to_owned(), why: "it is none" }),
    }
}

/// Lets a while pass after what may go better the next time; what may not is given back.
pub(super) async fn pause(error: RegistryError, tries: u32) -> Result<(), RegistryError> {
    if !error.is_passing() || tries >= TRIES {
        return Err(error);
    }
    tokio::time::sleep(PAUSE * tries).await;
    Ok(())
}

fn too_large(error: RegistryError, blob: &Blob, image: &Image) -> RegistryError {
    let layer = image.layers.iter().find(|layer| layer.blob.digest == blob.digest);
    match (&error, layer) {
        (RegistryError::Refused { status: 413, .. }, Some(layer)) => {
            let largest: Vec<String> = layer.largest.iter().map(|(path, size)| format!("{path} ({size})")).collect();
            RegistryError::LayerTooLarge { about: layer.about.clone(), bytes: blob.size, largest: largest.join(", ") }
        }
        _ => error,
    }
}
