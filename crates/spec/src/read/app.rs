//! The file's root: its tables in turn, then what one table says about another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bowline_core::app::procfile::Procfile;
use bowline_core::app::{
    App, Command, DatabaseKind, Environment, HostName, ImagePush, Job, KubernetesSettings, Origin, Reference,
    ReleaseHooks, Rollout, Rollouts, Route, RouteTo, Service, Slo, Step, Strategy, Tls, Value, Variables,
};
use bowline_core::id::{AppName, EnvName, ResourceName, RouteName, ServiceName};
use bowline_core::units::Weight;

use super::route::WEB;
use super::{Reader, Section, service};
use crate::diagnostic::Diagnostic;
use crate::grammar::FILE;
use crate::literal;
use crate::nearest::suggestion;
use crate::tree::{Data, Span, Table};

/// The route to `web` of a file that has no routes.
const MAIN: &str = "main";

/// Steps of a canary that says none: together five minutes, enough requests for a verdict on a small app.
const STEPS: [(u8, u64); 3] = [(5, 60), (25, 120), (50, 120)];

/// One environment, and what is known besides the file.
pub(crate) struct Pass<'a> {
    pub(crate) env: &'a EnvName,
    /// The app's name when the file has none.
    pub(crate) folder: &'a AppName,
    /// The services of a file that has no table of them.
    pub(crate) procfile: &'a Procfile,
    /// Routes whose hosts were written for `local` itself; `None`: the text is an app already resolved, all count.
    pub(crate) local_hosts: Option<&'a BTreeSet<String>>,
}

impl Pass<'_> {
    /// The text was accepted before, and is what runs. What means nothing is then no reason to refuse it: a refusal of meaning
    /// that comes with another version is for files of people, and would take away what was let in.
    fn is_stored(&self) -> bool {
        self.local_hosts.is_none()
    }
}

/// Reads a merged tree. The app is whole only if the reader has found nothing wrong.
pub(crate) fn app(r: &mut Reader, root: &Table, pass: &Pass<'_>) -> App {
    let s = r.open(&FILE, String::new(), 0..0, root);
    let name = r.parsed(&s, "app", literal::name).unwrap_or_else(|| pass.folder.clone());
    let environment = environment(r, &s, pass.env);
    let services = services(r, &s, pass.procfile);
    let mut databases = BTreeMap::new();
    for (kind, key) in [(DatabaseKind::Postgres, "postgres"), (DatabaseKind::MariaDb, "mariadb")] {
        for (name, table) in r.named(&s, key) {
            databases.insert((kind, name), r.database(&table));
        }
    }
    let mut app = App {
        env: r.variables(&s, "env"),
        secrets: r.named(&s, "secret").into_iter().map(|(name, t)| (name, r.secret_source(&t))).collect(),
        jobs: r.named(&s, "job").into_iter().filter_map(|(name, t)| Some((name, r.job(&t)?))).collect(),
        databases,
        redis: r.named(&s, "redis").into_iter().map(|(name, t)| (name, r.redis(&t))).collect(),
        volumes: r.named(&s, "volume").into_iter().map(|(name, t)| (name, r.volume(&t))).collect(),
        buckets: r.named(&s, "bucket").into_iter().map(|(name, t)| (name, r.bucket(&t))).collect(),
        routes: routes(r, &s, &services),
        release: match r.section(&s, "release") {
            Some(t) => release(r, &t),
            // A Procfile counts as a whole, or not at all.
            None if s.has("service") => ReleaseHooks::default(),
            None => ReleaseHooks { before: pass.procfile.release.clone(), snapshot: Vec::new() },
        },
        rollout: rollout(r, &s, pass),
        slo: r.section(&s, "slo").map(|t| slo(r, &t)),
        image: r.section(&s, "image").and_then(|t| image(r, &t)),
        logs: r.section(&s, "logs").and_then(|t| r.parsed(&t, "to", literal::log_sink)),
        name,
        services,
        environment,
    };
    check(r, &mut app);
    if let Some(given) = pass.local_hosts
        && pass.env.as_str() == LOCAL
    {
        localise(&mut app, given);
    }
    app
}

