//! The client against a real registry.

use crate::servers::{self, Meddle, ann, between, client, image, name, noise};
use bowline_core::release::Reference;
use bowline_image::registry::{Actions, Client, Limits, RegistryError};
use bowline_image::sbom::Sbom;
use bowline_image::{Blobs, Platform};
use bowline_tests::registry::Registry;

fn blobs() -> (tempfile::TempDir, Blobs) {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).unwrap();
    (dir, blobs)
}

#[tokio::test]
async fn what_is_pushed_is_pulled_by_its_digest_and_pushed_once() {
    let registry = Registry::start();
    let ((_one, from), (_two, to)) = (blobs(), blobs());
    let image = image(&from, &noise(100_000));
    let tag = name(registry.port(), "acme/shop:1");
    let mut remote = client().remote(&tag.repository, Actions::Push, None, None).unwrap();
    assert_eq!(remote.head(&tag).await.unwrap(), None);
    let pushed = remote.push(&image, &tag, &from, None).await.unwrap();
    assert_eq!((pushed.sent.len(), pushed.there.len()), (2, 0));
    assert_eq!(pushed.digest, image.manifest.digest.into());
    assert_eq!(remote.head(&tag).await.unwrap(), Some(pushed.digest));
    let sent = registry.asked("PUT /v2/acme/shop/blobs/");
    let again = remote.push(&image, &name(registry.port(), "acme/shop:2"), &from, None).await.unwrap();
    assert_eq!((again.sent.len(), again.there.len()), (0, 2));
    assert_eq!((sent, registry.asked("PUT /v2/acme/shop/blobs/")), (2, 2), "by the registry's own log");
    assert_eq!(registry.asked("POST /v2/acme/shop/blobs/"), 2);
    let pinned: Reference = Reference { tag: None, digest: Some(pushed.digest), ..tag.clone() };
    let mut remote = client().remote(&tag.repository, Actions::Pull, None, None).unwrap();
    let pulled = remote.pull(&pinned, &Platform::host(), &to).await.unwrap();
    assert_eq!(pulled.manifest, image.manifest);
    assert_eq!(pulled.settings(&to).unwrap(), image.settings(&from).unwrap());
    let absent = remote.pull(&name(registry.port(), "acme/shop:3"), &Platform::host(), &to).await;
    assert!(matches!(absent, Err(RegistryError::Absent(_))), "{absent:?}");
    // Pushed under a digest that is another image's.
    let other = servers::image(&from, b"other");
    let mut remote = client().remote(&tag.repository, Actions::Push, None, None).unwrap();
    assert!(matches!(remote.push(&other, &pinned, &from, None).await, Err(RegistryError::Digest { .. })));
}

#[tokio::test]
async fn a_layer_of_a_repository_nearby_is_taken_over() {
    let registry = Registry::start();
    let (_dir, blobs) = blobs();
    let image = image(&blobs, &noise(50_000));
    let (one, two) = (name(registry.port(), "acme/one:1"), name(registry.port(), "acme/two:1"));
    let mut remote = client().remote(&one.repository, Actions::Push, None, None).unwrap();
    remote.push(&image, &one, &blobs, None).await.unwrap();
    let near = Some(&one.repository);
    let mut remote = client().remote(&two.repository, Actions::Push, None, near).unwrap();
    let pushed = remote.push(&image, &two, &blobs, near).await.unwrap();
    assert_eq!((pushed.sent.len(), pushed.mounted.len()), (0, 2));
    assert_eq!(registry.asked("PUT /v2/acme/two/blobs/"), 0);
}

