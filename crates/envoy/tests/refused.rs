//! A real Envoy that refuses what one app asks for: all others go on.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::{BodyLimit, HostName, PathPrefix, RateBy};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, AppName, EnvName, Generation, RouteName};
use bowline_core::route::{
    Action, EdgeDesired, EdgeObservation, Policies, RateLimit, Rule, RuleId, Site, SiteTls, Table, Transfer,
};
use bowline_core::units::{Bytes, Rate};
use bowline_envoy::link::{self, Handle, LinkConfig};

/// An Envoy is read from disk first.
const LIMIT: Duration = Duration::from_secs(60);

/// Put there by scripts/setup.
fn envoy() -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its own path");
    let envoy = exe.ancestors().nth(3).expect("tests lie in target/PROFILE/deps").join("envoy/envoy");
    assert!(envoy.exists(), "run scripts/setup first: {} is missing", envoy.display());
    envoy
}

fn bind(_: &str, address: SocketAddr) -> Result<TcpListener, Fault> {
    TcpListener::bind(address).map_err(|error| Fault::new(FaultKind::Failed, "the port is taken").source(&error))
}

fn start(folder: &Path) -> Handle {
    std::fs::create_dir_all(folder.join("run")).expect("the folder is this test's");
    link::spawn(LinkConfig {
        exe: envoy(),
        run_dir: folder.join("run"),
        log_dir: folder.join("logs"),
        log_file: folder.join("envoy.log"),
        own_exe: "/nowhere".into(),
        upload_log: folder.join("upload-filter.log"),
        http: ([127, 0, 0, 1], 0).into(),
        https: None,
        uid: None,
        bind,
    })
}

fn key(app: &str) -> AppKey {
    AppKey { env: EnvName::new("local").expect("a name"), app: AppName::new(app).expect("a name") }
}

/// How the rule of an app is.
#[derive(Clone, Copy)]
enum Kind {
    Good,
    /// Envoy fills no bucket more often than every 50 ms.
    Refused,
}

/// Sites of these apps, which redirect to a host of this generation.
fn desired(generation: u64, apps: &[(&str, Kind)]) -> Arc<EdgeDesired> {
    let site = |(app, kind): &(&str, Kind)| {
        let often = RateLimit { rate: Rate { count: 1, per: Duration::from_millis(10) }, by: RateBy::Route };
        let rate = match kind {
            Kind::Good => None,
            Kind::Refused => Some(often),
        };
        let rule = Rule {
            id: RuleId { key: key(app), route: RouteName::new("main").expect("a name") },
            prefix: PathPrefix::root(),
            strip: false,
            action: Action::Redirect(format!("http://{app}-{generation}.test")),
            policies: Policies { rate, ..Policies::default() },
            body: BodyLimit(Bytes(1000)),
            timeout: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            transfer: Transfer::default(),
        };
        (
            HostName::new(&format!("{app}.test")).expect("a host"),
            Arc::new(Site { tls: SiteTls::Off, rules: vec![rule] }),
        )
    };
    let sites = apps.iter().map(site).collect();
    let table = Table { generation: Generation(generation), sites, ..Table::default() };
    Arc::new(EdgeDesired { table: Arc::new(table), certificates: Arc::new(BTreeMap::new()) })
}

/// Tells it, and waits until it is served.
async fn tell(handle: &mut Handle, generation: u64, apps: &[(&str, Kind)]) -> EdgeObservation {
    handle.desired.send_replace(desired(generation, apps));
    let is_served = |seen: &Arc<EdgeObservation>| seen.serving == Some(Generation(generation));
    let mut observed = handle.observed.clone();
    let served = tokio::time::timeout(LIMIT, observed.wait_for(is_served))
        .await
        .map(|seen| Arc::clone(&seen.expect("the link goes on")));
    let Ok(seen) = served else { panic!("{generation} is not served: {:?}", handle.observed.borrow()) };
    EdgeObservation::clone(&seen)
}

