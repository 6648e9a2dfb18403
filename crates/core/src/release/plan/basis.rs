//! What a plan was made from: its canonical form, and what of it is another now.

use std::collections::{BTreeMap, BTreeSet};

use super::{Difference, Outcome, Plan, Proposal, Side, Stable, difference};
use crate::id::{Digest, ReleaseNumber, SecretName, ServiceName};
use crate::release::{Foreseen, SecretVersion};
use crate::resource::ResourceId;
use crate::rollout::{ScaledBy, Scales, Transition};

/// Begins every canonical form: a later one that covers other things gives other hashes.
const FORM: &[u8] = b"bowline plan 1";

/// So many keys of the file are named that have moved; the rest is counted.
const NAMED: usize = 5;

/// Which version of a secret a release pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pin {
    Version(SecretVersion),
    /// It has no value yet, and Bowline makes one.
    Made,
    /// What is read from its file is another than what is kept, and becomes its next version.
    Read,
}

impl Pin {
    /// `None`: it is counted when the release is made.
    pub fn version(self) -> Option<SecretVersion> {
        match self {
            Self::Version(version) => Some(version),
            Self::Made | Self::Read => None,
        }
    }
}

/// All that decides the outcome, and nothing else.
#[derive(Debug, Clone, PartialEq)]
pub struct Basis {
    pub stable: Option<ReleaseNumber>,
    /// The stable release is meant to run, and can.
    pub runs: bool,
    pub next: ReleaseNumber,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) configuration: Digest,
    /// By service: what it is built from and with, and by which interpreter.
    pub(super) builds: BTreeMap<ServiceName, (Digest, Option<String>)>,
    pub(super) secrets: BTreeMap<SecretName, Pin>,
    pub(super) scripts: BTreeMap<ResourceId, Digest>,
    /// What was said by hand.
    pub(super) scales: Scales,
    /// Whose numbers change with the load.
    pub(super) automatic: BTreeSet<ServiceName>,
    pub(super) unchanged: bool,
}

impl Basis {
    pub(super) fn of(proposal: Proposal<'_>, outcome: Outcome) -> Self {
        let Proposal { stable, next, wanted, configuration, scripts, scales, .. } = proposal;
        let build = |(name, build): (&ServiceName, &Foreseen)| (name.clone(), (build.digest, build.runtime.clone()));
        Self {
            stable: stable.map(|stable| stable.number),
            runs: stable.is_some_and(|stable| stable.runs),
            next,
            settings: wanted.settings.all.clone(),
            configuration,
            builds: wanted.builds.iter().map(build).collect(),
            secrets: wanted.secrets.clone(),
            scripts: scripts.clone(),
            scales: by_hand(scales),
            automatic: automatic(stable, wanted),
            unchanged: match outcome {
                Outcome::Release(_) => false,
                Outcome::Again(_) | Outcome::Unchanged(_) => true,
            },
        }
    }
}

fn by_hand(scales: &Scales) -> Scales {
    let by_hand = scales.iter().filter(|(_, scaled)| scaled.by == ScaledBy::Hand);
    by_hand.map(|(name, scaled)| (name.clone(), *scaled)).collect()
}

fn automatic(stable: Option<Stable<'_>>, wanted: Side<'_>) -> BTreeSet<ServiceName> {
    let apps = stable.map(|stable| stable.side.app).into_iter().chain([wanted.app]);
    let services = apps.flat_map(|app| &app.services).filter(|(_, service)| service.scale.is_automatic());
    services.map(|(name, _)| name.clone()).collect()
}

