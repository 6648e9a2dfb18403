//! The real servers as services of Bowline: what of `bowline.toml` says so, and the files that each starts from.

use super::scrape::ALERTMANAGERS;
use super::{Alerting, File, Grafana, METRICS, RemoteWrite, Scrape, Source, quoted};

/// The one of them that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    Prometheus,
    Alertmanager,
    Grafana,
}

/// The secret that holds who gets to Prometheus and Alertmanager, which ask nobody themselves.
const WATCHERS: &str = "watchers";
/// Holds the URL of a webhook.
const WEBHOOK: &str = "alert-webhook";
/// The password of Grafana's `admin`.
const GRAFANA_ADMIN: &str = "grafana-admin";

/// Stands in `prometheus.yml` for the file of a secret, whose path is known when an instance starts.
const TOKEN_FILE: &str = "@REMOTE_WRITE_TOKEN@";

/// A server that is to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    pub server: Server,
    /// On which it listens, on loopback.
    pub port: u16,
    /// Of Prometheus: another server that gets all samples, and the secret that holds its bearer token.
    pub remote_write: Option<(String, Option<String>)>,
    /// Of Grafana: the port of the Prometheus beside it.
    pub prometheus: u16,
}

impl Server {
    pub const ALL: [Self; 3] = [Self::Prometheus, Self::Alertmanager, Self::Grafana];

    /// Of its service, its folder, its volume and its route.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prometheus => "prometheus",
            Self::Alertmanager => "alertmanager",
            Self::Grafana => "grafana",
        }
    }

    /// Beside the ports that distributions' own services of them have.
    pub fn port(self) -> u16 {
        match self {
            Self::Prometheus => 19_090,
            Self::Alertmanager => 19_093,
            Self::Grafana => 13_000,
        }
    }

    /// What its program is called, by whoever packages it.
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Prometheus => &["prometheus"],
            Self::Alertmanager => &["prometheus-alertmanager", "alertmanager"],
            Self::Grafana => &["grafana"],
        }
    }

    /// For whoever has none of them.
    pub fn how_to_install(self) -> &'static str {
        match self {
            Self::Prometheus => {
                "apt-get install prometheus, or put the program of https://prometheus.io/download into /usr/local/bin"
            }
            Self::Alertmanager => {
                "apt-get install prometheus-alertmanager, or put the program of https://prometheus.io/download into /usr/local/bin"
            }
            Self::Grafana => {
                "install the package of https://grafana.com/grafana/download (version 9.4 or later); Debian has none"
            }
        }
    }

    /// What is to be set before it starts: the secrets, and what each holds.
    pub fn secrets(self) -> &'static [(&'static str, &'static str)] {
        const WHO: (&str, &str) = (WATCHERS, "lines of USER:PASSWORD, who may look");
        match self {
            Self::Prometheus => &[WHO],
            Self::Alertmanager => &[WHO, (WEBHOOK, "the URL of a webhook that takes Slack's messages")],
            Self::Grafana => &[(GRAFANA_ADMIN, "the password of Grafana's user admin")],
        }
    }

    fn ready(self) -> &'static str {
        match self {
            Self::Prometheus | Self::Alertmanager => "-/ready",
            Self::Grafana => "api/health",
        }
    }
}

impl Added {
    /// What is written at the end of `bowline.toml`.
    pub fn tables(&self) -> String {
        let (name, port, ready) = (self.server.name(), self.port, self.server.ready());
        let memory = match self.server {
            Server::Prometheus => "1GiB",
            Server::Alertmanager => "256MiB",
            Server::Grafana => "512MiB",
        };
        let mut text = format!(
            "\n# Added by `bowline add {name}`; `{name}/run` starts it.\n[service.{name}]\ndir = \"{name}\"\nbuild = \"\"\nrun = \"sh ./run\"\n\
             # Its data are one process's: it is stopped before its successor starts.\nport = {port}\n\
             health = {{ path = \"/{name}/{ready}\", interval = \"1s\", grace = \"5m\" }}\ndrain = \"1s\"\nlimits = {{ memory = \"{memory}\" }}\n\n\
             [service.{name}.env]\nPUBLIC_URL = {{ from = \"service.{name}.url\" }}\n"
        );
        let (own, auth) = match self.server {
            Server::Prometheus => (
                "# It reads the metrics of every app of the machine.\nMETRICS_URL = { from = \"bowline.metrics\" }\n"
                    .to_owned(),
                true,
            ),
            Server::Alertmanager => (format!("WEBHOOK_FILE = {{ secret = \"{WEBHOOK}\", as = \"file\" }}\n"), true),
            Server::Grafana => {
                (format!("ADMIN_PASSWORD_FILE = {{ secret = \"{GRAFANA_ADMIN}\", as = \"file\" }}\n"), false)
            }
        };
        text.push_str(&own);
        if let Some((_, Some(secret))) = &self.remote_write {
            text.push_str(&format!("REMOTE_WRITE_TOKEN = {{ secret = {}, as = \"file\" }}\n", quoted(secret)));
        }
        text.push_str(&format!(
            "\n[volume.{name}]\nservices = [\"{name}\"]\n\n[route.{name}]\npath = \"/{name}\"\nto = \"{name}\"\n"
        ));
        if auth {
            text.push_str(&format!("auth = {{ basic = {{ secret = \"{WATCHERS}\" }} }}\n"));
        }
        text
    }

