//! What lies in `deploy/` of each example is what is rendered, and its Dockerfile is as it should be.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use bowline_tests::{Bowline, path, root, text};

use super::{EXAMPLES, out, program};

/// As the Makefile of each example says it, until somebody has pushed an image.
fn unpushed(name: &str) -> String {
    format!("web=registry.example.com/{name}@sha256:{}", "0".repeat(64))
}

/// All files below a folder, by their paths in it.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => folders.push(entry.path()),
                false => {
                    let below = entry.path().strip_prefix(folder).expect("it lies there").display().to_string();
                    all.insert(below, std::fs::read_to_string(entry.path()).expect("text"));
                }
            }
        }
    }
    all
}

#[test]
fn examples_have_what_is_rendered_of_them() {
    let bowline = Bowline::new();
    let renews = std::env::var_os("BOWLINE_RENEW").is_some();
    for name in EXAMPLES {
        let (from, image) = (root().join("examples").join(name), unpushed(name));
        let cluster = ["--env", "production", "--image", &image, "--api", "ingress-nginx"];
        let compose = ["--env", "compose", "--build", "web=deploy/Dockerfile", "--context", ".."];
        let renders =
            [("kubernetes", &cluster[..], "kubernetes"), ("helm", &cluster, "chart"), ("compose", &compose, "")];
        for (verb, args, to) in renders {
            let made = bowline.folder(&format!("{name}-{verb}"));
            out(&bowline.run(&[&["render", verb, path(&from)], args, &["--out", path(&made)]].concat()));
            let (made, kept) = (files(&made), from.join("deploy").join(to));
            if renews {
                if !to.is_empty() {
                    let _ = std::fs::remove_dir_all(&kept);
                }
                for (file, text) in &made {
                    let file = kept.join(file);
                    std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
                    std::fs::write(file, text).expect("a file of an example");
                }
            }
            let mut there = files(&kept);
            if to.is_empty() {
                there.retain(|file, _| file == "compose.yaml");
            }
            let differing: Vec<&String> =
                made.keys().chain(there.keys()).filter(|one| made.get(*one) != there.get(*one)).collect();
            assert!(differing.is_empty(), "{name}, {verb}: look, then BOWLINE_RENEW=1: {differing:?}");
            let makefile = std::fs::read_to_string(from.join("Makefile")).expect("a Makefile");
            let said = format!("bowline render {verb} {}", args.join(" ").replace(&image, "\"web=$(WEB)\""));
            assert!(makefile.contains(&said), "{name}: `make manifests` says it as here: {said}");
        }
    }
}

#[test]
fn dockerfiles_of_examples_are_linted_pinned_and_ask_for_health() {
    let hadolint = program("validate/bin/hadolint");
    for name in EXAMPLES {
        let file = root().join("examples").join(name).join("deploy/Dockerfile");
        let linted =
            Command::new(&hadolint).args(["--failure-threshold=style", path(&file)]).output().expect("it starts");
        assert!(linted.status.success(), "{name}: {}", text(&linted));
        let lines = std::fs::read_to_string(&file).expect("a Dockerfile");
        let bases: Vec<&str> = lines.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
        let is_exact = |base: &str| {
            base == "scratch" || base.split([':', ' ']).nth(1).is_some_and(|tag| tag.matches('.').count() >= 1)
        };
        assert!(bases.len() > 1 && bases.iter().all(|base| is_exact(base)), "{name}: {bases:?}");
        assert!(lines.contains("\nUSER 65532:65532\n") && lines.contains("\nHEALTHCHECK "), "{name}: {lines}");
    }
    // So that the lint can fail.
    let bad = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(bad.path(), "FROM debian\nRUN cd /tmp && apt-get install curl\n").expect("a file of the test");
    let linted = Command::new(&hadolint).arg(path(bad.path())).output().expect("it starts");
    assert!(!linted.status.success() && text(&linted).contains("DL3006"), "{}", text(&linted));
}