/// The environment of `bowline up`.
pub(crate) const LOCAL: &str = "local";

fn services(r: &mut Reader, s: &Section<'_>, procfile: &Procfile) -> BTreeMap<ServiceName, Service> {
    if s.has("service") {
        return r.named(s, "service").into_iter().map(|(name, t)| (name, r.service(&t))).collect();
    }
    let Some(builder) = procfile.builder() else {
        return BTreeMap::from([(ServiceName::new(WEB).expect("web is a name"), service::detected())]);
    };
    let service = |(name, run): &(ServiceName, Command)| {
        let mut service = Service { run: Some(run.clone()), ..service::detected() };
        if name != builder {
            service.origin = Origin::BuildOf(builder.clone());
        }
        (name.clone(), service)
    };
    procfile.processes.iter().map(service).collect()
}

fn routes(r: &mut Reader, s: &Section<'_>, services: &BTreeMap<ServiceName, Service>) -> BTreeMap<RouteName, Route> {
    if !s.has("route") && services.contains_key(WEB) {
        // Read as if an empty table had been written, so that its defaults are those of any route.
        let empty = Table::default();
        let spec = crate::grammar::named(s.spec, "route");
        let implied = Section { spec, path: format!("route.{MAIN}"), at: 0..0, table: &empty };
        let route = r.route(&implied, services);
        return route.map(|route| (RouteName::new(MAIN).expect("main is a name"), route)).into_iter().collect();
    }
    r.named(s, "route").into_iter().filter_map(|(name, t)| Some((name, r.route(&t, services)?))).collect()
}

/// What the selected environment's own table says.
fn environment(r: &mut Reader, s: &Section<'_>, name: &EnvName) -> Environment {
    let mut found = Environment { name: name.clone(), protected: false, id: None, server: None, kubernetes: None };
    for (declared, t) in r.named::<EnvName>(s, "environment") {
        reserved(r, &declared, &t);
        let protected = r.boolean(&t, "protected").unwrap_or(false);
        let id = r.parsed(&t, "id", literal::name);
        let server = r.parsed(&t, "server", literal::target);
        let kubernetes = r.section(&t, "kubernetes").map(|k| KubernetesSettings {
            ingress_class: r.parsed(&k, "ingress_class", literal::line),
            gateway: r.parsed(&k, "gateway", literal::line),
            issuer: r.parsed(&k, "issuer", literal::line),
            address: r.parsed(&k, "address", literal::line),
            storage_class: r.parsed(&k, "storage_class", literal::line),
            node_pool: r.parsed(&k, "node_pool", literal::line),
            secret_store: r.parsed(&k, "secret_store", literal::line),
            rollouts: r.word(&k, "rollouts").map(|_| Rollouts::Argo),
        });
        if declared == *name {
            found = Environment { name: declared, protected, id, server, kubernetes };
        }
    }
    found
}

/// Names that folders of the state beside the environments' already have.
fn reserved(r: &mut Reader, name: &EnvName, t: &Section<'_>) {
    if matches!(name.as_str(), "edge" | "locks") {
        let message = format!("an environment cannot be called `{name}`: Bowline keeps files of its own there");
        r.push(Diagnostic::new(t.path.clone(), t.at.clone(), message));
    }
}

fn release(r: &mut Reader, s: &Section<'_>) -> ReleaseHooks {
    let before = r.parsed(s, "before", literal::command);
    ReleaseHooks { before, snapshot: r.list(s, "snapshot", literal::name).unwrap_or_default() }
}

