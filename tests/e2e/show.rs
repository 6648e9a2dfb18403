//! What `bench/run show` does for long, for a short while: no request is lost, and no WebSocket closed without a word, by releases,
//! rollbacks and upgrades.

use bowline_load::Report;
use bowline_tests::show::{Script, run};

#[test]
fn releases_rollbacks_and_upgrades_lose_no_scheduled_request() {
    let outcome = run(Script { rate: 100.0, deploys: 2, rollbacks: 1, upgrades: 2, sockets: 3 });
    let check = |report: &Report, what: &str| {
        let counts = report.counts;
        assert_eq!((counts.failed, counts.unfinished), (0, 0), "while {what}: {:?}", report.failures);
        assert_eq!(counts.succeeded, counts.offered, "every request that was due has its answer");
        assert!(counts.offered > 50 && report.sent_bytes > 0 && report.connecting.samples > 0, "{counts:?}");
    };
    check(&outcome.releases, "releases came and went");
    check(&outcome.upgrades, "daemon and edge were swapped");
    assert_eq!((outcome.sockets.told >= 9, outcome.sockets.cut), (true, 0), "{:?}", outcome.sockets);
    assert_eq!((outcome.deploys.len(), outcome.rollbacks.len(), outcome.swaps.len()), (2, 1, 2));
}
