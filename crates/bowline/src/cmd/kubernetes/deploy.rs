//! `bowline deploy --to kubernetes`: from the file to objects, and those to a cluster.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use bowline_core::app::{App, Tls};
use bowline_core::fault::{Fault, FaultKind};
use bowline_kube::{Cluster, Object, Order, Owner, Rollout, Stage, Told, survey};
use bowline_render::{Api, Manifests, Secrets, Wave, kubernetes, role};

use super::{Place, Telling, owner, secret};
use crate::args::Deploy;
use crate::cmd::follow;
use crate::cmd::render::Loaded;
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::ui::{Tone, Ui};

/// Groups by which an API is known to be there.
const GROUPS: [(Api, &str); 5] = [
    (Api::CertManager, "cert-manager.io"),
    (Api::CloudNativePg, "postgresql.cnpg.io"),
    (Api::EnvoyGateway, "gateway.envoyproxy.io"),
    (Api::ExternalSecrets, "external-secrets.io"),
    (Api::Prometheus, "monitoring.coreos.com"),
];
/// What a class of ingress-nginx says of itself.
const NGINX: &str = "k8s.io/ingress-nginx";

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
    let asked = Asked { owner: &owner, loaded: &loaded, dir };
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
}

/// All that the release consists of, when the cluster has what it needs; the secrets that it reads are made where nobody has set one.
async fn objects(cluster: &mut Cluster, asked: &Asked<'_>, telling: &mut Telling<'_>) -> Result<Vec<Object>, Fault> {
    let Asked { owner, loaded, dir } = *asked;
    let apis = apis(cluster, &loaded.app).await?;
    let render = |secrets| kubernetes(&loaded.input_with(secrets, &apis)).map_err(|refused| refused.fault(&loaded.key));
    let named: Manifests = render(Secrets::Named)?;
    let all = |manifests: &Manifests| -> Vec<Object> {
        manifests.objects.iter().map(|one| Object { stage: stage(one.wave), body: one.body.clone() }).collect()
    };
    let found = survey(cluster, owner, &role(&loaded.key, "deployer"), &all(&named)).await;
    let found = found.map_err(|refusal| refusal.fault(format!("{} cannot be looked at", cluster.target())))?;
    found.fit(cluster)?;
    for lack in &found.lacks {
        telling.tell(Told::Note { service: None, text: format!("{lack}: {}", lack.remedy()) });
    }
    let held = secret::held(cluster, owner, (&loaded.key, dir), &named.needs, telling).await?;
    Ok(all(&render(Secrets::Hashed(&held))?))
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

/// What the cluster has beside Kubernetes.
async fn apis(cluster: &Cluster, app: &App) -> Result<BTreeSet<Api>, Fault> {
    let groups = cluster.groups().await;
    let groups =
        groups.map_err(|refusal| refusal.fault(format!("{} does not say what it serves", cluster.target())))?;
    let mut apis: BTreeSet<Api> =
        GROUPS.into_iter().filter(|(_, group)| groups.contains(*group)).map(|(api, _)| api).collect();
    let wanted = app.environment.kubernetes.as_ref().and_then(|settings| settings.ingress_class.as_deref());
    let is_nginx = match cluster.list("/apis/networking.k8s.io/v1/ingressclasses", "").await {
        Ok(classes) => classes.iter().any(|class| class["spec"]["controller"] == NGINX),
        // Who may not look takes the class for what it is called.
        Err(_) => wanted == Some("nginx"),
    };
    if is_nginx {
        apis.insert(Api::IngressNginx);
    }
    Ok(apis)
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