fn rollout(r: &mut Reader, root: &Section<'_>, pass: &Pass<'_>) -> Rollout {
    let Some(s) = r.section(root, "rollout") else {
        return Rollout { strategy: Strategy::Rolling, abort: Vec::new(), watch: Duration::ZERO };
    };
    let steps = r.repeating_list(&s, "steps", literal::step).map(|steps| rising(r, &s, steps));
    let strategy = match r.word(&s, "strategy") {
        Some(1) => Strategy::Canary { steps: steps.unwrap_or_else(default_steps) },
        Some(2) => Strategy::BlueGreen,
        Some(_) | None => Strategy::Rolling,
    };
    let watch = strategy.watch();
    let rule = if pass.is_stored() { literal::any_abort_rule } else { literal::abort_rule };
    let abort = r.repeating_list(&s, "abort", rule).unwrap_or_default();
    let abort = abort.into_iter().map(|(_, rule, _)| rule).collect();
    Rollout { strategy, abort, watch: r.parsed(&s, "watch", literal::duration).unwrap_or(watch) }
}

fn default_steps() -> Vec<Step> {
    let step = |(percent, seconds)| {
        let weight = Weight::new(percent).expect("the default steps are percentages");
        Step { weight, hold: Duration::from_secs(seconds) }
    };
    STEPS.map(step).into()
}

/// Each step carries more than the one before.
fn rising(r: &mut Reader, s: &Section<'_>, steps: Vec<(usize, Step, Span)>) -> Vec<Step> {
    if r.list_is_empty(s, "steps") {
        let path = s.path("steps");
        let problem = Diagnostic::new(path.clone(), r.value_at(&path), "a canary has at least one step");
        r.push(problem.hint(Some("remove `steps` for the default ones".to_owned())));
    }
    for pair in steps.windows(2) {
        let [(_, before, first), (index, step, span)] = pair else { continue };
        if step.weight <= before.weight {
            let message = format!(
                "a step of {}% after one of {}%: each carries more than the one before",
                step.weight.get(),
                before.weight.get()
            );
            let path = format!("{}[{index}]", s.path("steps"));
            r.push(Diagnostic::new(path, span.clone(), message).related(first.clone(), "the one before"));
        }
    }
    steps.into_iter().map(|(_, step, _)| step).collect()
}

fn slo(r: &mut Reader, s: &Section<'_>) -> Slo {
    Slo {
        availability: r.parsed(s, "availability", literal::target_share),
        latency: r.parsed(s, "latency", literal::latency_objective),
        notify: r.secret(s, "notify"),
    }
}

fn image(r: &mut Reader, s: &Section<'_>) -> Option<ImagePush> {
    let login = r.secret(s, "login");
    Some(ImagePush { push: r.parsed(s, "push", literal::image)?, login })
}

/// What one table says about another.
fn check(r: &mut Reader, app: &mut App) {
    check_builds(r, app);
    check_jobs(r, app);
    for (name, volume) in &app.volumes {
        for (index, service) in volume.services.iter().flatten().enumerate() {
            known_service(r, app, &format!("volume.{name}.services[{index}]"), service);
        }
    }
    for (name, route) in &app.routes {
        if let RouteTo::Service(service) = &route.to {
            known_service(r, app, &format!("route.{name}.to"), service);
        }
    }
    for (index, name) in app.release.snapshot.iter().enumerate() {
        check_snapshot(r, app, &format!("release.snapshot[{index}]"), name);
    }
    check_variables(r, app, "env", &app.env);
    for (name, service) in &app.services {
        check_variables(r, app, &format!("service.{name}.env"), &service.env);
    }
    for (name, job) in &app.jobs {
        check_variables(r, app, &format!("job.{name}.env"), &job.env);
    }
    r.check_mounts(&app.volumes);
    r.check_claims(&app.routes);
    r.check_routed(&app.routes, &app.services);
}

fn known_service(r: &mut Reader, app: &App, path: &str, name: &ServiceName) {
    if !app.services.contains_key(name) {
        let known: Vec<&str> = app.services.keys().map(ServiceName::as_str).collect();
        dangling(r, path, format!("there is no service `{name}`"), name.as_str(), &known);
    }
}

