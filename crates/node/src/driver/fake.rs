//! What tests of the driver are given.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bowline_core::app::{Cage, Command, Limits, Protocol};
use bowline_core::instance::{InstanceSpec, PortChoice, Reach, StopSignal};
use tokio::sync::mpsc;

use super::Context;
use crate::{Containers, Engine, NodeConfig};

/// Of a state that the engine knows as `own`, with nobody who makes images.
pub(crate) fn containers(engine: Engine) -> Containers {
    Containers { engine, images: mpsc::channel(1).0, state: "own".to_owned(), making: Default::default() }
}

/// Of a daemon whose instances are containers.
pub(crate) fn context(state: &Path, engine: Engine) -> Context {
    let config = NodeConfig::new(state.to_owned(), state.join("run"), "unused".into());
    Context::new(NodeConfig { containers: Some(containers(engine)), ..config })
}

pub(crate) fn spec(id: &str) -> InstanceSpec {
    InstanceSpec {
        id: id.parse().unwrap(),
        root: "/nowhere".into(),
        run: Command("./server".to_owned()),
        env: BTreeMap::new(),
        secret_files: Vec::new(),
        tools: None,
        packages: Vec::new(),
        port: PortChoice::Any,
        reach: Reach::Edge,
        protocol: Protocol::default(),
        health: None,
        alive: None,
        limits: Limits::default(),
        uid: None,
        volumes: Vec::new(),
        writable: Vec::new(),
        cage: Cage::Best,
        stop: StopSignal::Term,
        grace: Duration::ZERO,
    }
}
