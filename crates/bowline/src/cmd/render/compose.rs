//! `bowline render compose`: an app as a file of Compose.

use std::collections::BTreeMap;
use std::process::ExitCode;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::ServiceName;
use bowline_render::{Composed, File, Project, Refused, compose};
use serde::Serialize;
use serde_json::Value;

use super::app::{Loaded, is_known, say, written};
use crate::args::RenderCompose;
use crate::ui::Ui;

#[derive(Debug, Serialize)]
struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<Value>,
    /// Where it was written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<String>,
    /// Variables that must be set.
    needs: Vec<String>,
    notes: Vec<String>,
}

pub(super) fn run(args: RenderCompose, ui: &Ui) -> Result<ExitCode, Fault> {
    let RenderCompose { dir, env, image, build, context, out } = args;
    let loaded = Loaded::of(&dir, &env, image, "render compose", ui)?;
    let builds: BTreeMap<ServiceName, String> = build.into_iter().map(|said| (said.service, said.file)).collect();
    builds.keys().try_for_each(|name| is_known(&loaded.app, name))?;
    let Loaded { key, app, images, scripts } = &loaded;
    let input = Composed { key, app, images, builds: &builds, context: &context, scripts };
    let Project { body, text, needs, notes } = compose(&input).map_err(|refused| unfit(&refused, &loaded))?;
    let files = match &out.out {
        Some(dir) => written(dir, &[File { path: "compose.yaml".to_owned(), text }], ui)?,
        None => {
            if !ui.is_json() {
                ui.raw(text.trim_end_matches('\n'));
            }
            Vec::new()
        }
    };
    say(&needs, &notes, ui);
    let project = files.is_empty().then_some(body);
    ui.object(&Answer { project, files, needs, notes });
    Ok(ExitCode::SUCCESS)
}

fn unfit(refused: &Refused, loaded: &Loaded) -> Fault {
    match refused {
        Refused::Keys(_) => refused.fault_of("Compose", &loaded.key),
        Refused::Images(services) => {
            let names: Vec<&str> = services.iter().map(ServiceName::as_str).collect();
            let first = names.first().copied().unwrap_or_default();
            Fault::new(FaultKind::Invalid, format!("nobody says what {} runs", names.join(" and "))).hint(format!(
                "say a Dockerfile below the folder, --build {first}=Dockerfile, or what was pushed, --image {first}=REGISTRY/REPOSITORY@sha256:…"
            ))
        }
    }
}
