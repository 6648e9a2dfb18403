//! Somebody's app behind the edge: a Flask folder that knows nothing of Bowline, static files, large bodies.

use std::fs::File;
use std::io::Write;

use bowline_tests::client::curl;
use bowline_tests::machine::Process;
use bowline_tests::up::Up;
use bowline_tests::{BUILD, Bowline, SOON, text};

#[test]
fn a_flask_folder_gets_a_real_server_and_tls() {
    let bowline = Bowline::new();
    let folder = bowline.app("flask-app", "flask");
    let up = Up::start(&bowline, &folder, BUILD);
    let answer = curl(&bowline.ca(), &up.https(), &[]);
    assert_eq!((answer.status, answer.version.as_str()), (200, "2"), "over HTTP/2: {}", answer.text());
    assert_eq!(curl(&bowline.ca(), &up.http(), &[]).status, 200, "plain HTTP is not redirected");
    let servers: Vec<String> = bowline.processes_of("flask-app").iter().map(|p| p.arguments().join(" ")).collect();
    assert!(servers.iter().any(|line| line.contains("gunicorn")), "never the development server: {servers:?}");
    assert!(up.interrupt().success());
    // Unchanged: it starts without building.
    let again = Up::start(&bowline, &folder, SOON);
    assert_eq!(again.ready["cached"], true);
    assert_eq!(curl(&bowline.ca(), &again.https(), &[]).status, 200);
}

#[test]
fn own_user_when_root() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let bowline = Bowline::new();
    let _up = Up::start(&bowline, &bowline.app("own-user", "plain"), SOON);
    let uids: Vec<_> = bowline.processes_of("own-user").iter().filter_map(Process::uid).collect();
    assert!(!uids.is_empty() && uids.iter().all(|uid| *uid != 0), "{uids:?}");
    assert_ne!(Process { pid: bowline.edge() }.uid(), Some(0), "the edge is unprivileged");
    let elsewhere = Bowline::new();
    let _other = Up::start(&elsewhere, &elsewhere.app("own-user-elsewhere", "plain"), SOON);
    let others: Vec<_> = elsewhere.processes_of("own-user-elsewhere").iter().filter_map(Process::uid).collect();
    assert!(
        !others.is_empty() && others.iter().all(|uid| !uids.contains(uid)),
        "of another state: {others:?}, {uids:?}"
    );
}

#[test]
fn static_files_are_served_by_the_edge_itself() {
    let bowline = Bowline::new();
    let folder = bowline.app("static-app", "static-site");
    let up = Up::start(&bowline, &folder, SOON);
    let answer = curl(&bowline.ca(), &up.https(), &[]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("<html"), "{}", answer.text());
    assert!(bowline.processes_of("static-app").is_empty(), "no process");
    let outside = curl(&bowline.ca(), &format!("{}/../bowline.toml", up.https()), &["--path-as-is"]);
    assert_eq!(outside.status, 400, "{}", outside.text());
}

#[test]
fn a_hundred_megabytes_stream_both_ways_in_flat_memory() {
    const SIZE: u64 = 100 << 20;
    let bowline = Bowline::new();
    let folder = bowline.app("large-bodies", "plain");
    let up = Up::start(&bowline, &folder, SOON);
    let large = bowline.folder("files").join("large");
    let mut file = File::create(&large).expect("a test's file");
    let block = vec![7; 1 << 20];
    (0..SIZE >> 20).for_each(|_| file.write_all(&block).expect("a test's file"));
    drop(file);
    let (edge, daemon) = (Process { pid: bowline.edge() }, Process { pid: bowline.daemon() });
    let watched = [("the edge", edge), ("the daemon", daemon)].map(|(who, process)| {
        process.reset_peak();
        let before = process.peak_bytes().expect("it runs");
        (who, process, before)
    });
    let sent = curl(&bowline.ca(), &format!("{}/upload", up.https()), &["-T", large.to_str().expect("UTF-8")]);
    assert_eq!((sent.status, sent.text()), (200, SIZE.to_string()));
    let got = curl(&bowline.ca(), &format!("{}/bytes/{SIZE}", up.https()), &[]);
    assert_eq!((got.status, got.body.len() as u64), (200, SIZE));
    let h1 = curl(&bowline.ca(), &format!("{}/bytes/{SIZE}", up.https()), &["--http1.1"]);
    assert_eq!((h1.status, h1.body.len() as u64), (200, SIZE));
    // The peak: what is held only while it passes is held all the same.
    for (who, process, before) in watched {
        let grown = process.peak_bytes().expect("it runs").saturating_sub(before);
        assert!(grown < 16 << 20, "{who} grew by {grown} bytes");
    }
}

