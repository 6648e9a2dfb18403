//! An image: made by a recipe, or read back from what is kept of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::blob::{Blob, Blobs};
use crate::digest::BlobDigest;
use crate::document::{Config, Descriptor, History, Manifest, Nothing, RootFs, RunConfig, media};
use crate::error::ImageError;
use crate::layer::{Layer, MAX_LAYER};
use crate::platform::Platform;
use crate::tree::Tree;

/// Whom an image's processes run as: nobody that another machine knows, and not root.
pub const USER: u32 = 65_532;

/// Most layers of an image: more than engines mount over one another (Docker's `maxLayerDepth` is 125, overlayfs takes 500 lowers),
/// and few enough that what is packed in them has an end.
pub(crate) const MAX_LAYERS: usize = 500;

/// Most bytes of an image, unpacked: what many layers that are nothing but zeros come to ends here.
const MAX_IMAGE: u64 = 8 * MAX_LAYER;

/// Where a command is looked for, if no base says it.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an image is made of.
#[derive(Debug)]
pub struct Recipe<'a> {
    pub platform: Platform,
    /// An image that it stands on; its layers and environment are below.
    pub under: Option<(&'a Image, &'a Config)>,
    /// What each is, for people, and what is in it; from the bottom to the top.
    pub layers: Vec<(&'a str, Tree)>,
    pub run: Run,
    /// `/app`.
    pub workdir: String,
    pub env: BTreeMap<String, String>,
    pub labels: Labels,
    /// Where it listens, over TCP.
    pub port: Option<u16>,
    /// Seconds since 1970: `SOURCE_DATE_EPOCH`, 0 by default.
    pub created: i64,
}

/// What a container starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// A program and its arguments.
    Exec(Vec<String>),
    /// What needs `/bin/sh` in the image.
    Shell(String),
}

impl Run {
    /// A command as the file has it, started in `workdir`: plain words need no shell, anything that a shell reads otherwise does.
    pub fn of(command: &str, workdir: &str) -> Self {
        // What POSIX (XCU 2.2, 2.6) gives a meaning, wherever it stands; `=` where variables stand before a command.
        let means_something = |c: char| "|&;<>()$`\\\"'*?[]#~%{}!\n\r".contains(c);
        let words: Vec<String> =
            command.split([' ', '\t']).filter(|word| !word.is_empty()).map(str::to_owned).collect();
        match words.split_first() {
            Some((program, rest)) if !command.contains(means_something) && !program.contains('=') => {
                let program = match program.contains('/') && !program.starts_with('/') {
                    true => format!("{workdir}/{}", program.trim_start_matches("./")),
                    false => program.clone(),
                };
                Self::Exec([program].into_iter().chain(rest.iter().cloned()).collect())
            }
            _ => Self::Shell(command.to_owned()),
        }
    }

    /// As an image says it.
    pub(crate) fn entrypoint(&self) -> Vec<String> {
        match self {
            Self::Exec(words) => words.clone(),
            Self::Shell(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()],
        }
    }
}

/// What an image says of itself. `org.opencontainers.image.*` are everybody's, `dev.bowline.*` ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    pub app: String,
    pub service: String,
    /// Digest of what was built: source, commands, interpreter.
    pub artifact: Option<String>,
    pub version: Option<String>,
    /// Of the source, in its version control.
    pub revision: Option<String>,
    /// URL of the source.
    pub source: Option<String>,
    /// What it stands on: `scratch`, `machine`, a name with a digest.
    pub base: Option<String>,
}

/// Made or pulled; all of its blobs are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub platform: Platform,
    /// Its digest is the image's.
    pub manifest: Blob,
    pub config: Blob,
    /// From the bottom to the top.
    pub layers: Vec<Layer>,
}

