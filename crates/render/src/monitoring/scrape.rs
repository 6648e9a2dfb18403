//! `prometheus.yml` and its rules.

use super::{File, HEAD, quoted, rules};

/// What a Prometheus is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrape {
    pub from: Source,
    /// `HOST:PORT` of an Alertmanager that is elsewhere, and the path that it serves below.
    pub alertmanager: Option<(String, String)>,
    pub remote_write: Option<RemoteWrite>,
}

/// Where the metrics of a daemon are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `HOST:PORT` of its admin port, on its own machine.
    Admin(String),
    /// Its API, behind the edge.
    Api {
        /// `HOST` or `HOST:PORT`
        host: String,
        /// Holds a token that is for all apps.
        token_file: String,
        /// Those that have signed the host's certificate; `None`: the machine's.
        ca_file: Option<String>,
    },
}

impl Source {
    fn site(&self) -> (&'static str, &str, &'static str) {
        match self {
            Self::Admin(address) => ("http", address, "/metrics"),
            Self::Api { host, .. } => ("https", host, "/v1/metrics"),
        }
    }

    /// What is to be shown and believed there, each line behind `indent`.
    fn proof(&self, indent: &str) -> String {
        let Self::Api { token_file, ca_file, .. } = self else { return String::new() };
        let mut out = format!("{indent}authorization:\n{indent}  credentials_file: {}\n", quoted(token_file));
        if let Some(file) = ca_file {
            out.push_str(&format!("{indent}tls_config:\n{indent}  ca_file: {}\n", quoted(file)));
        }
        out
    }
}

/// Another server that gets all samples, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteWrite {
    pub url: String,
    /// Holds the bearer token that it asks for.
    pub token_file: Option<String>,
}

/// Where files say which Alertmanagers of this machine there are; what is added there later is seen without a restart.
pub(super) const ALERTMANAGERS: &str = "alertmanagers";

impl Scrape {
    pub fn files(&self) -> Vec<File> {
        vec![
            File::new("prometheus.yml", self.config()),
            File::new("rules/recording.yml", rules::recording()),
            File::new("rules/alerts.yml", rules::alerts()),
        ]
    }

    fn config(&self) -> String {
        let (scheme, host, path) = self.from.site();
        let (metrics, proof) = (quoted(host), self.from.proof("    "));
        let (targets, proof_of_targets) =
            (quoted(&format!("{scheme}://{host}{path}/targets")), self.from.proof("        "));
        let mut out = format!(
            "{HEAD}global:
  scrape_interval: 15s
  evaluation_interval: 15s

rule_files:
  - rules/*.yml

scrape_configs:
  # The edge, all instances, jobs, certificates, the disk: everything that Bowline counts itself.
  - job_name: bowline
    honor_labels: true
    scheme: {scheme}
    metrics_path: {path}
{proof}    static_configs:
      - targets: [{metrics}]

  # Apps' own metrics (`metrics` of a service), read through the daemon; instances follow as they come and go.
  - job_name: bowline-apps
    honor_labels: true
    scheme: {scheme}
{proof}    http_sd_configs:
      - url: {targets}
        refresh_interval: 15s
{proof_of_targets}"
        );
        out.push_str(&self.alerting());
        if let Some(RemoteWrite { url, token_file }) = &self.remote_write {
            out.push_str(&format!("\nremote_write:\n  - url: {}\n", quoted(url)));
            if let Some(file) = token_file {
                out.push_str(&format!("    authorization:\n      credentials_file: {}\n", quoted(file)));
            }
        }
        out
    }

    fn alerting(&self) -> String {
        match &self.alertmanager {
            Some((address, path)) => format!(
                "\nalerting:\n  alertmanagers:\n    - path_prefix: {}\n      static_configs:\n        - targets: [{}]\n",
                quoted(path),
                quoted(address)
            ),
            None => format!(
                "\nalerting:\n  alertmanagers:\n    # `bowline add alertmanager` writes one there.\n    - path_prefix: /alertmanager\n      \
                 file_sd_configs:\n        - files: [{ALERTMANAGERS}/*.yml]\n"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_in_the_configuration_as_a_string() {
        let from = Source::Admin("10.0.0.1:7070".into());
        let mut scrape = Scrape { from, alertmanager: None, remote_write: None };
        let check = |scrape: &Scrape, parts: &[&str]| {
            let text = scrape.config();
            parts.iter().for_each(|part| assert!(text.contains(part), "{part}\n{text}"));
            text
        };
        let text = check(&scrape, &["targets: [\"10.0.0.1:7070\"]", "files: [alertmanagers/*.yml]"]);
        assert!(!text.contains("remote_write") && !text.contains("authorization"), "{text}");
        scrape.alertmanager = Some(("am:9093".into(), "/".into()));
        let url = "https://u\"x/write".to_owned();
        scrape.remote_write = Some(RemoteWrite { url, token_file: Some("token".into()) });
        let token = "url: \"https://u\\\"x/write\"\n    authorization:\n      credentials_file: \"token\"";
        check(&scrape, &["path_prefix: \"/\"", "targets: [\"am:9093\"]", token]);
        let ca_file = Some("ca.pem".to_owned());
        scrape.from = Source::Api { host: "bowline.example.com".into(), token_file: "token".into(), ca_file };
        check(
            &scrape,
            &["url: \"https://bowline.example.com/v1/metrics/targets\"", "scheme: https", "ca_file: \"ca.pem\""],
        );
    }
}
