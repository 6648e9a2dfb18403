//! Apps for the tests of this crate.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{App, Cage, Environment, Limits, Origin, ReleaseHooks, Rollout, Scale, Service, Strategy};
use crate::id::{AppKey, AppName, EnvName, ServiceName};

pub(crate) fn key(env: &str, app: &str) -> AppKey {
    AppKey { env: EnvName::new(env).unwrap(), app: AppName::new(app).unwrap() }
}

pub(crate) fn service() -> Service {
    Service {
        origin: Origin::Folder { dir: ".".into(), build: None },
        run: None,
        packages: Vec::new(),
        runtime: None,
        fixed_port: None,
        protocol: super::Protocol::default(),
        health: None,
        alive: None,
        drain: Duration::from_secs(30),
        scale: Scale::default(),
        limits: Limits::default(),
        writable: Vec::new(),
        metrics: None,
        cage: Cage::Best,
        env: BTreeMap::new(),
    }
}

pub(crate) fn app(name: &str, services: &[&str]) -> App {
    App {
        name: AppName::new(name).unwrap(),
        services: services.iter().map(|name| (ServiceName::new(name).unwrap(), service())).collect(),
        jobs: BTreeMap::new(),
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        databases: BTreeMap::new(),
        redis: BTreeMap::new(),
        volumes: BTreeMap::new(),
        buckets: BTreeMap::new(),
        routes: BTreeMap::new(),
        release: ReleaseHooks::default(),
        rollout: Rollout { strategy: Strategy::Rolling, abort: Vec::new(), watch: Duration::ZERO },
        slo: None,
        image: None,
        logs: None,
        environment: Environment {
            name: EnvName::new("local").unwrap(),
            protected: false,
            id: None,
            server: None,
            kubernetes: None,
        },
    }
}
