//! `bowline render envoy`: what an Envoy is started with that asks nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use bowline_core::app::{App, HostName};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{
    AppKey, EnvName, Generation, Incarnation, InstanceId, ReleaseNumber, RouteName, ServiceName, Slot, SlotId,
};
use bowline_core::release::{Unsupported, unsupported_by};
use bowline_core::rollout::steady;
use bowline_core::route::{
    Certificate, Certificates, Cohort, Credentials, EdgeDesired, EdgeEngine, Pool, PoolId, Serving, SiteTls, Table,
    compile, routed,
};
use bowline_core::secret::Secret;
use bowline_envoy::{Administration, Bounds, Files, Input, Listen, Resources, fixed};

use super::proofs;
use crate::args::{Admin, Endpoint, RenderEnvoy};
use crate::file;
use crate::ui::Ui;

pub(super) fn run(args: RenderEnvoy, ui: &Ui) -> Result<ExitCode, Fault> {
    let dir = file::folder(&args.dir, "render envoy")?;
    let env = EnvName::new(&args.env)
        .map_err(|error| Fault::new(FaultKind::Invalid, format!("{:?} is no environment", args.env)).source(&error))?;
    let app = Arc::new(file::read(&dir, &env, ui)?.app);
    is_carried(&app)?;
    let judging = judging(&app, args.uploads.as_deref())?;
    let key = AppKey { env, app: app.name.clone() };
    let credentials = proofs::of(&key, &app, &args.secret)?;
    let table = table(&key, &app, &args.endpoint, &credentials)?;
    if table.sites.is_empty() {
        return Err(no_host(&key));
    }
    let certificates = named(&table);
    let desired = EdgeDesired { table: Arc::new(table), certificates: Arc::new(certificates) };
    let listen = Listen { http: args.http, https: Some(args.https) };
    let (draining, access_log) = (BTreeMap::new(), &args.access_log);
    let input = Input { desired: &desired, draining: &draining, listen, access_log, uploads: judging };
    let files = Files { certificates: &args.certificates, admin: administration(&args.admin) };
    let envoy = fixed(&Resources::of(input), files, Bounds::here());
    let text = serde_json::to_string_pretty(&envoy).expect("a JSON value prints");
    ui.raw(&text);
    if !credentials.is_empty() {
        warn(&args.admin, ui);
    }
    Ok(ExitCode::SUCCESS)
}

fn is_carried(app: &App) -> Result<(), Fault> {
    // No store is asked for a secret here, whatever it is.
    let sources: BTreeSet<String> = app.secrets.keys().map(|name| format!("secret.{name}.source")).collect();
    let all: Vec<Unsupported> =
        unsupported_by(EdgeEngine::Envoy, app).into_iter().filter(|one| !sources.contains(&one.path)).collect();
    Unsupported::fault(&all).map_or(Ok(()), Err)
}

/// Who judges uploads, where a route has them judged. Else nobody is asked, whatever was said.
fn judging<'a>(app: &App, said: Option<&'a Path>) -> Result<Option<&'a Path>, Fault> {
    let judged = app.routes.iter().filter(|(_, route)| route.upload.is_some());
    let judged: Vec<String> = judged.map(|(name, _)| format!("route.{name}.upload")).collect();
    match said {
        _ if judged.is_empty() => Ok(None),
        Some(socket) => Ok(Some(socket)),
        None => Err(Fault::new(FaultKind::Invalid, format!("nobody says who judges uploads ({})", judged.join(", ")))
            .caused_by("Envoy looks into no file: it asks a process that does, over a Unix socket")
            .hint("say where that one listens: --uploads PATH; `bowline uploads --socket PATH` is such a process")),
    }
}

fn administration(said: &Admin) -> Administration<'_> {
    match said {
        Admin::Port(port) => Administration::Port(*port),
        Admin::Socket(path) => Administration::Socket(path),
    }
}

/// What is to be known of a file with what proofs are compared with.
fn warn(admin: &Admin, ui: &Ui) {
    ui.aside("  it holds digests of secrets, and what can be guessed can be guessed from them: keep it from others (chmod 600)");
    match admin {
        Admin::Socket(_) => {}
        Admin::Port(port) => ui.aside(format!(
            "  Envoy's administration shows them to whoever gets to {port}: with --admin /PATH to its own user alone"
        )),
    }
}

fn no_host(key: &AppKey) -> Fault {
    Fault::new(FaultKind::Invalid, format!("no route of {} has a host in {}", key.app, key.env)).hint(format!(
        "say `hosts` of a route in [environment.{}], or render another environment: --env local",
        key.env
    ))
}

/// The table of one release, with instances as they were said.
fn table(
    key: &AppKey,
    app: &Arc<App>,
    endpoints: &[Endpoint],
    credentials: &BTreeMap<RouteName, Credentials>,
) -> Result<Table, Fault> {
    const RELEASE: ReleaseNumber = ReleaseNumber(1);
    let routed = routed(app);
    let said: BTreeSet<&ServiceName> = endpoints.iter().map(|endpoint| &endpoint.service).collect();
    if let Some(missing) = routed.iter().find(|service| !said.contains(service)) {
        return Err(Fault::new(FaultKind::Invalid, format!("nobody says where instances of {missing} are"))
            .hint(format!("say it, once for each: --endpoint {missing}=ADDRESS:PORT")));
    }
    if let Some(unknown) = said.iter().find(|service| !routed.contains(**service)) {
        return Err(Fault::new(FaultKind::Invalid, format!("no route leads to a service {unknown}"))
            .hint("take its --endpoint out, or give it a route in bowline.toml"));
    }
    let mut pools: BTreeMap<PoolId, Pool> = BTreeMap::new();
    for (number, Endpoint { service, at }) in (0..).zip(endpoints) {
        let id = PoolId { key: key.clone(), service: service.clone(), release: RELEASE, cohort: Cohort::Whole };
        let protocol = app.services.get(service).map(|service| service.protocol).unwrap_or_default();
        let slot = SlotId { key: key.clone(), service: service.clone(), release: RELEASE, slot: Slot(number) };
        let pool = pools.entry(id).or_insert_with(|| Pool { protocol, ..Pool::default() });
        pool.endpoints.insert(InstanceId { slot, incarnation: Incarnation(1) }, *at);
    }
    let serving = Serving {
        key,
        app,
        sets: &steady(app, RELEASE, &BTreeMap::new()),
        credentials,
        maintenance: None,
        judged: &BTreeSet::new(),
        trusted: &BTreeSet::new(),
    };
    Ok(compile(Generation(1), &[serving], &pools, &BTreeMap::new())?)
}

/// Hosts of HTTPS: what is served with is in files.
fn named(table: &Table) -> Certificates {
    let empty = Arc::new(Certificate { chain: String::new(), key: Secret::new("") });
    let sites = table.sites.iter().filter(|(_, site)| site.tls == SiteTls::Both);
    sites.map(|(host, _): (&HostName, _)| (host.clone(), Arc::clone(&empty))).collect()
}