fn dangling(r: &mut Reader, path: &str, message: String, name: &str, known: &[&str]) {
    let at = r.value_at(path);
    r.push(Diagnostic::new(path, at, message).hint(suggestion(name, known.iter().copied())).missing());
}

/// `build_of` leads to a service that is built, in a straight line.
fn check_builds(r: &mut Reader, app: &App) {
    for (name, service) in &app.services {
        let Origin::BuildOf(first) = &service.origin else { continue };
        let path = format!("service.{name}.build_of");
        known_service(r, app, &path, first);
        let mut seen = BTreeSet::from([name]);
        let mut next = Some(first);
        while let Some(current) = next {
            if !seen.insert(current) {
                let message = match current == name && first == name {
                    true => format!("`service.{name}` is a build of itself"),
                    false => format!("`build_of` runs in a circle: {}", circle(app, current)),
                };
                let problem = Diagnostic::new(path.clone(), r.value_at(&path), message);
                // A service that only leads into a circle is not itself in it.
                if current == name {
                    r.push(problem);
                }
                break;
            }
            next = match app.services.get(current).map(|s| &s.origin) {
                Some(Origin::BuildOf(of)) => Some(of),
                Some(Origin::Static { .. }) => {
                    let message = format!("`{current}` is static files: no process can run from its build");
                    r.push(Diagnostic::new(path.clone(), r.value_at(&path), message));
                    None
                }
                Some(Origin::Folder { .. } | Origin::Image(_) | Origin::Dockerfile { .. }) | None => None,
            };
        }
    }
}

fn circle(app: &App, start: &ServiceName) -> String {
    let mut text = start.to_string();
    let mut current = start;
    while let Some(Origin::BuildOf(next)) = app.services.get(current).map(|s| &s.origin) {
        text.push_str(&format!(" → {next}"));
        if next == start {
            break;
        }
        current = next;
    }
    text
}

/// A job runs in some service's build: the one it names, or the only one there is.
fn check_jobs(r: &mut Reader, app: &mut App) {
    let roots: Vec<ServiceName> = (app.services.iter())
        .filter(|(_, s)| !matches!(s.origin, Origin::BuildOf(_) | Origin::Static { .. }))
        .map(|(name, _)| name.clone())
        .collect();
    let default = app.home().cloned();
    let alone = app.services.len() == 1;
    let mut jobs: BTreeMap<_, Job> = std::mem::take(&mut app.jobs);
    for (name, job) in &mut jobs {
        match &job.build_of {
            Some(service) => {
                let path = format!("job.{name}.build_of");
                known_service(r, app, &path, service);
                if app.services.get(service).is_some_and(|s| matches!(s.origin, Origin::Static { .. })) {
                    let message = format!("`{service}` is static files: no process can run from its build");
                    r.push(Diagnostic::new(path.clone(), r.value_at(&path), message));
                }
            }
            None if alone && default.is_some() => {}
            None => job.build_of.clone_from(&default),
        }
        if job.build_of.is_none() && default.is_none() {
            let path = format!("job.{name}");
            let at = r.locations.get(&path).map_or(0..0, |location| location.key.clone());
            let known: Vec<&str> = roots.iter().map(ServiceName::as_str).collect();
            let hint = match known.is_empty() {
                true => "add a [service.NAME] that is built".to_owned(),
                false => format!("add build_of = {}", crate::grammar::quoted(&known)),
            };
            let message = format!("`{path}` does not say which service's build it runs in");
            r.push(Diagnostic::new(path, at, message).hint(Some(hint)).missing());
        }
    }
    app.jobs = jobs;
}