#[test]
fn a_body_over_the_limit_is_413_and_never_reaches_the_app() {
    let bowline = Bowline::new();
    let folder = bowline.app("body-limit", "plain");
    let toml = "[service.web]\nrun = \"python3 server.py\"\n[route.main]\nto = \"web\"\nlimit = { body = \"64KiB\" }\n";
    std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
    let up = Up::start(&bowline, &folder, SOON);
    let large = bowline.folder("files").join("large");
    std::fs::write(&large, vec![1; 65 << 10]).expect("a test's file");
    let path = large.to_str().expect("UTF-8");
    assert_eq!(curl(&bowline.ca(), &format!("{}/limited", up.https()), &["-T", path]).status, 413);
    let chunked = ["-T", path, "--http1.1", "-H", "Transfer-Encoding: chunked"];
    assert_eq!(curl(&bowline.ca(), &format!("{}/limited", up.https()), &chunked).status, 413);
    assert!(!text(&bowline.run(&["logs"])).contains("PUT /limited"));
}

#[test]
fn a_changed_folder_is_a_new_release_without_a_lost_request() {
    let bowline = Bowline::new();
    let folder = bowline.app("second-release", "plain");
    let up = Up::start(&bowline, &folder, SOON);
    let load = bowline_tests::load::Load::start(&up.https(), "/", &bowline.ca());
    let server = std::fs::read_to_string(folder.join("server.py")).expect("the fixture");
    std::fs::write(folder.join("server.py"), server.replace("hello from", "welcome to")).expect("a test's file");
    let path = folder.to_str().expect("UTF-8");
    let second = bowline.run(&["up", path, "--detach"]);
    assert!(second.status.success(), "{}", text(&second));
    let answer = curl(&bowline.ca(), &up.https(), &[]).text();
    assert!(answer.contains("welcome to local/second-release.web.r2."), "{answer}");
    bowline_tests::wait("the old release is gone", SOON, || {
        (bowline.processes_of("second-release").len() == 1).then_some(())
    });
    load.stop().expect_no_failure("while a release took the place of another");
}

#[test]
fn a_second_up_follows_the_change_that_runs_and_then_applies_its_own() {
    let bowline = Bowline::new();
    let folder = bowline.app("joined", "plain");
    let toml = folder.join("bowline.toml");
    // A build goes on when the test has answered it.
    let gate = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    gate.set_nonblocking(true).expect("a socket");
    let builds = || bowline_tests::wait("a build asks", SOON, || gate.accept().ok()).0;
    let waits = r#"import socket, sys; socket.create_connection(("127.0.0.1", int(sys.argv[1]))).recv(1)"#;
    let port = gate.local_addr().expect("a socket").port();
    let build = format!("[service.web]\nbuild = '''/usr/bin/python3 -c \"{}\" {port}'''", waits.replace('"', "\\\""));
    let written = std::fs::read_to_string(&toml).expect("the fixture").replacen("[service.web]", &build, 1);
    std::fs::write(&toml, written).expect("a test's file");
    let path = folder.to_str().expect("UTF-8");
    let args = ["up", path, "--detach", "--http", "0", "--https", "0", "--admin", "0"];
    let spawn = || {
        let mut command = bowline.command(&args);
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("the binary runs")
    };
    let first = spawn();
    let building = builds();
    let server = std::fs::read_to_string(folder.join("server.py")).expect("the fixture");
    std::fs::write(folder.join("server.py"), server.replace("hello from", "welcome to")).expect("a test's file");
    let mut second = spawn();
    let said = std::io::BufReader::new(second.stdout.take().expect("stdout was asked to be a pipe"));
    let mut said = std::io::BufRead::lines(said).map_while(Result::ok);
    assert!(said.any(|line| line.contains("is under way")), "it waits for the first one");
    drop(building);
    let first = first.wait_with_output().expect("it was started");
    assert!(first.status.success(), "{}", text(&first));
    drop(builds());
    let said: Vec<String> = said.collect();
    assert!(second.wait().expect("it was started").success(), "{said:?}");
    assert!(said.iter().any(|line| line.contains("release 2")), "{said:?}");
}
