//! Rules for Prometheus: what is reckoned beforehand, and when somebody is told.
//!
//! The burn rates and their windows are those of the Site Reliability Workbook, chapter 5, "multiwindow, multi-burn-rate alerts".

use std::fmt::Write as _;

/// Of an app that promises nothing in `[slo]`.
const DEFAULT_OBJECTIVE: &str = "0.99";

/// Server errors in the long window below which nobody is told: one of ten requests a day is no outage.
const LEAST_ERRORS: u32 = 10;

/// Every window that an alert looks at.
const WINDOWS: [&str; 7] = ["5m", "30m", "1h", "2h", "6h", "1d", "3d"];

/// An app spends what it may fail so many times faster than its objective allows, in both windows: the short one ends the alert
/// soon after it is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Burn {
    pub(crate) long: &'static str,
    pub(crate) short: &'static str,
    pub(crate) rate: &'static str,
    pub(crate) severity: &'static str,
}

pub(crate) const BURNS: [Burn; 4] = [
    Burn { long: "1h", short: "5m", rate: "14.4", severity: PAGE },
    Burn { long: "6h", short: "30m", rate: "6", severity: PAGE },
    Burn { long: "1d", short: "2h", rate: "3", severity: TICKET },
    Burn { long: "3d", short: "6h", rate: "1", severity: TICKET },
];

/// Somebody is to look now.
const PAGE: &str = "page";
/// Somebody is to look in working hours.
const TICKET: &str = "ticket";

const REQUESTS: &str = "http_server_request_duration_seconds_count";
const ERRORS: &str = "http_server_request_duration_seconds_count{http_response_status_code=~\"5..\"}";

const FAILED_RUNS: &str = "bowline_job_runs_total{outcome!~\"succeeded|stopped\"}";

/// `rules/recording.yml`
pub(crate) fn recording() -> String {
    let mut out = format!("{}groups:\n  - name: bowline-requests\n    rules:\n", super::HEAD);
    let mut record = |name: String, expr: String| {
        let _ = write!(out, "      - record: {name}\n        expr: {expr}\n");
    };
    record("app:http_requests:rate5m".to_owned(), format!("sum by (app, env) (rate({REQUESTS}[5m]))"));
    record(
        "app:http_error_budget:ratio".to_owned(),
        format!(
            "1 - (max by (app, env) (bowline_slo_availability_ratio) \
             or 0 * count by (app, env) ({REQUESTS}) + {DEFAULT_OBJECTIVE})"
        ),
    );
    for window in WINDOWS {
        let all = format!("sum by (app, env) (rate({REQUESTS}[{window}]))");
        let failed = format!("sum by (app, env) (rate({ERRORS}[{window}]))");
        record(format!("app:http_errors:ratio_rate{window}"), format!("({failed} or 0 * {all}) / ({all} > 0)"));
    }
    for Burn { long, .. } in BURNS {
        record(format!("app:http_errors:increase{long}"), format!("sum by (app, env) (increase({ERRORS}[{long}]))"));
    }
    for (name, quantile) in [("p50", "0.5"), ("p99", "0.99")] {
        let buckets = "sum by (app, env, le) (rate(http_server_request_duration_seconds_bucket[5m]))";
        record(
            format!("app:http_request_duration_seconds:{name}"),
            format!("histogram_quantile({quantile}, {buckets})"),
        );
    }
    out
}

/// What somebody is told of.
struct Alert {
    name: &'static str,
    expr: String,
    /// How long it must hold.
    hold: &'static str,
    severity: &'static str,
    /// Tells alerts of one name apart that look at different times.
    window: Option<&'static str>,
    summary: &'static str,
    description: &'static str,
}

/// `rules/alerts.yml`
pub(crate) fn alerts() -> String {
    let groups = [
        ("bowline-budget", budget()),
        ("bowline-apps", of_apps()),
        ("bowline-disk", of_disk()),
        ("bowline-certificates", of_certificates()),
        ("bowline-itself", of_bowline()),
        ("bowline-data", of_data()),
    ];
    let mut out = format!("{}groups:\n", super::HEAD);
    for (group, alerts) in groups {
        let _ = write!(out, "  - name: {group}\n    rules:\n");
        alerts.iter().for_each(|alert| alert.write(&mut out));
    }
    out
}

impl Alert {
    fn write(&self, out: &mut String) {
        let Self { name, expr, hold, severity, window, summary, description } = self;
        let window = window.map(|window| format!("\n          window: {window}")).unwrap_or_default();
        let _ = write!(
            out,
            "      - alert: {name}\n        expr: {expr}\n        for: {hold}\n        labels:\n          severity: {severity}{window}\n        \
             annotations:\n          summary: {}\n          description: {}\n",
            super::quoted(summary),
            super::quoted(description)
        );
    }
}

