//! Real servers on loopback, each in a folder of its own, ended with the test.

use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bowline_tests::port::Port;
use bowline_tests::{SOON, set_mode, text, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

/// Of the user `app` of each server; found by nothing else.
pub(crate) const PASSWORD: &str = "canary-9c31e7d2-elsewhere";

/// A CA with a certificate for `localhost`, and for no other name.
pub(crate) struct Authority {
    dir: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("bowline-ca-").tempdir().expect("a folder for a CA");
        set_mode(dir.path(), 0o711);
        let this = Self { dir };
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let openssl = |args: &[&str]| {
            let output =
                Command::new("openssl").args(args).current_dir(this.dir.path()).output().expect("openssl runs");
            assert!(output.status.success(), "{args:?}: {}", text(&output));
        };
        let ca = ["req", "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=a CA of a test"];
        openssl(&[&ca, key.as_slice()].concat());
        openssl(
            &[&["req", "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"], key.as_slice()]
                .concat(),
        );
        std::fs::write(this.dir.path().join("names"), "subjectAltName=DNS:localhost\n").expect("a test's file");
        openssl(&[
            "x509",
            "-req",
            "-in",
            "server.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "names",
            "-out",
            "server.pem",
        ]);
        this
    }

    /// Holds `ca.pem`, `server.pem` and `server.key`.
    pub(crate) fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn certificate(&self) -> Vec<u8> {
        std::fs::read(self.dir.path().join("ca.pem")).expect("it was made")
    }

    /// Copies for a server that runs as `uid`: certificate, key, CA.
    fn copies(&self, dir: &Path, uid: Option<u32>) -> [String; 3] {
        ["server.pem", "server.key", "ca.pem"].map(|name| {
            let path = dir.join(name);
            std::fs::copy(self.dir.path().join(name), &path).expect("it was made");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a test's own file");
            own(&path, uid);
            path.display().to_string()
        })
    }
}

fn own(path: &Path, uid: Option<u32>) {
    if let Some(uid) = uid {
        chown(path, Some(uid), Some(uid)).expect("root gives away what is its own");
    }
}

/// Servers refuse to be root.
fn user() -> Option<u32> {
    let nobody = || User::from_name("nobody").ok().flatten().expect("every machine has a nobody");
    geteuid().is_root().then(|| nobody().uid.as_raw())
}

pub(crate) struct Server {
    dir: tempfile::TempDir,
    pub(crate) port: u16,
    #[expect(dead_code, reason = "it is nobody else's for as long as it is held")]
    held: Port,
    command: Vec<String>,
    child: Option<Child>,
}

impl Server {
    fn prepare() -> (tempfile::TempDir, PathBuf, Port) {
        let dir = tempfile::Builder::new().prefix("bowline-server-").tempdir().expect("a folder for a server");
        set_mode(dir.path(), 0o711);
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("a test's folder");
        set_mode(&data, 0o700);
        own(&data, user());
        (dir, data, Port::reserve())
    }

    fn begin(dir: tempfile::TempDir, held: Port, command: &[&str]) -> Self {
        let mut this = Self {
            dir,
            port: held.number,
            held,
            command: command.iter().map(ToString::to_string).collect(),
            child: None,
        };
        this.start();
        this
    }

    pub(crate) fn postgres(authority: &Authority) -> Self {
        let (dir, data, held) = Self::prepare();
        let port = held.number;
        let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed").flatten();
        let bin = versions.map(|entry| entry.path().join("bin")).max().expect("PostgreSQL is installed");
        let word = dir.path().join("word");
        std::fs::write(&word, PASSWORD).expect("a test's file");
        own(&word, user());
        let mut initdb = Command::new(bin.join("initdb"));
        initdb.arg("-D").arg(&data).args(["-U", "app", "--auth=scram-sha-256", "--no-sync", "--locale=C.UTF-8"]);
        made(initdb.arg("--pwfile").arg(&word));
        let [cert, key, _] = authority.copies(dir.path(), user());
        let (binary, data) = (bin.join("postgres").display().to_string(), data.display().to_string());
        let settings = [
            format!("port={port}"),
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            "fsync=off".to_owned(),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={cert}"),
            format!("ssl_key_file={key}"),
        ];
        let mut command = vec![binary.as_str(), "-D", &data];
        settings.iter().for_each(|setting| command.extend(["-c", setting]));
        Self::begin(dir, held, &command)
    }

