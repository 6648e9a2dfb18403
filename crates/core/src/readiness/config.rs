//! Rules about the app as the file describes it.

use std::time::Duration;

use super::{Facts, Finding, Fix, Place, Rule, Seen, Severity};
use crate::app::{App, Backup, DatabaseSource, Origin, PathPrefix, RedisSource, Route, RouteTo, Service, Tls};
use crate::id::{ResourceName, ServiceName};
use crate::release::unsupported;

/// What one instance of a small app is content with; shown as a proposal, to be changed.
const MEMORY: &str = "512MiB";
/// A first size for data nobody has measured yet.
const VOLUME: &str = "1GiB";

/// Pages that only their operators need (the names that scanners try first).
const ADMIN_PATHS: [&str; 9] =
    ["/admin", "/wp-admin", "/phpmyadmin", "/adminer", "/actuator", "/flower", "/debug", "/console", "/manage"];

pub(super) fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, service) in &facts.app.services {
        found.extend(service_findings(facts, name, service));
    }
    for (name, route) in &facts.app.routes {
        found.extend(tls_off(name.as_str(), route));
        found.extend(open_route(facts.app, name.as_str(), route));
    }
    found.extend(admin_page(facts));
    found.extend(not_carried(facts.app));
    found.extend(no_backup(facts.app));
    found.extend(facts.app.volumes.iter().filter(|(_, volume)| volume.size.is_none()).map(|(name, _)| no_size(name)));
    found.extend(facts.settings.iter().map(|setting| secret_setting(facts.app, setting)));
    found
}

/// Whether this version carries out what a change adds. A line that `up` would refuse is no advice.
fn is_carried(app: &App, change: impl FnOnce(&mut App)) -> bool {
    let mut changed = app.clone();
    change(&mut changed);
    let before = unsupported(app);
    unsupported(&changed).iter().all(|one| before.contains(one))
}

fn service_findings(facts: &Facts<'_>, name: &ServiceName, service: &Service) -> Vec<Finding> {
    let has_process = match service.origin {
        Origin::Folder { .. } | Origin::BuildOf(_) | Origin::Image(_) | Origin::Dockerfile { .. } => true,
        Origin::Static { .. } => false,
    };
    // Whether a service without a `run` has a process is what detection says.
    if !has_process || (service.run.is_none() && !facts.started.contains_key(name)) {
        return Vec::new();
    }
    let routed = facts.app.routes.values().any(|r| r.to == RouteTo::Service(name.clone()));
    let mut found = Vec::new();
    if routed {
        found.extend(no_health(facts, name, service));
        found.extend(single_instance(facts, name, service));
    }
    found.extend(no_limits(name, service));
    found.extend(low_port(name, service));
    found
}

fn no_health(facts: &Facts<'_>, name: &ServiceName, service: &Service) -> Option<Finding> {
    if service.health.is_some() {
        return None;
    }
    let table = format!("service.{name}");
    let routes = facts.seen(service).filter_map(|s| {
        let Seen::HealthRoute { path } = &s.seen else { return None };
        Some((rank(path), s, path))
    });
    let (what, fix) = match routes.min() {
        Some((_, sighting, path)) => (
            format!("{name} has {path} ({}:{}), and no health path", sighting.file, sighting.line),
            Fix::line(table.as_str(), format!("health = {{ path = {path:?} }}")),
        ),
        None => (
            format!("{name} has no health path"),
            Fix::line(table.as_str(), "health = { path = \"/\" }")
                .and_todo("better a route of its own, /healthz, that answers 200 only when its databases answer"),
        ),
    };
    Some(Finding { rule: Rule::NoHealthPath, severity: Severity::Warning, at: Place::Key(table), what, fix })
}

/// Readiness gates traffic, so a path that says ready is better than one that says alive.
fn rank(path: &str) -> usize {
    const WORDS: [&str; 4] = ["ready", "health", "status", "up"];
    WORDS.iter().position(|word| path.contains(word)).unwrap_or(WORDS.len())
}

