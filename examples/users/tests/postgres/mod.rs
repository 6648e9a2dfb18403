//! A real PostgreSQL with a folder, a port, passwords and a certificate authority of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::client::until;

/// Of the administrator and of the service's user.
pub(crate) const PASSWORD: &str = "correct-horse-battery-staple";

const INIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/source/init.sql");

/// Who may connect over what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tls {
    Off,
    Required,
}

pub(crate) struct Postgres {
    folder: TempDir,
    pub(crate) port: u16,
    _held: Socket,
    child: Option<Child>,
}

impl Postgres {
    /// With an empty database `users` that belongs to the user `users`, and nothing at the port yet.
    pub(crate) fn absent(tls: Tls) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let (port, held) = reserved();
        let postgres = Self { folder, port, _held: held, child: None };
        postgres.make(tls);
        postgres
    }

    /// Runs, with what `source/init.sql` makes.
    pub(crate) fn start(tls: Tls) -> Self {
        let mut postgres = Self::absent(tls);
        postgres.run();
        postgres.init();
        postgres
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The certificate of the authority that signed the server's, which is for `localhost`.
    pub(crate) fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    fn make(&self, tls: Tls) {
        let (data, password) = (self.file("data"), self.file("password"));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(&password, PASSWORD).unwrap();
        certificates(self.folder.path());
        for name in ["data", "password", "server.key"] {
            give(&self.file(name));
        }
        let mut initdb = as_postgres("initdb");
        initdb.args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]);
        initdb.arg("--pwfile").arg(password).arg("-D").arg(&data).stdout(Stdio::null());
        assert!(initdb.status().unwrap().success(), "initdb");
        let kind = match tls {
            Tls::Off => "hostnossl",
            Tls::Required => "hostssl",
        };
        std::fs::write(data.join("pg_hba.conf"), format!("{kind} all all 127.0.0.1/32 scram-sha-256\n")).unwrap();
    }

    /// Starts it, on the data that are there, and waits until it answers.
    pub(crate) fn run(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        self.child = Some(self.spawn());
        until("postgres runs", || {
            // Its predecessor is not quite gone: it ends at once.
            if self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some()) {
                self.child = Some(self.spawn());
            }
            self.try_sql("postgres", "SELECT 1").is_some()
        });
        let exists = self.sql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'users'");
        if exists == "0" {
            self.sql("postgres", &format!("CREATE ROLE users LOGIN PASSWORD '{PASSWORD}'"));
            self.sql("postgres", "CREATE DATABASE users OWNER users");
        }
    }

    fn spawn(&self) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(self.file("log")).unwrap();
        let mut command = as_postgres("postgres");
        command.arg("-D").arg(self.file("data")).arg("-p").arg(self.port.to_string());
        for (name, value) in [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", String::new()),
            // What is killed here is the process, not the machine.
            ("fsync", "off".to_owned()),
            ("shared_buffers", "8MB".to_owned()),
            ("max_connections", "20".to_owned()),
            ("ssl", "on".to_owned()),
            ("ssl_cert_file", self.file("server.pem").display().to_string()),
            ("ssl_key_file", self.file("server.key").display().to_string()),
        ] {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdin(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// `source/init.sql`, as the service's user.
    pub(crate) fn init(&self) {
        let mut psql = self.psql("users", "users");
        assert!(psql.args(["-f", INIT]).status().unwrap().success(), "{INIT}");
    }

    /// What the administrator is answered in this database.
    pub(crate) fn sql(&self, database: &str, query: &str) -> String {
        self.try_sql(database, query).unwrap_or_else(|| panic!("{query}"))
    }

    fn try_sql(&self, database: &str, query: &str) -> Option<String> {
        let output = self.psql("postgres", database).args(["-Atc", query]).stderr(Stdio::null()).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    pub(crate) fn psql(&self, user: &str, database: &str) -> Command {
        let mut psql = Command::new("psql");
        psql.env("PGOPTIONS", "-c client_min_messages=warning");
        psql.env("PGPASSWORD", PASSWORD).env("PGCONNECT_TIMEOUT", "20").args(["-X", "-q", "-v", "ON_ERROR_STOP=1"]);
        psql.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", user, "-d", database]);
        psql
    }

    /// `kill -9` of the server; its children end when they notice.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// A port of 127.0.0.1 and what holds it: nobody is given it meanwhile, neither to listen on nor for a connection. Who asks for it by its number
/// and sets `SO_REUSEADDR`, as servers do, may listen there, and again.
fn reserved() -> (u16, Socket) {
    let held = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    held.set_reuse_address(true).unwrap();
    held.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let port = held.local_addr().unwrap().as_socket().unwrap().port();
    (port, held)
}

/// A program of the newest PostgreSQL here. It refuses to run as root, so root runs it as the user of the package.
fn as_postgres(program: &str) -> Command {
    let bin = Path::new("/usr/lib/postgresql");
    let mut versions: Vec<u32> = std::fs::read_dir(bin)
        .expect("apt install postgresql")
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable();
    let program = bin.join(versions.last().expect("apt install postgresql").to_string()).join("bin").join(program);
    let mut command = match is_root() {
        // Unlike runuser, it becomes the program, so that killing it kills the program.
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
            command
        }
        false => Command::new(program),
    };
    command.current_dir("/");
    command
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

fn give(path: &Path) {
    if is_root() {
        let of = |what: &str| {
            let output = Command::new("id").args([what, "postgres"]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).trim().parse().expect("apt install postgresql")
        };
        chown(path, Some(of("-u")), Some(of("-g"))).unwrap();
    }
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// A throw-away authority, and a certificate for `localhost`.
fn certificates(folder: &Path) {
    authority(folder, "ca");
    openssl(
        folder,
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout server.key -out server.csr -subj /CN=server",
    );
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl(
        folder,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names",
    );
}

/// NAME.pem and NAME.key.
pub(crate) fn authority(folder: &Path, name: &str) -> PathBuf {
    openssl(
        folder,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name}"
        ),
    );
    folder.join(format!("{name}.pem"))
}

fn openssl(folder: &Path, words: &str) {
    let output =
        Command::new("openssl").args(words.split(' ')).current_dir(folder).output().expect("apt install openssl");
    assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
}
