//! From the file to the objects of a release: what the cluster has and lacks, the images, the secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bowline_core::fault::Fault;
use bowline_core::id::{AppKey, Digest, SecretName};
use bowline_kube::history::Release;
use bowline_kube::{Cluster, Found, Object, Order, Owner, Planned, Stage, Told, Wanted, runs_before, survey};
use bowline_render::{Api, Manifests, Need, Refused, Secrets, Wave, kubernetes, role};

use super::images::{self, Own, Ready as Built};
use super::{Telling, apis, approval, secret};
use crate::cmd::render::Loaded;

/// What it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// What is built is pushed, and secrets are made.
    Deployed,
    /// Nothing is written anywhere but here.
    Foreseen,
}

/// What is asked for.
pub(super) struct Asked<'a> {
    pub(super) owner: &'a Owner,
    pub(super) dir: &'a Path,
    /// What the cluster is said to have.
    pub(super) apis: &'a [Api],
    /// Where it is built.
    pub(super) state: Option<&'a Path>,
    /// Who is believed for registries.
    pub(super) ca: Option<&'a Path>,
    pub(super) take_over: bool,
    /// The plan that it is held to.
    pub(super) approved: Option<Digest>,
    pub(super) ends: Ends,
}

/// All that the release consists of, when the cluster has what it needs: then what is to be built is built; where that is what was
/// approved it is pushed, and the secrets that it reads are made where nobody has set one.
pub(super) async fn objects(
    cluster: &mut Cluster,
    asked: &Asked<'_>,
    loaded: &mut Loaded,
    telling: &mut Telling<'_>,
) -> Result<Come, Fault> {
    let Asked { owner, dir, apis, state, ca, take_over, approved, ends } = *asked;
    let releases = cluster.releases(owner).await;
    let releases = releases.map_err(|refusal| refusal.fault(format!("the releases of {owner} cannot be read")))?;
    let is_planned = approved.is_some() || ends == Ends::Foreseen;
    if !is_planned && approval::is_protected(&loaded.app, &releases) {
        return Err(approval::lacking(&loaded.key, cluster));
    }
    let (own, said) = (Own::of(loaded)?, images::unserved(images::said(loaded), &releases));
    loaded.images.extend(own.iter().flat_map(Own::foreseen));
    let apis = apis::found(cluster, &releases, (loaded, apis), telling).await?;
    let named = rendered(loaded, Secrets::Named, &apis)?;
    let found = fit(cluster, owner, (&named, &loaded.key), telling).await?;
    secret::fit(cluster, owner, (&loaded.key, dir), &named.needs, telling).await?;
    images::look(&said, (&loaded.app, ca), telling).await?;
    let built = match &own {
        // What a build remembers is not carried through all the rest.
        Some(own) => Some(Box::pin(images::build(own, (loaded, dir), (state, ca), telling)).await?),
        None => None,
    };
    loaded.images.extend(built.iter().flat_map(Built::images));
    let (mut hash, mut foreseen) = (None, BTreeMap::new());
    if is_planned {
        foreseen = foreseen_secrets(cluster, asked, &loaded.key, &named.needs, telling).await?;
        let objects = all(&rendered(loaded, Secrets::Hashed(&foreseen), &apis)?);
        let now = asked.plan(&cluster.target(), loaded, (&objects, &releases)).hash();
        approved.map_or(Ok(()), |approved| approval::holds(approved, now, (&loaded.key, cluster)))?;
        hash = Some(now);
    }
    if let Some(built) = built {
        Box::pin(built.send(ca, ends, telling)).await?;
        telling.tell(Told::Checking);
    }
    if approved.is_some() {
        let now = foreseen_secrets(cluster, asked, &loaded.key, &named.needs, telling).await?;
        approval::is_held_still(&foreseen, &now, (&loaded.key, cluster))?;
    }
    let held = secret::held(cluster, owner, (&loaded.key, dir), (&named.needs, ends), telling).await?;
    if approved.is_some() {
        approval::is_held_still(&foreseen, &held.of(&foreseen), (&loaded.key, cluster))?;
    }
    let objects = all(&rendered(loaded, Secrets::Hashed(&held.objects), &apis)?);
    // What runs before it is called by all that it is, the secrets that it reads among it.
    found.fit(cluster, runs_before(&objects, &releases))?;
    let planned = approved.map(|_| Planned { serves: approval::serves(&releases) });
    let (images, protected) = (loaded.said_images(), loaded.app.environment.protected);
    let order = Order { objects, images, take_over, protected, planned };
    Ok(Come { order, hash, protected: approval::is_protected(&loaded.app, &releases) })
}