    /// Below the folder of `bowline.toml`.
    pub fn files(&self) -> Vec<File> {
        let name = self.server.name();
        let (own, run) = match self.server {
            Server::Prometheus => (self.scrape().files(), RUN_PROMETHEUS),
            Server::Alertmanager => (Alerting { webhook_file: "@WEBHOOK_FILE@".into() }.files(), RUN_ALERTMANAGER),
            Server::Grafana => {
                let prometheus = format!("http://127.0.0.1:{}/prometheus", self.prometheus);
                (Grafana { prometheus, dashboards: "$BOWLINE_DASHBOARDS".into() }.files(), RUN_GRAFANA)
            }
        };
        let run = run
            .replace("@PROGRAMS@", &self.server.programs().join(" "))
            .replace("@INSTALL@", self.server.how_to_install());
        let within = |file: File| File::new(format!("{name}/{}", file.path), file.text);
        let mut files: Vec<File> = own.into_iter().chain([File::new("run", run)]).map(within).collect();
        if self.server == Server::Alertmanager {
            let target = format!("{}- targets: [\"127.0.0.1:{}\"]\n", super::HEAD, self.port);
            files.push(File::new(format!("prometheus/{ALERTMANAGERS}/bowline.yml"), target));
        }
        files
    }

    fn scrape(&self) -> Scrape {
        let remote_write = self.remote_write.as_ref().map(|(url, secret)| RemoteWrite {
            url: url.clone(),
            token_file: secret.as_ref().map(|_| TOKEN_FILE.to_owned()),
        });
        Scrape { from: Source::Admin(METRICS.to_owned()), alertmanager: None, remote_write }
    }
}

const RUN_PROMETHEUS: &str = include_str!("run/prometheus.sh");
const RUN_ALERTMANAGER: &str = include_str!("run/alertmanager.sh");
const RUN_GRAFANA: &str = include_str!("run/grafana.sh");

#[cfg(test)]
mod tests {
    use bowline_core::id::EnvName;
    use bowline_core::release::{reads_metrics, unsupported};
    use bowline_spec::{Defaults, parse};

    use super::*;

    fn added(server: Server) -> Added {
        let remote_write = Some(("https://elsewhere.example/write".to_owned(), Some("remote-write".to_owned())));
        let remote_write = remote_write.filter(|_| server == Server::Prometheus);
        Added { server, port: server.port(), remote_write, prometheus: Server::Prometheus.port() }
    }

    #[test]
    fn what_is_written_is_a_file_that_this_version_carries_out() {
        let text: String = Server::ALL.map(|server| added(server).tables()).concat();
        let text = format!("app = \"monitoring\"\n{text}");
        let defaults =
            Defaults { folder_name: "monitoring".into(), procfile: bowline_core::app::procfile::Procfile::default() };
        let parsed = parse(&text, "bowline.toml", &EnvName::new("local").unwrap(), &defaults);
        let app = parsed.unwrap_or_else(|wrong| panic!("{}\n{text}", wrong.render(false))).app;
        assert_eq!(unsupported(&app), []);
        assert!(reads_metrics(&app));
        for server in Server::ALL {
            let route = app.routes.iter().find(|(name, _)| name.as_str() == server.name()).unwrap().1;
            assert_eq!(route.access.auth.is_some(), server != Server::Grafana, "{}", server.name());
        }
    }

    #[test]
    fn each_is_started_by_a_script_that_says_what_to_install() {
        for server in Server::ALL {
            let files = added(server).files();
            let run = files.iter().find(|file| file.path == format!("{}/run", server.name())).unwrap();
            assert!(run.text.contains(server.how_to_install()) && !run.text.contains("@PROGRAMS@"), "{}", run.text);
        }
    }
}
