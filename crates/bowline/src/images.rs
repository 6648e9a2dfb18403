//! Images of what the daemon runs in containers: an artifact as it lies on this machine, over those packages of this machine that it
//! needs. The node asks for one, the builder of images makes it; neither knows the other.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::release::Reference;
use bowline_image::base::{Machine, Needs, Start};
use bowline_image::{Entry, Image, ImageError, Labels, Layout, Recipe, Run, Tree, make};
use bowline_node::{ImageCall, ImageRequest, Packages, room_for};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

/// In the state: a layout with the bases of images that an engine was given. All of it can be made again.
const FOLDER: &str = "cache/images";
/// What a base would start.
const SHELL: &str = "/bin/sh";
/// Apps of one machine stand on few bases, and each release on the one before's until the machine's packages change.
const BASES: usize = 8;
/// An engine may give what it mounts there the mode of what lies below.
const TEMPORARY: &str = "/tmp";
/// A layer is written twice: as a part of the image, and of the archive that the engine is given.
const COPIES: u64 = 2;
/// What becomes of one for which there is no room.
const NOT_MADE: &str = "the image is not made";

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
    let written = written(request, &layout, &folder, &name);
    // Of one that could not be made, too: the disk may be full.
    if let Err(error) = leave_bases(layout, BASES) {
        tracing::warn!(%error, folder = %folder.display(), "parts of images stay");
    }
    written
}

fn written(request: &ImageRequest, layout: &Layout, folder: &Path, name: &Reference) -> Result<File, Fault> {
    let failed = |error: &std::io::Error| {
        Fault::new(FaultKind::Failed, format!("the image cannot be written in {}", folder.display())).source(error)
    };
    let image = image(request, layout, folder)?;
    let mut file = tempfile::tempfile_in(folder).map_err(|error| failed(&error))?;
    let mut out = BufWriter::new(&mut file);
    layout.archive(&image, std::slice::from_ref(name), &mut out)?;
    out.flush().map_err(|error| failed(&error))?;
    drop(out);
    file.rewind().map_err(|error| failed(&error))?;
    Ok(file)
}

/// What is of one image alone, the engine has. Of bases, those stay that were used last.
fn leave_bases(layout: Layout, kept: usize) -> Result<(), ImageError> {
    let names: Vec<String> = layout.images()?.into_iter().filter_map(|one| one.name).collect();
    let old = names.iter().rev().skip(kept).filter_map(|name| name.parse::<Reference>().ok());
    for name in old {
        layout.forget(&name)?;
    }
    layout.collect(Duration::ZERO, SystemTime::now()).map(drop)
}

/// With what it stands on. `folder`: where it is written.
fn image(request: &ImageRequest, layout: &Layout, folder: &Path) -> Result<Image, Fault> {
    let own = own(&request.artifact)?;
    let (needs, base) = base(|| needs(request, &own), layout, folder)?;
    let below: u64 = base.blobs().iter().map(|blob| blob.size).sum();
    room_for(folder, below + COPIES * own.bytes(), NOT_MADE)?;
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
    Ok(make(&recipe, layout.blobs())?)
}

/// Over its base, without closing to the app what everybody may write there.
fn own(artifact: &Path) -> Result<Tree, Fault> {
    let mut own = Tree::default();
    if artifact.starts_with(TEMPORARY) {
        own.put(&inside(Path::new(TEMPORARY))?, Entry::Scratch)?;
    }
    own.folder(artifact, &inside(artifact)?)?;
    Ok(own)
}

/// A path of the machine, as a tree has it: what names its own folder, as packages of Python do, finds itself.
fn inside(path: &Path) -> Result<String, Fault> {
    let text = path.to_str().ok_or_else(|| {
        Fault::new(FaultKind::Invalid, format!("{} cannot be in an image", path.display())).caused_by("it is not UTF-8")
    })?;
    Ok(text.trim_start_matches('/').to_owned())
}

/// A command is read by a shell, here as without a container.
fn needs(request: &ImageRequest, own: &Tree) -> Result<Needs, Fault> {
    let run = Run::Shell(request.run.clone());
    let workdir = request.root.display().to_string();
    let path: Vec<String> =
        request.search.split(':').filter(|folder| folder.starts_with('/')).map(str::to_owned).collect();
    let needs = Needs::of(&[own], Start { run: &run, workdir: &workdir, path: &path }, Path::new("/"))?;
    Ok(needs.with_packages(&request.packages, Path::new("/"))?)
}

