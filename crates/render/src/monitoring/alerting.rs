//! `alertmanager.yml`: who is told of what.

use super::{File, HEAD, quoted};

/// What an Alertmanager is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alerting {
    /// A file that holds the URL of a webhook that takes Slack's messages, as Slack, Mattermost and Rocket.Chat do.
    pub webhook_file: String,
}

/// What was before, and what is: who reads only the first line knows which way it went.
const TITLE: &str = "{{ if eq .Status \"firing\" }}ok → {{ .CommonLabels.severity | toUpper }}{{ else }}{{ .CommonLabels.severity | toUpper }} → ok{{ end }} \
                     {{ .CommonLabels.alertname }}";
const TEXT: &str = "{{ range .Alerts }}{{ .Annotations.summary }}\n{{ .Annotations.description }}\n{{ end }}";

impl Alerting {
    pub fn files(&self) -> Vec<File> {
        vec![File::new("alertmanager.yml", self.config())]
    }

    fn config(&self) -> String {
        format!(
            "{HEAD}route:
  receiver: team
  # One message for what has one cause.
  group_by: [alertname, app, env]
  group_wait: 10s
  group_interval: 5m
  repeat_interval: 12h
  routes:
    - matchers: [severity = page]
      receiver: team
      repeat_interval: 1h

# While all is down, what follows from it is not told, too.
inhibit_rules:
  - source_matchers: [alertname = NoData]
    target_matchers: [severity =~ \"page|ticket\", alertname != NoData]
  - source_matchers: [severity = page]
    target_matchers: [severity = ticket]
    equal: [alertname, app, env]

receivers:
  - name: team
    slack_configs:
      - api_url_file: {}
        send_resolved: true
        title: {}
        title_link: \"\"
        text: {}
",
            quoted(&self.webhook_file),
            quoted(TITLE),
            quoted(TEXT)
        )
    }
}
