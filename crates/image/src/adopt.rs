//! An image that an engine made, taken in as one of ours: with our labels, and without what its engine wrote down of the machine
//! and the clock.

use serde_json::{Map, Value, json};

use crate::blob::Blobs;
use crate::document::media;
use crate::error::ImageError;
use crate::image::{Image, Labels, Run, assemble};

/// What engines keep in a configuration of the container that a step ran in, and of themselves; nobody runs it by that (OCI image
/// specification, config: none of these is in it).
const OF_ENGINES: [&str; 6] = ["container", "container_config", "docker_version", "id", "parent", "throwaway"];
const OF_STEPS: [&str; 9] =
    ["AttachStderr", "AttachStdin", "AttachStdout", "Domainname", "Hostname", "Image", "OpenStdin", "StdinOnce", "Tty"];

/// What is said of an image beside what its engine knows.
#[derive(Debug)]
pub struct Adoption<'a> {
    pub labels: &'a Labels,
    /// In the place of what it starts.
    pub run: Option<Run>,
    /// Where it listens, over TCP, beside what it says itself.
    pub port: Option<u16>,
    /// Seconds since 1970.
    pub created: i64,
}

/// Whom an image's processes run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunsAs {
    Root,
    Another,
}

/// Makes of an image in `from` one in `to`. The same layers and settings give one digest, whenever they were made. Blocks on the
/// disk.
///
/// # Errors
/// A layer is not what it says, or the disk does not take it.
pub fn adopt(image: &Image, from: &Blobs, adoption: &Adoption<'_>, to: &Blobs) -> Result<(Image, RunsAs), ImageError> {
    let digest = image.config.digest;
    let understood = |source| ImageError::Document { what: "configuration", digest, source };
    let mut config: Map<String, Value> = serde_json::from_slice(&from.document(digest)?).map_err(understood)?;
    let seconds = u64::try_from(adoption.created).unwrap_or(0);
    let layers = image.layers.iter().map(|layer| layer.settled(from, seconds, to)).collect::<Result<Vec<_>, _>>()?;
    let created = jiff::Timestamp::from_second(adoption.created).unwrap_or_default().to_string();
    OF_ENGINES.iter().for_each(|key| drop(config.remove(*key)));
    config.insert("created".to_owned(), json!(created));
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    config.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": diff_ids }));
    for step in config.get_mut("history").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(step) = step.as_object_mut() {
            step.insert("created".to_owned(), json!(created));
        }
    }
    let run = object(&mut config, "config");
    OF_STEPS.iter().for_each(|key| drop(run.remove(*key)));
    let labels = object(run, "Labels");
    labels.extend(adoption.labels.all(&created).into_iter().map(|(name, value)| (name, Value::from(value))));
    if let Some(port) = adoption.port {
        object(run, "ExposedPorts").insert(format!("{port}/tcp"), json!({}));
    }
    if let Some(start) = &adoption.run {
        run.insert("Entrypoint".to_owned(), json!(start.entrypoint()));
        run.remove("Cmd");
    }
    let user = run.get("User").and_then(Value::as_str).unwrap_or_default();
    let runs_as = match user.split(':').next() {
        Some("" | "0" | "root") | None => RunsAs::Root,
        Some(_) => RunsAs::Another,
    };
    let config = to.keep(media::CONFIG, &crate::image::json(&config))?;
    Ok((assemble(image.platform.clone(), config, layers, to)?, runs_as))
}

/// Go writes what is empty as `null`.
fn object<'a>(document: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = document.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made one")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::document::Manifest;
    use crate::layer::{Layer, repack};
    use crate::platform::Platform;
    use crate::tar::Writer;

    /// As Docker's own builder leaves one: with the container that it ran in, and times.
    fn of_engine(blobs: &Blobs, when: &str, user: &str) -> Image {
        let mut tar = Writer::new(Vec::new());
        tar.file("hello", 0o755, 2, b"hi".as_slice()).unwrap();
        let mut bytes = tar.end().unwrap();
        // The time of the first header, and the sum that goes with it.
        bytes[136..147].copy_from_slice(if when.starts_with('1') { b"00000000001" } else { b"00000000002" });
        bytes[148..156].fill(b' ');
        let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
        write!(&mut bytes[148..156], "{sum:06o}\0 ").unwrap();
        let layer: Layer = repack(&mut bytes.as_slice(), "saved", blobs).unwrap();
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": when, "docker_version": when, "container": when,
            "container_config": { "Hostname": when, "Cmd": ["x"] },
            "config": {
                "Hostname": "", "Image": when, "User": user, "Env": ["A=1"], "Cmd": ["hi"], "Labels": null,
                "Volumes": { "/data": {} }, "ExposedPorts": { "9000/tcp": {} }
            },
            "rootfs": { "type": "layers", "diff_ids": [layer.diff_id.to_string()] },
            "history": [{ "created": when, "created_by": "COPY" }, { "created": when, "empty_layer": true }]
        });
        let config = blobs.keep(media::CONFIG, config.to_string().as_bytes()).unwrap();
        assemble(Platform::linux("amd64"), config, vec![layer], blobs).unwrap()
    }

    #[test]
    fn what_an_engine_made_twice_is_one_image() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (from, to) = (Blobs::open(dirs[0].path()).unwrap(), Blobs::open(dirs[1].path()).unwrap());
        let labels = Labels { app: "shop".into(), service: "web".into(), ..Labels::default() };
        let taken = |when: &str, user: &str, run: Option<Run>| {
            let adoption = Adoption { labels: &labels, run, port: Some(8080), created: 0 };
            adopt(&of_engine(&from, when, user), &from, &adoption, &to).unwrap()
        };
        let (one, runs_as) = taken("1999-01-01T00:00:00Z", "app:app", None);
        assert_eq!(runs_as, RunsAs::Another);
        assert_eq!(taken("2026-01-01T00:00:00Z", "app:app", None).0.manifest, one.manifest);
        one.verify(&to).unwrap();
        let config: Value = serde_json::from_slice(&to.document(one.config.digest).unwrap()).unwrap();
        let run = &config["config"];
        assert_eq!((&run["Volumes"]["/data"], &run["Cmd"]), (&json!({}), &json!(["hi"])), "what it says is kept");
        assert_eq!(run["ExposedPorts"], json!({ "8080/tcp": {}, "9000/tcp": {} }));
        assert_eq!(run["Labels"]["dev.bowline.service"], "web");
        let text = config.to_string();
        assert!(!text.contains("1999") && !text.contains("\"container"), "{text}");
        let read = Image::read(&one.manifest, &to).unwrap();
        assert_eq!(read.settings(&to).unwrap().history.len(), 2);
        let _: Manifest = serde_json::from_slice(&to.document(one.manifest.digest).unwrap()).unwrap();
        for user in ["", "0", "root:app", "0:0"] {
            assert_eq!(taken("1999-01-01T00:00:00Z", user, None).1, RunsAs::Root, "{user}");
        }
        let (other, _) = taken("1999-01-01T00:00:00Z", "app", Some(Run::of("bin/x --all", "/srv")));
        let config = other.settings(&to).unwrap().config;
        assert_eq!((config.entrypoint, config.cmd), (vec!["/srv/bin/x".to_owned(), "--all".to_owned()], Vec::new()));
    }
}
