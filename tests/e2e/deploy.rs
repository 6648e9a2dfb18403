//! `bowline deploy`: a folder goes to a daemon, here and over a real ssh, is built there, and comes out without a lost request.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use bowline_tests::client::curl;
use bowline_tests::load::Load;
use bowline_tests::port::Port;
use bowline_tests::server::Server;
use bowline_tests::{Bowline, SOON, path, text, wait};
use serde_json::Value;

/// An app with an environment for a server, and what is not to leave this machine.
fn app(bowline: &Bowline, name: &str, more: &str) -> PathBuf {
    let folder = bowline.app(name, "plain");
    let file = folder.join("bowline.toml");
    let plain = std::fs::read_to_string(&file).expect("the fixture's file");
    let plain = plain.replacen("[service.web]", &format!("[service.web]\n{more}"), 1);
    let toml = format!(
        "{plain}\n[route.main]\nto = \"web\"\n[environment.production]\nroute.main.hosts = [\"{name}.localhost\"]\n"
    );
    std::fs::write(&file, toml).expect("a file of the test");
    std::fs::write(folder.join(".env"), "SECRET=canary-of-deploy\n").expect("a file of the test");
    std::fs::write(folder.join(".gitignore"), "ignored\n").expect("a file of the test");
    std::fs::write(folder.join("ignored"), "canary-of-deploy").expect("a file of the test");
    std::fs::write(folder.join("large.bin"), vec![7; 3 << 20]).expect("a file of the test");
    folder
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", text(output));
    let all = String::from_utf8_lossy(&output.stdout).into_owned();
    all.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn of_kind<'l>(lines: &'l [Value], kind: &str) -> &'l Value {
    lines.iter().find(|line| line["kind"] == kind).unwrap_or_else(|| panic!("no {kind} in {lines:#?}"))
}

fn deploy(bowline: &Bowline, folder: &std::path::Path) -> Vec<Value> {
    lines(&bowline.run(&["deploy", path(folder), "--env", "production", "--json"]))
}

