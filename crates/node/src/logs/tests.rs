use super::*;
use bowline_core::id::{AppKey, AppName, EnvName, ServiceName};
use bowline_core::log::LogSource;
use std::io::Write as _;
use std::path::PathBuf;

struct State {
    folder: tempfile::TempDir,
    layout: Layout,
}

fn key() -> AppKey {
    AppKey { env: EnvName::new("local").unwrap(), app: AppName::new("a").unwrap() }
}

fn query() -> LogQuery {
    LogQuery {
        key: key(),
        service: None,
        release: None,
        since: None,
        tail: None,
        follow: false,
        grep: None,
        access: false,
    }
}

impl State {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout { state: folder.path().to_owned(), run: folder.path().join("run") };
        fs::create_dir_all(layout.app_logs(&key())).unwrap();
        fs::create_dir_all(layout.access_log().parent().unwrap()).unwrap();
        Self { folder, layout }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.layout.app_logs(&key()).join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    async fn read(&self, query: LogQuery) -> Vec<String> {
        let (out, mut lines) = mpsc::channel(4);
        let reading = tokio::spawn(serve(self.layout.clone(), query, out, threads()));
        let (mut got, mut read) = (Vec::new(), Vec::new());
        while let Some(piece) = lines.recv().await {
            read.extend(piece);
        }
        for line in read {
            let from = match line.source {
                LogSource::App { instance, stream } => format!("{instance} {stream:?}"),
                LogSource::Bowline { instance } => format!("{instance} Bowline"),
                LogSource::Access => "access".to_owned(),
            };
            got.push(format!("{} {from} {}", line.at.0, line.text));
        }
        reading.await.unwrap();
        got
    }

    fn fill(&self) {
        self.write("web.r1.0.log.1", "1 b1 started: pid 7, port 9\n3 o1 one\n");
        self.write("web.r1.0.log", "5 e1 two words\nnonsense\n9 o2 three\n");
        self.write("web.r2.1.log", "2 o1 other\n6 o1 \n");
        self.write("job.r2.0.log", "4 o1 work\n");
        self.write("notes.txt", "1 o1 not a log\n");
    }
}

#[tokio::test]
async fn slots_are_merged_by_time_over_rotated_files() {
    let state = State::new();
    state.fill();
    let expected = [
        "1 local/a.web.r1.0.1 Bowline started: pid 7, port 9",
        "2 local/a.web.r2.1.1 Stdout other",
        "3 local/a.web.r1.0.1 Stdout one",
        "4 local/a.job.r2.0.1 Stdout work",
        "5 local/a.web.r1.0.1 Stderr two words",
        "6 local/a.web.r2.1.1 Stdout ",
        "9 local/a.web.r1.0.2 Stdout three",
    ];
    assert_eq!(state.read(query()).await, expected);
}

#[tokio::test]
async fn every_filter_takes_away_what_it_says() {
    let state = State::new();
    state.fill();
    let check = async |query: LogQuery, times: &[u64]| {
        let got = state.read(query.clone()).await;
        let got: Vec<u64> = got.iter().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(got, times, "{query:?}");
    };
    check(LogQuery { service: Some(ServiceName::new("job").unwrap()), ..query() }, &[4]).await;
    check(LogQuery { release: Some(bowline_core::id::ReleaseNumber(2)), ..query() }, &[2, 4, 6]).await;
    check(LogQuery { since: Some(Timestamp(5)), ..query() }, &[5, 6, 9]).await;
    check(LogQuery { tail: Some(2), ..query() }, &[6, 9]).await;
    check(LogQuery { tail: Some(4), ..query() }, &[4, 5, 6, 9]).await;
    check(LogQuery { tail: Some(0), ..query() }, &[]).await;
    check(LogQuery { grep: Some("^(t|w)[a-z]+".into()), ..query() }, &[4, 5, 9]).await;
    check(LogQuery { grep: Some("^(t|w)[a-z]+".into()), tail: Some(1), ..query() }, &[9]).await;
    check(LogQuery { grep: Some("(".into()), ..query() }, &[]).await;
    assert!(check_pattern("(").is_err() && check_pattern("a|b").is_ok());
}

