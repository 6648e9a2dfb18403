use bowline_core::log::LogSource;
use bowline_core::release::Stream;

use super::attribute::tests::origin;
use super::send::tests::settings;
use super::*;

/// Of logs, to a collector that is not there; and what lines are given to.
fn exporting(dir: &std::path::Path) -> (Exporting, mpsc::Sender<Vec<LogLine>>) {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let collector = Arc::new(Collector::new(&settings(&format!("http://{closed}"))).unwrap());
    let (out, lines) = mpsc::channel(PIECES);
    let exporting = Exporting {
        signal: Signal::Logs,
        source: Source::Lines { lines, spans: None },
        gathered: Vec::new(),
        outbox: Outbox::new(BOUNDS),
        connection: Some(Connection::new(Arc::clone(&collector), Signal::Logs)),
        collector,
        sending: JoinSet::new(),
        tally: Arc::default(),
        inputs: mpsc::channel(64).0,
        origin: origin(),
        marks: Arc::new(Marks::open(dir)),
        zero: Instant::now(),
        last_call: None,
    };
    (exporting, out)
}

#[tokio::test]
async fn few_lines_at_a_time_are_gathered_and_what_an_end_takes_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (exporting, out) = exporting(dir.path());
    let (tally, marks) = (Arc::clone(&exporting.tally), Arc::clone(&exporting.marks));
    let (end, ends) = watch::channel(false);
    let running = tokio::spawn(exporting.run(ends));
    let pieces = 2 * BOUNDS.batches;
    for number in 0..pieces {
        let instance = "local/a.web.r1.0.1".parse().unwrap();
        let source = LogSource::App { instance, stream: Stream::Stdout };
        out.send(vec![LogLine { at: wall(), source, text: format!("line {number}") }]).await.unwrap();
    }
    end.send_replace(true);
    running.await.unwrap();
    let counts = tally.totals()[&Signal::Logs].clone();
    assert_eq!((counts.exported, counts.dropped[&Reason::Full]), (0, 0), "{counts:?}");
    assert_eq!(counts.dropped[&Reason::Ended], pieces as u64, "{counts:?}");
    let now = wall();
    assert_eq!(marks.since(Fed::Output, now), now, "the collector has none");
}

#[tokio::test]
async fn a_request_that_breaks_off_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut exporting, _out) = exporting(dir.path());
    exporting.connection = None;
    exporting.sending.spawn(async { panic!("of a test") });
    let done = exporting.sending.join_next().await.unwrap();
    let input = exporting.answered(done);
    assert!(matches!(input, outbox::Input::Answered(Answer::Later { .. })), "{input:?}");
    assert!(exporting.connection.is_some());
}