/// What a plan says of secrets, by what they are now.
async fn foreseen_secrets(
    cluster: &Cluster,
    asked: &Asked<'_>,
    key: &AppKey,
    needs: &[Need],
    telling: &mut Telling<'_>,
) -> Result<BTreeMap<SecretName, String>, Fault> {
    let quiet = telling.quiet();
    let held = secret::held(cluster, asked.owner, (key, asked.dir), (needs, Ends::Foreseen), telling).await;
    telling.told(quiet);
    Ok(held?.said())
}

/// What comes of it.
pub(super) struct Come {
    pub(super) order: Order,
    /// Of the plan, where one is asked for or held to.
    pub(super) hash: Option<Digest>,
    /// By the file, or by the release that serves.
    pub(super) protected: bool,
}

impl Asked<'_> {
    fn plan<'p>(
        &self,
        target: &'p str,
        loaded: &'p Loaded,
        (objects, releases): (&'p [Object], &[Release]),
    ) -> approval::Basis<'p> {
        approval::Basis {
            target,
            env: loaded.key.env.as_str(),
            app: loaded.key.app.as_str(),
            serves: approval::serves(releases),
            take_over: self.take_over,
            protected: loaded.app.environment.protected,
            images: loaded.said_images(),
            objects,
        }
    }
}

/// Whether the cluster has what it needs, as far as that is known before anything is built.
async fn fit(
    cluster: &mut Cluster,
    owner: &Owner,
    (named, key): (&Manifests, &AppKey),
    telling: &mut Telling<'_>,
) -> Result<Found, Fault> {
    let (objects, role) = (all(named), role(key, "deployer"));
    let wanted = Wanted { objects: &objects, secrets: secret::makes_some(&named.needs), role: &role };
    let found = survey(cluster, owner, wanted).await;
    let found = found.map_err(|refusal| refusal.fault(format!("{} cannot be looked at", cluster.target())))?;
    found.fit(cluster, false)?;
    for lack in &found.lacks {
        telling.note(format!("{lack}: {}", lack.remedy(|words| cluster.kubectl(words))));
    }
    for note in named.notes.iter().filter(|note| !named.by_hand.contains(*note)) {
        telling.note(cluster.commands(note));
    }
    Ok(found)
}

fn rendered(loaded: &Loaded, secrets: Secrets<'_>, apis: &BTreeSet<Api>) -> Result<Manifests, Fault> {
    kubernetes(&loaded.input_with(secrets, apis)).map_err(|refused| {
        let fault = refused.fault(&loaded.key);
        match (refused, &loaded.app.image) {
            (Refused::Images(_), None) => fault.hint(format!(
                "say where what is built is pushed, [environment.{}.image] push = \"REGISTRY/REPOSITORY\", or what was pushed, by its digest: --image",
                loaded.key.env
            )),
            (Refused::Images(_), Some(_)) | (Refused::Keys(_), _) => fault,
        }
    })
}

fn all(manifests: &Manifests) -> Vec<Object> {
    manifests.objects.iter().map(|one| Object { stage: stage(one.wave), body: one.body.clone() }).collect()
}

fn stage(wave: Wave) -> Stage {
    match wave {
        Wave::Config => Stage::Config,
        Wave::Data => Stage::Data,
        Wave::Before => Stage::Before,
        Wave::Workload => Stage::Workload,
        Wave::Edge => Stage::Edge,
        Wave::Watch => Stage::Watch,
    }
}