fn budget() -> Vec<Alert> {
    let of = |Burn { long, short, rate, severity }: Burn| Alert {
        name: "ErrorBudgetBurn",
        expr: format!(
            "app:http_errors:ratio_rate{long} > {rate} * app:http_error_budget:ratio \
             and app:http_errors:ratio_rate{short} > {rate} * app:http_error_budget:ratio \
             and app:http_errors:increase{long} >= {LEAST_ERRORS}"
        ),
        hold: "0s",
        severity,
        window: Some(long),
        summary: "{{ $labels.app }} ({{ $labels.env }}) fails {{ $value | humanizePercentage }} of its requests",
        description: "Its objective is spent faster than it allows. `bowline status` and `bowline events` say what has changed; \
                      `bowline rollback` goes back to the release before.",
    };
    BURNS.map(of).into()
}

fn of_apps() -> Vec<Alert> {
    vec![
        Alert {
            name: "AppDown",
            expr: "sum by (app, env, service) (max by (app, env, service, release, slot) (bowline_instance_state{state=\"ready\"})) == 0 \
                   and sum by (app, env, service) (max by (app, env, service, release, slot) \
                   (bowline_instance_state{state=~\"starting|unready|crashed\"})) > 0"
                .to_owned(),
            hold: "2m",
            severity: PAGE,
            window: None,
            summary: "{{ $labels.service }} of {{ $labels.app }} ({{ $labels.env }}) has no instance that is ready",
            description: "`bowline status` says what its instances wait on, `bowline logs` what they said last.",
        },
        Alert {
            name: "CrashLoop",
            expr: "sum by (app, env, service) (increase(bowline_instance_restarts_total[15m])) >= 3".to_owned(),
            hold: "0s",
            severity: TICKET,
            window: None,
            summary: "{{ $labels.service }} of {{ $labels.app }} ({{ $labels.env }}) was started again {{ $value | humanize }} times in 15 minutes",
            description: "`bowline logs` has its last words before each end, `bowline events` the causes.",
        },
        Alert {
            name: "MemoryNearLimit",
            expr: "bowline_instance_memory_bytes / bowline_instance_memory_limit_bytes > 0.9".to_owned(),
            hold: "15m",
            severity: TICKET,
            window: None,
            summary: "{{ $labels.instance }} uses {{ $value | humanizePercentage }} of the memory that it may",
            description: "At its limit it is killed. Raise `limits.memory` of its service, or find what it holds.",
        },
        Alert {
            name: "JobFailed",
            // The first run that fails begins a series: `increase` does not see that.
            expr: format!("sum by (app, env, job) ({FAILED_RUNS} - ({FAILED_RUNS} offset 1h or 0 * {FAILED_RUNS})) > 0"),
            hold: "0s",
            severity: TICKET,
            window: None,
            summary: "Job {{ $labels.job }} of {{ $labels.app }} ({{ $labels.env }}) has failed",
            description: "`bowline events` says how it ended, `bowline logs --service job.{{ $labels.job }}` what it said.",
        },
        Alert {
            name: "AppMetricsUnread",
            expr: "up{job=\"bowline-apps\"} == 0".to_owned(),
            hold: "10m",
            severity: TICKET,
            window: None,
            summary: "The metrics of {{ $labels.instance }} cannot be read",
            description: "`metrics` of its service says where they are; asking there by hand says what is wrong.",
        },
    ]
}

fn of_disk() -> Vec<Alert> {
    vec![
        Alert {
            name: "DiskFull",
            expr: "bowline_disk_free_bytes / bowline_disk_total_bytes < 0.05".to_owned(),
            hold: "5m",
            severity: PAGE,
            window: None,
            summary: "Of the disk of {{ $labels.instance }}, {{ $value | humanizePercentage }} is free",
            description: "`bowline data list` says what holds how much; `bowline status` names who fills it.",
        },
        Alert {
            name: "DiskFillsUp",
            expr: "predict_linear(bowline_disk_free_bytes[6h], 3 * 86400) < 0 and bowline_disk_free_bytes / bowline_disk_total_bytes < 0.3".to_owned(),
            hold: "1h",
            severity: TICKET,
            window: None,
            summary: "The disk of {{ $labels.instance }} is full in less than three days",
            description: "It goes on as in the last six hours. `bowline data list` says what holds how much.",
        },
        Alert {
            name: "VolumeFull",
            expr: "bowline_volume_used_bytes / bowline_volume_size_bytes > 0.9".to_owned(),
            hold: "15m",
            severity: TICKET,
            window: None,
            summary: "Volume {{ $labels.volume }} of {{ $labels.app }} ({{ $labels.env }}) is at {{ $value | humanizePercentage }}",
            description: "Raise `size` of the volume in bowline.toml and apply it: it grows while it is used.",
        },
    ]
}

