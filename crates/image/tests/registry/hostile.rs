//! Registries that answer what no registry should.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::servers::{self, Reply, Stub, ann, client, hasty, image, name, reply};
use bowline_core::release::Reference;
use bowline_image::registry::{Actions, RegistryError};
use bowline_image::{BlobDigest, Blobs, Image, Platform};

/// What an image would be served as, and a store to pull into.
struct Served {
    _dirs: [tempfile::TempDir; 2],
    from: Blobs,
    to: Blobs,
    image: Image,
}

impl Served {
    fn new() -> Self {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (from, to) = (Blobs::open(dirs[0].path()).unwrap(), Blobs::open(dirs[1].path()).unwrap());
        let image = image(&from, b"hello");
        Self { _dirs: dirs, from, to, image }
    }

    /// The right answer to a request for it.
    fn right(&self) -> impl Fn(&str) -> Reply + Send + Sync + use<> {
        let (blobs, manifest) = (self.from.clone(), self.image.manifest.clone());
        move |head: &str| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let wanted = path.rsplit('/').next().unwrap_or_default();
            let digest = if path.contains("/manifests/") { Some(manifest.digest) } else { wanted.parse().ok() };
            match digest.map(|digest: BlobDigest| std::fs::read(blobs.path(digest))) {
                Some(Ok(bytes)) => reply("200 OK", &format!("Content-Type: {}\r\n", manifest.media), &bytes),
                _ => reply("404 Not Found", "", b""),
            }
        }
    }

    async fn pull(&self, stub: &Stub, rest: &str) -> Result<Image, RegistryError> {
        let name = name(stub.address.port(), rest);
        let mut remote = client().remote(&name.repository, Actions::Pull, None, None).unwrap();
        remote.pull(&name, &Platform::host(), &self.to).await
    }

    /// Nothing of it was kept but these.
    fn kept(&self, blobs: usize) {
        let folder = self.to.path(self.image.config.digest);
        let names: Vec<_> =
            std::fs::read_dir(folder.parent().unwrap()).unwrap().map(|one| one.unwrap().file_name()).collect();
        assert_eq!(names.len(), blobs, "{names:?}");
    }
}

#[tokio::test]
async fn another_digest_is_refused_whatever_it_is_of() {
    let served = Served::new();
    let right = Arc::new(served.right());
    let honest = Stub::start({
        let right = Arc::clone(&right);
        move |head| right(head)
    });
    let honest = honest.await;
    // Pinned to another image than the one that comes.
    let other = BlobDigest::of(b"x");
    let refused = served.pull(&honest, &format!("shop@{other}")).await.unwrap_err();
    assert!(matches!(refused, RegistryError::Digest { expected, .. } if expected == other), "{refused:?}");
    // A field that says another digest than the bytes have.
    let manifest = served.from.document(served.image.manifest.digest).unwrap();
    let lying = Stub::start(move |_| reply("200 OK", &format!("Docker-Content-Digest: {other}\r\n"), &manifest)).await;
    let refused = served.pull(&lying, "shop:1").await.unwrap_err();
    assert!(matches!(refused, RegistryError::Digest { .. }), "{refused:?}");
    served.kept(0);
    // One layer with another byte, of the same length.
    let layer = served.image.layers[0].blob.clone();
    let swapping = Stub::start({
        let right = Arc::clone(&right);
        move |head| match head.contains(&layer.digest.to_string()) {
            true => reply("200 OK", "", &vec![7; usize::try_from(layer.size).unwrap()]),
            false => right(head),
        }
    });
    let refused = served.pull(&swapping.await, "shop:1").await.unwrap_err();
    assert!(
        matches!(refused, RegistryError::Digest { expected, .. } if expected == served.image.layers[0].blob.digest)
    );
    served.kept(1);
    assert_eq!(served.pull(&honest, "shop:1").await.unwrap().manifest.digest, served.image.manifest.digest);
    served.kept(3);
}