fn no_limits(name: &ServiceName, service: &Service) -> Option<Finding> {
    let table = format!("service.{name}");
    if service.limits.memory.is_some() {
        return None;
    }
    let cpu = match service.limits.cpu {
        Some(cpu) => format!("{}.{:03}", cpu.0 / 1000, cpu.0 % 1000),
        None => "1.0".to_owned(),
    };
    Some(Finding {
        rule: Rule::NoLimits,
        severity: Severity::Warning,
        at: Place::Key(table.clone()),
        what: format!("{name} may take all memory of the machine"),
        fix: Fix::line(table, format!("limits = {{ memory = \"{MEMORY}\", cpu = {cpu} }}"))
            .and_todo("`bowline status` shows what it takes: allow twice that"),
    })
}

fn low_port(name: &ServiceName, service: &Service) -> Option<Finding> {
    let port = service.fixed_port.filter(|port| port.get() < 1024)?;
    let table = format!("service.{name}");
    Some(Finding {
        rule: Rule::RunsAsRoot,
        severity: Severity::Warning,
        at: Place::Key(format!("{table}.port")),
        what: format!("{name} listens on port {port}, which only root may"),
        fix: Fix::line(table, "port = 8080").and_todo("and let the app listen there, or better on $PORT"),
    })
}

fn single_instance(facts: &Facts<'_>, name: &ServiceName, service: &Service) -> Option<Finding> {
    // A second copy of an app that keeps its data in its own folder would serve other data.
    let has_state = !facts.app.volumes.is_empty() || facts.seen(service).any(|s| matches!(s.seen, Seen::Writes { .. }));
    if service.scale.min != 1 || service.scale.max != 1 || service.fixed_port.is_some() || has_state {
        return None;
    }
    let table = format!("service.{name}");
    Some(Finding {
        rule: Rule::SingleInstance,
        severity: Severity::Advice,
        at: Place::Key(table.clone()),
        what: format!("{name} has one instance"),
        fix: Fix::line(table, "scale = 2"),
    })
}

fn tls_off(name: &str, route: &Route) -> Option<Finding> {
    let public = route.hosts.iter().find(|host| host.is_worldwide())?;
    let serves = match route.to {
        RouteTo::Service(_) => true,
        RouteTo::Redirect(_) | RouteTo::Deny => false,
    };
    if route.tls != Tls::Off || !serves {
        return None;
    }
    Some(Finding {
        rule: Rule::TlsOff,
        severity: Severity::Blocker,
        at: Place::Key(format!("route.{name}.tls")),
        what: format!("{public} is served without TLS"),
        fix: Fix::line(format!("route.{name}"), "tls = \"auto\""),
    })
}

/// A route of its own for an administration page, open to everybody.
fn open_route(app: &App, name: &str, route: &Route) -> Option<Finding> {
    let serves = matches!(route.to, RouteTo::Service(_));
    let is_admin = ADMIN_PATHS.iter().any(|admin| PathPrefix::new(admin).is_ok_and(|p| p.matches(route.path.as_str())));
    if !serves || !is_admin || !is_open(route) {
        return None;
    }
    Some(Finding {
        rule: Rule::OpenAdmin,
        severity: Severity::Warning,
        at: Place::Key(format!("route.{name}")),
        what: format!("everybody reaches {}", route.path),
        fix: allow_or_words(app, &format!("route.{name}"), Fix::default()),
    })
}

fn is_open(route: &Route) -> bool {
    route.access.allow.is_empty() && route.access.auth.is_none()
}

/// An administration page in the code, behind a route that lets everybody in.
fn admin_page(facts: &Facts<'_>) -> Option<Finding> {
    let (sighting, path) = facts.sightings.iter().find_map(|s| {
        let Seen::AdminRoute { path } = &s.seen else { return None };
        Some((s, PathPrefix::new(path).ok()?))
    })?;
    let covering = facts.app.routes.values().filter(|route| route.path.matches(path.as_str()));
    let route = covering.max_by_key(|route| route.path.as_str().len())?;
    let RouteTo::Service(to) = &route.to else { return None };
    let service = facts.app.services.get(to)?;
    // A route at the page itself is the other rule's.
    if !is_open(route) || route.path == path || !facts.seen(service).any(|s| s == sighting) {
        return None;
    }
    let hosts: Vec<String> = route.hosts.iter().map(|host| format!("{:?}", host.as_str())).collect();
    let table = "route.admin";
    let fix = Fix::line(table, format!("path = {:?}", path.as_str())).and_line(table, format!("to = \"{to}\""));
    let fix = match hosts.is_empty() || facts.app.environment.name.as_str() == crate::route::LOCAL {
        true => fix,
        false => fix.and_line(table, format!("hosts = [{}]", hosts.join(", "))),
    };
    Some(Finding {
        rule: Rule::OpenAdmin,
        severity: Severity::Advice,
        at: Place::Source { file: sighting.file.clone(), line: sighting.line },
        what: format!("everybody reaches {path}"),
        fix: allow_or_words(facts.app, table, fix),
    })
}

