//! The whole room over its sockets, with channels for a node and an edge.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;

use bowline_api::session::{FromClient, FromDaemon, Session};
use bowline_api::wire::{AppState, ChangePhase};
use bowline_api::{Client, ClientError};
use bowline_core::app::Protocol;
use bowline_core::log::{LogLine, LogSource};
use bowline_core::release::{BuildProgress, Stream};
use bowline_core::route::{EdgeEngine, Method, Series, SeriesKey};
use bowline_core::session::{SessionControl, SessionEnd, SessionOutput};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

mod console;

use super::*;
use crate::{BuildCall, ControlConfig, ForesightCall, Links, LogCall, SessionCall, run};

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

const CANARY: &str = "canary-77aa-never-shown";

struct Room {
    client: Client,
    admin: SocketAddr,
    run: JoinHandle<Result<Ended, Fault>>,
    edge_desired: watch::Receiver<Arc<EdgeDesired>>,
    node_desired: watch::Receiver<Arc<NodeDesired>>,
}

fn start(dir: &Path) -> Room {
    for name in ["state", "ca", "app"] {
        std::fs::create_dir_all(dir.join(name)).unwrap();
    }
    let socket = dir.join("api.sock");
    let _ = std::fs::remove_file(&socket);
    let api = UnixListener::bind(&socket).unwrap();
    let admin = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = admin.local_addr().unwrap();
    let (node_desired, node_receiver) = watch::channel(Arc::new(NodeDesired::default()));
    let (edge_desired, edge_receiver) = watch::channel(Arc::new(EdgeDesired::default()));
    let (builds, build_calls) = mpsc::channel(4);
    let (logs, log_calls) = mpsc::channel(4);
    let (foresights, foresight_calls) = mpsc::channel(4);
    tokio::spawn(build(build_calls));
    tokio::spawn(foresee(foresight_calls));
    tokio::spawn(log(log_calls));
    let (sessions, session_calls) = mpsc::channel(4);
    tokio::spawn(session(session_calls));
    let links = Links {
        node_desired,
        node: node(node_receiver.clone()),
        builds,
        collections: mpsc::unbounded_channel().0,
        checks: mpsc::channel(4).0,
        foresights,
        logs,
        feeds: mpsc::channel(4).0,
        sessions,
        data: mpsc::channel(4).0,
        edge_desired,
        edge: edge(edge_receiver.clone()),
        renewals: mpsc::channel(1).1,
    };
    let config = ControlConfig {
        users: Users::default(),
        mode: Mode::Local,
        state_dir: dir.join("state"),
        ca_dir: dir.join("ca"),
        api,
        admin,
        registry: crate::Registry::default(),
        edge: EdgeEngine::Bowline,
        edge_stats: None,
        trusted_proxies: Vec::new(),
        proxy_protocol: false,
        outside: None,
        outer: None,
        acme: None,
        build_time: crate::config::BUILD_TIME,
        otlp: None,
        version: "1.2.3".into(),
    };
    let run = tokio::spawn(run(config, links, |_| Ok(()), drop));
    Room { client: Client::new(&socket), admin: address, run, edge_desired: edge_receiver, node_desired: node_receiver }
}

fn node(mut desired: watch::Receiver<Arc<NodeDesired>>) -> watch::Receiver<Arc<Observations>> {
    let (sender, receiver) = watch::channel(Arc::new(Observations { adopted: true, ..Observations::default() }));
    tokio::spawn(async move {
        while desired.changed().await.is_ok() {
            let orders = desired.borrow_and_update().instances.clone();
            let observed = |(id, order): (&InstanceId, &InstanceOrder)| {
                let since = Timestamp(1);
                let runs = matches!(order, InstanceOrder::Run(_) | InstanceOrder::Keep);
                let phase = Phase::Running { pid: 7, port: Port::new(9).unwrap(), since };
                let health = HealthState::Passing { since };
                let (alive, unenforced) = (HealthState::Unknown, vec!["memory limit".to_owned()]);
                let usage = Usage { memory: Bytes(4096), cpu_us: 2_500_000 };
                let seen =
                    InstanceObservation { phase, health, alive, usage, unenforced, dropped_lines: 0, container: None };
                runs.then(|| (id.clone(), seen))
            };
            let instances = orders.iter().filter_map(observed).collect();
            sender.send_replace(Arc::new(Observations { adopted: true, instances, ..Observations::default() }));
        }
    });
    receiver
}