#[tokio::test]
async fn access_lines_of_this_app_only() {
    let state = State::new();
    let line = |app: &str, second: u32| {
        format!("{{\"ts\":\"1970-01-01T00:00:0{second}.500Z\",\"app\":\"{app}\",\"env\":\"local\"}}\n")
    };
    fs::write(state.layout.access_log(), line("a", 1) + &line("b", 2) + "{\n" + &line("a", 3)).unwrap();
    state.write("web.r1.0.log", "2000 o1 between\n");
    let got = state.read(LogQuery { access: true, ..query() }).await;
    let times: Vec<&str> = got.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(times, ["1500", "2000", "3500"]);
}

#[tokio::test]
async fn following_survives_rotation_and_new_slots() {
    let state = State::new();
    state.write("web.r1.0.log", "1 o1 one\n2 o1 tw");
    let (out, mut lines) = mpsc::channel(4);
    let reading = tokio::spawn(serve(state.layout.clone(), LogQuery { follow: true, ..query() }, out, threads()));
    let mut next = async || {
        let piece = tokio::time::timeout(Duration::from_secs(5), lines.recv()).await.unwrap().unwrap();
        assert_eq!(piece.len(), 1);
        piece.into_iter().next().unwrap().text
    };
    assert_eq!(next().await, "one");
    state.write("web.r1.0.log", "1 o1 one\n2 o1 two\n");
    assert_eq!(next().await, "two");
    fs::rename(state.path("web.r1.0.log"), state.path("web.r1.0.log.1")).unwrap();
    state.write("web.r1.0.log", "3 o1 three\n");
    assert_eq!(next().await, "three");
    state.write("web.r2.0.log", "4 o1 four\n");
    assert_eq!(next().await, "four");
    drop(lines);
    tokio::time::timeout(Duration::from_secs(5), reading).await.unwrap().unwrap();
    drop(state.folder);
}

#[tokio::test]
async fn pieces_are_bounded_and_nothing_is_lost_between_them() {
    let state = State::new();
    let slot = |from: u64| -> String {
        (0..9_000)
            .map(|n| format!("{} o1 {}{}\n", from + n * 2, if n % 3 == 0 { "a" } else { "b" }, "x".repeat(40)))
            .collect()
    };
    state.write("web.r1.0.log", &slot(0));
    state.write("web.r1.1.log", &slot(1));
    let check = async |query: LogQuery, expected: Vec<u64>| {
        let (out, mut pieces) = mpsc::channel(1);
        let reading = tokio::spawn(serve(state.layout.clone(), query, out, threads()));
        let mut got = Vec::new();
        while let Some(piece) = pieces.recv().await {
            assert!(piece.iter().map(size).sum::<usize>() < PIECE_BYTES + 200 && !piece.is_empty());
            got.extend(piece.into_iter().map(|line| line.at.0));
        }
        reading.await.unwrap();
        assert_eq!(got, expected);
    };
    check(query(), (0..18_000).collect()).await;
    check(LogQuery { tail: Some(5_000), ..query() }, (13_000..18_000).collect()).await;
    let thirds = (0..18_000).filter(|at| (at / 2) % 3 == 0).collect();
    check(LogQuery { grep: Some("^a".into()), ..query() }, thirds).await;
}

#[test]
fn whoever_does_not_read_holds_no_thread() {
    let state = State::new();
    let lines: String = (0..4_000).map(|n| format!("{n} o1 {}\n", "x".repeat(200))).collect();
    state.write("web.r1.0.log", &lines);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).max_blocking_threads(2).enable_time().build().unwrap();
    let threads = threads();
    runtime.block_on(async {
        let mut unread = Vec::new();
        let others_work = async {
            for query in [query(), LogQuery { tail: Some(3_000), follow: true, ..query() }].iter().cycle().take(6) {
                let (out, mut lines) = mpsc::channel(1);
                tokio::spawn(serve(state.layout.clone(), query.clone(), out, Arc::clone(&threads)));
                assert!(lines.recv().await.is_some());
                unread.push(lines);
            }
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(10), others_work).await.expect("a thread is free");
    });
}

#[test]
fn the_last_lines_are_those_of_the_incarnation() {
    let state = State::new();
    let old: String = (0..60).map(|n| format!("{n} o1 old {n}\n")).collect();
    state.write("web.r1.0.log.1", &(old + "70 e2 a\n"));
    state.write("web.r1.0.log", "80 b2 exited: code 1\n71 o2 b\n");
    assert_eq!(last_lines(&state.path("web.r1.0.log"), Incarnation(2)), ["a", "b"]);
    let last = last_lines(&state.path("web.r1.0.log"), Incarnation(1));
    assert_eq!((last.len(), last.first().map(String::as_str)), (50, Some("old 10")));
}