impl Plan {
    /// What its hash is made of: no two plans that do different things have the same. Each field has its length before it,
    /// each list its count.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Canonical::default();
        let basis = &self.basis;
        out.field(FORM);
        out.text(&self.key.to_string());
        out.number(basis.stable.map_or(0, |number| number.0));
        out.number(u32::from(basis.runs));
        let (kind, release) = match self.outcome {
            Outcome::Release(number) => ("release", number),
            Outcome::Again(number) => ("again", number),
            Outcome::Unchanged(number) => ("unchanged", number),
        };
        out.text(kind);
        out.number(release.0);
        out.number(basis.next.0);
        out.field(&basis.configuration.0);
        out.each(&basis.builds, |out, (service, (digest, runtime))| {
            out.text(service.as_str());
            out.field(&digest.0);
            out.text(runtime.as_deref().unwrap_or_default());
        });
        out.each(&basis.secrets, |out, (name, pin)| {
            out.text(name.as_str());
            match pin {
                Pin::Version(version) => out.number(version.0),
                Pin::Made => out.text("made"),
                Pin::Read => out.text("read"),
            }
        });
        out.each(&basis.scripts, |out, (id, digest)| {
            out.text(&id.to_string());
            out.field(&digest.0);
        });
        out.each(&basis.scales, |out, (service, scaled)| {
            out.text(service.as_str());
            out.number(scaled.over.into());
            out.number(scaled.to.into());
        });
        out.each(&self.services, |out, (service, transition): (&ServiceName, &Transition)| {
            let is_automatic = basis.automatic.contains(service);
            out.text(service.as_str());
            out.text(&if is_automatic { transition.whatever_the_load() } else { *transition }.to_string());
        });
        out.0
    }

    /// Why this plan, which somebody has looked at, is not the one that `now` is, one line each. Empty: it is.
    pub fn moved(&self, now: &Self) -> Vec<String> {
        let mut moved = Vec::new();
        let (was, is) = (&self.basis, &now.basis);
        match (was.stable, is.stable) {
            (was, is) if was == is => {}
            (was, Some(is)) => moved.push(format!("release {is} serves now, {}", made_on(was))),
            (was, None) => moved.push(format!("no release serves now, {}", made_on(was))),
        }
        if was.stable == is.stable && was.runs != is.runs {
            moved.push(if is.runs { "it was started since" } else { "it was stopped since" }.to_owned());
        }
        if was.stable == is.stable && was.next != is.next {
            moved.push(format!("release {} was tried since, and came to nothing", was.next));
        }
        moved.extend(moved_settings(was, is));
        moved.extend(moved_builds(&was.builds, &is.builds));
        moved.extend(moved_secrets(&was.secrets, &is.secrets));
        if was.scripts != is.scripts {
            moved.push("the SQL that fills an empty database is another".to_owned());
        }
        if was.scales != is.scales {
            moved.push("another number of instances was said by hand".to_owned());
        }
        if moved.is_empty() && was.unchanged != is.unchanged {
            moved.push("what was built for the release that serves is not there as it was".to_owned());
        }
        if moved.is_empty() && self.services != now.services {
            moved.push("it would come out in another way".to_owned());
        }
        moved
    }
}

fn made_on(stable: Option<ReleaseNumber>) -> String {
    stable.map_or_else(|| "the plan was of the first".to_owned(), |was| format!("the plan was made on release {was}"))
}

type Builds = BTreeMap<ServiceName, (Digest, Option<String>)>;

fn moved_builds(was: &Builds, is: &Builds) -> Vec<String> {
    let (mut files, mut lines) = (Vec::new(), Vec::new());
    for (service, (digest, runtime)) in is {
        let Some((_, had)) = was.get(service).filter(|(before, _)| before != digest) else { continue };
        let name = |runtime: &Option<String>| runtime.clone().unwrap_or_else(|| "nothing".to_owned());
        match had == runtime {
            true => files.push(service.as_str()),
            false => lines.push(format!("{service} is built for {} now, in the plan for {}", name(runtime), name(had))),
        }
    }
    if !files.is_empty() {
        lines.insert(0, format!("the folder has changed: {} would be built from something else", files.join(", ")));
    }
    lines
}

fn moved_settings(was: &Basis, is: &Basis) -> Vec<String> {
    let differences = difference::between(&was.settings, &is.settings);
    let line = |difference: &Difference| {
        let now = difference.to.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
        let before = difference.from.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
        format!("{} is {now} now, in the plan {before}", difference.path)
    };
    let mut lines: Vec<String> = differences.iter().take(NAMED).map(line).collect();
    match differences.len().saturating_sub(NAMED) {
        0 if lines.is_empty() && was.configuration != is.configuration => {
            lines.push("bowline.toml says something else".to_owned());
        }
        0 => {}
        more => lines.push(format!("and {more} more keys of bowline.toml")),
    }
    lines
}

fn moved_secrets(was: &BTreeMap<SecretName, Pin>, is: &BTreeMap<SecretName, Pin>) -> Vec<String> {
    let said = |pin: Pin| match pin {
        Pin::Version(version) => format!("version {}", version.0),
        Pin::Made => "one that is still to be made".to_owned(),
        Pin::Read => "the contents of its file".to_owned(),
    };
    let line = |(name, pin): (&SecretName, &Pin)| {
        let before = *was.get(name).filter(|before| *before != pin)?;
        Some(format!("secret {name} is {} now, in the plan {}", said(*pin), said(before)))
    };
    is.iter().filter_map(line).collect()
}

/// Bytes that read only one way.
#[derive(Default)]
struct Canonical(Vec<u8>);

impl Canonical {
    fn field(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.field(text.as_bytes());
    }

    fn number(&mut self, number: u32) {
        self.field(&number.to_le_bytes());
    }

    fn each<'a, K, V>(&mut self, map: &'a BTreeMap<K, V>, mut one: impl FnMut(&mut Self, (&'a K, &'a V))) {
        self.number(u32::try_from(map.len()).unwrap_or(u32::MAX));
        map.iter().for_each(|entry| one(self, entry));
    }
}