/// Made once for what is needed, and anew when the machine's packages have changed; with what that is, as the same packages say.
fn base(needs: impl Fn() -> Result<Needs, Fault>, layout: &Layout, folder: &Path) -> Result<(Needs, Image), Fault> {
    let (needs, image, name) = Packages::of_machine().while_settled(|packages| {
        let needs = needs()?;
        let mut key = Sha256::new();
        key.update(format!("{needs:?}"));
        key.update(packages);
        let key: String = key.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let name = format!("localhost/base:{key}")
            .parse::<Reference>()
            .map_err(|error| Fault::new(FaultKind::Failed, "a base cannot be named").source(&error))?;
        match layout.find(&name) {
            Ok(Some(image)) => Ok((needs, image, name)),
            Ok(None) | Err(_) => {
                let image = new_base(&needs, layout, folder)?;
                Ok((needs, image, name))
            }
        }
    })?;
    // The last one that was used.
    layout.name(&image, std::slice::from_ref(&name))?;
    Ok((needs, image))
}

fn new_base(needs: &Needs, layout: &Layout, folder: &Path) -> Result<Image, Fault> {
    let machine = Machine::look(Path::new("/"))?.base(needs)?;
    machine.notes.iter().for_each(|note| tracing::info!(note, "of the base of an image"));
    room_for(folder, COPIES * machine.tree.bytes(), NOT_MADE)?;
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
    Ok(make(&recipe, layout.blobs())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_among_temporary_files_closes_none_to_the_app() {
        let folder = tempfile::tempdir_in(TEMPORARY).unwrap();
        fs::write(folder.path().join("x"), "x").unwrap();
        let own = own(folder.path()).unwrap();
        assert_eq!(own.entries()["tmp"], Entry::Scratch);
        assert!(own.entries().contains_key(&inside(&folder.path().join("x")).unwrap()));
    }

    #[test]
    fn what_a_command_starts_is_looked_for_where_its_instance_looks() {
        let mut own = Tree::default();
        own.file("s/artifacts/d/venv/bin/gunicorn", "#!/s/artifacts/d/venv/bin/python\n").unwrap();
        own.put("s/artifacts/d/venv/bin/python", Entry::Link("/usr/bin/env".to_owned())).unwrap();
        own.file("s/artifacts/d/app/run.sh", "#!/bin/sh\n").unwrap();
        let programs = |run: &str| {
            let request = ImageRequest {
                artifact: "/s/artifacts/d".into(),
                root: "/s/artifacts/d/app".into(),
                run: run.to_owned(),
                search: "/s/artifacts/d/venv/bin:/usr/bin:/bin".into(),
                packages: Vec::new(),
            };
            needs(&request, &own).map(|needs| needs.programs.into_iter().collect::<Vec<_>>())
        };
        let expected = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        assert_eq!(programs("gunicorn app:app").unwrap(), expected(&["/bin/sh", "/usr/bin/env"]));
        assert_eq!(programs("A=1 exec env x").unwrap(), expected(&["/bin/sh", "/usr/bin/env"]));
        assert_eq!(programs("./run.sh --a=b").unwrap(), expected(&["/bin/sh"]));
        assert_eq!(programs("$RUN").unwrap(), expected(&["/bin/sh"]), "nobody knows yet");
        let nowhere = programs("no-such-program").unwrap_err();
        assert!(nowhere.causes.iter().any(|cause| cause.contains("no-such-program")), "{nowhere:?}");
    }

    #[test]
    fn only_the_bases_that_were_used_last_stay() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Layout::open(folder.path()).unwrap();
        let names = || open().images().unwrap().into_iter().filter_map(|one| one.name).collect::<Vec<_>>();
        let layout = open();
        let blobs = layout.blobs().clone();
        let image = |content: &str| {
            let mut tree = Tree::default();
            tree.file("x", content).unwrap();
            let recipe = Recipe {
                platform: bowline_image::Platform::host(),
                under: None,
                layers: vec![("of a test", tree)],
                run: Run::Exec(vec![SHELL.to_owned()]),
                workdir: "/".to_owned(),
                env: [].into(),
                labels: Labels::default(),
                port: None,
                created: 0,
            };
            make(&recipe, &blobs).unwrap()
        };
        let (first, second, unnamed) = (image("1"), image("2"), image("3"));
        for (name, image) in [("localhost/base:1", &first), ("localhost/base:2", &second), ("localhost/base:1", &first)]
        {
            layout.name(image, &[name.parse().unwrap()]).unwrap();
        }
        assert_eq!(names(), ["localhost/base:2", "localhost/base:1"]);
        leave_bases(layout, 1).unwrap();
        assert_eq!(names(), ["localhost/base:1"]);
        let there = |one: &Image| one.blobs().iter().filter(|blob| blobs.path(blob.digest).exists()).count();
        assert_eq!((there(&first), there(&second), there(&unnamed)), (first.blobs().len(), 0, 0));
    }
}