#[tokio::test]
async fn a_registry_knows_who_asks() {
    let registry = Registry::guarded();
    let (_dir, blobs) = blobs();
    let image = image(&blobs, b"hello");
    let tag = name(registry.port(), "shop:1");
    let push = async |credentials| {
        let mut remote = client().remote(&tag.repository, Actions::Push, credentials, None).unwrap();
        remote.push(&image, &tag, &blobs, None).await
    };
    let nobody = push(None).await.unwrap_err();
    assert_eq!(nobody.to_string(), "it wants to know who asks, and nobody has logged in");
    let wrong = push(ann("sesam")).await.unwrap_err();
    assert_eq!(wrong.to_string(), "it refuses ann");
    let fault = wrong.fault("127.0.0.1/shop:1 cannot be pushed");
    assert_eq!(fault.kind.exit_code(), 3);
    assert!(fault.hint.unwrap().contains("bowline image login"));
    assert_eq!(registry.asked("POST /v2/shop/blobs/"), 0);
    assert_eq!(push(ann("sesame")).await.unwrap().digest, image.manifest.digest.into());
    let host = tag.repository.registry();
    client().log_in(host, ann("sesame").unwrap()).await.unwrap();
    let wrong = client().log_in(host, ann("x").unwrap()).await.unwrap_err();
    assert_eq!(wrong.to_string(), "it refuses ann");
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_begun_anew() {
    let registry = Registry::start();
    let (_dir, blobs) = blobs();
    let image = image(&blobs, &noise(400_000));
    let cut = |times: usize| {
        move |head: &str, before: usize| match head.starts_with("PUT ") && before < times {
            true => Meddle::Cut(100_000),
            false => Meddle::Pass,
        }
    };
    let port = between(registry.port(), cut(2)).await.port();
    let tag = name(port, "shop:1");
    let mut remote = client().remote(&tag.repository, Actions::Push, None, None).unwrap();
    let pushed = remote.push(&image, &tag, &blobs, None).await.unwrap();
    assert_eq!((pushed.sent.len(), registry.asked("POST /v2/shop/blobs/")), (2, 2 + 2));
    let port = between(registry.port(), cut(usize::MAX)).await.port();
    let tag = name(port, "other:1");
    let mut remote = client().remote(&tag.repository, Actions::Push, None, None).unwrap();
    let failed = remote.push(&image, &tag, &blobs, None).await.unwrap_err();
    assert!(matches!(failed, RegistryError::Http(_)), "{failed:?}");
    assert_eq!(registry.asked("POST /v2/other/blobs/"), 3, "three tries");
    assert_eq!(failed.fault("x").kind.exit_code(), 4);
    let mut remote = client().remote(&tag.repository, Actions::Pull, None, None).unwrap();
    assert_eq!(remote.head(&tag).await.unwrap(), None, "a name leads to nothing half");
}

#[tokio::test]
async fn a_layer_that_is_too_large_at_once_goes_in_pieces() {
    const LIMIT: u64 = 17 << 20;
    let registry = Registry::start();
    let (_dir, blobs) = blobs();
    let image = image(&blobs, &noise(20 << 20));
    let over = |limit: u64| {
        move |head: &str, _| {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if length.is_some_and(|length: u64| length > limit) { Meddle::TooLarge } else { Meddle::Pass }
        }
    };
    let tag = name(between(registry.port(), over(LIMIT)).await.port(), "shop:1");
    let mut remote = client().remote(&tag.repository, Actions::Push, None, None).unwrap();
    let pushed = remote.push(&image, &tag, &blobs, None).await.unwrap();
    assert_eq!(pushed.digest, image.manifest.digest.into());
    assert_eq!(registry.asked("PATCH /v2/shop/blobs/"), 2);
    // Where even a piece is too much, the layer is named, and what is large in it.
    let tag = name(between(registry.port(), over(1 << 20)).await.port(), "other:1");
    let mut remote = client().remote(&tag.repository, Actions::Push, None, None).unwrap();
    let refused = remote.push(&image, &tag, &blobs, None).await.unwrap_err();
    assert!(refused.to_string().contains("(the app); its largest files: app/data (20971520)"), "{refused}");
}

#[tokio::test]
async fn a_bill_of_materials_lies_beside_its_image() {
    let registry = Registry::start();
    let ((_one, from), (_two, to)) = (blobs(), blobs());
    let image = image(&from, b"hello");
    let tag = name(registry.port(), "shop:1");
    let mut remote = client().remote(&tag.repository, Actions::Push, None, None).unwrap();
    remote.push(&image, &tag, &from, None).await.unwrap();
    assert_eq!(remote.attached(image.manifest.digest, Sbom::MEDIA).await.unwrap(), []);
    let bill = Sbom::default().document(&image, "shop/web");
    let first = remote.attach(&image.manifest, Sbom::MEDIA, &bill, &from).await.unwrap();
    let again = remote.attach(&image.manifest, Sbom::MEDIA, &bill, &from).await.unwrap();
    assert_eq!(first, again);
    remote.attach(&image.manifest, "text/plain", b"hello", &from).await.unwrap();
    let found = remote.attached(image.manifest.digest, Sbom::MEDIA).await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(remote.attachment(&found[0], &to).await.unwrap() == bill);
}

#[tokio::test]
async fn over_tls_a_registry_is_verified() {
    let registry = Registry::over_tls();
    let (_dir, blobs) = blobs();
    let image = image(&blobs, b"hello");
    let tag: Reference = format!("localhost:{}/shop:1", registry.port()).parse().unwrap();
    let client = |ca: &str| Client::new(Some(&registry.file(ca)), Limits::default()).unwrap();
    let mut remote = client("ca.pem").remote(&tag.repository, Actions::Push, None, None).unwrap();
    remote.push(&image, &tag, &blobs, None).await.unwrap();
    let other = Registry::over_tls();
    std::fs::copy(other.file("ca.pem"), registry.file("other.pem")).unwrap();
    let mut remote = client("other.pem").remote(&tag.repository, Actions::Pull, None, None).unwrap();
    let failed = remote.head(&tag).await.unwrap_err().to_string();
    assert!(failed.contains("is not who it should be"), "{failed}");
}