impl Labels {
    pub(crate) fn all(&self, created: &str) -> BTreeMap<String, String> {
        let of = |key: &str, value: &str| Some((key.to_owned(), value.to_owned()));
        let maybe = |key: &str, value: &Option<String>| value.as_ref().and_then(|value| of(key, value));
        [
            of("org.opencontainers.image.title", &format!("{}/{}", self.app, self.service)),
            of("org.opencontainers.image.created", created),
            maybe("org.opencontainers.image.version", &self.version),
            maybe("org.opencontainers.image.revision", &self.revision),
            maybe("org.opencontainers.image.source", &self.source),
            of("dev.bowline.app", &self.app),
            of("dev.bowline.service", &self.service),
            maybe("dev.bowline.artifact", &self.artifact),
            maybe("dev.bowline.base", &self.base),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Packs the layers and writes the documents. One recipe gives one digest. Blocks on the disk.
///
/// # Errors
/// A layer cannot be packed (see [`Layer::pack`]), or the disk does not take it.
pub fn make(recipe: &Recipe<'_>, blobs: &Blobs) -> Result<Image, ImageError> {
    let created = Timestamp::from_second(recipe.created).unwrap_or_default().to_string();
    let (mut layers, mut history, mut env) = (Vec::new(), Vec::new(), vec![PATH.to_owned()]);
    if let Some((image, config)) = recipe.under {
        layers.clone_from(&image.layers);
        history.clone_from(&config.history);
        // One that has no history has none of its own layers in it: readers count the two against one another.
        let told = history.iter().filter(|one| !one.empty_layer).count();
        history.extend((told..layers.len()).map(|_| History::default()));
        if !config.config.env.is_empty() {
            env.clone_from(&config.config.env);
        }
    }
    for (about, tree) in &recipe.layers {
        layers.push(Layer::pack(tree, about, blobs)?);
        let created_by = Some(format!("bowline: {about}"));
        history.push(History { created: Some(created.clone()), created_by, empty_layer: false });
    }
    env.retain(|line| line.split_once('=').is_none_or(|(name, _)| !recipe.env.contains_key(name)));
    env.extend(recipe.env.iter().map(|(name, value)| format!("{name}={value}")));
    let entrypoint = recipe.run.entrypoint();
    let run = RunConfig {
        user: format!("{USER}:{USER}"),
        exposed_ports: recipe.port.iter().map(|port| (format!("{port}/tcp"), Nothing {})).collect(),
        env,
        entrypoint,
        cmd: Vec::new(),
        working_dir: recipe.workdir.clone(),
        labels: recipe.labels.all(&created),
        stop_signal: Some("SIGTERM".to_owned()),
    };
    let config = Config {
        created: Some(created),
        architecture: recipe.platform.architecture.clone(),
        os: recipe.platform.os.clone(),
        config: run,
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids: layers.iter().map(|layer| layer.diff_id).collect() },
        history,
    };
    let config = blobs.keep(media::CONFIG, &json(&config))?;
    assemble(recipe.platform.clone(), config, layers, blobs)
}

/// Writes the manifest over a configuration and layers that are kept.
pub(crate) fn assemble(
    platform: Platform,
    config: Blob,
    layers: Vec<Layer>,
    blobs: &Blobs,
) -> Result<Image, ImageError> {
    let manifest = Manifest::new(&config, layers.iter().map(|layer| Descriptor::of(&layer.blob)));
    let manifest = blobs.keep(media::MANIFEST, &json(&manifest))?;
    Ok(Image { platform, manifest, config, layers })
}

/// As it goes into a digest: without spaces, keys in the order of the struct.
pub(crate) fn json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("a document is made of text, numbers, lists and maps of text")
}

impl Image {
    /// Of what is kept. Its layers must be there, but are not looked into.
    ///
    /// # Errors
    /// A document or a layer is not there, is damaged, or they do not go together.
    pub fn read(manifest: &Blob, blobs: &Blobs) -> Result<Self, ImageError> {
        let digest = manifest.digest;
        let contradiction = |why| ImageError::Contradiction { digest, why };
        let understood = |source| ImageError::Document { what: "manifest", digest, source };
        let document: Manifest = serde_json::from_slice(&blobs.document(digest)?).map_err(understood)?;
        if document.layers.len() > MAX_LAYERS {
            return Err(contradiction("it has more layers than any engine takes"));
        }
        let config = settings(document.config.digest, blobs)?;
        if config.rootfs.diff_ids.len() != document.layers.len() {
            return Err(contradiction("it has not as many layers as its configuration says"));
        }
        let mut about = config.history.iter().filter(|one| !one.empty_layer);
        let layers = document.layers.iter().zip(&config.rootfs.diff_ids).map(|(layer, diff_id)| {
            let about = about.next().and_then(|one| one.created_by.clone()).unwrap_or_default();
            let about = about.strip_prefix("bowline: ").map_or(about.clone(), str::to_owned);
            match blobs.has(layer.digest, layer.size) {
                true => Ok(Layer { blob: layer.blob(), diff_id: *diff_id, about, largest: Vec::new() }),
                false => Err(ImageError::Absent(layer.digest)),
            }
        });
        let layers = layers.collect::<Result<_, _>>()?;
        let platform = Platform { os: config.os, architecture: config.architecture };
        let media = document.media_type.unwrap_or_else(|| manifest.media.clone());
        let manifest = Blob { media, digest, size: manifest.size };
        Ok(Self { platform, manifest, config: document.config.blob(), layers })
    }

