//! `bowline deploy --to kubernetes`: from the file to objects, and those to a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use bowline_core::app::App;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, ServiceName};
use bowline_core::release::ImageRef;
use bowline_kube::{Cluster, Object, Order, Owner, Rollout, Stage, Told, survey};
use bowline_render::{Api, Input, Manifests, Secrets, Wave, kubernetes};

use super::{Place, Telling, owner, secret};
use crate::args::Deploy;
use crate::cmd::follow;
use crate::cmd::render::{images, scripts};
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
    let images = images(app, args.image)?;
    let mut interrupts = Interrupts::new()?;
    let began = Instant::now();
    let mut telling = Telling::new(app.name.as_str(), ui);
    let mut cluster = place.join().await?;
    let asked = Asked { key: &key, owner: &owner, app, dir, images: &images };
    let deployed = async {
        telling.tell(Told::Checking);
        let objects = objects(&mut cluster, &asked, &mut telling).await?;
        let said = images.iter().map(|(service, image)| (service.spelled(), image.to_string())).collect();
        let order = Order { objects, images: said, take_over: args.take_over };
        let mut tell = |told| telling.tell(told);
        Rollout { cluster: &mut cluster, owner: &owner, tell: &mut tell }.deploy(order).await
    };
    let done = tokio::select! {
        done = deployed => done?,
        () = interrupts.next() => {
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
    key: &'a AppKey,
    owner: &'a Owner,
    app: &'a App,
    dir: &'a Path,
    images: &'a BTreeMap<ServiceName, ImageRef>,
}

/// All that the release consists of, when the cluster has what it needs; the secrets that it reads are made where nobody has set one.
async fn objects(cluster: &mut Cluster, asked: &Asked<'_>, telling: &mut Telling<'_>) -> Result<Vec<Object>, Fault> {
    let (scripts, apis) = (scripts(asked.dir, asked.app)?, apis(cluster, asked.app).await?);
    let input = |secrets| Input {
        key: asked.key,
        app: asked.app,
        images: asked.images,
        secrets,
        scripts: &scripts,
        apis: &apis,
    };
    let render = |secrets| kubernetes(&input(secrets)).map_err(|refused| refused.fault(asked.key));
    let named: Manifests = render(Secrets::Named)?;
    let all = |manifests: &Manifests| -> Vec<Object> {
        manifests.objects.iter().map(|one| Object { stage: stage(one.wave), body: one.body.clone() }).collect()
    };
    let found = survey(cluster, asked.owner, &all(&named)).await;
    let found = found.map_err(|refusal| refusal.fault(format!("{} cannot be looked at", cluster.target())))?;
    found.fit(cluster)?;
    for lack in &found.lacks {
        telling.tell(Told::Note { service: None, text: format!("{lack}: {}", lack.remedy()) });
    }
    if found.leaves_roles {
        let text = "the roles of the app are left as they are: you may not write roles".to_owned();
        telling.tell(Told::Note { service: None, text });
    }
    let held = secret::held(cluster, asked.owner, (asked.key, asked.dir), &named.needs, telling).await?;
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
    let hosts = app.routes.values().flat_map(|route| &route.hosts);
    let all: BTreeSet<String> = hosts.map(|host| format!("https://{host}")).collect();
    all.into_iter().collect()
}