fn edge(mut desired: watch::Receiver<Arc<EdgeDesired>>) -> watch::Receiver<Arc<EdgeObservation>> {
    let series = SeriesKey {
        key: shop(),
        service: Some(ServiceName::new("web").unwrap()),
        release: Some(ReleaseNumber(1)),
        method: Method::Get,
        route: bowline_core::app::PathPrefix::root(),
        status: 200,
    };
    let mut duration = bowline_core::route::Histogram { counts: vec![0; 15], sum: 0.5 };
    duration.counts[1] = 3;
    let seen = EdgeObservation {
        status: EdgeStatus::Connected,
        http: Some("127.0.0.1:8080".parse().unwrap()),
        series: BTreeMap::from([(series, Series { duration, ..Series::default() })]),
        refused: BTreeMap::from([("bad_host".to_owned(), 2)]),
        ..EdgeObservation::default()
    };
    let (sender, receiver) = watch::channel(Arc::new(seen));
    tokio::spawn(async move {
        while desired.changed().await.is_ok() {
            let generation = desired.borrow_and_update().table.generation;
            sender.send_modify(|seen| Arc::make_mut(seen).serving = Some(generation));
        }
    });
    receiver
}

fn artifact(request: &BuildRequest) -> Artifact {
    Artifact {
        digest: Digest([1; 32]),
        root: request.source.clone(),
        run: Some(Command("serve".into())),
        fallback: None,
        env: BTreeMap::new(),
        runtime: None,
        detected: Vec::new(),
        cached: false,
    }
}

async fn build(mut calls: mpsc::Receiver<BuildCall>) {
    while let Some((request, progress, result)) = calls.recv().await {
        let service = ServiceName::new("web").unwrap();
        let line = BuildProgress::Line { service: service.clone(), stream: Stream::Stdout, text: "Collecting".into() };
        progress.send(line).await.unwrap();
        drop(progress);
        result.send(Ok(Built { artifacts: BTreeMap::from([(service, artifact(&request))]) })).unwrap();
    }
}

async fn foresee(mut calls: mpsc::Receiver<ForesightCall>) {
    while let Some((request, result)) = calls.recv().await {
        let service = ServiceName::new("web").unwrap();
        result.send(Ok(BTreeMap::from([(service, artifact(&request).into())]))).unwrap();
    }
}

async fn log(mut calls: mpsc::Receiver<LogCall>) {
    while let Some((query, lines)) = calls.recv().await {
        let text = format!("{} asked for {:?}", query.key, query.tail);
        lines.send(vec![LogLine { at: Timestamp(5), source: LogSource::Access, text }]).await.unwrap();
    }
}

/// Says what it was asked for, then what it hears, and ends with the input.
async fn session(mut calls: mpsc::Receiver<SessionCall>) {
    while let Some((spec, mut input, mut control, output, end)) = calls.recv().await {
        let text = format!("{} {:?}", spec.instance.id, spec.command);
        output.send(SessionOutput::Stdout(text.into())).await.unwrap();
        let mut heard = 0;
        let ended = loop {
            tokio::select! {
                biased;
                said = control.recv() => match said {
                    Some(SessionControl::Signal(signal)) => {
                        output.send(SessionOutput::Stderr(vec![signal.number()])).await.unwrap();
                    }
                    Some(SessionControl::Resize(_)) => {}
                    None => break SessionEnd::Left,
                },
                piece = input.recv() => match piece {
                    Some(piece) => heard += i32::try_from(piece.len()).unwrap(),
                    None => break SessionEnd::Code(heard),
                },
            }
        };
        drop(output);
        let _ = end.send(ended);
    }
}