    /// How it is run.
    pub fn settings(&self, blobs: &Blobs) -> Result<Config, ImageError> {
        settings(self.config.digest, blobs)
    }

    /// All of its layers, unpacked and compared. Blocks on the disk.
    ///
    /// # Errors
    /// One is not what the image says, or all of them are more than [`MAX_IMAGE`] unpacked.
    pub fn verify(&self, blobs: &Blobs) -> Result<(), ImageError> {
        let mut left = MAX_IMAGE;
        for layer in &self.layers {
            left -= Layer::verify(&layer.blob, layer.diff_id, left, blobs)?;
        }
        Ok(())
    }

    /// Every blob of it, each once: layers from the bottom, the configuration, the manifest.
    pub fn blobs(&self) -> Vec<&Blob> {
        let mut all: Vec<&Blob> = Vec::new();
        for blob in self.layers.iter().map(|layer| &layer.blob).chain([&self.config, &self.manifest]) {
            if !all.iter().any(|one| one.digest == blob.digest) {
                all.push(blob);
            }
        }
        all
    }
}

pub(crate) fn settings(digest: BlobDigest, blobs: &Blobs) -> Result<Config, ImageError> {
    let bytes = blobs.document(digest)?;
    serde_json::from_slice(&bytes).map_err(|source| ImageError::Document { what: "configuration", digest, source })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An image with one file, for other tests.
    pub(crate) fn small(blobs: &Blobs, text: &str) -> Image {
        make(&recipe(text), blobs).unwrap()
    }

    fn recipe(text: &str) -> Recipe<'static> {
        let mut tree = Tree::default();
        tree.file("app/hello", text).unwrap();
        Recipe {
            platform: Platform::linux("amd64"),
            under: None,
            layers: vec![("the app", tree)],
            run: Run::Exec(vec!["/app/hello".into()]),
            workdir: "/app".into(),
            env: [("B".to_owned(), "2".to_owned()), ("A".to_owned(), "1=1".to_owned())].into(),
            labels: Labels { app: "shop".into(), service: "web".into(), ..Labels::default() },
            port: Some(8080),
            created: 0,
        }
    }

