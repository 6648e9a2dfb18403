//! Images of what the daemon runs in containers: an artifact as it lies on this machine, over those packages of this machine that it
//! needs. The node asks for one, the builder of images makes it; neither knows the other.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::release::Reference;
use bowline_image::base::{Machine, Needs, Start};
use bowline_image::{Image, Labels, Layout, Recipe, Run, Tree, make};
use bowline_node::{ImageCall, ImageRequest};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

/// In the state: a layout with the bases of images that an engine was given. All of it can be made again.
const FOLDER: &str = "cache/images";
/// What every image has besides: what an instance's command is read by, here as without a container.
const SHELL: &str = "/bin/sh";
/// By which it is told whether a base is still that of this machine.
const PACKAGES: &str = "/var/lib/dpkg/status";
/// The library of Python is in a package of its own, which is found by a program that needs it.
const PYTHON: [&str; 2] = ["/usr/bin/python3.", "/usr/bin/pydoc3."];

/// Makes one after the other, until nobody can ask any more.
pub(crate) async fn serve(state: PathBuf, mut calls: mpsc::Receiver<ImageCall>) {
    while let Some((request, name, reply)) = calls.recv().await {
        let state = state.clone();
        let made = tokio::task::spawn_blocking(move || archive(&state, &request, &name)).await;
        let made = made
            .unwrap_or_else(|error| Err(Fault::new(FaultKind::Failed, "the image could not be made").source(&error)));
        // Whoever asked may have gone away.
        drop(reply.send(made));
    }
}

fn archive(state: &Path, request: &ImageRequest, name: &str) -> Result<File, Fault> {
    let folder = state.join(FOLDER);
    let failed = |error: &std::io::Error| {
        Fault::new(FaultKind::Failed, format!("the image cannot be written in {}", folder.display())).source(error)
    };
    fs::create_dir_all(&folder).map_err(|error| failed(&error))?;
    let layout = Layout::open(&folder)?;
    let name = name
        .parse::<Reference>()
        .map_err(|error| Fault::new(FaultKind::Failed, format!("{name} is no name of an image")).source(&error))?;
    let (image, base) = image(request, &layout)?;
    let mut file = tempfile::tempfile_in(&folder).map_err(|error| failed(&error))?;
    let mut out = BufWriter::new(&mut file);
    layout.archive(&image, std::slice::from_ref(&name), &mut out)?;
    out.flush().map_err(|error| failed(&error))?;
    drop(out);
    file.rewind().map_err(|error| failed(&error))?;
    forget(&image, &base, &layout);
    Ok(file)
}

/// What is of this image alone: the engine has it.
fn forget(image: &Image, base: &Image, layout: &Layout) {
    let kept = base.blobs();
    for blob in image.blobs().into_iter().filter(|blob| !kept.contains(blob)) {
        if let Err(error) = fs::remove_file(layout.blobs().path(blob.digest)) {
            tracing::debug!(%error, digest = %blob.digest, "a part of an image stays");
        }
    }
}

/// With what it stands on.
fn image(request: &ImageRequest, layout: &Layout) -> Result<(Image, Image), Fault> {
    let at = inside(&request.artifact)?;
    let mut own = Tree::default();
    own.folder(&request.artifact, &at)?;
    let needs = needs(request, &own)?;
    let base = base(&needs, layout)?;
    let config = base.settings(layout.blobs())?;
    let recipe = Recipe {
        platform: needs.platform(),
        under: Some((&base, &config)),
        layers: vec![("the app", own)],
        run: Run::Shell(request.run.clone()),
        workdir: request.root.display().to_string(),
        env: [].into(),
        labels: Labels { base: Some("machine".to_owned()), ..Labels::default() },
        port: None,
        created: 0,
    };
    Ok((make(&recipe, layout.blobs())?, base))
}

/// A path of the machine, as a tree has it: what names its own folder, as packages of Python do, finds itself.
fn inside(path: &Path) -> Result<String, Fault> {
    let text = path.to_str().ok_or_else(|| {
        Fault::new(FaultKind::Invalid, format!("{} cannot be in an image", path.display())).caused_by("it is not UTF-8")
    })?;
    Ok(text.trim_start_matches('/').to_owned())
}

