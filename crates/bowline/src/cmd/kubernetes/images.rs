//! Images of a release: what nobody says is built of the folder and pushed, so that what is applied names it by its digest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bowline_api::wire::{ChangePhase, ChangeStep, Stream};
use bowline_core::app::{App, Origin};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{Digest, ServiceName};
use bowline_core::release::{ImageDigest, ImageRef, Reference};
use bowline_image::Layout;
use bowline_kube::history::{self, Release};
use bowline_render::{Secrets, lacking};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use tokio::time::Instant;

use super::Telling;
use super::objects::Ends;
use crate::cmd::image::build::{Built, Source, collect, images, maker, own_name};
use crate::cmd::image::layout;
use crate::cmd::image::registry::{LOOK, There, find, is_pushed, reach, send};
use crate::cmd::render::Loaded;
use crate::paths::Paths;

/// Registries that are asked at once.
const AT_ONCE: usize = 8;
/// Digits of a digest in a tag.
const SHORT: usize = 12;

/// What is built here for a cluster.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Own {
    /// Each has a build of its own.
    services: BTreeSet<ServiceName>,
    to: Reference,
}

/// One that was built.
struct Made {
    service: ServiceName,
    built: Built,
    to: Reference,
    image: ImageRef,
}

impl Own {
    /// What nobody says an image of, where the file says whither it is pushed. What cannot be built here is told by whoever renders.
    ///
    /// # Errors
    /// It is pushed to what is no repository.
    pub(super) fn of(loaded: &Loaded) -> Result<Option<Self>, Fault> {
        let none = BTreeSet::new();
        let lacking = lacking(&loaded.input_with(Secrets::Named, &none));
        let services = built(&loaded.app, &lacking);
        let Some(push) = loaded.app.image.as_ref().filter(|_| !services.is_empty()) else { return Ok(None) };
        let invalid = |message: String| Fault::new(FaultKind::Invalid, message);
        let to: Reference = push
            .push
            .parse()
            .map_err(|error| invalid(format!("`image.push` = {:?} is no repository", push.push)).source(&error))?;
        if to.digest.is_some() {
            return Err(invalid(format!("`image.push` names one image: {to}"))
                .hint("what is pushed has a digest of its own: say the repository alone"));
        }
        if to.tag.is_some() && services.len() > 1 {
            let names: Vec<&str> = services.iter().map(ServiceName::as_str).collect();
            return Err(invalid(format!("`image.push` has one tag for {} images", services.len()))
                .caused_by(format!("{} are built", names.join(" and ")))
                .hint("leave the tag out: each has its own then"));
        }
        Ok(Some(Self { services, to }))
    }

    /// Stands for what is not built yet, so that all else is judged before it is.
    pub(super) fn foreseen(&self) -> BTreeMap<ServiceName, ImageRef> {
        let image = self.to.repository.at(ImageDigest(Digest([0; 32])));
        self.services.iter().map(|service| (service.clone(), image.clone())).collect()
    }

    /// Whether it can be pushed at all.
    async fn reach(&self, ca: Option<&Path>) -> Result<(), Fault> {
        let fault = match reach(&self.to.repository, ca).await {
            Ok(()) => return Ok(()),
            Err(fault) => fault,
        };
        Err(Fault { message: format!("{}; nothing was applied", fault.message), ..fault })
    }