fn write_app(dir: &Path) {
    let text = "app = \"shop\"\n[service.web]\nrun = \"serve\"\nmetrics = \"/own\"\n[route.main]\nto = \"web\"\n\
                [env]\nTOKEN = { secret = \"token\" }\n";
    std::fs::write(dir.join("app/bowline.toml"), text).unwrap();
}

async fn steps(client: &Client, change: u64) -> Vec<ChangeStep> {
    let mut lines = client.change(change).await.unwrap();
    let mut steps = Vec::new();
    while let Some(event) = lines.next().await.unwrap() {
        steps.push(event.what);
    }
    steps
}

async fn get(admin: SocketAddr, path: &str, host: &str, accept: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(admin).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// One request on the Unix socket, and the whole answer.
async fn raw(dir: &Path, path: &str) -> String {
    raw_request(dir, "GET", path).await
}

async fn raw_post(dir: &Path, path: &str) -> String {
    raw_request(dir, "POST", path).await
}

async fn raw_request(dir: &Path, method: &str, path: &str) -> String {
    let mut stream = tokio::net::UnixStream::connect(dir.join("api.sock")).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: bowline\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn log_query() -> wire::LogsQuery {
    wire::LogsQuery {
        env: "local".into(),
        app: "shop".into(),
        service: None,
        release: None,
        since: None,
        tail: Some(3),
        follow: false,
        grep: None,
        access: true,
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Fault {
    match result {
        Err(ClientError::Refused(fault)) => fault,
        other => panic!("not refused: {other:?}"),
    }
}

/// Applies the app of `dir` and follows to the end.
async fn applied(room: &Room, dir: &Path) -> Vec<ChangeStep> {
    let dir = dir.join("app").display().to_string();
    let accepted =
        room.client.apply(&wire::Apply { dir, env: "local".into(), plan: None, built: false }).await.unwrap();
    steps(&room.client, accepted.change).await
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("it takes too long")
}

#[tokio::test]
async fn every_verb_works_over_the_socket_and_no_secret_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let room = start(dir.path());
    write_app(dir.path());
    let mut seen = String::new();
    let set = within(room.client.set_secret("local", "shop", "token", CANARY.into())).await.unwrap();
    assert_eq!(set.version, 1);
    let steps = within(applied(&room, dir.path())).await;
    assert!(steps.iter().any(|s| matches!(s, ChangeStep::Line { text, .. } if text == "Collecting")), "{steps:?}");
    assert!(steps.contains(&ChangeStep::Phase { phase: ChangePhase::Rollout }), "{steps:?}");
    assert!(matches!(steps.last(), Some(ChangeStep::Done { release: 1, urls, .. }) if urls.len() == 1), "{steps:?}");
    let status = room.client.status().await.unwrap();
    assert_eq!((status.apps[0].state, status.daemon.version.as_str()), (AppState::Ready, "1.2.3"));
    assert!(status.daemon.private_bytes > 0);
    assert!(status.apps[0].notes.iter().any(|n| n.contains("memory limit")));
    let secrets = room.client.secrets("local", "shop").await.unwrap();
    assert_eq!((secrets.secrets.len(), secrets.secrets[0].name.as_str()), (1, "token"));
    let query = wire::EventsQuery { app: Some("shop".into()), ..wire::EventsQuery::default() };
    let events = room.client.events(&query).await.unwrap().events;
    assert!(events.iter().any(|e| e.event == "rollout.done"), "{events:?}");
    assert!(events.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    let mut lines = room.client.logs(&log_query()).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap().text, "local/shop asked for Some(3)");
    let open = get(room.admin, "/metrics", "127.0.0.1", "application/openmetrics-text").await;
    check_metrics(&open);
    check_own_metrics(room.admin).await;
    seen.push_str(&format!("{steps:?}{status:?}{secrets:?}{events:?}{open}"));
    assert!(!seen.contains(CANARY));
    let stopped = within(room.client.shutdown()).await.unwrap();
    assert!(stopped.daemon && stopped.apps == ["local/shop"], "{stopped:?}");
    assert_eq!(within(room.run).await.unwrap(), Ok(Ended::Stopped));
}

/// Of apps: where they are, and why they cannot be read. Nobody listens where the fake node says.
async fn check_own_metrics(admin: SocketAddr) {
    let ask = async |path: &str| get(admin, path, "127.0.0.1", "*/*").await;
    let (targets, at) = (ask("/metrics/targets").await, "/metrics/instances/local/shop.web.r1.0.1");
    for part in ["\"targets\":[\"127.0.0.1\"]", &format!("\"__metrics_path__\":\"{at}\""), "\"service\":\"web\""] {
        assert!(targets.contains(part), "{part}\n{targets}");
    }
    let unread = ask(at).await;
    assert!(unread.starts_with("HTTP/1.1 502") && unread.contains("port 9 of it is not answered"), "{unread}");
    for unknown in ["/metrics/instances/local/shop.web.r2.0.1", "/metrics/instances/local/x"] {
        assert!(ask(unknown).await.starts_with("HTTP/1.1 404"), "{unknown}");
    }
}

fn check_metrics(text: &str) {
    let has = |line: &str| assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    let labels = "app=\"shop\",env=\"local\",service=\"web\",release=\"1\"";
    let request = "http_request_method=\"GET\",http_route=\"/\",http_response_status_code=\"200\"";
    has(&format!("http_server_request_duration_seconds_bucket{{le=\"0.01\",{labels},{request}}} 3"));
    has(&format!("http_server_request_duration_seconds_count{{{labels},{request}}} 3"));
    has(&format!("bowline_instance_cpu_seconds_total{{{labels},instance=\"local/shop.web.r1.0.1\"}} 2.5"));
    has(&format!("bowline_instance_memory_bytes{{{labels},instance=\"local/shop.web.r1.0.1\"}} 4096.0"));
    has(&format!("bowline_instance_restarts_total{{{labels},slot=\"0\"}} 0.0"));
    has(&format!("bowline_instance_state{{{labels},slot=\"0\",state=\"ready\"}} 1.0"));
    has("bowline_edge_refused_total{reason=\"bad_host\"} 2.0");
    has("bowline_build_info{version=\"1.2.3\"} 1.0");
    has("bowline_release_live{app=\"shop\",env=\"local\",release=\"1\"} 1.0");
    has(&format!("bowline_release_weight_ratio{{{labels},role=\"stable\"}} 1.0"));
    assert!(
        text.contains("bowline_secret_set_timestamp_seconds{app=\"shop\",env=\"local\",secret=\"token\"}"),
        "{text}"
    );
    scaling::check_documented(text);
    assert!(text.contains("bowline_certificate_expiry_timestamp_seconds{host=\"shop.localhost\"}"), "{text}");
    assert!(text.contains("bowline_store_sequence "), "{text}");
}

#[tokio::test]
async fn the_admin_port_answers_loopback_names_only_in_the_format_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let room = start(dir.path());
    let host = format!("localhost:{}", room.admin.port());
    assert!(within(get(room.admin, "/healthz", &host, "*/*")).await.ends_with("ok\n"));
    assert!(get(room.admin, "/metrics", "evil.example", "*/*").await.starts_with("HTTP/1.1 403"));
    assert!(get(room.admin, "/none", &host, "*/*").await.starts_with("HTTP/1.1 404"));
    let classic = get(room.admin, "/metrics", &host, "text/plain").await;
    assert!(classic.contains("content-type: text/plain; version=0.0.4"), "{classic}");
    assert!(classic.contains("# TYPE bowline_edge_connections_accepted_total counter"), "{classic}");
    assert!(!classic.contains("# EOF"), "{classic}");
    within(room.client.shutdown()).await.unwrap();
}

#[tokio::test]
async fn wrong_requests_are_refused_with_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let room = start(dir.path());
    let fault = refused(within(room.client.change(4711)).await);
    assert!(fault.message.contains("4711"));
    let fault = refused(room.client.secrets("local", "No_Name").await);
    assert_eq!(fault.kind, FaultKind::Invalid);
    let fault = refused(room.client.set_secret("local", "shop", "token", vec![b'x'; wire::MAX_SECRET + 1]).await);
    assert!(fault.message.contains(&wire::MAX_SECRET.to_string()), "{fault:?}");
    let fault = refused(room.client.set_secret("local", "shop", "bowline-dotenv", b"x".to_vec()).await);
    assert_eq!(fault.kind, FaultKind::Invalid);
    let bad = room.client.logs(&wire::LogsQuery { env: "No".into(), ..log_query() }).await;
    assert_eq!(refused(bad.map(drop)).kind, FaultKind::Invalid);
    for path in ["/v1/logs?env=local", "/v1/logs", "/v1/changes/x", "/v1/none"] {
        let answer = raw(dir.path(), path).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 40"), "{path}: {answer}");
        assert!(serde_json::from_str::<wire::Fault>(body).is_ok(), "{path}: {answer}");
    }
    let apply = wire::Apply { dir: "/does/not/exist".into(), env: "local".into(), plan: None, built: false };
    assert_eq!(refused(room.client.apply(&apply).await).kind, FaultKind::Invalid);
    let stop = wire::Stop { shutdown_when_idle: false };
    assert!(refused(room.client.stop("local", "nobody", stop).await).message.contains("local/nobody"));
    within(room.client.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_plan_is_asked_for_shown_and_held_to() {
    let dir = tempfile::tempdir().unwrap();
    let room = start(dir.path());
    write_app(dir.path());
    within(room.client.set_secret("local", "shop", "token", CANARY.into())).await.unwrap();
    let order = |plan: Option<String>| wire::Apply {
        dir: dir.path().join("app").display().to_string(),
        env: "local".into(),
        plan,
        built: false,
    };
    let plan = within(room.client.plan(&order(None))).await.unwrap();
    assert_eq!((plan.release, plan.stable, plan.hash.len()), (1, None, 64));
    assert!(!serde_json::to_string(&plan).unwrap().contains(CANARY));
    let bad = refused(within(room.client.apply(&order(Some("x".into())))).await);
    assert!(bad.kind == FaultKind::Invalid && bad.message.contains("not the hash of a plan"), "{bad:?}");
    let both = refused(within(room.client.plan(&order(Some(plan.hash.clone())))).await);
    assert_eq!(both.kind, FaultKind::Invalid);
    let other = refused(within(room.client.apply(&order(Some("0".repeat(64))))).await);
    assert_eq!(other.kind, FaultKind::Refused);
    let accepted = within(room.client.apply(&order(Some(plan.hash)))).await.unwrap();
    let steps = within(steps(&room.client, accepted.change)).await;
    assert!(matches!(steps.last(), Some(ChangeStep::Done { release: 1, .. })), "{steps:?}");
    assert_eq!(within(room.client.plan(&order(None))).await.unwrap().outcome, wire::PlanOutcome::Unchanged);
    within(room.client.shutdown()).await.unwrap();
}

fn session_of(command: &[&str]) -> wire::Session {
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    wire::Session { place: wire::SessionPlace::Inside, service: None, instance: None, command, terminal: None }
}

/// What the fake node says first, so that the session is known to have begun.
async fn begun(room: &Room) -> Session {
    let mut session = room.client.session("local", "shop", &session_of(&["cat", CANARY])).await.unwrap();
    loop {
        if let FromDaemon::Stdout(text) = session.reader.next().await.unwrap() {
            assert_eq!(text, format!("local/shop.web.r1.0.1 [\"cat\", \"{CANARY}\"]"));
            return session;
        }
    }
}

async fn ended(room: &Room) -> Vec<String> {
    let query = wire::EventsQuery { app: Some("shop".into()), ..wire::EventsQuery::default() };
    let events = room.client.events(&query).await.unwrap().events;
    assert!(!format!("{events:?}").contains(CANARY), "{events:?}");
    events.into_iter().filter(|e| e.event == "session.ended").map(|e| e.text).collect()
}

async fn with_app(dir: &Path) -> Room {
    let room = start(dir);
    write_app(dir);
    within(room.client.set_secret("local", "shop", "token", b"x".to_vec())).await.unwrap();
    within(applied(&room, dir)).await;
    room
}

#[tokio::test]
async fn a_session_passes_input_signals_and_output_and_only_its_program_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let room = with_app(dir.path()).await;
    let mut session = within(room.client.session("local", "shop", &session_of(&["cat", CANARY]))).await.unwrap();
    session.writer.send(&FromClient::Signal(2)).await.unwrap();
    let Session { mut reader, mut writer } = session;
    let mut sent = 0;
    let end = within(async {
        loop {
            match reader.next().await.unwrap() {
                FromDaemon::Ready if sent < 100 => {
                    writer.send(&FromClient::Stdin(vec![7; 1_000].into())).await.unwrap();
                    sent += 1;
                    if sent == 100 {
                        writer.send(&FromClient::StdinEnd).await.unwrap();
                    }
                }
                FromDaemon::Ready | FromDaemon::Stdout(_) => {}
                FromDaemon::Stderr(signal) => assert_eq!(signal[..], [2]),
                FromDaemon::End(end) => return end,
            }
        }
    })
    .await;
    assert_eq!(end, wire::SessionEnd::Exited { code: 100_000 });
    let query = wire::EventsQuery { app: Some("shop".into()), ..wire::EventsQuery::default() };
    let events = room.client.events(&query).await.unwrap().events;
    let began = events.iter().find(|e| e.event == "session.began").unwrap();
    assert_eq!(began.text, "cat is run in local/shop.web.r1.0.1");
    assert_eq!(began.fields["by_uid"], nix::unistd::geteuid().to_string());
    within(room.client.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_or_breaks_the_rules_ends_its_session() {
    let dir = tempfile::tempdir().unwrap();
    let room = with_app(dir.path()).await;
    let hostile: [Vec<FromClient>; 3] = [
        // Leaves.
        Vec::new(),
        // More than there is room for, whatever the node has taken meanwhile.
        vec![FromClient::StdinEnd, FromClient::Stdin(vec![1].into())],
        vec![FromClient::Signal(9)],
    ];
    for (number, frames) in hostile.into_iter().enumerate() {
        let mut session = within(begun(&room)).await;
        for frame in &frames {
            // It may be ended by the one before.
            let _ = session.writer.send(frame).await;
        }
        if frames.is_empty() {
            drop(session);
        } else {
            within(async { while session.reader.next().await.is_ok() {} }).await;
        }
        within(async {
            while ended(&room).await.len() <= number {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    let told = ended(&room).await;
    assert!(told.iter().filter(|text| text.contains("has left")).count() >= 2, "{told:?}");
    within(room.client.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_session_that_cannot_be_is_refused_before_it_begins() {
    let dir = tempfile::tempdir().unwrap();
    let room = with_app(dir.path()).await;
    let check = async |app: &str, session: wire::Session, message: &str, hint: &str| {
        let fault = refused(within(room.client.session("local", app, &session)).await);
        assert_eq!((fault.message.as_str(), fault.hint.as_deref().unwrap_or("")), (message, hint));
    };
    let of = |service: &str| wire::Session { service: Some(service.into()), ..session_of(&["true"]) };
    check("shpo", session_of(&["true"]), "there is no app local/shpo", "did you mean `shop`?").await;
    check("shop", of("wbe"), "local/shop has no service wbe", "did you mean `web`?").await;
    let third = wire::Session { instance: Some(3), ..of("web") };
    check("shop", third, "no instance 3 of web of local/shop runs", "there is 0").await;
    let usage = "bowline exec APP.SERVICE -- PROGRAM [ARGUMENT]…";
    check("shop", session_of(&[]), "no command is given", usage).await;
    check("shop", session_of(&["a", "b\0"]), "an argument holds a NUL byte", usage).await;
    let terminal = Some(wire::Terminal { columns: 1, rows: 1, name: Some("a b".into()) });
    let odd = wire::Session { terminal, ..of("web") };
    check("shop", odd, "\"a b\" names no terminal", "set TERM=xterm").await;
    let plain = raw_post(dir.path(), "/v1/apps/local/shop/sessions").await;
    assert!(plain.starts_with("HTTP/1.1 400") && plain.contains("Upgrade"), "{plain}");
    within(room.client.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_damaged_store_is_said_and_the_edge_serves_what_it_served() {
    let dir = tempfile::tempdir().unwrap();
    let room = start(dir.path());
    write_app(dir.path());
    within(room.client.set_secret("local", "shop", "token", b"x".to_vec())).await.unwrap();
    within(applied(&room, dir.path())).await;
    let served = Arc::clone(&room.edge_desired.borrow());
    assert_eq!(served.table.pools.values().map(|p| p.endpoints.len()).sum::<usize>(), 1);
    within(sealed_as(dir.path(), served.table.generation)).await;
    let store = dir.path().join("state/store.db");
    room.run.abort();
    let _ = room.run.await;
    let (wal, database) = (store.with_extension("db-wal"), store.clone());
    within(async {
        while Store::open(&dir.path().join("state"), keys(dir.path())).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for path in [&wal, &database] {
        let Ok(mut bytes) = std::fs::read(path) else { continue };
        let middle = bytes.len() / 2;
        bytes.iter_mut().skip(middle).take(4_096).for_each(|byte| *byte ^= 0x55);
        std::fs::write(path, bytes).unwrap();
    }
    let room = start(dir.path());
    let status = within(room.client.status()).await.unwrap();
    let degraded = status.daemon.degraded.expect("the store is damaged");
    assert_eq!(room.edge_desired.borrow().table, served.table);
    let apply = wire::Apply {
        dir: dir.path().join("app").display().to_string(),
        env: "local".into(),
        plan: None,
        built: false,
    };
    let fault = refused(room.client.apply(&apply).await);
    assert_eq!(wire::Fault::from(fault), degraded);
    refused(room.client.secrets("local", "shop").await);
    refused(room.client.events(&wire::EventsQuery::default()).await);
    assert_eq!(room.node_desired.borrow().generation, Generation(0), "nothing was ordered");
    let health = get(room.admin, "/healthz", "127.0.0.1", "*/*").await;
    assert!(health.ends_with("degraded\n"), "{health}");
    assert!(within(room.client.shutdown()).await.unwrap().daemon);
    assert_eq!(within(room.run).await.unwrap(), Ok(Ended::Stopped));
}

fn keys(dir: &Path) -> crate::store::Keys {
    Keyring::open_or_create(&dir.join("state")).unwrap().store_keys()
}

async fn sealed_as(dir: &Path, generation: Generation) {
    let keyring = Keyring::open_or_create(&dir.join("state")).unwrap();
    while !matches!(sealed::open(&dir.join("state"), &keyring), Ok(Some(s)) if s.generation >= generation) {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_snapshot_comes_back_as_it_was() {
    let mut world = World::new();
    world.write(
        "bowline.toml",
        "app = \"shop\"\n[service.web]\nrun = \"x\"\nprotocol = \"h2c\"\n[service.site]\nstatic = { dir = \"dist\", fallback = \"index.html\" }\n\
         [route.main]\nto = \"web\"\n[route.api]\npath = \"/api\"\nstrip = true\nto = \"web\"\n\
         [route.site]\npath = \"/site\"\nto = \"site\"\n[route.old]\npath = \"/old\"\nredirect = \"https://example.com\"\n\
         [route.no]\npath = \"/no\"\ndeny = true\n",
    );
    let mut daemon = world.start();
    let ticket = world.apply(&mut daemon);
    world.run(&mut daemon);
    assert!(matches!(world.answer(ticket), Answer::Accepted(_)));
    let served = world.table.clone().unwrap();
    assert_eq!(served.table.sites.values().map(|site| site.rules.len()).sum::<usize>(), 5);
    assert!(served.table.pools.values().any(|pool| pool.protocol == Protocol::H2c));
    let bytes = snapshot::encode(&served);
    assert_eq!(snapshot::decode(snapshot::VERSION, &bytes).unwrap(), *served);
    assert!(snapshot::decode(snapshot::VERSION + 1, &bytes).is_err());
    assert!(snapshot::decode(snapshot::VERSION, &bytes[1..]).is_err());
}