#[tokio::test]
async fn a_body_without_an_end_is_given_up() {
    let served = Served::new();
    let endless = || Reply::Endless(b"HTTP/1.1 200 OK\r\n\r\n".to_vec());
    let stub = Stub::start(move |_| endless()).await;
    let refused = served.pull(&stub, "shop:1").await.unwrap_err().to_string();
    assert!(refused.contains("longer than"), "{refused}");
    let right = served.right();
    let stub = Stub::start(move |head| if head.contains("/blobs/") { endless() } else { right(head) }).await;
    let refused = served.pull(&stub, "shop:1").await.unwrap_err();
    assert!(matches!(refused, RegistryError::TooLong(size) if size == served.image.config.size), "{refused:?}");
    // A refusal, too, has an end.
    let stub = Stub::start(move |_| Reply::Endless(b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec())).await;
    let refused = served.pull(&stub, "shop:1").await.unwrap_err();
    assert!(matches!(refused, RegistryError::Refused { status: 403, said: None, .. }), "{refused:?}");
    served.kept(0);
}

#[tokio::test]
async fn nobody_is_sent_in_circles() {
    let served = Served::new();
    let right = served.right();
    let stub = Stub::start(move |head| match head.contains("/blobs/") {
        true => reply("307 Temporary Redirect", &format!("Location: {}\r\n", head.split(' ').nth(1).unwrap()), b""),
        false => right(head),
    });
    let stub = stub.await;
    let refused = served.pull(&stub, "shop:1").await.unwrap_err();
    assert!(matches!(refused, RegistryError::Redirects(5)), "{refused:?}");
    assert_eq!(stub.heard().len(), 1 + 6);
}

