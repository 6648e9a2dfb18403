//! `bowline render prometheus|alertmanager|grafana`: what these read of Bowline, for those that a team already has.

use std::path::Path;
use std::process::ExitCode;

use bowline_core::fault::{Fault, FaultKind};
use serde::Serialize;

use crate::args::{Out, RenderAlertmanager, RenderGrafana, RenderPrometheus};
use crate::file;
use crate::ui::{Tone, Ui};
use bowline_render::monitoring::{Alerting, File, Grafana, RemoteWrite, Scrape, Source};

#[derive(Debug, Serialize)]
struct Answer {
    files: Vec<Rendered>,
}

#[derive(Debug, Serialize)]
struct Rendered {
    path: String,
    /// Where nothing is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

pub(super) fn prometheus(args: RenderPrometheus, ui: &Ui) -> Result<ExitCode, Fault> {
    let scrape = Scrape {
        from: source(args.metrics, args.token_file, args.ca_file)?,
        alertmanager: args.alertmanager.as_deref().map(place),
        remote_write: args.remote_write.map(|url| RemoteWrite { url, token_file: args.remote_write_token }),
    };
    hand_out(scrape.files(), args.out, ui)
}

pub(super) fn alertmanager(args: RenderAlertmanager, ui: &Ui) -> Result<ExitCode, Fault> {
    hand_out(Alerting { webhook_file: args.webhook_file }.files(), args.out, ui)
}

pub(super) fn grafana(args: RenderGrafana, ui: &Ui) -> Result<ExitCode, Fault> {
    hand_out(Grafana { prometheus: args.prometheus, dashboards: args.dashboards }.files(), args.out, ui)
}

pub(super) fn hand_out(files: Vec<File>, Out { out }: Out, ui: &Ui) -> Result<ExitCode, Fault> {
    match out {
        Some(dir) => {
            for one in &files {
                write(&dir, one)?;
                ui.say(format!("  wrote {}", ui.paint(Tone::Good, dir.join(&one.path).display())));
            }
            let path = |one: &File| dir.join(&one.path).display().to_string();
            ui.object(&Answer { files: files.iter().map(|one| Rendered { path: path(one), text: None }).collect() });
        }
        None => {
            if !ui.is_json() {
                let shown = files.iter().map(|one| format!("==> {} <==\n{}", one.path, one.text));
                ui.raw(&shown.collect::<Vec<_>>().join("\n"));
            }
            let rendered = |one: File| Rendered { path: one.path, text: Some(one.text) };
            ui.object(&Answer { files: files.into_iter().map(rendered).collect() });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `HOST:PORT` of an admin port, or `https://HOST` of an API.
fn source(site: String, token_file: Option<String>, ca_file: Option<String>) -> Result<Source, Fault> {
    match (site.strip_prefix("https://"), token_file) {
        (Some(host), Some(token_file)) => {
            Ok(Source::Api { host: host.trim_end_matches('/').to_owned(), token_file, ca_file })
        }
        (Some(_), None) => Err(Fault::new(FaultKind::Invalid, format!("{site} wants a token"))
            .hint("`bowline token create prometheus --role viewer` makes one; say where it lies with `--token-file`")),
        (None, Some(_)) => Err(Fault::new(FaultKind::Invalid, "an admin port wants no token")
            .hint("say the API, too: `--metrics https://HOST`")),
        (None, None) => Ok(Source::Admin(site)),
    }
}

/// `HOST:PORT`, and a path behind it.
fn place(text: &str) -> (String, String) {
    match text.split_once('/') {
        Some((address, path)) => (address.to_owned(), format!("/{path}")),
        None => (text.to_owned(), "/".to_owned()),
    }
}

/// With the folders that it lies in.
pub(in crate::cmd) fn write(dir: &Path, one: &File) -> Result<(), Fault> {
    let path = dir.join(&one.path);
    let failed = |error: std::io::Error| {
        Fault::new(FaultKind::Failed, format!("{} cannot be written", path.display()))
            .source(&error)
            .hint("say a folder that you may write to")
    };
    let folder = path.parent().unwrap_or(dir);
    std::fs::create_dir_all(folder).map_err(failed)?;
    file::replace(&path, &one.text).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alertmanager_is_an_address_and_maybe_a_path() {
        let check = |text, address: &str, path: &str| assert_eq!(place(text), (address.to_owned(), path.to_owned()));
        check("am:9093", "am:9093", "/");
        check("am:9093/", "am:9093", "/");
        check("am:9093/a/b", "am:9093", "/a/b");
    }
}