fn of_certificates() -> Vec<Alert> {
    vec![
        Alert {
            name: "CertificateEnds",
            expr: "min by (host) (bowline_certificate_expiry_timestamp_seconds) - time() < 7 * 86400".to_owned(),
            hold: "1h",
            severity: TICKET,
            window: None,
            summary: "The certificate of {{ $labels.host }} ends in {{ $value | humanizeDuration }}",
            description: "It should have been renewed by now. `bowline status` and `bowline events` say why it was not.",
        },
        Alert {
            name: "CertificateEndsToday",
            expr: "min by (host) (bowline_certificate_expiry_timestamp_seconds) - time() < 86400".to_owned(),
            hold: "5m",
            severity: PAGE,
            window: None,
            summary: "The certificate of {{ $labels.host }} ends in {{ $value | humanizeDuration }}",
            description: "Then browsers refuse {{ $labels.host }}. `bowline status` and `bowline events` say why it was not renewed.",
        },
    ]
}

fn of_bowline() -> Vec<Alert> {
    vec![
        Alert {
            name: "EdgeDown",
            expr: "bowline_edge_up == 0".to_owned(),
            hold: "1m",
            severity: PAGE,
            window: None,
            summary: "The edge of {{ $labels.instance }} is not connected to its daemon",
            description: "`bowline status` says since when; the daemon's log in the state folder says why.",
        },
        Alert {
            name: "EdgeBehind",
            expr: "bowline_edge_table_generation{table=\"desired\"} != ignoring (table) bowline_edge_table_generation{table=\"serving\"}".to_owned(),
            hold: "5m",
            severity: TICKET,
            window: None,
            summary: "The edge of {{ $labels.instance }} does not serve what it was told to",
            description: "`bowline status` says what the table waits on.",
        },
        Alert {
            name: "StoreRefused",
            expr: "bowline_degraded == 1".to_owned(),
            hold: "0s",
            severity: PAGE,
            window: None,
            summary: "The daemon of {{ $labels.instance }} runs without its store",
            description: "Apps go on; nothing can be changed. `bowline status` says what is wrong with the store.",
        },
        Alert {
            name: "SeriesDropped",
            expr: "increase(bowline_edge_series_dropped_total[1h]) > 0 or increase(bowline_app_series_dropped_total[1h]) > 0".to_owned(),
            hold: "0s",
            severity: TICKET,
            window: None,
            summary: "Series are dropped because there are too many",
            description: "Some label has too many values: a path or an id in an app's own metrics, or very many routes.",
        },
    ]
}

fn of_data() -> Vec<Alert> {
    vec![Alert {
        name: "NoData",
        expr: "up{job=\"bowline\"} == 0 or absent(up{job=\"bowline\"})".to_owned(),
        hold: "5m",
        severity: PAGE,
        window: None,
        summary: "Bowline's metrics cannot be read",
        description: "Whatever happens now, nobody is told. Is the daemon up (`bowline status`), and its admin port the one of the scrape configuration?",
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each window that an alert asks for is reckoned.
    #[test]
    fn every_series_that_an_alert_looks_at_is_recorded() {
        let (recorded, alerts) = (recording(), alerts());
        let names = |text: &str| -> Vec<String> {
            let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_:.".contains(c)));
            words.filter(|word| word.starts_with("app:")).map(str::to_owned).collect()
        };
        let asked = names(&alerts);
        assert!(asked.len() > 10, "{asked:?}");
        for name in asked {
            assert!(recorded.contains(&format!("record: {name}\n")), "{name}");
        }
    }

    #[test]
    fn the_burn_rates_are_those_of_the_design() {
        let text = alerts();
        for (long, short, rate, severity) in [
            ("1h", "5m", "14.4", "page"),
            ("6h", "30m", "6", "page"),
            ("1d", "2h", "3", "ticket"),
            ("3d", "6h", "1", "ticket"),
        ] {
            let of = |window| format!("app:http_errors:ratio_rate{window} > {rate} * app:http_error_budget:ratio");
            let line = text.lines().position(|line| line.contains(&of(long)) && line.contains(&of(short)));
            let at = line.unwrap_or_else(|| panic!("{long} & {short}"));
            let labels: Vec<&str> = text.lines().skip(at).take(4).collect();
            assert!(labels.contains(&format!("          severity: {severity}").as_str()), "{labels:?}");
        }
    }
}
