//! `bowline render envoy`: what an Envoy is started with that asks nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;

use bowline_core::app::{App, HostName};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{
    AppKey, EnvName, Generation, Incarnation, InstanceId, ReleaseNumber, ServiceName, Slot, SlotId,
};
use bowline_core::release::{Unsupported, unsupported_by};
use bowline_core::rollout::steady;
use bowline_core::route::{
    Certificate, Certificates, Cohort, EdgeDesired, EdgeEngine, Pool, PoolId, Serving, SiteTls, Table, compile, routed,
};
use bowline_core::secret::Secret;
use bowline_envoy::{Bounds, Files, Input, Listen, Resources, fixed};

use crate::args::{Endpoint, RenderEnvoy};
use crate::file;
use crate::ui::Ui;

pub(super) fn run(args: RenderEnvoy, ui: &Ui) -> Result<ExitCode, Fault> {
    let dir = file::folder(&args.dir, "render envoy")?;
    let env = EnvName::new(&args.env)
        .map_err(|error| Fault::new(FaultKind::Invalid, format!("{:?} is no environment", args.env)).source(&error))?;
    let app = Arc::new(file::read(&dir, &env, ui)?.app);
    is_carried(&app)?;
    let table = table(&AppKey { env, app: app.name.clone() }, &app, &args.endpoint)?;
    let certificates = named(&table);
    let desired = EdgeDesired { table: Arc::new(table), certificates: Arc::new(certificates) };
    let listen = Listen { http: args.http, https: Some(args.https) };
    let input =
        Input { desired: &desired, draining: &BTreeMap::new(), listen, access_log: &args.access_log, uploads: None };
    let files = Files { certificates: &args.certificates, admin: args.admin };
    let envoy = fixed(&Resources::of(input), files, Bounds::here());
    let text = serde_json::to_string_pretty(&envoy).expect("a JSON value prints");
    ui.raw(&text);
    Ok(ExitCode::SUCCESS)
}

fn is_carried(app: &App) -> Result<(), Fault> {
    let mut all = unsupported_by(EdgeEngine::Envoy, app);
    let tokens = app.routes.iter().filter(|(_, route)| route.access.auth.is_some());
    all.extend(tokens.map(|(name, _)| Unsupported {
        path: format!("route.{name}.auth"),
        why: "its secret is with the daemon, which tells Envoy only what proofs are compared with: `bowline up --edge envoy`",
    }));
    let uploads = app.routes.iter().filter(|(_, route)| route.upload.is_some());
    all.extend(uploads.map(|(name, _)| Unsupported {
        path: format!("route.{name}.upload"),
        why: "files are judged by a process that the daemon keeps beside its Envoy: `bowline up --edge envoy`",
    }));
    Unsupported::fault(&all).map_or(Ok(()), Err)
}

/// The table of one release, with instances as they were said.
fn table(key: &AppKey, app: &Arc<App>, endpoints: &[Endpoint]) -> Result<Table, Fault> {
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
        credentials: &BTreeMap::new(),
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
