//! `server.toml` goes through the same parser.

use std::time::Duration;

use bowline_core::acme::Method;
use bowline_spec::server::{Authority, Destination, EdgeEngine, Runtime, Server, parse};

fn errors(text: &str) -> Vec<String> {
    let errors = parse(text, "server.toml").expect_err(text);
    errors.iter().map(|e| format!("{}:{} {}", e.line, e.column, e.message)).collect()
}

#[test]
fn settings_are_what_the_file_says() {
    let server = parse(include_str!("files/server.toml"), "server.toml").unwrap().server;
    assert_eq!(server.edge, EdgeEngine::Envoy);
    assert_eq!(server.runtime, Runtime::Docker { engine: Some("/run/podman/podman.sock".into()) });
    assert_eq!(server.listen.http.len(), 2);
    assert_eq!(server.api.unwrap().certificate.unwrap().key.to_str(), Some("/etc/bowline/api.key"));
    let to = Destination::S3 { bucket: "backups".to_owned(), prefix: "bowline".to_owned() };
    assert_eq!(server.backup.unwrap().to, to);
    assert_eq!(server.limits.build_time, Duration::from_secs(1800));
    let otlp = server.otlp.unwrap();
    assert_eq!((otlp.interval, otlp.sample.ppm()), (Duration::from_secs(30), 125_000));
    assert_eq!(otlp.endpoint, "https://otlp.example.com:4318");
    assert!(otlp.headers.is_some() && otlp.ca.is_some());
    let Authority::At(acme) = server.acme else { panic!("an authority is named") };
    assert_eq!((acme.contact.as_deref(), acme.challenge), (Some("ops@example.com"), Some(Method::TlsAlpn01)));
}

#[test]
fn an_empty_file_is_all_defaults() {
    assert_eq!(parse("", "server.toml").unwrap().server, Server::default());
    let schema = bowline_spec::server::schema();
    let listen = &schema["$defs"]["listen"]["properties"];
    assert_eq!(listen["http"]["default"][0], Server::default().listen.http[0].to_string());
    assert_eq!(listen["admin"]["default"], Server::default().listen.admin.to_string());
    assert_eq!(
        schema["$defs"]["acme"]["properties"]["directory"]["default"],
        bowline_spec::server::Acme::default().directory
    );
    let limits = &schema["$defs"]["server-limits"]["properties"];
    assert_eq!(limits["connections"]["default"], Server::default().limits.connections);
    assert_eq!(limits["log_size"]["default"], Server::default().limits.log_size.to_string());
}

#[test]
fn instances_are_processes_or_containers() {
    let runtime = |text| parse(text, "server.toml").unwrap().server.runtime;
    assert_eq!(runtime("runtime = \"docker\"\n"), Runtime::Docker { engine: None });
    assert_eq!(runtime("runtime = \"process\"\n"), Runtime::Process);
    let alone = "instances are processes, which need no engine";
    assert_eq!(errors("engine = \"/run/docker.sock\"\n"), [format!("1:10 {alone}")]);
    assert_eq!(errors("runtime = \"process\"\nengine = \"/run/docker.sock\"\n"), [format!("2:10 {alone}")]);
}

#[test]
fn no_authority_is_asked_where_the_file_says_so() {
    assert_eq!(parse("acme = \"off\"\n", "server.toml").unwrap().server.acme, Authority::Off);
    assert_eq!(errors("acme = \"none\"\n"), ["1:8 `acme` is \"off\" or a table, not \"none\""]);
}

#[test]
fn errors_have_their_places() {
    assert_eq!(
        errors(
            "edge = \"nginx\"\nlisten = { http = [\"80\"], https = [] }\n[acme]\ndirectory = \"http://x.com\"\nchallenge = \"dns-01\"\n[api]\nhost = \"*.x.com\"\nkey = \"/k\"\n[backup]\nto = \"s3:///x\"\n"
        ),
        [
            "1:8 `edge` is \"bowline\" or \"envoy\", not \"nginx\"",
            "2:20 listen.http[0]: this is not an address and a port",
            "4:13 acme.directory: only https:// is allowed here",
            "5:13 `acme.challenge` is \"http-01\" or \"tls-alpn-01\", not \"dns-01\"",
            "7:8 the API has one name, not a wildcard",
            "8:1 `key` means nothing without `certificate`",
            "9:2 `backup` needs `recipient`",
            "10:6 backup.to: this is not a bucket",
        ]
    );
    assert_eq!(
        errors("[listen]\nproxy_protocol = true\n"),
        ["2:18 no proxy is trusted that could send a PROXY header"]
    );
    assert_eq!(errors("listen = { http = [], https = [] }\n"), ["1:1 a server listens on HTTP or HTTPS"]);
    assert_eq!(
        errors("listen = { http = [\"[::]:443\"] , https = [\"[::]:443\"] }\n"),
        ["1:42 [::]:443 cannot serve both HTTP and HTTPS"]
    );
}

#[test]
fn a_receiver_is_sent_to_at_a_pace_that_it_bears() {
    let text = "[otlp]\nendpoint = \"http://c:4318\"\nca = \"/ca\"\ninterval = \"500ms\"\nsample = \"101%\"\n";
    assert_eq!(
        errors(text),
        [
            "3:6 an endpoint of http:// has no certificate",
            "4:12 metrics are sent once a second at most",
            "5:10 otlp.sample: a share is at most 100%",
        ]
    );
    let usual = parse("otlp = { endpoint = \"http://c:4318\" }\n", "server.toml").unwrap().server.otlp.unwrap();
    assert_eq!((usual.interval, usual.sample.to_string()), (Duration::from_secs(15), "100%".to_owned()));
}

#[test]
fn what_is_not_carried_is_refused_where_it_is_written() {
    let file =
        parse("[limits]\nlog_files = 2\nbuild_time = \"5m\"\n[acme]\ncontact = \"a@b.c\"\n", "server.toml").unwrap();
    let refused =
        file.refused(&[("acme", "it is not there"), ("otlp", "nor this"), ("limits.build_time", "too early")]);
    let refused: Vec<String> =
        refused.unwrap().iter().map(|e| format!("{}:{} {} {}", e.line, e.column, e.key, e.message)).collect();
    assert_eq!(
        refused,
        [
            "3:1 limits.build_time this version of Bowline cannot do `limits.build_time`: too early",
            "4:2 acme this version of Bowline cannot do `acme`: it is not there",
        ]
    );
    assert!(file.refused(&[("otlp", "it is not there")]).is_none());
}