    /// Builds each once; nothing is sent. What was built of the same before is taken as it is.
    async fn build(
        &self,
        (loaded, dir): (&Loaded, &Path),
        (paths, kept): (&Paths, &Layout),
        telling: &mut Telling<'_>,
    ) -> Result<Vec<Made>, Fault> {
        telling.step(ChangeStep::Phase { phase: ChangePhase::Build });
        let source = Source { key: &loaded.key, app: &loaded.app, dir, paths, builder: None };
        let mut tell = |service: &ServiceName, line: &str| {
            let (service, text) = (service.to_string(), line.to_owned());
            telling.step(ChangeStep::Line { service, stream: Stream::Stdout, text });
        };
        let mut all = Vec::new();
        for (service, built) in images(source, &self.services, kept, &mut tell).await? {
            built.keep(&[own_name(&loaded.app, &service)?], kept)?;
            let digest = ImageDigest::from(built.made.manifest.digest);
            let (to, image) = (named(&self.to, &service, digest), self.to.repository.at(digest));
            all.push(Made { service, built, to, image });
        }
        match self.services.iter().find(|service| !all.iter().any(|made| made.service == **service)) {
            None => Ok(all),
            Some(idle) => Err(Fault::new(FaultKind::Invalid, format!("service {idle} runs nothing in a cluster"))
                .caused_by("its build is files alone, and no edge of a cluster serves files yet")
                .hint(format!("say what runs it, service.{idle}.run, or leave it out for this environment"))),
        }
    }
}

impl Made {
    /// Sends what is not there yet.
    async fn push(&self, kept: &Layout, ca: Option<&Path>, telling: &mut Telling<'_>) -> Result<(), Fault> {
        let service = self.service.to_string();
        if is_pushed(&self.built.made, &self.to, (kept, ca)).await? {
            let text = format!("{} is there already", self.image);
            telling.step(ChangeStep::Note { service: Some(service), text });
            return Ok(());
        }
        let mut moving = |text: &str| {
            if !text.is_empty() {
                telling.step(ChangeStep::Work { service: service.clone(), text: text.to_owned() });
            }
        };
        let sent = send(&self.built.made, &self.to, (kept, ca), &mut moving).await;
        let sent =
            sent.map_err(|fault| Fault { message: format!("{}; nothing was applied", fault.message), ..fault })?;
        let there = sent.there.len() + sent.mounted.len();
        let text = format!("{}, {} blobs sent, {there} there already", self.image, sent.sent.len());
        telling.step(ChangeStep::Note { service: Some(service), text });
        Ok(())
    }

    /// What a deploy would do with it.
    async fn foresee(&self, ca: Option<&Path>, telling: &mut Telling<'_>) -> Result<(), Fault> {
        let text = match find(&self.image, ca, Instant::now() + LOOK).await? {
            There::Yes => format!("{} is there already", self.image),
            There::No | There::Unseen(_) => format!("{} is to be pushed", self.image),
        };
        telling.step(ChangeStep::Note { service: Some(self.service.to_string()), text });
        Ok(())
    }

    fn notes(&self) -> impl Iterator<Item = ChangeStep> {
        let note = |text: &String| ChangeStep::Note { service: Some(self.service.to_string()), text: text.clone() };
        self.built.notes.iter().map(note)
    }
}

/// What was built of the folder, and is sent nowhere yet.
pub(super) struct Ready {
    all: Vec<Made>,
    kept: Layout,
}

/// Builds what is the folder's own: each service, and what it runs.
pub(super) async fn build(
    own: &Own,
    folder: (&Loaded, &Path),
    (state, ca): (Option<&Path>, Option<&Path>),
    telling: &mut Telling<'_>,
) -> Result<Ready, Fault> {
    own.reach(ca).await?;
    let paths = Paths::new(state)?;
    let kept = layout(&paths)?;
    let all = own.build(folder, (&paths, &kept), telling).await?;
    all.iter().flat_map(Made::notes).for_each(|note| telling.step(note));
    Ok(Ready { all, kept })
}

impl Ready {
    pub(super) fn images(&self) -> BTreeMap<ServiceName, ImageRef> {
        self.all.iter().map(|made| (made.service.clone(), made.image.clone())).collect()
    }

    /// For a deploy it is pushed.
    pub(super) async fn send(self, ca: Option<&Path>, ends: Ends, telling: &mut Telling<'_>) -> Result<(), Fault> {
        for made in &self.all {
            match ends {
                Ends::Deployed => made.push(&self.kept, ca, telling).await?,
                Ends::Foreseen => made.foresee(ca, telling).await?,
            }
        }
        collect(self.kept, telling.ui);
        Ok(())
    }
}