fn check_snapshot(r: &mut Reader, app: &App, path: &str, name: &ResourceName) {
    let databases = app.databases.keys().map(|(_, name)| name);
    let known = databases.chain(app.redis.keys()).chain(app.volumes.keys()).chain(app.buckets.keys());
    let known: BTreeSet<&str> = known.map(ResourceName::as_str).collect();
    if !known.contains(name.as_str()) {
        let known: Vec<&str> = known.into_iter().collect();
        dangling(r, path, format!("there is no database, volume or bucket `{name}`"), name.as_str(), &known);
    }
}

fn check_variables(r: &mut Reader, app: &App, path: &str, variables: &Variables) {
    for (variable, value) in variables {
        let Value::From(reference) = value else { continue };
        let (kind, name, known): (&str, &str, Vec<&str>) = match reference {
            Reference::Database(kind, name, _) => {
                let of_kind = app.databases.keys().filter(|(k, _)| k == kind).map(|(_, name)| name.as_str());
                let table = match kind {
                    DatabaseKind::Postgres => "postgres",
                    DatabaseKind::MariaDb => "mariadb",
                };
                (table, name.as_str(), of_kind.collect())
            }
            Reference::Redis(name, _) => ("redis", name.as_str(), names(&app.redis)),
            Reference::VolumePath(name) => ("volume", name.as_str(), names(&app.volumes)),
            Reference::Bucket(name, _) => ("bucket", name.as_str(), names(&app.buckets)),
            Reference::ServiceUrl(name) => {
                ("service", name.as_str(), app.services.keys().map(ServiceName::as_str).collect())
            }
            Reference::AppName | Reference::AppEnv | Reference::AppRelease | Reference::Metrics => continue,
        };
        if known.contains(&name) {
            continue;
        }
        let message = format!("there is no [{kind}.{name}]");
        let path = format!("{path}.{variable}.from");
        match known.is_empty() {
            true => {
                let hint = Some(format!("add [{kind}.{name}]"));
                let at = r.value_at(&path);
                r.push(Diagnostic::new(path, at, message).hint(hint).missing());
            }
            false => dangling(r, &path, message, name, &known),
        }
    }
}

fn names<T>(tables: &BTreeMap<ResourceName, T>) -> Vec<&str> {
    tables.keys().map(ResourceName::as_str).collect()
}

/// In `local` hosts become `<app>.localhost` (left empty here, filled in where the table is made), or
/// `<route>.<app>.localhost` where several routes would claim the same path; and nobody asks a public authority.
fn localise(app: &mut App, given: &BTreeSet<String>) {
    for (name, route) in &mut app.routes {
        if !given.contains(name.as_str()) {
            route.hosts.clear();
        }
        if route.tls == Tls::Acme {
            route.tls = Tls::Local;
        }
    }
    let default = format!("{}.localhost", app.name);
    let claims = |route: &Route| route.hosts.is_empty() || route.hosts.iter().any(|host| host.as_str() == default);
    let mut order: Vec<RouteName> = app.routes.keys().cloned().collect();
    order.sort_by_key(|name| {
        let explicit = app.routes.get(name).is_some_and(|route| !route.hosts.is_empty());
        (!explicit, name.as_str() != MAIN)
    });
    let mut taken = BTreeSet::new();
    for name in order {
        let Some(route) = app.routes.get_mut(&name) else { continue };
        if claims(route) && !taken.insert(route.path.clone()) && route.hosts.is_empty() {
            route.hosts = HostName::new(&format!("{name}.{default}")).into_iter().collect();
        }
    }
}

/// The names of the routes in a table of overrides that set `hosts`.
pub(crate) fn routes_with_hosts(overrides: &Table) -> BTreeSet<String> {
    let Some(Data::Table(routes)) = overrides.get("route").map(|entry| &entry.node.data) else {
        return BTreeSet::new();
    };
    let sets = |data: &Data| matches!(data, Data::Table(route) if route.get("hosts").is_some());
    routes.0.iter().filter(|(_, entry)| sets(&entry.node.data)).map(|(name, _)| name.clone()).collect()
}
