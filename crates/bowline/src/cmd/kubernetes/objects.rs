//! From the file to the objects of a release: what the cluster has and lacks, the images, the secrets.

use std::collections::BTreeSet;
use std::path::Path;

use bowline_core::fault::Fault;
use bowline_kube::{Cluster, Object, Owner, Stage, Told, Wanted, runs_before, survey};
use bowline_render::{Api, Manifests, Refused, Secrets, Wave, kubernetes, role};

use super::images::{self, Own};
use super::{Telling, apis, secret};
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
    pub(super) ends: Ends,
}

/// All that the release consists of, when the cluster has what it needs: then what is to be built is built and pushed, and the secrets that
/// it reads are made where nobody has set one.
pub(super) async fn objects(
    cluster: &mut Cluster,
    asked: &Asked<'_>,
    loaded: &mut Loaded,
    telling: &mut Telling<'_>,
) -> Result<Vec<Object>, Fault> {
    let Asked { owner, dir, apis, state, ca, ends } = *asked;
    let releases = cluster.releases(owner).await;
    let releases = releases.map_err(|refusal| refusal.fault(format!("the releases of {owner} cannot be read")))?;
    let (own, said) = (Own::of(loaded)?, images::unserved(images::said(loaded), &releases));
    loaded.images.extend(own.iter().flat_map(Own::foreseen));
    let apis = apis::found(cluster, &releases, (loaded, apis), telling).await?;
    let named = rendered(loaded, Secrets::Named, &apis)?;
    let (objects, role) = (all(&named), role(&loaded.key, "deployer"));
    let wanted = Wanted { objects: &objects, secrets: secret::makes_some(&named.needs), role: &role };
    let found = survey(cluster, owner, wanted).await;
    let found = found.map_err(|refusal| refusal.fault(format!("{} cannot be looked at", cluster.target())))?;
    found.fit(cluster, false)?;
    for lack in &found.lacks {
        telling.note(format!("{lack}: {}", lack.remedy(|words| cluster.kubectl(words))));
    }
    for note in named.notes.iter().filter(|note| !named.by_hand.contains(*note)) {
        telling.note(note.replace("kubectl create ", &cluster.kubectl("create ")));
    }
    secret::fit(cluster, owner, (&loaded.key, dir), &named.needs, telling).await?;
    images::look(&said, (&loaded.app, ca), telling).await?;
    if let Some(own) = own {
        // What a build and a push remember is not carried through all the rest.
        let made = Box::pin(images::make(&own, (loaded, dir), (state, ca), ends, telling)).await?;
        if ends == Ends::Deployed {
            images::look(&images::unserved(made.clone(), &releases), (&loaded.app, ca), telling).await?;
        }
        loaded.images.extend(made);
        telling.tell(Told::Checking);
    }
    let held = secret::held(cluster, owner, (&loaded.key, dir), (&named.needs, ends), telling).await?;
    let objects = all(&rendered(loaded, Secrets::Hashed(&held), &apis)?);
    // What runs before it is called by all that it is, the secrets that it reads among it.
    found.fit(cluster, runs_before(&objects, &releases))?;
    Ok(objects)
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