/// Those of these that what serves does not run: whatever has become of their registry, the cluster has the others.
pub(super) fn unserved(
    mut images: BTreeMap<ServiceName, ImageRef>,
    releases: &[Release],
) -> BTreeMap<ServiceName, ImageRef> {
    let mut served = BTreeSet::new();
    for object in history::serving(releases).iter().flat_map(|serving| &serving.objects) {
        texts(&object.body, &mut served);
    }
    images.retain(|_, image| !served.contains(image.to_string().as_str()));
    images
}

/// All text of a document.
fn texts<'v>(value: &'v Value, all: &mut BTreeSet<&'v str>) {
    match value {
        Value::String(text) => drop(all.insert(text)),
        Value::Array(elements) => elements.iter().for_each(|one| texts(one, all)),
        Value::Object(fields) => fields.values().for_each(|one| texts(one, all)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Asks for these where they are to be pulled from. What the cluster may see and this machine does not is said, and in the way of nothing.
///
/// # Errors
/// A registry says itself that it has not got one of them.
pub(super) async fn look(
    images: &BTreeMap<ServiceName, ImageRef>,
    (app, ca): (&App, Option<&Path>),
    telling: &mut Telling<'_>,
) -> Result<(), Fault> {
    let wanted: BTreeSet<&ImageRef> = images.values().collect();
    let until = Instant::now() + LOOK;
    let ask = |image| async move { Ok::<_, Fault>((image, find(image, ca, until).await?)) };
    let found: BTreeMap<&ImageRef, There> = stream::iter(wanted).map(ask).buffered(AT_ONCE).try_collect().await?;
    let logs_in = app.image.as_ref().is_some_and(|image| image.login.is_some());
    let (absent, unseen) = told(images, &found, logs_in);
    unseen.into_iter().for_each(|note| telling.note(note));
    if absent.is_empty() {
        return Ok(());
    }
    let message = match absent.as_slice() {
        [_] => "an image is not where its name leads; nothing was applied".to_owned(),
        all => format!("{} images are not where their names lead; nothing was applied", all.len()),
    };
    let fault = absent.into_iter().fold(Fault::new(FaultKind::Failed, message), Fault::caused_by);
    Err(fault.hint("push it, or say the digest of one that is there; what `--image` does not say is built and pushed"))
}

/// What is nowhere, and what is not known.
fn told(
    images: &BTreeMap<ServiceName, ImageRef>,
    found: &BTreeMap<&ImageRef, There>,
    logs_in: bool,
) -> (Vec<String>, BTreeSet<String>) {
    let (mut absent, mut unseen) = (Vec::new(), BTreeSet::new());
    for (service, image) in images {
        let registry = image.repository.registry();
        let why: &str = match found.get(image) {
            None | Some(There::Yes) => continue,
            // Some registries say of what is not for somebody that they have not got it, and the cluster may be somebody else.
            Some(There::No) if logs_in => {
                "it has none of it for who asks here, and the cluster logs in as `image.login` says"
            }
            Some(There::No) => {
                absent.push(format!("{}: {registry} has no {image}", service.spelled()));
                continue;
            }
            Some(There::Unseen(why)) => why,
        };
        unseen.insert(format!("whether {registry} has what is deployed cannot be seen from here: {why}"));
    }
    (absent, unseen)
}

/// What is said, and what the file itself pins.
pub(super) fn said(loaded: &Loaded) -> BTreeMap<ServiceName, ImageRef> {
    let pinned = loaded.app.services.iter().filter_map(|(name, service)| match &service.origin {
        Origin::Image(text) => Some((name.clone(), text.parse::<Reference>().ok()?.pinned()?)),
        Origin::Folder { .. } | Origin::BuildOf(_) | Origin::Dockerfile { .. } | Origin::Static { .. } => None,
    });
    let mut all: BTreeMap<ServiceName, ImageRef> = pinned.collect();
    all.extend(loaded.images.clone());
    all
}

/// Of these services, whose builds are made here: a build that several run is one.
fn built(app: &App, lacking: &[ServiceName]) -> BTreeSet<ServiceName> {
    let makers = lacking.iter().map(|service| maker(app, service));
    let is_built = |service: &&ServiceName| match app.services.get(*service).map(|service| &service.origin) {
        Some(Origin::Folder { .. } | Origin::Dockerfile { .. }) => true,
        Some(Origin::BuildOf(_) | Origin::Image(_) | Origin::Static { .. }) | None => false,
    };
    makers.filter(is_built).cloned().collect()
}

/// What an image is called there. By the tag that the file has; else by one that never moves, so that no registry takes what serves, or
/// served, for rubbish.
fn named(to: &Reference, service: &ServiceName, digest: ImageDigest) -> Reference {
    let tag = to.tag.clone().unwrap_or_else(|| {
        let digits: String = digest.0.to_string().chars().take(SHORT).collect();
        format!("{service}-{digits}")
    });
    Reference { tag: Some(tag), ..to.clone() }
}

#[cfg(test)]
mod tests {
    use bowline_kube::history::State;
    use bowline_kube::{Object, Stage};
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_nowhere_is_told_apart_from_what_is_not_seen() {
        let (one, two) = (image(1), image(2));
        let images = BTreeMap::from([(name("web"), one.clone()), (name("worker"), two.clone())]);
        let check = |first: There, second: There, logs_in: bool, absent: usize, unseen: usize| {
            let found = BTreeMap::from([(&one, first), (&two, second)]);
            let (gone, notes) = told(&images, &found, logs_in);
            assert_eq!((gone.len(), notes.len()), (absent, unseen), "{gone:?} {notes:?}");
        };
        check(There::Yes, There::Yes, false, 0, 0);
        check(There::Yes, There::No, false, 1, 0);
        check(There::No, There::No, false, 2, 0);
        // Who logs in there is not who asks here.
        check(There::Yes, There::No, true, 0, 1);
        check(There::No, There::No, true, 0, 1);
        // One registry is said once.
        let away = || There::Unseen("registry.example.com cannot be reached".to_owned());
        check(away(), away(), false, 0, 1);
    }

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    fn image(digit: u8) -> ImageRef {
        let name: Reference = "registry.example.com/acme/shop".parse().unwrap();
        name.repository.at(ImageDigest(Digest([digit; 32])))
    }

    #[test]
    fn what_serves_is_not_looked_for() {
        let release = |number: u32, state: State, digit: u8| {
            let container = json!({ "name": "web", "image": image(digit).to_string() });
            let body =
                json!({ "kind": "Deployment", "spec": { "template": { "spec": { "containers": [container] } } } });
            let objects = vec![Object { stage: Stage::Workload, body }];
            Release { state, ..Release::begun(number, 0, objects) }
        };
        let releases = [release(1, State::Served, 1), release(2, State::Serves, 2), release(3, State::Rejected, 3)];
        let all = BTreeMap::from([1, 2, 3, 4].map(|digit| (name(&format!("web{digit}")), image(digit))));
        let left: Vec<String> = unserved(all, &releases).keys().map(ToString::to_string).collect();
        assert_eq!(left, ["web1", "web3", "web4"]);
    }

    #[test]
    fn each_image_has_a_tag_of_its_own_unless_the_file_says_one() {
        let digest = ImageDigest(Digest([0xab; 32]));
        let check = |to: &str, expected: &str| {
            assert_eq!(named(&to.parse().unwrap(), &name("web"), digest).to_string(), expected);
        };
        check("registry.example.com/acme/shop", "registry.example.com/acme/shop:web-abababababab");
        check("registry.example.com/acme/shop:1.4", "registry.example.com/acme/shop:1.4");
    }
}