fn allow_or_words(app: &App, table: &str, fix: Fix) -> Fix {
    let carried = is_carried(app, |app| {
        let private = "10.0.0.0/8".parse().expect("a network");
        app.routes.values_mut().take(1).for_each(|route| route.access.allow = vec![private]);
    });
    match carried {
        true => {
            fix.and_line(table, "allow = [\"10.0.0.0/8\"]").and_todo("with the addresses that your operators come from")
        }
        false => Fix::todo("let the app itself check who asks: this version cannot tell addresses apart at the edge"),
    }
}

fn not_carried(app: &App) -> Vec<Finding> {
    let backups = |path: &str| path.ends_with(".backup");
    let finding = |one: crate::release::Unsupported| Finding {
        rule: Rule::NotCarried,
        severity: Severity::Blocker,
        at: Place::Key(one.path.clone()),
        what: format!("this version of Bowline cannot do {one}"),
        fix: match backups(&one.path) {
            true => Fix::todo("take it out, and make copies of your own until then"),
            false => Fix::todo("take it out, or override it in this environment's table"),
        },
    };
    unsupported(app).into_iter().map(finding).collect()
}

/// Databases and volumes of the app that nobody copies. External servers are somebody else's.
fn no_backup(app: &App) -> Vec<Finding> {
    let databases = app
        .databases
        .iter()
        .filter(|(_, database)| database.backup.is_none() && matches!(database.source, DatabaseSource::Managed { .. }));
    let databases = databases.map(|((kind, name), _)| format!("{kind}.{name}"));
    let redis = app.redis.iter().filter(|(_, redis)| {
        redis.backup.is_none() && matches!(redis.source, RedisSource::Managed { persist: true, .. })
    });
    let volumes = app.volumes.iter().filter(|(_, volume)| volume.backup.is_none());
    let tables = databases
        .chain(redis.map(|(name, _)| format!("redis.{name}")))
        .chain(volumes.map(|(name, _)| format!("volume.{name}")));
    tables.map(|table| no_backup_of(app, table)).collect()
}

fn no_size(name: &ResourceName) -> Finding {
    let table = format!("volume.{name}");
    Finding {
        rule: Rule::UnboundedVolume,
        severity: Severity::Advice,
        at: Place::Key(table.clone()),
        what: format!("volume {name} may fill the disk of the machine"),
        fix: Fix::line(table, format!("size = \"{VOLUME}\""))
            .and_todo("with what it may hold: so much is reserved on the disk, and it can grow later"),
    }
}

fn no_backup_of(app: &App, table: String) -> Finding {
    let carried = is_carried(app, |app| {
        let backup = Some(Backup { every: Duration::from_secs(86_400), keep: 7, drill: None });
        app.databases.values_mut().for_each(|database| database.backup = backup);
        app.volumes.values_mut().for_each(|volume| volume.backup = backup);
        app.redis.values_mut().for_each(|redis| redis.backup = backup);
    });
    let (severity, fix) = match carried {
        true => (Severity::Warning, Fix::line(table.as_str(), "backup = { every = \"1d\", keep = 7 }")),
        false => (
            Severity::Advice,
            Fix::todo("this version makes no backups: copy the data by a timer of your own, to another machine"),
        ),
    };
    Finding {
        rule: Rule::NoBackup,
        severity,
        what: format!("there is no backup of {table}"),
        at: Place::Key(table),
        fix,
    }
}

fn secret_setting(app: &App, setting: &super::Setting) -> Finding {
    let name = super::source::secret_name(setting.name.as_str());
    Finding {
        rule: Rule::HardCodedSecret,
        severity: Severity::Blocker,
        at: Place::Key(format!("{}.{}", setting.table, setting.name)),
        what: format!("{} holds {} in clear: {}", setting.name, setting.kind, setting.value),
        fix: Fix::line(setting.table.as_str(), format!("{} = {{ secret = \"{name}\" }}", setting.name))
            .and_command(super::source::set_secret(app, &name)),
    }
}
