//! `bowline render helm`: an app as a chart.

use std::process::ExitCode;

use bowline_core::fault::Fault;
use bowline_render::{Chart, helm};

use super::app::{Loaded, say, strangers};
use super::monitoring::hand_out;
use crate::args::RenderHelm;
use crate::ui::Ui;

pub(super) fn run(args: RenderHelm, ui: &Ui) -> Result<ExitCode, Fault> {
    let RenderHelm { app, chart_version, out } = args;
    let (loaded, apis) = Loaded::of_cluster(app, "render helm", ui)?;
    let chart = helm(&loaded.input(&apis), &chart_version);
    let Chart { files, needs, notes } = chart.map_err(|refused| refused.fault_of("a chart", &loaded.key))?;
    let beside = out.out.iter().flat_map(|dir| strangers(&dir.join("templates"), &files));
    let notes: Vec<String> = notes.into_iter().chain(beside).collect();
    say(&needs.iter().map(ToString::to_string).collect::<Vec<_>>(), &notes, ui);
    hand_out(files, out, ui)
}