/// Where an app leads to, else the status.
fn leads_to(seen: &EdgeObservation, app: &str) -> String {
    let mut stream = TcpStream::connect(seen.http.expect("an address")).expect("Envoy listens");
    write!(stream, "GET / HTTP/1.1\r\nhost: {app}.test\r\n\r\n").expect("Envoy reads");
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let location = head.iter().find_map(|line| line.strip_prefix("location: http://"));
    location.or_else(|| head.first()?.split(' ').nth(1)).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_refused_is_named_and_all_others_change() {
    let folder = tempfile::tempdir().unwrap();
    let mut handle = start(folder.path());
    let all = |b| [("a", Kind::Good), ("b", b), ("c", Kind::Good), ("d", Kind::Good)];
    let places = |seen: &EdgeObservation| ["a", "b", "c", "d"].map(|app| leads_to(seen, app));
    let whose = |seen: &EdgeObservation| {
        let apps = seen.refusals.iter().flat_map(|refusal| &refusal.apps);
        apps.map(ToString::to_string).collect::<Vec<_>>()
    };

    // One that is new, among many that are, too.
    let seen = tell(&mut handle, 1, &all(Kind::Refused)).await;
    assert_eq!(places(&seen), ["a-1.test/", "404", "c-1.test/", "d-1.test/"]);
    assert_eq!(whose(&seen), ["local/b"]);

    let seen = tell(&mut handle, 2, &all(Kind::Good)).await;
    assert_eq!(places(&seen), ["a-2.test/", "b-2.test/", "c-2.test/", "d-2.test/"]);
    assert_eq!((whose(&seen), seen.refusal), (Vec::new(), None));

    // One that was served stays as it was.
    let seen = tell(&mut handle, 3, &all(Kind::Refused)).await;
    assert_eq!(places(&seen), ["a-3.test/", "b-2.test/", "c-3.test/", "d-3.test/"]);
    let fault = seen.refusal.as_ref().unwrap();
    assert_eq!(fault.message, "Envoy refused routes of local/b");
    assert_eq!(fault.causes[0], "route main on b.test");
    assert!(fault.causes[1].contains("fill"), "{:?}", fault.causes);
    assert_eq!(seen.fault_of(&key("b")), Some(fault));

    // And all others change on.
    let mut next = all(Kind::Refused);
    next[3].0 = "e";
    let seen = tell(&mut handle, 4, &next).await;
    assert_eq!(["a", "b", "e"].map(|app| leads_to(&seen, app)), ["a-4.test/", "b-2.test/", "e-4.test/"]);

    let seen = tell(&mut handle, 5, &all(Kind::Good)).await;
    assert_eq!(places(&seen), ["a-5.test/", "b-5.test/", "c-5.test/", "d-5.test/"]);
    assert_eq!(seen.refusal, None);
    handle.shutdown.edge(Duration::ZERO).await;
}

/// However soon the next one is told, and whatever of it is found out by halves.
#[tokio::test(flavor = "multi_thread")]
async fn no_table_is_served_without_what_is_refused_of_it() {
    const LAST: u64 = 60;
    let folder = tempfile::tempdir().unwrap();
    let mut handle = start(folder.path());
    let all = |b| [("a", Kind::Good), ("b", b), ("c", Kind::Good), ("d", Kind::Good)];
    tell(&mut handle, 1, &all(Kind::Good)).await;
    let mut observed = handle.observed.clone();
    let watching = tokio::spawn(async move {
        loop {
            let seen = Arc::clone(&observed.borrow_and_update());
            let serving = seen.serving.expect("it serves something");
            let names_b = seen.refusals.iter().any(|refusal| refusal.apps.contains(&key("b")));
            assert_eq!(names_b, serving > Generation(1), "{serving}: {:?}", seen.refusals);
            if serving == Generation(LAST) {
                return;
            }
            observed.changed().await.expect("the link goes on");
        }
    });
    // Sooner than what was taken is published, and not so soon that most of them are never told.
    let mut pace = tokio::time::interval(Duration::from_millis(7));
    for generation in 2..=LAST {
        pace.tick().await;
        handle.desired.send_replace(desired(generation, &all(Kind::Refused)));
    }
    tokio::time::timeout(LIMIT, watching).await.expect("the last one is served").expect("each names what is refused");
    let seen = EdgeObservation::clone(&handle.observed.borrow());
    assert_eq!(leads_to(&seen, "b"), "b-1.test/", "it is served as it was");
    handle.shutdown.edge(Duration::ZERO).await;
}

#[test]
fn one_that_was_found_lets_go_of_nothing_but_what_it_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = || tokio::runtime::Runtime::new().unwrap();
    let all = |b| [("a", Kind::Good), ("b", b), ("c", Kind::Good), ("d", Kind::Good)];
    // With its runtime all that the first daemon has open ends.
    let before = daemon().block_on(async { tell(&mut start(folder.path()), 1, &all(Kind::Good)).await });
    daemon().block_on(async {
        let mut handle = start(folder.path());
        let seen = tell(&mut handle, 2, &all(Kind::Refused)).await;
        assert_eq!(seen.pid, before.pid, "it is the same one");
        let places = ["a", "b", "c", "d"].map(|app| leads_to(&seen, app));
        assert_eq!(places, ["a-2.test/", "404", "c-2.test/", "d-2.test/"]);
        assert_eq!(seen.refusal.map(|fault| fault.message).as_deref(), Some("Envoy refused routes of local/b"));
        handle.shutdown.edge(Duration::ZERO).await;
    });
}
