//! `bowline deploy --to kubernetes`: from the file to objects, and those to a cluster.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use bowline_core::app::{App, Tls};
use bowline_core::fault::{Fault, FaultKind};
use bowline_kube::{Cluster, Object, Order, Owner, Rollout, Stage, Told, Wanted, runs_before, survey};
use bowline_render::{Api, Manifests, Secrets, Wave, kubernetes, role};

use super::{Place, Telling, apis, owner, secret};
use crate::args::Deploy;
use crate::cmd::follow;
use crate::cmd::render::Loaded;
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::ui::{Tone, Ui};

pub(in crate::cmd) async fn run(
    args: Deploy,
    (dir, app): (&Path, &App),
    place: Place<'_>,
    ui: &Ui,
) -> Result<ExitCode, Fault> {
    fits(&args)?;
    let (key, owner) = owner(&args.env, app.name.as_str())?;
    let mut loaded = Loaded::read(dir, key, app.clone(), args.image)?;
    let mut interrupts = Interrupts::new()?;
    let began = Instant::now();
    let mut telling = Telling::new(app.name.as_str(), ui);
    let mut cluster = place.join().await?;
    // What names its namespace names the one that it comes to.
    loaded.put_into(Some(cluster.namespace().to_owned()));
    let asked = Asked { owner: &owner, loaded: &loaded, dir, apis: &args.api };
    let deployed = async {
        telling.tell(Told::Checking);
        let objects = objects(&mut cluster, &asked, &mut telling).await?;
        let said = loaded.images.iter().map(|(service, image)| (service.spelled(), image.to_string())).collect();
        let order = Order { objects, images: said, take_over: args.take_over };
        let mut tell = |told| telling.tell(told);
        Rollout { cluster: &mut cluster, owner: &owner, tell: &mut tell }.deploy(order).await
    };
    let done = tokio::select! {
        done = deployed => done?,
        () = interrupts.next() => {
            cluster.let_go().await;
            ui.aside("  interrupted: what was applied goes on in the cluster; run this again to follow it to its end");
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    drop(telling);
    let words = match done.same {
        true => format!("{} release {}, nothing of it has changed", ui.paint(Tone::Good, "serves:"), done.release),
        false => format!("{} release {}", ui.paint(Tone::Good, "serves:"), done.release),
    };
    follow::ready(app.name.as_str(), (done.release, &urls(app)), words, began, ui);
    Ok(ExitCode::SUCCESS)
}

/// What is said of a daemon alone.
fn fits(args: &Deploy) -> Result<(), Fault> {
    let said = [
        (args.artifact.is_some(), "--artifact"),
        (args.detach, "--detach"),
        (args.attach, "--attach"),
        (args.plan.is_some(), "--plan"),
    ];
    match said.into_iter().find(|(is_said, _)| *is_said) {
        Some((_, flag)) => Err(Fault::new(FaultKind::Invalid, format!("{flag} is not for Kubernetes"))
            .hint("a cluster is given images: --image SERVICE=REGISTRY/REPOSITORY@sha256:…")),
        None => Ok(()),
    }
}

/// What is asked for.
struct Asked<'a> {
    owner: &'a Owner,
    loaded: &'a Loaded,
    dir: &'a Path,
    /// What the cluster is said to have.
    apis: &'a [Api],
}

/// All that the release consists of, when the cluster has what it needs; the secrets that it reads are made where nobody has set one.
async fn objects(cluster: &mut Cluster, asked: &Asked<'_>, telling: &mut Telling<'_>) -> Result<Vec<Object>, Fault> {
    let Asked { owner, loaded, dir, apis } = *asked;
    let releases = cluster.releases(owner).await;
    let releases = releases.map_err(|refusal| refusal.fault(format!("the releases of {owner} cannot be read")))?;
    let apis = apis::found(cluster, &releases, (loaded, apis), telling).await?;
    let render = |secrets| kubernetes(&loaded.input_with(secrets, &apis)).map_err(|refused| refused.fault(&loaded.key));
    let named: Manifests = render(Secrets::Named)?;
    let all = |manifests: &Manifests| -> Vec<Object> {
        manifests.objects.iter().map(|one| Object { stage: stage(one.wave), body: one.body.clone() }).collect()
    };
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
    let held = secret::held(cluster, owner, (&loaded.key, dir), &named.needs, telling).await?;
    let objects = all(&render(Secrets::Hashed(&held))?);
    // What runs before it is called by all that it is, the secrets that it reads among it.
    found.fit(cluster, runs_before(&objects, &releases))?;
    Ok(objects)
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

/// Where its routes are asked.
fn urls(app: &App) -> Vec<String> {
    let urls = app.routes.values().flat_map(|route| {
        let scheme = if route.tls == Tls::Off { "http" } else { "https" };
        route.hosts.iter().map(move |host| format!("{scheme}://{host}"))
    });
    let all: BTreeSet<String> = urls.collect();
    all.into_iter().collect()
}
