//! Documents of images: OCI image format 1.1. What is written has its keys in this order; what is read may have more.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::blob::Blob;
use crate::digest::BlobDigest;
use crate::platform::Platform;

/// Media types.
pub mod media {
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub const PLAIN_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    pub const CYCLONEDX: &str = "application/vnd.cyclonedx+json";
}

/// A blob, as another document names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: BlobDigest,
    /// In bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformWords>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformWords {
    pub architecture: String,
    pub os: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub manifests: Vec<Descriptor>,
}

/// What an image is and how it is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    pub architecture: String,
    pub os: String,
    #[serde(default, deserialize_with = "nullable")]
    pub config: RunConfig,
    pub rootfs: RootFs,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunConfig {
    /// `UID:GID`, or names.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `8080/tcp`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Nothing>,
    /// `NAME=value`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<BlobDigest>,
}

/// One for each layer, and in other builders' images one for each step without a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// Go writes what is empty as `null`.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Descriptor {
    pub fn of(blob: &Blob) -> Self {
        Self {
            media_type: blob.media.clone(),
            digest: blob.digest,
            size: blob.size,
            platform: None,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }

    pub fn blob(&self) -> Blob {
        Blob { media: self.media_type.clone(), digest: self.digest, size: self.size }
    }
}

impl Manifest {
    pub fn new(config: &Blob, layers: impl Iterator<Item = Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media::MANIFEST.to_owned()),
            artifact_type: None,
            config: Descriptor::of(config),
            layers: layers.collect(),
            subject: None,
            annotations: BTreeMap::new(),
        }
    }
}

impl Index {
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: Some(media::INDEX.to_owned()), manifests }
    }

    /// The image for this platform; one that names no platform is for all.
    pub fn choose(&self, platform: &Platform) -> Option<&Descriptor> {
        let is_for = |one: &&Descriptor| {
            let is_it = |words: &PlatformWords| words.os == platform.os && words.architecture == platform.architecture;
            is_image(one) && one.platform.as_ref().is_none_or(is_it)
        };
        self.manifests.iter().find(is_for)
    }

    /// For whom it has images, for people.
    pub fn platforms(&self) -> String {
        let words = self.manifests.iter().filter_map(|one| one.platform.as_ref());
        let words: Vec<String> = words.map(|words| format!("{}/{}", words.os, words.architecture)).collect();
        if words.is_empty() { "nothing that it names".to_owned() } else { words.join(", ") }
    }
}

fn is_image(descriptor: &Descriptor) -> bool {
    matches!(descriptor.media_type.as_str(), media::MANIFEST | media::DOCKER_MANIFEST)
}

/// Whether this is a list of images and not one.
pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, media::INDEX | media::DOCKER_LIST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_builders_write_is_read() {
        let config = r#"{"architecture":"arm64","config":{"Hostname":"","User":"","Env":["PATH=/bin"],"Cmd":["sh"],"Entrypoint":null,"Labels":null,
            "ExposedPorts":null,"WorkingDir":""},"container":"x","docker_version":"20.10","os":"linux","variant":"v8",
            "rootfs":{"type":"layers","diff_ids":null},"history":[{"created":"2020-01-01T00:00:00Z","created_by":"/bin/sh -c","empty_layer":true}]}"#;
        let config: Config = serde_json::from_str(config).unwrap();
        assert_eq!(
            (config.config.env.as_slice(), config.config.cmd.as_slice()),
            (["PATH=/bin".to_owned()].as_slice(), ["sh".to_owned()].as_slice())
        );
        assert!(
            config.config.entrypoint.is_empty() && config.rootfs.diff_ids.is_empty() && config.history[0].empty_layer
        );
        assert!(serde_json::from_str::<Config>(r#"{"os":"linux"}"#).is_err());
    }

    #[test]
    fn of_a_list_the_platform_chooses() {
        let one = |media: &str, platform: Option<(&str, &str)>, byte: u8| Descriptor {
            platform: platform.map(|(os, arch)| PlatformWords { architecture: arch.into(), os: os.into() }),
            ..Descriptor::of(&Blob { media: media.into(), digest: BlobDigest::of(&[byte]), size: 1 })
        };
        let index = Index::new(vec![
            one(media::MANIFEST, Some(("windows", "amd64")), 1),
            one("application/json", Some(("linux", "amd64")), 2),
            one(media::MANIFEST, Some(("linux", "arm64")), 3),
            one(media::DOCKER_MANIFEST, Some(("linux", "amd64")), 4),
        ]);
        let chosen = |arch: &str| index.choose(&Platform::linux(arch)).map(|one| one.digest);
        assert_eq!(chosen("amd64"), Some(BlobDigest::of(&[4])));
        assert_eq!(chosen("arm64"), Some(BlobDigest::of(&[3])));
        assert_eq!(chosen("riscv64"), None);
        assert!(index.platforms().starts_with("windows/amd64, linux/amd64"));
        let plain = Index::new(vec![one(media::MANIFEST, None, 5)]);
        assert_eq!(plain.choose(&Platform::linux("riscv64")).unwrap().digest, BlobDigest::of(&[5]));
    }
}