#[test]
fn only_the_latest_releases_keep_their_logs() {
    let state = State::new();
    for name in ["web.r1.0.log", "web.r1.0.log.1", "web.r2.0.log", "web.r10.0.log", "notes.txt"] {
        state.write(name, "");
    }
    // Runs of jobs go with their release; a server of a database has none.
    for name in ["job_cleanup.r1.0.log", "job_cleanup.r10.0.log", "postgres_db.r0.0.log"] {
        state.write(name, "");
    }
    prune(&state.layout.app_logs(&key()), 2);
    let mut left: Vec<String> = fs::read_dir(state.layout.app_logs(&key()))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    let kept = ["job_cleanup.r10.0.log", "notes.txt", "postgres_db.r0.0.log", "web.r10.0.log", "web.r2.0.log"];
    assert_eq!(left, kept);
}

/// The text of what a feed gives until it has given so many lines.
async fn fed(lines: &mut mpsc::Receiver<Vec<LogLine>>, most: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < most {
        let piece = tokio::time::timeout(Duration::from_secs(20), lines.recv()).await.expect("lines come");
        texts.extend(piece.unwrap().into_iter().map(|line| line.text));
    }
    texts
}

#[tokio::test]
async fn a_feed_has_all_apps_from_a_moment_on_and_what_comes() {
    let state = State::new();
    state.write("web.r1.0.log", "5 o1 before\n9 o1 one\n");
    let other = AppKey { env: EnvName::new("production").unwrap(), app: AppName::new("b").unwrap() };
    fs::create_dir_all(state.layout.app_logs(&other)).unwrap();
    fs::write(state.layout.app_logs(&other).join("web.r7.0.log"), "10 e1 two\n").unwrap();
    let (out, mut lines) = mpsc::channel(4);
    let wanted = LogFeed { since: Timestamp(9), what: Fed::Output };
    let feeding = tokio::spawn(feed(state.layout.clone(), wanted, out, threads()));
    assert_eq!(fed(&mut lines, 2).await, ["one", "two"]);
    state.write("job.r1.0.log", "11 o1 a new file\n");
    assert_eq!(fed(&mut lines, 1).await, ["a new file"]);
    fs::remove_dir_all(state.layout.app_logs(&other)).unwrap();
    fs::OpenOptions::new().append(true).open(state.path("web.r1.0.log")).unwrap().write_all(b"12 o1 more\n").unwrap();
    assert_eq!(fed(&mut lines, 1).await, ["more"]);
    drop(lines);
    feeding.await.unwrap();
}

#[tokio::test]
async fn what_was_last_written_before_is_not_read_and_what_follows_there_is() {
    let state = State::new();
    state.write("web.r1.0.log", "99999999999999 o1 of another clock\n");
    let tomorrow = std::time::SystemTime::now() + Duration::from_hours(24);
    let since = tomorrow.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let (out, mut lines) = mpsc::channel(4);
    let wanted = LogFeed { since: Timestamp(u64::try_from(since).unwrap()), what: Fed::Output };
    let mut reading =
        Reading::new(state.layout.clone(), Wanted::All(wanted), Filter { since: Some(wanted.since), grep: None });
    assert!(reading.piece().lines.is_empty());
    state.write("web.r1.0.log", "99999999999999 o1 of another clock\n99999999999999 o1 later\n");
    send(reading, None, out, threads()).await;
    assert_eq!(fed(&mut lines, 1).await, ["later"]);
}

