//! What an image is made of, as a bill of materials in CycloneDX 1.6 (ECMA-424): the packages of its base, and what the
//! app's own records say of its dependencies.
//!
//! One image gives one bill, byte by byte: sorted by package URL, without a time, its serial number made of the image's digest.

mod cargo;
mod go;
mod node;
mod python;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use serde::Serialize;

use crate::base::Package;
use crate::document::media;
use crate::error::ImageError;
use crate::image::{Image, json};
use crate::tree::{Content, Entry, Tree};

/// Largest record of dependencies that is read, in bytes: locks of large apps have some megabytes.
const MAX_RECORD: u64 = 64 << 20;

/// One thing that an image holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    pub name: String,
    pub version: String,
    /// Package URL (ECMA-427): `pkg:npm/express@4.19.2`.
    pub purl: String,
    /// Of what the package's registry has, if the app's record says it.
    pub hash: Option<Hash>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hash {
    /// In hexadecimal digits, as all of these.
    Sha256(String),
    Sha512(String),
}

/// The components of an image, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sbom(BTreeMap<String, Component>);

impl Component {
    /// `namespace`: what stands before the name in the URL, its parts with slashes between.
    fn new(kind: &str, namespace: Option<&str>, name: &str, version: &str) -> Self {
        let path: Vec<String> =
            namespace.into_iter().flat_map(|all| all.split('/')).chain([name]).map(encoded).collect();
        let full = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
        let purl = format!("pkg:{kind}/{}@{}", path.join("/"), encoded(version));
        Self { name: full, version: version.to_owned(), purl, hash: None }
    }
}

/// As a part of a package URL: all but what never means anything there.
fn encoded(text: &str) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~' | b':');
    let one = |byte: u8| if is_plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

impl Sbom {
    pub fn add(&mut self, components: impl IntoIterator<Item = Component>) {
        self.0.extend(components.into_iter().map(|one| (one.purl.clone(), one)));
    }

    /// The packages of a base. `distribution`: `debian`.
    pub fn packages(&mut self, packages: &[Package], distribution: &str) {
        self.add(packages.iter().map(|package| {
            let mut component = Component::new("deb", Some(distribution), &package.name, &package.version);
            component.purl.push_str(&format!("?arch={}", encoded(&package.architecture)));
            Component { name: package.name.clone(), ..component }
        }));
    }

    /// What the app's own files tell: `METADATA` of Python, `package-lock.json` of npm, `Cargo.lock`, and what Go writes into
    /// each program. What cannot be understood tells nothing. Blocks on the disk.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn look(&mut self, tree: &Tree) -> Result<(), ImageError> {
        for (path, entry) in tree.entries() {
            let Entry::File { content, executable } = entry else { continue };
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            match name {
                "METADATA" if folder.ends_with(".dist-info") => self.add(python::of_metadata(&text(content)?)),
                // npm keeps a second one inside, which is the same but for what is only for development.
                "package-lock.json" | ".package-lock.json" => self.add(node::of_lock(&text(content)?)),
                "Cargo.lock" => self.add(cargo::of_lock(&text(content)?)),
                _ if *executable => self.add(go::of_program(&mut open(content)?).map_err(failed(content))?),
                _ => {}
            }
        }
        Ok(())
    }

    pub fn components(&self) -> impl Iterator<Item = &Component> {
        self.0.values()
    }

    /// The document, of [`media::CYCLONEDX`]. `name`: what the image is, `shop/web`.
    pub fn document(&self, image: &Image, name: &str) -> Vec<u8> {
        let digest = image.manifest.digest.to_string();
        let tool =
            Written { kind: "application", name: "bowline", version: env!("CARGO_PKG_VERSION"), ..Written::default() };
        let subject =
            Written { bom_ref: Some(&digest), kind: "container", name, version: &digest, ..Written::default() };
        json(&Document {
            bom_format: "CycloneDX",
            spec_version: "1.6",
            serial_number: format!("urn:uuid:{}", uuid(&image.config.digest.0.0)),
            version: 1,
            metadata: Metadata { tools: Tools { components: [tool] }, component: subject },
            components: self.components().map(Written::of).collect(),
        })
    }

    /// Its media type.
    pub const MEDIA: &'static str = media::CYCLONEDX;
}

/// Version 8 of RFC 9562: of bytes that are nobody else's.
fn uuid(digest: &[u8; 32]) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    bom_format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u32,
    metadata: Metadata<'a>,
    components: Vec<Written<'a>>,
}

#[derive(Debug, Serialize)]
struct Metadata<'a> {
    tools: Tools<'a>,
    component: Written<'a>,
}

#[derive(Debug, Serialize)]
struct Tools<'a> {
    components: [Written<'a>; 1],
}

#[derive(Debug, Default, Serialize)]
struct Written<'a> {
    #[serde(rename = "bom-ref", skip_serializing_if = "Option::is_none")]
    bom_ref: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    version: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<WrittenHash<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct WrittenHash<'a> {
    alg: &'static str,
    content: &'a str,
}

