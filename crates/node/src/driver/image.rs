//! The image of a container: how it is called in the engine, when it is made, and until when it is kept.
//!
//! It has two names: one says what it is made of, this machine's packages included; the other, which release began with it. So a release
//! keeps the packages that it began with: one that crashes after an update is started again at once, and what was updated comes with the
//! next release.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_core::app::Command;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, Digest, ReleaseNumber, SlotId};
use bowline_core::instance::{Awaited, InstanceSpec, Phase};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::container::{self, Engines, Preparing};
use super::{Context, adopt, start};
use crate::engine::{EngineError, START_PATIENCE};
use crate::layout::Layout;
use crate::{Containers, ImageRequest, Keep, Packages};

/// Of the images that are made: another number, and all are made anew.
const FORMAT: &str = "2";

/// What an image is made of, but for the packages.
struct Made {
    repository: String,
    /// `ARTIFACT-COMMAND`
    what: String,
}

impl Made {
    fn of(state: &str, request: &ImageRequest) -> Self {
        let command = digest(&[
            FORMAT.as_bytes(),
            request.run.as_bytes(),
            request.search.as_bytes(),
            request.root.as_os_str().as_encoded_bytes(),
            request.packages.join(" ").as_bytes(),
        ]);
        let artifact = request.artifact.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self { repository: repository(state), what: format!("{artifact}-{command}") }
    }

    /// With the packages of which this is said.
    fn over(&self, packages: &[u8]) -> String {
        self.tagged(&digest(&[packages]))
    }

    /// With those that the release of this slot began with.
    fn begun_by(&self, slot: &SlotId) -> String {
        self.tagged(&release(&slot.key, slot.release))
    }

    fn tagged(&self, last: &str) -> String {
        format!("{}:{}-{last}", self.repository, self.what)
    }
}

fn repository(state: &str) -> String {
    format!("localhost/bowline-{state}")
}

/// `APP.rRELEASE`, in an alphabet that every tag has.
fn release(key: &AppKey, number: ReleaseNumber) -> String {
    format!("{}.r{number}", digest(&[key.to_string().as_bytes()]))
}

fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    Digest(hash.finalize().into()).short()
}

/// The folder of the artifact that a release folder is in.
pub(super) fn artifact(layout: &Layout, root: &Path) -> Option<PathBuf> {
    let all = layout.state.join("artifacts");
    root.strip_prefix(&all).ok()?.components().next().map(|digest| all.join(digest))
}

/// What the image of an instance is called, when it runs `command`.
fn named(layout: &Layout, engines: &Engines, spec: &InstanceSpec, command: &Command) -> (ImageRequest, Made) {
    let artifact = artifact(layout, &spec.root).unwrap_or_else(|| spec.root.clone());
    let request = ImageRequest {
        artifact,
        root: spec.root.clone(),
        run: command.0.clone(),
        search: start::search(spec),
        packages: spec.packages.clone(),
    };
    let made = Made::of(&engines.of.state, &request);
    (request, made)
}

/// Whether its image is to be made first. Not where the engine cannot say so: whoever starts it is told why. Blocks.
pub(super) fn is_lacking(context: &Context, spec: &InstanceSpec) -> bool {
    let Some(engines) = container::engine(context, spec) else { return false };
    let (_, made) = named(&context.layout, engines, spec, &spec.run);
    let names = [made.begun_by(&spec.id.slot), made.over(&Packages::of_machine().said())];
    names.iter().all(|name| matches!(engines.of.engine.has_image(name, START_PATIENCE), Ok(false)))
}