    #[test]
    fn documents_are_written_in_one_order() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let image = small(&blobs, "hello");
        let text = |blob: &Blob| String::from_utf8(blobs.document(blob.digest).unwrap()).unwrap();
        let layer = &image.layers[0];
        let expected = format!(
            r#"{{"created":"1970-01-01T00:00:00Z","architecture":"amd64","os":"linux","config":{{"User":"65532:65532","ExposedPorts":{{"8080/tcp":{{}}}},"Env":["{PATH}","A=1=1","B=2"],"Entrypoint":["/app/hello"],"WorkingDir":"/app","Labels":{{"dev.bowline.app":"shop","dev.bowline.service":"web","org.opencontainers.image.created":"1970-01-01T00:00:00Z","org.opencontainers.image.title":"shop/web"}},"StopSignal":"SIGTERM"}},"rootfs":{{"type":"layers","diff_ids":["{}"]}},"history":[{{"created":"1970-01-01T00:00:00Z","created_by":"bowline: the app"}}]}}"#,
            layer.diff_id
        );
        assert_eq!(text(&image.config), expected);
        let expected = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":{}}},"layers":[{{"mediaType":"{}","digest":"{}","size":{}}}]}}"#,
            media::MANIFEST,
            media::CONFIG,
            image.config.digest,
            image.config.size,
            media::LAYER,
            layer.blob.digest,
            layer.blob.size
        );
        assert_eq!(text(&image.manifest), expected);
        let read = Image::read(&image.manifest, &blobs).unwrap();
        let known = Image { layers: vec![Layer { largest: Vec::new(), ..layer.clone() }], ..image.clone() };
        assert_eq!(read, known);
        image.verify(&blobs).unwrap();
    }

    #[test]
    fn an_image_stands_on_another() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let below = small(&blobs, "below");
        let mut config = below.settings(&blobs).unwrap();
        config.config.env = vec!["PATH=/opt/bin".into(), "A=0".into(), "LANG=C".into()];
        config.history.clear();
        let above = Recipe {
            under: Some((&below, &config)),
            run: Run::Shell("exec ./hello | tee log".into()),
            created: 1_700_000_000,
            ..recipe("above")
        };
        let above = make(&above, &blobs).unwrap();
        let got = above.settings(&blobs).unwrap();
        assert_eq!(above.layers.len(), 2);
        assert_eq!(got.rootfs.diff_ids, above.layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>());
        assert_eq!(got.config.env, ["PATH=/opt/bin", "LANG=C", "A=1=1", "B=2"]);
        assert_eq!(got.config.entrypoint, ["/bin/sh", "-c", "exec ./hello | tee log"]);
        assert_eq!((got.created.as_deref(), got.history.len()), (Some("2023-11-14T22:13:20Z"), 2));
    }

    #[test]
    fn a_shell_is_for_what_only_a_shell_reads() {
        let check = |command: &str, words: Option<&[&str]>| {
            let expected = match words {
                Some(words) => Run::Exec(words.iter().map(|word| (*word).to_owned()).collect()),
                None => Run::Shell(command.to_owned()),
            };
            assert_eq!(Run::of(command, "/app"), expected);
        };
        check("bin/hello", Some(&["/app/bin/hello"]));
        check(" ./run  --port 80\t", Some(&["/app/run", "--port", "80"]));
        check("node server.js", Some(&["node", "server.js"]));
        check("node --x=128 server.js", Some(&["node", "--x=128", "server.js"]));
        check("/usr/bin/env", Some(&["/usr/bin/env"]));
        for shell in ["run $PORT", "A=1 run", "a && b", "run 'x y'", "run *", "a\nb", "run # x", ""] {
            check(shell, None);
        }
    }

    #[test]
    fn what_does_not_go_together_is_no_image() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let image = small(&blobs, "hello");
        let manifest = Manifest::new(&image.config, std::iter::empty());
        let fewer = blobs.keep(media::MANIFEST, &json(&manifest)).unwrap();
        assert!(matches!(Image::read(&fewer, &blobs), Err(ImageError::Contradiction { .. })));
        let none = blobs.keep(media::MANIFEST, b"[]").unwrap();
        assert!(matches!(Image::read(&none, &blobs), Err(ImageError::Document { what: "manifest", .. })));
        std::fs::remove_file(blobs.path(image.layers[0].blob.digest)).unwrap();
        assert!(matches!(Image::read(&image.manifest, &blobs), Err(ImageError::Absent(_))));
    }
}