#[test]
fn a_folder_is_sent_and_built_there_and_the_next_time_only_what_has_changed() {
    let bowline = Bowline::new();
    let _server = Server::start(&bowline);
    let folder = app(&bowline, "deploy-changes", "");
    let first = deploy(&bowline, &folder);
    let sent = of_kind(&first, "sent");
    assert!(sent["bytes"].as_u64() > Some(3 << 20) && sent["bytes"] == sent["total"], "{sent}");
    let ready = of_kind(&first, "ready");
    let https = ready["urls"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let url =
        https.into_iter().find(|url| url.starts_with("https://")).expect("an URL").trim_end_matches('/').to_owned();
    assert_eq!(curl(&bowline.ca(), &format!("{url}/"), &[]).status, 200);
    assert!(bowline.files_with(b"canary-of-deploy").is_empty(), "neither .env nor what is ignored was sent");

    let again = deploy(&bowline, &folder);
    assert_eq!(
        (of_kind(&again, "sent")["files"].clone(), of_kind(&again, "ready")["release"].clone()),
        (0.into(), 1.into())
    );

    let load = Load::start(&url, "/", &bowline.ca());
    let code = std::fs::read_to_string(folder.join("server.py")).expect("the fixture");
    std::fs::write(folder.join("server.py"), format!("{code}\n# changed\n")).expect("a file of the test");
    let changed = deploy(&bowline, &folder);
    let sent = of_kind(&changed, "sent");
    assert_eq!(sent["files"], 1, "{sent}");
    assert!(sent["bytes"].as_u64() < Some(64 << 10), "{sent}");
    assert_eq!(of_kind(&changed, "ready")["release"], 2);
    load.stop().expect_no_failure("while the second release came out");
}

/// A pipeline has built it; the server only runs it, and a plan of that is held to.
#[test]
fn an_artifact_is_deployed_without_a_build() {
    let bowline = Bowline::new();
    let _server = Server::start(&bowline);
    let folder = app(&bowline, "deploy-artifact", "build = \"false\"");
    let built = tempfile::tempdir().expect("a folder");
    std::fs::rename(folder.join("server.py"), built.path().join("server.py")).expect("a file of the test");
    let production = ["--env", "production"];
    let refused = bowline.fails(&[&["deploy", path(&folder)][..], &production].concat(), 1);
    assert!(refused.contains("false"), "without --artifact it is built, which fails: {refused}");

    let artifact = [&production[..], &["--artifact", path(built.path())]].concat();
    let plan = bowline.run(&[&["plan", path(&folder), "--json"][..], &artifact].concat());
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap_or_else(|_| panic!("{}", text(&plan)));
    let hash = plan["hash"].as_str().expect("a hash");
    let released = lines(&bowline.run(&[&["deploy", path(&folder), "--json", "--plan", hash][..], &artifact].concat()));
    let ready = of_kind(&released, "ready");
    let urls = ready["urls"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let url = urls.into_iter().find(|url| url.starts_with("https://")).expect("an URL").to_owned();
    assert_eq!(curl(&bowline.ca(), &url, &[]).status, 200);
    let local = [&["plan", path(&folder), "--artifact", path(built.path())][..]].concat();
    assert!(bowline.fails(&local, 2).contains("local builds what it runs"));
}

/// A build that goes on when the test has answered it.
struct Gate(TcpListener);

impl Gate {
    fn new() -> Self {
        let gate = TcpListener::bind("127.0.0.1:0").expect("a free port");
        gate.set_nonblocking(true).expect("a socket");
        Self(gate)
    }

    fn build(&self) -> String {
        let waits = r#"import socket, sys; socket.create_connection((\"127.0.0.1\", int(sys.argv[1]))).recv(1)"#;
        format!("build = '''/usr/bin/python3 -c \"{waits}\" {}'''", self.0.local_addr().expect("a socket").port())
    }

    fn asked(&self) -> TcpStream {
        wait("a build asks", SOON, || self.0.accept().ok()).0
    }
}

#[test]
fn a_release_goes_on_without_its_client_and_a_second_deployer_is_refused() {
    let (bowline, gate) = (Bowline::new(), Gate::new());
    let _server = Server::start(&bowline);
    let folder = app(&bowline, "deploy-alone", &gate.build());
    let args = ["deploy", path(&folder), "--env", "production"];
    let mut first =
        bowline.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs");
    let building = gate.asked();
    first.kill().and_then(|()| first.wait()).expect("a child of this test");

    std::fs::write(folder.join("more"), "of it").expect("a file of the test");
    let said = bowline.fails(&args, 3);
    assert!(said.contains("is being changed") && said.contains("--attach"), "{said}");
    let attach = [&args[..], &["--attach"]].concat();
    let mut attached = bowline.command(&[&attach[..], &["--json"]].concat());
    let attached = attached.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    drop(building);
    let attached = lines(&attached.wait_with_output().expect("it was started"));
    assert_eq!(of_kind(&attached, "ready")["release"], 1);
    assert_eq!(bowline.status()["apps"][0]["state"], "ready");
    assert!(bowline.fails(&attach, 2).contains("nothing of production/deploy-alone is under way"));
}

/// Whether it died or was stopped in the middle of a rollout: the next daemon goes on with it, and so does who follows it.
#[test]
fn a_deploy_is_followed_over_the_end_of_its_daemon() {
    for (name, stopped) in [("deploy-killed", false), ("deploy-stopped", true)] {
        let bowline = Bowline::new();
        let server = Server::start(&bowline);
        let folder = app(&bowline, name, "");
        let file = folder.join("bowline.toml");
        let toml = std::fs::read_to_string(&file).expect("the app's file");
        // There is a middle.
        let slow = toml.replacen("python3 server.py", "sleep 2 && python3 server.py", 1);
        std::fs::write(&file, slow).expect("a file of the test");
        let mut client = bowline.command(&["deploy", path(&folder), "--env", "production", "--json"]);
        let client = client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        wait("the release starts", SOON, || (!bowline.processes_of(name).is_empty()).then_some(()));
        match stopped {
            true => assert!(bowline.run(&["down"]).status.success()),
            false => drop(server.end(nix::sys::signal::Signal::SIGKILL)),
        }
        let _next = Server::start(&bowline);
        let followed = lines(&client.wait_with_output().expect("it was started"));
        assert_eq!(of_kind(&followed, "ready")["release"], 1);
        let app = &bowline.status()["apps"][0];
        assert_eq!((&app["state"], &app["change"]), (&"ready".into(), &Value::Null), "{app:#}");
    }
}

#[test]
fn what_is_wrong_is_said_before_anything_is_sent() {
    let bowline = Bowline::new();
    let folder = app(&bowline, "deploy-wrong", "");
    let deploy = |more: &[&'static str]| [&["deploy", path(&folder)], more].concat();
    assert!(bowline.fails(&deploy(&[]), 2).contains("--env"), "there is no default environment");
    let said = bowline.fails(&deploy(&["--env", "production"]), 4);
    assert!(said.contains("no daemon runs here"), "{said}");
    let mut to_cluster = bowline.command(&deploy(&["--env", "production", "--to", "kubernetes"]));
    let output = to_cluster.env("KUBECONFIG", folder.join("none")).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("no cluster is known here"), "{}", text(&output));
    let said = bowline.fails(&deploy(&["--env", "production", "--to", "https://example.com"]), 3);
    assert!(said.contains("there is no token") && said.contains("bowline login"), "{said}");
    let said = bowline.fails(&deploy(&["--env", "production", "--to", "ssh://-oProxyCommand=id"]), 2);
    assert!(said.contains("is no target"), "{said}");
    assert!(bowline.fails(&["down", "--to", "ssh://example.com"], 2).contains("for this machine alone"));
    std::fs::write(folder.join("bowline.toml"), "[service.web]\nrun = 1\n").expect("a file of the test");
    assert!(bowline.fails(&deploy(&["--env", "production"]), 2).contains("bowline.toml:2"));
}

/// An sshd of this test's own, on which its user logs in with a key.
struct Sshd {
    child: Child,
    port: Port,
    /// Stands in for `ssh`, with this test's key and nothing of the machine's configuration.
    ssh: PathBuf,
}

impl Sshd {
    fn start(bowline: &Bowline) -> Self {
        let dir = bowline.folder("ssh");
        for key in ["host", "user"] {
            let mut keygen = Command::new("ssh-keygen");
            let made = keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(key)).output();
            assert!(made.expect("openssh-client is installed").status.success());
        }
        let bin = bowline.folder("bin");
        std::os::unix::fs::symlink(bowline_tests::binary(), bin.join("bowline")).expect("a link of the test");
        if nix::unistd::geteuid().is_root() {
            std::fs::create_dir_all("/run/sshd").expect("sshd's own folder");
        }
        let held = Port::reserve();
        let port = held.number;
        let (at, path) = (dir.display(), bin.display());
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host\nAuthorizedKeysFile {at}/user.pub\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nSetEnv PATH={path}:/usr/bin:/bin\n"
        );
        std::fs::write(dir.join("sshd_config"), config).expect("a file of the test");
        let options = format!(
            "IdentityFile {at}/user\nIdentitiesOnly yes\nUserKnownHostsFile /dev/null\nStrictHostKeyChecking no\n\
             LogLevel ERROR\nBatchMode yes\n"
        );
        std::fs::write(dir.join("ssh_config"), options).expect("a file of the test");
        let ssh = bin.join("ssh-of-test");
        let mut script = std::fs::File::create(&ssh).expect("a file of the test");
        write!(script, "#!/bin/sh\nexec ssh -F {at}/ssh_config \"$@\"\n").expect("a file of the test");
        script.set_permissions(std::fs::Permissions::from_mode(0o755)).expect("a file of the test");
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-f"]).arg(dir.join("sshd_config")).stdin(Stdio::null()).stderr(Stdio::null());
        let child = sshd.spawn().expect("openssh-server is installed");
        wait("sshd listens", SOON, || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { child, port: held, ssh }
    }

    /// Of a command on another machine: what it knows of the server is the target.
    fn command(&self, bowline: &Bowline, args: &[&str]) -> Command {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().expect("a user").name;
        let to = format!("ssh://{user}@localhost:{}", self.port.number);
        let state = bowline.state();
        let mut command = bowline.command(&[&["--to", &to, "--state", path(&state)], args].concat());
        command.env_remove("BOWLINE_STATE").env("BOWLINE_SSH", &self.ssh);
        command
    }

    fn run(&self, bowline: &Bowline, args: &[&str]) -> Output {
        self.command(bowline, args).output().expect("the binary runs")
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn everything_goes_over_ssh_to_another_machine() {
    let bowline = Bowline::new();
    let (_server, sshd) = (Server::start(&bowline), Sshd::start(&bowline));
    let folder = app(&bowline, "deploy-ssh", "");
    let plan = ["plan", path(&folder), "--env", "production"];
    let shown = text(&sshd.run(&bowline, &plan));
    assert!(shown.contains("release 1") && shown.contains("--to ssh://") && shown.contains("--state "), "{shown}");
    let shown = lines(&sshd.run(&bowline, &[&plan[..], &["--json"]].concat()));
    let hash = shown[0]["hash"].as_str().expect("a hash");
    let deploy = ["deploy", path(&folder), "--env", "production", "--plan", hash, "--json"];
    let first = lines(&sshd.run(&bowline, &deploy));
    assert_eq!(
        (&of_kind(&first, "sent")["bytes"], &of_kind(&first, "ready")["release"]),
        (&0.into(), &1.into()),
        "what was sent for the plan is not sent again"
    );
    let status = sshd.run(&bowline, &["status", "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&status)));
    assert_eq!(status["apps"][0]["state"], "ready", "{status:#}");
    let of_app = |verb: &[&'static str]| [verb, &["--env", "production"]].concat();
    let releases = sshd.run(&bowline, &of_app(&["releases", "deploy-ssh"]));
    assert!(text(&releases).contains("serves"), "{}", text(&releases));
    let mut exec = of_app(&["exec", "deploy-ssh.web"]);
    exec.extend(["--", "cat"]);
    let mut exec = sshd.command(&bowline, &exec);
    let mut child = exec.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let feeder = std::thread::spawn(move || stdin.write_all(&vec![b'x'; 1 << 20]));
    let output = child.wait_with_output().expect("it was started");
    let fed = feeder.join().expect("no panic");
    assert!(
        fed.is_ok() && output.status.success() && output.stdout == vec![b'x'; 1 << 20],
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let nobody = Bowline::new();
    let said = sshd.run(&nobody, &["status"]);
    assert_eq!(said.status.code(), Some(4), "{}", text(&said));
    let said = text(&said);
    assert!(said.contains("ssh://") && said.contains("no daemon runs here"), "the words of the other machine: {said}");
    let mut refused = bowline.command(&["status", "--to", "ssh://localhost:1"]);
    let refused = refused.env("BOWLINE_SSH", &sshd.ssh).output().expect("the binary runs");
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused));
    assert!(text(&refused).contains("refused"), "ssh's own words: {}", text(&refused));
}