/// Its name, once the engine has it. One that was there and is gone is made again: of the artifact, which the node keeps. Blocks.
pub(super) fn have(
    layout: &Layout,
    engines: &Engines,
    spec: &InstanceSpec,
    (command, preparing): (&Command, Preparing<'_>),
) -> Result<String, Fault> {
    let (request, made) = named(layout, engines, spec, command);
    let name = made.begun_by(&spec.id.slot);
    let what = || format!("cannot have the image of {}", spec.id);
    let engine = &engines.of.engine;
    let is_there = |name: &str| engine.has_image(name, START_PATIENCE).map_err(|error| error.fault(what()));
    let begin = |whole: &str| engine.tag(whole, &name).map_err(|error| error.fault(what()));
    let wanted = || match (preparing.is_wanted)() {
        true => Ok(()),
        false => Err(Fault::new(FaultKind::Failed, what()).caused_by("nobody wants it any more")),
    };
    let whole = || made.over(&Packages::of_machine().said());
    if preparing.turn.is_none() {
        if is_there(&name)? {
            return Ok(name);
        }
        let whole = whole();
        if is_there(&whole)? {
            begin(&whole)?;
            return Ok(name);
        }
        (preparing.tells)(Phase::Preparing(Awaited::Turn));
    }
    // Who waited for none starts alone, or its image has gone a moment ago.
    let turn = preparing.turn.unwrap_or_else(|| Arc::clone(&engines.of.making).blocking_lock_owned());
    wanted()?;
    (preparing.tells)(Phase::Preparing(Awaited::Image));
    // It may be there by now: others of its release have had their turn.
    if !is_there(&name)? {
        let whole = whole();
        if !is_there(&whole)? {
            make(engines, request, &whole, (&what, &wanted))?;
            tracing::info!(instance = %spec.id, image = whole, "image made");
        }
        begin(&whole)?;
    }
    drop(turn);
    wanted()?;
    (preparing.tells)(Phase::Starting);
    Ok(name)
}

type Asks<'a> = (&'a dyn Fn() -> String, &'a dyn Fn() -> Result<(), Fault>);

/// `what`: said of a failure. `wanted`: fails when nobody waits any more.
fn make(engines: &Engines, request: ImageRequest, name: &str, (what, wanted): Asks<'_>) -> Result<(), Fault> {
    let (reply, made) = oneshot::channel();
    let ending = || Fault::new(FaultKind::Failed, what()).caused_by("the daemon ends");
    engines.of.images.blocking_send((request, name.to_owned(), reply)).map_err(|_| ending())?;
    let archive = made.blocking_recv().map_err(|_| ending())??;
    wanted()?;
    engines.of.engine.load(&archive, name).map_err(|error| error.fault(what()))
}

/// What a tag says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tag<'t> {
    artifact: &'t str,
    base: Base<'t>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base<'t> {
    Packages(&'t str),
    BegunBy {
        /// `APP.rRELEASE`
        release: &'t str,
        app: &'t str,
        number: u64,
    },
}

impl<'t> Tag<'t> {
    fn of(image: &'t str) -> Option<Self> {
        let (_, tag) = image.rsplit_once(':')?;
        let mut parts = tag.split('-');
        let (Some(artifact), Some(_), Some(last), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let base = match last.rsplit_once(".r") {
            Some((app, number)) => Base::BegunBy { release: last, app, number: number.parse().ok()? },
            None => Base::Packages(last),
        };
        Some(Self { artifact, base })
    }
}

/// Which images of a state stay.
struct Kept {
    artifacts: BTreeSet<String>,
    /// As they are now: what begins next, begins with them.
    packages: String,
    /// Those that may run again, and those of which there are instances.
    releases: BTreeSet<String>,
}

impl Kept {
    /// Those names among `all` that go: of artifacts that are gone, of packages that were updated, and of releases that nobody keeps, but
    /// for an app's last one: it may have been recorded after it was said what is kept.
    fn old<'n>(&self, all: &'n [String]) -> Vec<&'n str> {
        let tags = || all.iter().map(|name| (name.as_str(), Tag::of(name)));
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, tag) in tags() {
            if let Some(Tag { base: Base::BegunBy { app, number, .. }, .. }) = tag {
                let last = last.entry(app).or_default();
                *last = number.max(*last);
            }
        }
        let stays = |tag: Tag<'_>| {
            self.artifacts.contains(tag.artifact)
                && match tag.base {
                    Base::Packages(packages) => packages == self.packages,
                    Base::BegunBy { release, app, number } => {
                        self.releases.contains(release) || last.get(app) == Some(&number)
                    }
                }
        };
        tags().filter(|(_, tag)| !tag.is_some_and(stays)).map(|(name, _)| name).collect()
    }
}