#[tokio::test]
async fn a_feed_of_spans_has_the_lines_of_requests_that_are_some() {
    let state = State::new();
    let line = |ts: &str, more: &str| format!("{{\"ts\":\"{ts}\",\"app\":\"a\"{more}}}\n");
    let text = [
        line("2026-11-27T10:00:00.005Z", ",\"span_id\":\"1\""),
        line("2026-11-27T10:00:00.006Z", ",\"path\":\"/span_id\""),
        line("never", ",\"span_id\":\"2\""),
        line("2026-11-27T10:00:00.007Z", ",\"span_id\":\"3\""),
        // Envoy has the keys in their own order.
        r#"{"path":"\"ts\":\"no","span_id":"4","status":200,"ts":"2026-11-27T10:00:00.008Z"}"#.to_owned() + "\n",
        r#"{"path":",\"span_id\":\"5\"","ts":"2026-11-27T10:00:00.009Z"}"#.to_owned() + "\n",
    ];
    fs::write(state.layout.access_log(), text.concat()).unwrap();
    let (out, mut lines) = mpsc::channel(4);
    let wanted = LogFeed { since: Timestamp(0), what: Fed::Spans };
    tokio::spawn(feed(state.layout.clone(), wanted, out, threads()));
    let got = fed(&mut lines, 3).await;
    for (line, id) in got.iter().zip([1, 3, 4]) {
        assert!(line.contains(&format!("\"span_id\":\"{id}\"")), "{got:?}");
    }
}

/// A feed from the beginning.
fn feeding(state: &State) -> Reading {
    let wanted = LogFeed { since: Timestamp(0), what: Fed::Output };
    Reading::new(state.layout.clone(), Wanted::All(wanted), Filter { since: Some(wanted.since), grep: None })
}

/// Times of all lines up to the present end.
fn to_the_end(reading: &mut Reading) -> Vec<u64> {
    let mut times = Vec::new();
    loop {
        let piece = reading.piece();
        times.extend(piece.lines.iter().map(|line| line.at.0));
        if piece.is_end {
            return times;
        }
    }
}

fn append(path: &Path, text: &str) {
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_feed_that_has_fallen_behind_reads_on_in_order_until_it_has_all() {
    let state = State::new();
    state.write("web.r1.0.log", "1 o1 a\n");
    state.write("job.r1.0.log", "2 o1 a\n");
    let mut reading = feeding(&state);
    assert_eq!(to_the_end(&mut reading), [1, 2]);
    let lines = |from: u64, every: u64| (0..).map(move |n| format!("{} o1 b\n", from + n * every));
    let many = 3 * u64::try_from(FOLLOW_LINES).unwrap();
    append(&state.path("web.r1.0.log"), &lines(10, 1).take(3 * FOLLOW_LINES).collect::<String>());
    append(&state.path("job.r1.0.log"), &lines(10, 100).take(50).collect::<String>());
    let mut expected: Vec<u64> = (10..10 + many).chain((0..50).map(|n| 10 + n * 100)).collect();
    expected.sort_unstable();
    assert_eq!(to_the_end(&mut reading), expected);
}

#[test]
fn what_is_put_aside_is_read_to_its_end_and_only_once() {
    let state = State::new();
    let [log, first] = ["web.r1.0.log", "web.r1.0.log.1"].map(|name| state.path(name));
    state.write("web.r1.0.log", "1 o1 a\n");
    let mut reading = feeding(&state);
    assert_eq!(to_the_end(&mut reading), [1]);
    // Listed in the moment between the two steps of a rotation.
    append(&log, "2 o1 b\n");
    fs::rename(&log, &first).unwrap();
    assert_eq!(to_the_end(&mut reading), [2]);
    append(&first, "3 o1 between its end and its renaming\n");
    state.write("web.r1.0.log", "4 o1 d\n");
    assert_eq!(to_the_end(&mut reading), [3, 4]);
    fs::remove_file(&log).unwrap();
    fs::remove_file(&first).unwrap();
    assert!(to_the_end(&mut reading).is_empty() && reading.cursors.is_empty());
}

#[test]
fn a_folder_that_cannot_be_listed_ends_no_reading() {
    let state = State::new();
    state.write("web.r1.0.log", "1 o1 a\n");
    let mut reading = feeding(&state);
    assert_eq!(to_the_end(&mut reading), [1]);
    let (folder, there) = (state.layout.app_logs(&key()), reading.cursors.len());
    // Root lists whatever it may not.
    reading.layout.state = state.folder.path().join("elsewhere");
    append(&folder.join("web.r1.0.log"), "2 o1 b\n");
    assert_eq!((to_the_end(&mut reading), reading.cursors.len()), (vec![2], there));
    reading.layout.state = state.folder.path().to_owned();
    assert!(to_the_end(&mut reading).is_empty());
}