    pub(crate) fn redis(authority: &Authority) -> Self {
        let (dir, data, held) = Self::prepare();
        let port = held.number;
        let [cert, key, ca] = authority.copies(dir.path(), user());
        let config = dir.path().join("redis.conf");
        let text = format!(
            "bind 127.0.0.1\nport 0\ntls-port {port}\ntls-cert-file {cert}\ntls-key-file {key}\ntls-ca-cert-file {ca}\n\
             tls-auth-clients no\nrequirepass {PASSWORD}\ndir {}\nsave \"\"\n",
            data.display()
        );
        std::fs::write(&config, text).expect("a test's file");
        own(&config, user());
        Self::begin(dir, held, &["/usr/bin/redis-server", config.to_str().expect("UTF-8")])
    }

    pub(crate) fn mariadb(authority: &Authority) -> Self {
        let (dir, data, held) = Self::prepare();
        let port = held.number;
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"]);
        made(install.arg(format!("--datadir={}", data.display())));
        let [cert, key, ca] = authority.copies(dir.path(), user());
        let first = dir.path().join("first.sql");
        let text = format!(
            "CREATE DATABASE shop;\nCREATE USER app@'%' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON shop.* TO app@'%';\n"
        );
        std::fs::write(&first, text).expect("a test's file");
        own(&first, user());
        let socket = format!("--socket={}", data.join("s").display());
        let options = [
            "--no-defaults".to_owned(),
            format!("--datadir={}", data.display()),
            format!("--port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            socket,
            format!("--ssl-cert={cert}"),
            format!("--ssl-key={key}"),
            format!("--ssl-ca={ca}"),
            format!("--init-file={}", first.display()),
            "--skip-name-resolve".to_owned(),
        ];
        let mut command = vec!["/usr/sbin/mariadbd"];
        command.extend(options.iter().map(String::as_str));
        Self::begin(dir, held, &command)
    }

    pub(crate) fn start(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("log")).expect("a test's file");
        let mut command = as_user(Command::new(&self.command[0]));
        command.args(&self.command[1..]).current_dir(self.dir.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file")).stderr(log);
        self.child = Some(command.spawn().expect("the server is installed"));
        wait("the server listens", SOON * 4, || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none(), "{}", std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default());
            TcpStream::connect(("127.0.0.1", self.port)).ok().map(drop)
        });
    }

    /// As an administrator would.
    pub(crate) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        kill(pid, Signal::SIGINT).expect("it is this test's own");
        let soon = std::time::Instant::now() + SOON;
        while child.try_wait().expect("it is this test's own").is_none() {
            if std::time::Instant::now() > soon {
                child.kill().expect("it is this test's own");
            }
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What ended by itself needs no end.
        if let Some(mut child) = self.child.take() {
            let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
            let _ = kill(pid, Signal::SIGQUIT);
            let soon = std::time::Instant::now() + std::time::Duration::from_secs(5);
            while std::time::Instant::now() < soon && matches!(child.try_wait(), Ok(None)) {
                std::thread::park_timeout(std::time::Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn as_user(mut command: Command) -> Command {
    if let Some(uid) = user() {
        command.uid(uid).gid(uid);
    }
    command
}

fn made(command: &mut Command) {
    if let Some(uid) = user() {
        command.uid(uid).gid(uid);
    }
    let output = command.current_dir("/").output().expect("the server is installed");
    assert!(output.status.success(), "{}", text(&output));
}