/// Removes what is not to be kept.
pub(super) fn collect(layout: &Layout, containers: &Containers, keep: &Keep) {
    // What is being made has names that nobody keeps yet; it goes with the next release.
    let Ok(_turn) = containers.making.try_lock() else { return tracing::debug!("old images stay: one is being made") };
    let all = match containers.engine.images(&repository(&containers.state)) {
        Ok(all) => all,
        Err(error) => return tracing::debug!(%error, "old images stay"),
    };
    let artifact = |root: &PathBuf| Some(artifact(layout, root)?.file_name()?.to_string_lossy().into_owned());
    let kept = keep.releases.iter().map(|(key, number)| release(key, *number));
    let runs = adopt::ids(&layout.instances());
    let runs = runs.iter().map(|id| release(&id.slot.key, id.slot.release));
    let kept = Kept {
        artifacts: keep.roots.iter().filter_map(artifact).collect(),
        packages: digest(&[&Packages::of_machine().said()]),
        releases: kept.chain(runs).collect(),
    };
    for name in kept.old(&all) {
        match containers.engine.remove_image(name) {
            Ok(()) => {}
            Err(error @ EngineError::Unreachable { .. }) => return tracing::debug!(%error, "old images stay"),
            Err(error) => tracing::debug!(image = name, %error, "an old image stays"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::mpsc;

    use bowline_core::id::InstanceId;

    use super::*;
    use crate::Engine;
    use crate::driver::fake;

    fn request(run: &str) -> ImageRequest {
        ImageRequest {
            artifact: "/s/artifacts/abc.2".into(),
            root: "/s/artifacts/abc.2/app".into(),
            run: run.into(),
            search: "/usr/bin".into(),
            packages: Vec::new(),
        }
    }

    fn slot(text: &str) -> SlotId {
        text.parse::<InstanceId>().unwrap().slot
    }

    #[test]
    fn an_image_is_named_by_what_it_is_made_of_and_by_the_release_that_began_with_it() {
        let [one, other] = ["server", "worker"].map(|run| Made::of("own", &request(run)));
        assert_ne!(one.over(b"p1"), other.over(b"p1"));
        let (over, begun) = (one.over(b"p1"), one.begun_by(&slot("local/shop.web.r3.0.1")));
        assert!(over.starts_with("localhost/bowline-own:abc.2-") && over != one.over(b"p2"), "{over}");
        assert!(begun.ends_with(".r3"), "{begun}");
        assert_eq!(begun, one.begun_by(&slot("local/shop.web.r3.1.7")), "of any of its slots");
        assert_ne!(begun, one.begun_by(&slot("local/shop.web.r4.0.1")));
        assert_ne!(begun, one.begun_by(&slot("production/shop.web.r3.0.1")));
        assert_eq!(Tag::of(&over), Some(Tag { artifact: "abc.2", base: Base::Packages(&digest(&[b"p1"])) }));
        let Some(Tag { artifact: "abc.2", base: Base::BegunBy { number: 3, .. } }) = Tag::of(&begun) else {
            panic!("{begun}")
        };
        let layout = Layout { state: "/s".into(), run: "/r".into() };
        assert_eq!(artifact(&layout, Path::new("/s/artifacts/abc/app")), Some("/s/artifacts/abc".into()));
        assert_eq!(artifact(&layout, Path::new("/elsewhere")), None);
    }

    #[test]
    fn an_image_goes_with_its_artifact_its_packages_and_its_release() {
        let kept = Kept {
            artifacts: ["abc", "abc.2"].map(str::to_owned).into(),
            packages: "p2".to_owned(),
            releases: ["shop.r2".to_owned()].into(),
        };
        let names = |tags: &[&str]| tags.iter().map(|tag| format!("localhost/bowline-own:{tag}")).collect::<Vec<_>>();
        let stay = ["abc-c-p2", "abc.2-c-p2", "abc-c-shop.r2", "abc-c-shop.r4", "abc.2-c-blog.r1"];
        let go =
            ["abd-c-p2", "abc-c-p1", "abc-c-shop.r1", "abc-c-shop.r3", "abd-c-blog.r1", "abc-c", "latest", "a-b-c-d"];
        let (all, go) = (names(&[&go[..], &stay].concat()), names(&go));
        assert_eq!(kept.old(&all), go);
    }

    /// One that has the images which it was given.
    fn engine() -> (Engine, mpsc::Receiver<String>, tempfile::TempDir) {
        let mut images = BTreeSet::new();
        let mut missed = String::new();
        crate::engine::fake::answering(move |question| {
            let (path, query) = question.split_once('?').unwrap_or((question, ""));
            let name = path.strip_prefix("GET /images/").and_then(|path| path.strip_suffix("/json"));
            match name {
                Some(name) if images.contains(name) => return (200, "{}".to_owned()),
                Some(name) => missed = name.to_owned(),
                None if path.ends_with("/load") => {
                    images.insert(missed.clone());
                }
                None => {
                    let (repository, tag) = query.split_once('&').unwrap();
                    let [repository, tag] = [repository, tag].map(|part| part.split_once('=').unwrap().1);
                    images.insert(format!("{repository}:{tag}"));
                }
            }
            (if name.is_some() { 404 } else { 200 }, "{}".to_owned())
        })
    }

    #[test]
    fn a_release_keeps_the_image_that_it_began_with() {
        let (engine, asked, _folder) = engine();
        let (images, mut calls) = tokio::sync::mpsc::channel::<crate::ImageCall>(1);
        let maker = std::thread::spawn(move || {
            let mut made = 0;
            while let Some((_, _, reply)) = calls.blocking_recv() {
                made += 1;
                assert!(reply.send(Ok(tempfile::tempfile().unwrap())).is_ok());
            }
            made
        });
        let engines = Engines::new(Containers { images, ..fake::containers(engine) });
        let layout = Layout { state: "/s".into(), run: "/r".into() };
        let start = |id: &str| {
            let spec = InstanceSpec { root: "/s/artifacts/abc/app".into(), ..fake::spec(id) };
            let told = RefCell::new(Vec::new());
            let preparing =
                Preparing { turn: None, tells: &|phase| told.borrow_mut().push(phase), is_wanted: &|| true };
            let name = have(&layout, &engines, &spec, (&spec.run, preparing)).unwrap();
            let asked = asked.try_iter().map(|question| match question.split('?').next().unwrap_or_default() {
                path if path.contains(".r") && path.ends_with("/json") => "is it begun",
                path if path.ends_with("/json") => "is it made",
                path if path.ends_with("/load") => "load",
                path if path.ends_with("/tag") => "begin",
                path => panic!("{path}"),
            });
            (name, asked.collect::<Vec<_>>(), told.into_inner())
        };
        let (first, asked, told) = start("local/shop.web.r3.0.1");
        let looks = ["is it begun", "is it made"];
        assert_eq!(asked, [&looks[..], &looks, &["load", "is it made", "begin"]].concat());
        assert_eq!(told, [Phase::Preparing(Awaited::Turn), Phase::Preparing(Awaited::Image), Phase::Starting]);
        // Whatever the machine's packages are now.
        assert_eq!(start("local/shop.web.r3.1.4"), (first.clone(), vec!["is it begun"], Vec::new()));
        let (next, asked, told) = start("local/shop.web.r4.0.1");
        assert_eq!((asked, told), (vec!["is it begun", "is it made", "begin"], Vec::new()), "they are the same still");
        assert_ne!(next, first);
        drop(engines);
        assert_eq!(maker.join().unwrap(), 1);
    }
}
