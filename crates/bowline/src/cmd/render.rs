//! `bowline render`: what other engines and servers read, from the same file or of the same daemon.

mod app;
mod compose;
mod envoy;
mod helm;
mod kubernetes;
mod monitoring;
mod proofs;

use std::process::ExitCode;

use bowline_core::fault::Fault;

pub(super) use self::app::Loaded;
pub(super) use self::monitoring::write;
use crate::args::Render;
use crate::ui::Ui;

pub(super) fn run(what: Render, ui: &Ui) -> Result<ExitCode, Fault> {
    match what {
        Render::Envoy(args) => envoy::run(args, ui),
        Render::Kubernetes(args) => kubernetes::run(args, ui),
        Render::Helm(args) => helm::run(args, ui),
        Render::Compose(args) => compose::run(args, ui),
        Render::Prometheus(args) => monitoring::prometheus(args, ui),
        Render::Alertmanager(args) => monitoring::alertmanager(args, ui),
        Render::Grafana(args) => monitoring::grafana(args, ui),
    }
}
