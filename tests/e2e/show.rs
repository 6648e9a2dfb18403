//! What `bench/run show` does for long, for a short while: no request is lost, and no WebSocket closed without a word, by releases,
//! rollbacks and upgrades.

use bowline_tests::show::{Script, Sockets, Stage, run};

#[test]
fn releases_rollbacks_and_upgrades_lose_no_scheduled_request() {
    let outcome = run(Script { rate: 100.0, deploys: 2, rollbacks: 1, upgrades: 2, sockets: 3 });
    let check = |stage: &Stage, what: &str| {
        let (report, counts) = (&stage.report, stage.report.counts);
        assert_eq!((counts.failed, counts.unfinished), (0, 0), "while {what}: {:?}", report.failures);
        assert_eq!(counts.succeeded, counts.offered, "every request that was due has its answer");
        assert!(counts.offered > 50 && report.sent_bytes > 0 && report.connecting.samples > 0, "{counts:?}");
    };
    check(&outcome.releases, "releases came and went");
    check(&outcome.upgrades, "daemon and edge were swapped");
    assert_eq!(outcome.releases.sockets, Sockets { told: 9, cut: 0, open: 0 });
    assert_eq!(outcome.upgrades.sockets.cut, 0, "{:?}", outcome.upgrades.sockets);
    assert_eq!((outcome.deploys.len(), outcome.rollbacks.len(), outcome.swaps.len()), (2, 1, 2));
}
