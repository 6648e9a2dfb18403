//! What a database of PostgreSQL starts from, put to a real one as its official image does: what it runs once makes the app's role, which is no
//! administrator, fills the database as that role, and nobody else is let in from outside.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use bowline_tests::port::Port;
use bowline_tests::{Bowline, SOON, path, text, wait};
use serde_json::Value;

use super::{app, image, rendered};

const PASSWORD: &str = "it's a \\ $word";

/// Who may not be root: the server refuses to be.
const SERVER: &str = "postgres";

struct Image {
    folder: PathBuf,
    binaries: PathBuf,
    port: u16,
}

impl Image {
    /// A command as the user of the image, in its container.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={SERVER}"), &format!("--regid={SERVER}"), "--clear-groups"]);
        let found = self.binaries.join(program);
        command.arg(if found.exists() { found } else { PathBuf::from(program) });
        let here = [("PGHOST", path(&self.folder)), ("PGPORT", &self.port.to_string())].map(|(a, b)| (a, b.to_owned()));
        command.envs(here).env("POSTGRES_PASSWORD", PASSWORD).env("PGPASSWORD", PASSWORD).current_dir(&self.folder);
        command.env("PATH", format!("{}:/usr/bin:/bin", path(&self.binaries)));
        command
    }

    fn serve(&self, addresses: &str) -> Serving {
        let mut command = self.command("postgres");
        command.args([
            "-D",
            path(&self.folder.join("data")),
            "-c",
            &format!("hba_file={}", path(&self.folder.join("pg_hba.conf"))),
        ]);
        command.args([
            "-c",
            &format!("listen_addresses={addresses}"),
            "-p",
            &self.port.to_string(),
            "-k",
            path(&self.folder),
        ]);
        Serving(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the server starts"))
    }

    /// What somebody is answered who comes over the network.
    fn asks(&self, user: &str, database: &str, sql: &str) -> Output {
        let mut command = self.command("psql");
        command.args(["-X", "-qAt", "-w", "-h", "127.0.0.1", "-U", user, "-d", database, "-c", sql]);
        command.output().expect("psql starts")
    }
}

struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("a number of a process"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        let _ = self.0.wait();
    }
}

/// The newest that this machine has.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is there");
    let all = versions.flatten().map(|entry| entry.path().join("bin"));
    all.filter(|folder| folder.join("initdb").exists()).max().expect("a version of it")
}

/// The files of the ConfigMap, with paths of the container made those of the folder.
fn files(objects: &[Value], folder: &Path) -> Vec<(String, String)> {
    let is_config = |one: &&Value| one["kind"] == "ConfigMap" && one["data"]["make.sh"].is_string();
    let config = objects.iter().find(is_config).expect("what it starts from");
    let files = config["data"].as_object().expect("files").iter();
    let text = |value: &Value| value.as_str().expect("text").replace("/etc/bowline", path(folder));
    files.map(|(name, value)| (name.clone(), text(value))).collect()
}

#[test]
fn a_database_is_made_for_its_app_and_for_nobody_else() {
    let bowline = Bowline::new();
    let dir = app(&bowline, "made", "app = \"made\"\n[service.web]\nrun = \"x\"\n[postgres.db]\ninit = \"init.sql\"\n");
    std::fs::write(dir.join("init.sql"), "create table a (b int);\ninsert into a values (7);\n")
        .expect("a test's file");
    let objects = rendered(&bowline, &dir, &["--image", &format!("web={}", image("made"))]);
    let (folder, port) = (tempfile::tempdir().expect("a folder"), Port::reserve());
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("a folder of the test");
    for (name, text) in files(&objects, folder.path()) {
        std::fs::write(folder.path().join(name), text).expect("a file of the test");
    }
    let image = Image { folder: folder.path().to_owned(), binaries: binaries(), port: port.number };
    let done = |output: Output| assert!(output.status.success(), "{}", text(&output));
    // As the image does: an administrator `postgres`, a server on its socket alone, what is to be run once read into its own shell.
    let data = folder.path().join("data");
    let pwfile = folder.path().join("pw");
    std::fs::write(&pwfile, PASSWORD).expect("a file of the test");
    let mut initdb = image.command("initdb");
    initdb.args(["-D", path(&data), "--username=postgres", &format!("--pwfile={}", path(&pwfile))]);
    done(initdb.output().expect("initdb starts"));
    let first = image.serve("");
    let listening =
        || image.command("pg_isready").args(["-q", "-h", path(&image.folder)]).status().expect("it starts").success();
    wait("the server is there", SOON, || listening().then_some(()));
    let script = format!("set -Eeo pipefail; . {}", path(&folder.path().join("make.sh")));
    done(image.command("bash").args(["-c", &script]).output().expect("a shell starts"));
    drop(first);

    let _serving = image.serve("127.0.0.1");
    wait("the app gets in", SOON, || image.asks("app_db", "app_db", "select 1").status.success().then_some(()));
    let said = |sql: &str| text(&image.asks("app_db", "app_db", sql)).trim().to_owned();
    assert_eq!(said("select b from a"), "7");
    assert_eq!(said("select tableowner from pg_tables where tablename = 'a'"), "app_db");
    assert_eq!(said("select rolsuper or rolcreaterole or rolcreatedb from pg_roles where rolname = current_user"), "f");
    assert_eq!(said("select pg_get_userbyid(datdba) from pg_database where datname = current_database()"), "app_db");
    // The administrator has the same password, and is let in from nowhere.
    for (user, database) in [("postgres", "app_db"), ("postgres", "postgres"), ("app_db", "postgres")] {
        let said = image.asks(user, database, "select 1");
        assert!(
            !said.status.success() && text(&said).contains("no pg_hba.conf entry"),
            "{user} {database}: {}",
            text(&said)
        );
    }
    // As the probe asks, by its own words.
    let set = objects.iter().find(|one| one["kind"] == "StatefulSet").expect("a StatefulSet");
    let probe = &set["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["exec"]["command"][2];
    let probe = probe.as_str().expect("a script").to_owned();
    done(image.command("bash").args(["-c", &probe]).output().expect("a shell starts"));
    let mut other = image.command("bash");
    let refused = other.args(["-c", &probe]).env("POSTGRES_PASSWORD", "another").output().expect("a shell starts");
    assert!(!refused.status.success());
}
