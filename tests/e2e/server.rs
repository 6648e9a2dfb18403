//! `bowline serve`: the daemon of a server, under a parent that kills only the main process.

mod sandbox;

use std::os::unix::process::ExitStatusExt;

use bowline_tests::load::Load;
use bowline_tests::machine::Process;
use bowline_tests::port::Port;
use bowline_tests::server::{ANY_PORTS, Server};
use bowline_tests::{Bowline, SOON, wait};
use nix::sys::signal::Signal;
use sandbox::Sandbox;

/// Brings out an app and returns its HTTPS address.
pub(crate) fn deployed(bowline: &Bowline, name: &str) -> String {
    deployed_with(bowline, name, "")
}

/// With more in its file.
pub(crate) fn deployed_with(bowline: &Bowline, name: &str, more: &str) -> String {
    let folder = bowline.app(name, "plain");
    let file = folder.join("bowline.toml");
    let text = std::fs::read_to_string(&file).expect("the fixture's file");
    std::fs::write(&file, format!("{text}\n{more}")).expect("a file of the test");
    let lines = bowline.json_text(&["up", folder.to_str().expect("UTF-8"), "--detach"]);
    let ready = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let ready = ready.into_iter().find(|line| line["kind"] == "ready").expect("it gets ready");
    let urls = ready["urls"].as_array().expect("urls");
    let https = urls.iter().filter_map(|url| url.as_str()).find(|url| url.starts_with("https://"));
    https.expect("an https URL").trim_end_matches('/').to_owned()
}

pub(crate) fn is_ready(bowline: &Bowline) {
    wait("the app is adopted", SOON, || (bowline.status()["apps"][0]["state"] == "ready").then_some(()));
}

pub(crate) fn only_copy(bowline: &Bowline, app: &str) -> Process {
    wait("exactly one copy runs", SOON, || match bowline.processes_of(app).as_slice() {
        [one] => Some(one.clone()),
        _ => None,
    })
}

#[test]
fn the_main_process_ends_alone_and_the_next_one_adopts() {
    let bowline = Bowline::new();
    let mut server = Server::start(&bowline);
    assert_eq!(bowline.daemon(), server.pid(), "it stays the main process");
    let url = deployed(&bowline, "serve-parent");
    let (edge, copy) = (bowline.edge(), only_copy(&bowline, "serve-parent"));
    let load = Load::start(&url, "/", &bowline.ca());
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGINT] {
        let status = server.end(signal);
        match signal == Signal::SIGKILL {
            true => assert_eq!(status.signal(), Some(9)),
            false => assert!(status.success(), "an orderly end is no failure: {status}"),
        }
        load.more();
        assert!(Process { pid: edge }.runs() && copy.runs(), "the data plane goes on after {signal}");
        let said = bowline.fails(&["status"], 4);
        assert!(said.contains("does not run") && said.contains("systemctl start bowline"), "{said}");
        server = Server::start(&bowline);
        is_ready(&bowline);
        assert_eq!(bowline.edge(), edge, "the same edge after {signal}");
        assert_eq!(only_copy(&bowline, "serve-parent"), copy, "the same instance after {signal}");
    }
    load.stop().expect_no_failure("while only the daemon ended");
    let output = bowline.run(&["down"]);
    assert!(output.status.success(), "{}", bowline_tests::text(&output));
    assert!(server.ended().success(), "`down` stops all, and is no failure");
    assert!(!Process { pid: edge }.runs() && !copy.runs(), "nothing is left");
}