fn needs(request: &ImageRequest, own: &Tree) -> Result<Needs, Fault> {
    let (root, workdir) = (Path::new("/"), request.root.display().to_string());
    let run = match named(&request.run).and_then(|word| found(word, request, own)) {
        Some(program) => Run::Exec(vec![program]),
        None => Run::Shell(request.run.clone()),
    };
    let path: Vec<String> = request.search.split(':').map(str::to_owned).collect();
    let mut needs = Needs::of(&[own], Start { run: &run, workdir: &workdir, path: &path }, root)?;
    // An interpreter that is a link of the app's own, as an environment of Python has it, is the machine's.
    let real = |path: String| match Path::new(&path).starts_with(&request.artifact) {
        true => fs::canonicalize(&path).ok().and_then(|real| real.to_str().map(str::to_owned)).unwrap_or(path),
        false => path,
    };
    needs.programs = std::mem::take(&mut needs.programs).into_iter().map(real).collect();
    let libraries: Vec<String> = needs.programs.iter().filter_map(|program| library_of(program)).collect();
    needs.programs.extend(libraries);
    needs.programs.insert(SHELL.to_owned());
    Ok(needs)
}

fn library_of(program: &str) -> Option<String> {
    let real = fs::canonicalize(program).ok()?;
    let [python, needing] = PYTHON;
    let needing = format!("{needing}{}", real.to_str()?.strip_prefix(python)?);
    Path::new(&needing).exists().then_some(needing)
}

/// The program that a command names first and without a folder, behind variables that it sets.
fn named(command: &str) -> Option<&str> {
    let is_assignment = |word: &&str| word.split_once('=').is_some_and(|(name, _)| !name.contains('/'));
    let word = command.split_whitespace().find(|word| !is_assignment(word))?;
    let word =
        if word == "exec" { command.split_whitespace().skip_while(|word| *word != "exec").nth(1)? } else { word };
    let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "._-+".contains(c));
    is_plain.then_some(word)
}

/// Where a shell would find it.
fn found(word: &str, request: &ImageRequest, own: &Tree) -> Option<String> {
    let folders = request.search.split(':').filter(|folder| folder.starts_with('/'));
    let paths = folders.map(|folder| format!("{}/{word}", folder.trim_end_matches('/')));
    let is_there =
        |path: &String| own.entries().contains_key(path.trim_start_matches('/')) || Path::new(path).is_file();
    paths.into_iter().find(is_there)
}

/// Made once for what is needed, and anew when the machine's packages have changed.
fn base(needs: &Needs, layout: &Layout) -> Result<Image, Fault> {
    let mut key = Sha256::new();
    key.update(format!("{needs:?}"));
    key.update(fs::read(PACKAGES).unwrap_or_default());
    let key: String = key.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("localhost/base:{key}")
        .parse::<Reference>()
        .map_err(|error| Fault::new(FaultKind::Failed, "a base cannot be named").source(&error))?;
    if let Ok(Some(image)) = layout.find(&name) {
        return Ok(image);
    }
    let machine = Machine::look(Path::new("/"))?.base(needs)?;
    machine.notes.iter().for_each(|note| tracing::info!(note, "of the base of an image"));
    let recipe = Recipe {
        platform: needs.platform(),
        under: None,
        layers: vec![("what it stands on", machine.tree)],
        run: Run::Exec(vec![SHELL.to_owned()]),
        workdir: "/".to_owned(),
        env: [].into(),
        labels: Labels { base: Some("machine".to_owned()), ..Labels::default() },
        port: None,
        created: 0,
    };
    let image = make(&recipe, layout.blobs())?;
    layout.name(&image, std::slice::from_ref(&name))?;
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_starts_is_looked_for_where_a_shell_looks() {
        let check = |command: &str, expected: Option<&str>| assert_eq!(named(command), expected, "{command}");
        check("gunicorn app:app", Some("gunicorn"));
        check("A=1 B=/x/y exec python3 server.py", Some("python3"));
        check("./server --a=b", None);
        check("/usr/bin/env x", None);
        check("$RUN", None);
        check("", None);
        let request = ImageRequest {
            artifact: "/s/artifacts/d".into(),
            root: "/s/artifacts/d/app".into(),
            run: String::new(),
            search: "/s/artifacts/d/venv/bin:/usr/bin:/bin".into(),
        };
        let mut own = Tree::default();
        own.file("s/artifacts/d/venv/bin/gunicorn", "#!/bin/sh\n").unwrap();
        assert_eq!(found("gunicorn", &request, &own).as_deref(), Some("/s/artifacts/d/venv/bin/gunicorn"));
        assert_eq!(found("env", &request, &own).as_deref(), Some("/usr/bin/env"));
        assert_eq!(found("no-such-program", &request, &own), None);
    }
}