impl<'a> Written<'a> {
    fn of(component: &'a Component) -> Self {
        let hash = component.hash.as_ref().map(|hash| match hash {
            Hash::Sha256(content) => WrittenHash { alg: "SHA-256", content },
            Hash::Sha512(content) => WrittenHash { alg: "SHA-512", content },
        });
        Self {
            bom_ref: Some(&component.purl),
            kind: "library",
            name: &component.name,
            version: &component.version,
            hashes: hash.into_iter().collect(),
            purl: Some(&component.purl),
        }
    }
}

fn open(content: &Content) -> Result<Box<dyn Read + '_>, ImageError> {
    Ok(match content {
        Content::Bytes(bytes) => Box::new(io::Cursor::new(&**bytes)),
        Content::At(path) => Box::new(File::open(path).map_err(ImageError::read(path))?),
    })
}

fn failed(content: &Content) -> impl FnOnce(io::Error) -> ImageError + '_ {
    |source| match content {
        Content::Bytes(_) => ImageError::Read { path: "a file of the image".to_owned(), source },
        Content::At(path) => ImageError::read(path)(source),
    }
}

fn text(content: &Content) -> Result<String, ImageError> {
    let mut bytes = Vec::new();
    open(content)?.take(MAX_RECORD).read_to_end(&mut bytes).map_err(failed(content))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::base::Packages;
    use crate::blob::Blobs;
    use crate::image::tests::small;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.file(
            "venv/lib/Flask-3.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: Flask\nVersion: 3.0\n\nName: x\n",
        )
        .unwrap();
        tree.file(
            "app/package-lock.json",
            r#"{"lockfileVersion":3,"packages":{"node_modules/@a/b":{"version":"1.0.0"}}}"#,
        )
        .unwrap();
        tree.file("app/Cargo.lock", "[[package]]\nname = \"serde\"\nversion = \"1.0\"\nsource = \"registry+x\"\n")
            .unwrap();
        tree.file("app/broken/package-lock.json", "{").unwrap();
        tree
    }

    #[test]
    fn a_bill_is_what_the_schema_asks_for() {
        let dir = tempfile::tempdir().unwrap();
        let image = small(&Blobs::open(dir.path()).unwrap(), "hello");
        let status = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2.36-9+deb12u10\n";
        let packages: Vec<_> = Packages::parse(status, "amd64").iter().cloned().collect();
        let mut sbom = Sbom::default();
        sbom.look(&tree()).unwrap();
        sbom.packages(&packages, "debian");
        sbom.add([Component { hash: Some(Hash::Sha256("ab".repeat(32))), ..Component::new("cargo", None, "x", "2") }]);
        let bytes = sbom.document(&image, "shop/web");
        assert!(bytes == sbom.clone().document(&image, "shop/web"));
        let bill: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        // bom-1.6.schema.json: required, enumerations and patterns of what is written.
        assert_eq!(
            (&bill["bomFormat"], &bill["specVersion"], &bill["version"]),
            (&"CycloneDX".into(), &"1.6".into(), &1.into())
        );
        let serial = bill["serialNumber"].as_str().unwrap().strip_prefix("urn:uuid:").unwrap();
        let groups: Vec<usize> = serial.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
        assert!(serial.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f' | '-')));
        assert_eq!((&serial[14..15], matches!(&serial[19..20], "8" | "9" | "a" | "b")), ("8", true));
        assert_eq!(bill["metadata"]["component"]["type"], "container");
        assert!(bill["metadata"].get("timestamp").is_none());
        let components = bill["components"].as_array().unwrap();
        let keys = ["bom-ref", "type", "name", "version", "hashes", "purl"];
        for component in components {
            assert!(component["name"].is_string() && component["type"] == "library");
            assert!(
                component.as_object().unwrap().keys().all(|key| keys.contains(&key.as_str())),
                "additionalProperties: false"
            );
        }
        let purls: Vec<&str> = components.iter().map(|one| one["purl"].as_str().unwrap()).collect();
        let expected = [
            "pkg:cargo/serde@1.0",
            "pkg:cargo/x@2",
            "pkg:deb/debian/libc6@1:2.36-9%2Bdeb12u10?arch=amd64",
            "pkg:npm/%40a/b@1.0.0",
            "pkg:pypi/flask@3.0",
        ];
        assert_eq!(purls, expected, "sorted");
        let refs: BTreeSet<&str> = components.iter().map(|one| one["bom-ref"].as_str().unwrap()).collect();
        assert_eq!(refs.len(), components.len(), "uniqueItems");
        assert_eq!(components[1]["hashes"][0]["alg"], "SHA-256");
        assert_eq!(components[1]["hashes"][0]["content"].as_str().unwrap().len(), 64);
    }
}