#[test]
fn its_settings_are_those_of_server_toml_and_hup_is_only_a_hang_up() {
    let bowline = Bowline::new();
    let file = bowline.folder("etc").join("server.toml");
    let text = "trusted_proxies = [\"10.0.0.0/8\"]\n\
        [listen]\nhttp = [\"127.0.0.1:0\"]\nhttps = []\nadmin = \"127.0.0.1:0\"\n";
    std::fs::write(&file, text).expect("a file of the test");
    let path = file.to_str().expect("UTF-8");
    let server = Server::start_with(&bowline, &["env", "WATCHDOG_USEC=600000"], &["--config", path]);
    let before = bowline.status();
    assert!(before["edge"]["http"].is_string() && before["edge"]["https"].is_null(), "{before}");
    assert_eq!(before["edge"]["trusted_proxies"][0], "10.0.0.0/8");
    assert_eq!(before["daemon"]["mode"], "server");
    // What would be an error if it were read.
    std::fs::write(&file, "edge = \"envoy\"\n").expect("a file of the test");
    for pid in [server.pid(), bowline.edge()] {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
        nix::sys::signal::kill(pid, Signal::SIGHUP).expect("it runs");
    }
    let after = bowline.status();
    for what in ["/daemon/pid", "/daemon/started", "/edge/pid", "/edge/http", "/edge/trusted_proxies"] {
        assert_eq!(before.pointer(what), after.pointer(what), "{what}");
    }
    let mut proofs = 0;
    wait("it proves that it lives", SOON, || {
        let heard = server.heard();
        assert!(["", "WATCHDOG=1"].contains(&heard.as_str()), "nothing is reloaded: {heard}");
        proofs += usize::from(!heard.is_empty());
        (proofs == 3).then_some(())
    });
}

#[test]
fn what_is_in_its_way_is_named() {
    let bowline = Bowline::new();
    let server = Server::start(&bowline);
    let free = ["--http", "0", "--https", "0", "--admin", "0"];
    let said = bowline.fails(&[&["serve"], &free[..]].concat(), 1);
    assert!(said.contains(&format!("another daemon (pid {}) holds", server.pid())), "{said}");
    assert!(said.contains("hint: one daemon serves a state"), "{said}");

    let other = Bowline::new();
    let port = bowline.status()["edge"]["http"].as_str().and_then(|a| a.rsplit(':').next()).expect("a port").to_owned();
    let said = other.fails(&["serve", "--http", &port, "--https", "0", "--admin", "0"], 1);
    assert!(said.contains(&format!("port {port} is held by process")) && said.contains("hint: stop that"), "{said}");

    let other = Bowline::new();
    let file = other.folder("etc").join("server.toml");
    std::fs::write(&file, "edge = 7\n[listen]\nhttp = [\"80\"]\n[acme]\ncontact = \"a@b.c\"\n").expect("a test's file");
    let said = other.fails(&["serve", "--config", file.to_str().expect("UTF-8")], 2);
    assert!(said.contains("server.toml:1:8") && said.contains("server.toml:3:9") && said.contains("^"), "{said}");
    assert!(!other.state().exists(), "a wrong file leaves nothing behind");
}

/// The unit that `serve --install` writes, in a folder of the test.
fn unit(bowline: &Bowline) -> std::path::PathBuf {
    let path = bowline.folder("systemd").join("bowline.service");
    let file = path.to_str().expect("UTF-8");
    let installed = bowline.json(&["serve", "--install", "--unit", file, "--http", "8080"]);
    assert_eq!((installed["unit"].as_str(), installed["changed"].as_bool()), (Some(file), Some(true)));
    path
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let bowline = Bowline::new();
    let path = unit(&bowline);
    let file = path.to_str().expect("UTF-8");
    let output = std::process::Command::new("systemd-analyze").args(["verify", file]).output();
    let output = output.expect("systemd-analyze is installed by scripts/setup");
    let said = bowline_tests::text(&output);
    // It looks at the units of the machine, too, and tells of those.
    let own: Vec<&str> = said.lines().filter(|line| line.contains("bowline")).collect();
    assert!(output.status.success() && own.is_empty(), "{said}");

    let text = std::fs::read_to_string(&path).expect("the unit");
    let planted = path.with_file_name("bowline-planted.service");
    std::fs::write(&planted, text.replace("KillMode=process", "KillMode=proces")).expect("a file of the test");
    let output = std::process::Command::new("systemd-analyze").arg("verify").arg(&planted).output().expect("as before");
    assert!(bowline_tests::text(&output).contains("kill mode"), "it would find a mistake");

    assert_eq!(bowline.json(&["serve", "--install", "--unit", file, "--http", "8080"])["changed"], false);
    std::fs::write(&path, "[Service]\nExecStart=/bin/true\n").expect("a file of the test");
    let said = bowline.fails(&["serve", "--install", "--unit", file], 3);
    assert!(said.contains("Bowline did not write it") && said.contains("--force"), "{said}");
    let output = bowline.run(&["serve", "--install", "--unit", file, "--force"]);
    let said = bowline_tests::text(&output);
    assert!(
        said.contains("systemctl daemon-reload") && said.contains("systemctl enable --now bowline.service"),
        "{said}"
    );
}