#[tokio::test]
async fn not_found_is_believed_of_a_registry_alone() {
    let check = async |body: &'static str, expected: Result<(), &str>| {
        let stub = Stub::start(move |_| reply("404 Not Found", "", body.as_bytes())).await;
        let name = name(stub.address.port(), "shop:1");
        let mut remote = client().remote(&name.repository, Actions::Pull, None, None).unwrap();
        match (remote.head(&name).await, expected) {
            (Ok(found), Ok(())) => assert_eq!(found, None, "{body}"),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{body}: {error}"),
            (answer, _) => panic!("{body}: {answer:?}"),
        }
        assert_eq!(stub.heard().len(), 2, "HEAD has no words, and a second try has no others");
    };
    check(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#, Ok(())).await;
    check(r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#, Ok(())).await;
    check("<html>nothing here</html>", Err("it answers 404 to GET")).await;
    check(r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#, Err("DENIED, not yours")).await;
}

#[tokio::test]
async fn a_challenge_is_taken_once() {
    let (asked, port) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counts, own) = (Arc::clone(&asked), Arc::clone(&port));
    let stub = Stub::start(move |head| {
        counts.fetch_add(1, Ordering::SeqCst);
        if head.starts_with("GET /token") {
            return reply("200 OK", "", br#"{"token":"t"}"#);
        }
        let realm = format!("http://127.0.0.1:{}/token", own.load(Ordering::SeqCst));
        reply("401 Unauthorized", &format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\"\r\n"), b"")
    });
    let stub = stub.await;
    port.store(stub.address.port().into(), Ordering::SeqCst);
    let name = name(stub.address.port(), "shop:1");
    let mut remote = client().remote(&name.repository, Actions::Pull, ann("sesame"), None).unwrap();
    let refused = remote.head(&name).await.unwrap_err();
    assert_eq!(refused.to_string(), "it refuses ann");
    assert_eq!(asked.load(Ordering::SeqCst), 3, "the request, the token, the request with it");
    let heard = stub.heard();
    assert!(heard[1].starts_with("GET /token?service=s&scope=repository%3Ashop%3Apull HTTP/1.1"), "{}", heard[1]);
    assert!(heard[2].to_ascii_lowercase().contains("authorization: bearer t\r\n"));
}

#[tokio::test]
async fn what_is_secret_stays_with_whom_it_is_for() {
    let served = Served::new();
    let right = Arc::new(served.right());
    // Where the bytes are, as with registries that keep them in a bucket.
    let far = Stub::start({
        let right = Arc::clone(&right);
        move |head| right(head)
    });
    let far = far.await;
    let to = far.address;
    let near = Stub::start(move |head| {
        if !head.to_ascii_lowercase().contains("authorization: basic") {
            return reply("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", b"");
        }
        match head.contains("/blobs/") {
            true => reply("302 Found", &format!("Location: http://{to}{}\r\n", head.split(' ').nth(1).unwrap()), b""),
            false => right(head),
        }
    });
    let name: Reference = name(near.await.address.port(), "shop:1");
    let mut remote = client().remote(&name.repository, Actions::Pull, ann("sesame"), None).unwrap();
    remote.pull(&name, &Platform::host(), &served.to).await.unwrap();
    let heard = far.heard();
    assert_eq!(heard.len(), 2);
    assert!(heard.iter().all(|head| !head.to_ascii_lowercase().contains("authorization")), "{heard:?}");
}

#[tokio::test]
async fn an_image_for_another_machine_is_refused_without_an_index_too() {
    let served = Served::new();
    let stub = Stub::start(served.right()).await;
    let name = name(stub.address.port(), "shop:1");
    let mut remote = client().remote(&name.repository, Actions::Pull, None, None).unwrap();
    let refused = remote.pull(&name, &Platform::linux("s390x"), &served.to).await.unwrap_err().to_string();
    assert!(refused.contains("s390x"), "{refused}");
    assert_eq!(stub.heard().len(), 2, "no layer is fetched for that");
}

#[tokio::test]
async fn a_digest_is_of_one_image_whatever_is_said_beside_it() {
    let served = Served::new();
    let mut document: serde_json::Value =
        serde_json::from_slice(&std::fs::read(served.from.path(served.image.manifest.digest)).unwrap()).unwrap();
    document.as_object_mut().unwrap().remove("mediaType");
    document["manifests"] = serde_json::json!([]);
    let bytes = serde_json::to_vec(&document).unwrap();
    let digest = BlobDigest::of(&bytes);
    for kind in ["manifest", "index"] {
        let field = format!("Content-Type: application/vnd.oci.image.{kind}.v1+json\r\n");
        let bytes = bytes.clone();
        let stub = Stub::start(move |_| reply("200 OK", &field, &bytes)).await;
        let refused = served.pull(&stub, &format!("shop@{digest}")).await.unwrap_err().to_string();
        assert!(refused.contains("can be read as"), "{refused}");
    }
    served.kept(0);
}

#[tokio::test]
async fn an_image_of_countless_layers_is_not_begun() {
    let served = Served::new();
    let bytes = std::fs::read(served.from.path(served.image.manifest.digest)).unwrap();
    let mut document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let layer = document["layers"][0].clone();
    document["layers"] = vec![layer; 501].into();
    let bytes = serde_json::to_vec(&document).unwrap();
    let field = format!("Content-Type: {}\r\n", served.image.manifest.media);
    let stub = Stub::start(move |_| reply("200 OK", &field, &bytes)).await;
    let refused = served.pull(&stub, "shop:1").await.unwrap_err().to_string();
    assert!(refused.contains("more layers than any engine takes"), "{refused}");
    assert_eq!(stub.heard().len(), 1);
    served.kept(0);
}

#[tokio::test]
async fn who_is_silent_is_given_up() {
    let stub = Stub::start(|_| Reply::Silent).await;
    let name = name(stub.address.port(), "shop:1");
    let mut remote = hasty().remote(&name.repository, Actions::Pull, None, None).unwrap();
    let refused = remote.head(&name).await.unwrap_err().to_string();
    assert!(refused.contains("nothing has come from"), "{refused}");
    // A document that comes a byte at a time is one that does not come.
    let stub = Stub::start(|_| Reply::Whole(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec())).await;
    let name = servers::name(stub.address.port(), "shop:1");
    let mut remote = hasty().remote(&name.repository, Actions::Pull, None, None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let broken =
        remote.pull(&name, &Platform::host(), &Blobs::open(dir.path()).unwrap()).await.unwrap_err().to_string();
    assert!(broken.contains("broke off"), "{broken}");
}
