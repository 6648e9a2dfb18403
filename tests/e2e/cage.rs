//! Ordinary programs run in the cage as they run anywhere: what they do every day works, and nothing is left unenforced
//! for it. The other stacks are in `stacks`.

use bowline_tests::client::curl;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON};

/// As root every lock of the cage holds on a machine with a recent kernel; as another user `status` says which do not.
pub(crate) fn nothing_is_unenforced(bowline: &Bowline, app: &str) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let status = bowline.status();
    let apps = status["apps"].as_array().expect("apps");
    let app = apps.iter().find(|one| one["app"] == app).unwrap_or_else(|| panic!("{app} is known"));
    for instance in app["services"].as_array().expect("services").iter().flat_map(|s| s["instances"].as_array()) {
        for one in instance {
            assert_eq!(one["unenforced"], serde_json::json!([]), "{one}");
            assert_eq!(one["cage"], "full", "{one}");
        }
    }
}

#[test]
fn what_programs_do_every_day_works_in_the_cage() {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("ordinary", "ordinary"), SOON);
    nothing_is_unenforced(&bowline, "ordinary");
    for (path, expected) in [
        ("own_name", "'found'"),
        ("unknown_name", "'refused'"),
        ("zones", "[7200.0, 'EST', True]"),
        ("fork", "[2, 4, 6]"),
        ("spawn", "[2, 4, 6]"),
        ("shared", "[7, {'child': 1}]"),
        ("programs", "['a b ', -15]"),
        ("temporary", "[True, ['link'], 'there']"),
        ("beside", "['written', True]"),
        ("sqlite", "True"),
        ("language", "['UTF-8', 'c3a9']"),
        ("people", "[3, True, True]"),
        ("standard", "'written'"),
    ] {
        let answer = curl(&bowline.ca(), &format!("{}/{path}", up.https()), &[]);
        assert_eq!((answer.status, answer.text().as_str()), (200, expected), "{path}");
    }
    let addresses = curl(&bowline.ca(), &format!("{}/localhost", up.https()), &[]).text();
    assert!(addresses.contains("'127.0.0.1'") || addresses.contains("'::1'"), "{addresses}");
}

#[test]
fn nginx_with_a_configuration_of_its_own() {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("nginx-own", "nginx"), SOON);
    nothing_is_unenforced(&bowline, "nginx-own");
    let page = curl(&bowline.ca(), &format!("{}/greeting.txt", up.https()), &[]);
    assert_eq!((page.status, page.text().as_str()), (200, "hello from nginx\n"));
    // Its worker puts the body into a file first.
    let body = bowline.folder("body").join("file");
    std::fs::write(&body, vec![7; 1 << 20]).expect("a test's file");
    let data = format!("@{}", body.display());
    let sent = curl(&bowline.ca(), &format!("{}/upload", up.https()), &["--data-binary", &data]);
    // The static file behind it takes no body: what matters is that nginx passed it on.
    assert_eq!(sent.status, 405, "{}", sent.text());
}