#[test]
fn the_units_hardening_takes_nothing_from_the_cage() {
    if !nix::unistd::geteuid().is_root() {
        // The unit is root's, and only root can give up what it gives up.
        return;
    }
    let start = |bowline: &Bowline, wrapper: &[String]| {
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        Server::start_with(bowline, &wrapper, &ANY_PORTS)
    };
    let cage = |bowline: &Bowline, server: &Server, name: &str| {
        // Mounts of a volume, control groups, closed ports, users, a server with data of its own.
        let url = deployed_with(bowline, name, "[volume.files]\nsize = \"16MiB\"\n[redis.cache]\n");
        let load = Load::start(&url, "/", &bowline.ca());
        load.stop().expect_no_failure("in the unit's sandbox");
        assert_eq!(bowline.daemon(), server.pid());
        let app = bowline.status()["apps"][0].clone();
        let instance = &app["services"][0]["instances"][0];
        (instance["cage"].clone(), instance["unenforced"].clone(), app["notes"].clone(), app["volumes"][0].clone())
    };
    let bowline = Bowline::new();
    let sandbox = Sandbox::of(&std::fs::read_to_string(unit(&bowline)).expect("the unit"));
    let hardened = sandbox.within(|| start(&bowline, &sandbox.wrapper()));
    let status = std::fs::read_to_string(format!("/proc/{}/status", hardened.pid())).expect("it runs");
    for (key, value) in sandbox.shows() {
        assert!(status.contains(&format!("\n{key}:\t{value}\n")), "{key} is not {value}: {status}");
    }
    let other = Bowline::new();
    let plain = cage(&other, &start(&other, &["env".to_owned()]), "serve-plain");
    assert_eq!(cage(&bowline, &hardened, "serve-hardened"), plain);
}

#[test]
fn a_second_interrupt_ends_a_daemon_that_does_not_get_ready() {
    let ports = [Port::reserve(), Port::reserve()];
    let [http, https] = ports.each_ref().map(|port| format!("127.0.0.1:{}", port.number));
    let listen = ["--http", &http, "--https", &https, "--admin", "0"];
    let bowline = Bowline::new();
    let server = Server::start_with(&bowline, &[], &listen);
    let edge = Process { pid: bowline.edge() };
    server.end(Signal::SIGKILL);
    edge.kill();
    wait("the edge is gone", SOON, || (!edge.runs()).then_some(()));
    // After a crash an address that is taken is tried again, for a while.
    let taken = wait("its address is free", SOON, || std::net::TcpListener::bind(&http).ok());
    let mut stuck = Server::begin(&bowline, &[], &listen);
    let process = Process { pid: stuck.pid() };
    let interrupt = 1 << (Signal::SIGINT as u64 - 1);
    wait("it catches interrupts", SOON, || (process.signals("SigCgt")? & interrupt != 0).then_some(()));
    stuck.signal(Signal::SIGINT);
    wait("it has caught one", SOON, || (process.signals("ShdPnd")? & interrupt == 0).then_some(()));
    assert!(stuck.has_ended().is_none(), "it ends in order, when it serves");
    stuck.signal(Signal::SIGINT);
    assert_eq!(stuck.ended().signal(), Some(Signal::SIGINT as i32));
    drop(taken);
}
