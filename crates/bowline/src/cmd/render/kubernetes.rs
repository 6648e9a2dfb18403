//! `bowline render kubernetes`: an app as the objects of a namespace.

use std::collections::BTreeSet;
use std::process::ExitCode;

use bowline_core::fault::Fault;
use bowline_render::{File, Manifests, application, files, in_waves, kubernetes, roles, yaml};
use serde::Serialize;
use serde_json::Value;

use super::app::{Loaded, say, strangers, written};
use crate::args::RenderKubernetes;
use crate::ui::Ui;

#[derive(Debug, Serialize)]
struct Answer {
    /// As they are applied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    objects: Vec<Value>,
    /// Where they were written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<String>,
    /// What must be there first.
    needs: Vec<String>,
    notes: Vec<String>,
}

pub(super) fn run(args: RenderKubernetes, ui: &Ui) -> Result<ExitCode, Fault> {
    let RenderKubernetes { app, namespace, roles: only_roles, argocd, argocd_namespace, out } = args;
    let (mut loaded, apis) = Loaded::of_cluster(app, "render kubernetes", ui)?;
    loaded.put_into(namespace);
    let manifests = match only_roles {
        true => {
            Manifests { objects: roles(&loaded.key), needs: Vec::new(), notes: Vec::new(), by_hand: BTreeSet::new() }
        }
        false => kubernetes(&loaded.input(&apis)).map_err(|refused| refused.fault(&loaded.key))?,
    };
    let mut manifests = if argocd.is_some() { in_waves(manifests) } else { manifests };
    // Beside what it names: it is applied where Argo CD is.
    let application = argocd.map(|source| application(&loaded.key, &loaded.app, &source, &argocd_namespace));
    let application = application.map(|one| File { path: "argocd.yaml".to_owned(), text: yaml::print(&one.body) });
    let written = match &out.out {
        Some(dir) => {
            let files: Vec<File> = files(&manifests).into_iter().chain(application).collect();
            manifests.notes.extend(strangers(dir, &files));
            written(dir, &files, ui)?
        }
        None => {
            if !ui.is_json() {
                ui.raw(yaml::print_all(manifests.objects.iter().map(|object| &object.body)).trim_end_matches('\n'));
            }
            Vec::new()
        }
    };
    let Manifests { objects, needs, notes, by_hand: _ } = manifests;
    let needs: Vec<String> = needs.iter().map(ToString::to_string).collect();
    say(&needs, &notes, ui);
    let objects = if written.is_empty() { objects.into_iter().map(|object| object.body).collect() } else { Vec::new() };
    ui.object(&Answer { objects, files: written, needs, notes });
    Ok(ExitCode::SUCCESS)
}
