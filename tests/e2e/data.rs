//! Databases and caches that Bowline runs: real servers, killed, adopted, kept.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use bowline_tests::client::curl;
use bowline_tests::load::{Load, Writes};
use bowline_tests::machine::Process;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, wait};
use serde_json::Value;

/// MariaDB makes its system tables, which takes a while on a busy disk.
const SLOW: std::time::Duration = std::time::Duration::from_secs(120);

/// The one resource of the one app, as `status` has it.
fn resource(bowline: &Bowline) -> Value {
    bowline.status()["apps"][0]["resources"][0].clone()
}

fn server(bowline: &Bowline) -> Process {
    wait("the server runs", SOON, || {
        let resource = resource(bowline);
        let ready = resource["state"] == "ready";
        resource["pid"].as_u64().filter(|_| ready).and_then(|pid| u32::try_from(pid).ok()).map(|pid| Process { pid })
    })
}

/// What the app answers, once it answers well.
fn page(bowline: &Bowline, up: &Up) -> String {
    wait("the app answers", SOON, || {
        let answer = curl(&bowline.ca(), &format!("{}/", up.https()), &[]);
        (answer.status == 200).then(|| answer.text())
    })
}

fn add(bowline: &Bowline, up: &Up, name: &str) {
    let answer = curl(&bowline.ca(), &format!("{}/", up.https()), &["--data", name]);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The app's own process: the server carries the app's name, too.
fn instance(bowline: &Bowline, app: &str) -> Process {
    let of_service = |p: &Process| p.environment("BOWLINE_SERVICE").as_deref() == Some("web");
    let own = |p: &Process| of_service(p) && p.arguments().iter().any(|word| word == "server.py");
    bowline.processes_of(app).into_iter().find(own).unwrap_or_else(|| panic!("{app} runs"))
}

/// A variable of the app's process.
fn variable(bowline: &Bowline, app: &str, name: &str) -> String {
    instance(bowline, app).environment(name).unwrap_or_else(|| panic!("{name} of {app}"))
}

/// Kills the server, then the daemon: data, port, adoption and the app's own process are kept.
fn survives(bowline: &Bowline, up: &Up, app: &str, filled: &str) {
    assert_eq!(page(bowline, up), filled);
    add(bowline, up, "edith");
    let expected = format!("{filled}edith\n");
    let (first, port, own) = (server(bowline), resource(bowline)["port"].clone(), instance(bowline, app));

    first.kill();
    wait("the server is gone", SOON, || (!first.runs()).then_some(()));
    assert_eq!(page(bowline, up), expected, "what was acknowledged is there");
    let second = server(bowline);
    assert_eq!(resource(bowline)["port"], port);

    let daemon = Process { pid: bowline.daemon() };
    daemon.kill();
    wait("the daemon is gone", SOON, || (!daemon.runs()).then_some(()));
    // Its socket may be closed a moment after it has died.
    wait("another daemon answers", SOON, || bowline.run(&["status"]).status.success().then_some(()));
    assert_eq!(server(bowline), second, "the server is adopted");
    assert_eq!(page(bowline, up), expected, "and not filled again");
    assert_eq!(instance(bowline, app), own, "instances stay");

    assert!(bowline.run(&["down"]).status.success());
    assert!(!second.runs(), "down stops the server");
}

/// Kills the server twice and the daemon once while names are added, and looks for those that were acknowledged.
fn loses_nothing_under_load(app: &str, fixture: &str) {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app(app, fixture), SLOW);
    let writes = Writes::start(&up.https(), &bowline.ca());
    for _ in 0..2 {
        let killed = server(&bowline);
        killed.kill();
        wait("the server is gone", SOON, || (!killed.runs()).then_some(()));
        writes.more();
    }
    let (daemon, last) = (Process { pid: bowline.daemon() }, server(&bowline));
    daemon.kill();
    last.kill();
    wait("both are gone", SOON, || (!daemon.runs() && !last.runs()).then_some(()));
    wait("another daemon answers", SOON, || bowline.run(&["status"]).status.success().then_some(()));
    let acknowledged = writes.stop();
    let there = page(&bowline, &up);
    let there: BTreeSet<&str> = there.lines().collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|name| !there.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged are lost: {lost:?}", lost.len(), acknowledged.len());
}

#[test]
fn postgres_loses_nothing_that_it_acknowledged_under_load() {
    loses_nothing_under_load("load-postgres", "postgres");
}

#[test]
fn mariadb_loses_nothing_that_it_acknowledged_under_load() {
    loses_nothing_under_load("load-mariadb", "mariadb");
}

#[test]
fn redis_loses_nothing_that_it_acknowledged_under_load() {
    loses_nothing_under_load("load-redis", "redis");
}

/// A file by its number and its birth: numbers are given again.
type Table = (u64, Option<std::time::SystemTime>);

/// What shows that the script is in its middle: a table's file that has grown, and was not there at an earlier kill.
struct Middle<'b> {
    bowline: &'b Bowline,
    seen: BTreeSet<Table>,
}

impl Middle<'_> {
    /// Of the one large table of the script, a part.
    const BYTES: u64 = 4 << 20;

    fn large_files(&self) -> BTreeSet<Table> {
        use std::os::unix::fs::MetadataExt;
        let mut open = vec![self.bowline.state().join("data")];
        let mut found = BTreeSet::new();
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let Ok(meta) = entry.metadata() else { continue };
                // A table of PostgreSQL has a number for a name, one of InnoDB a file of its own.
                let is_table = path.to_str().is_some_and(|path| path.contains("/base/") || path.ends_with(".ibd"));
                if meta.is_dir() {
                    open.push(path);
                } else if is_table && meta.len() >= Self::BYTES {
                    found.insert((meta.ino(), meta.created().ok()));
                }
            }
        }
        found
    }

    /// Waits for it, kills, and waits until all are gone.
    fn kill(&mut self, who: &[Process]) {
        wait("the script is in its middle", SLOW, || {
            let large = self.large_files();
            large.iter().any(|file| !self.seen.contains(file)).then_some(())
        });
        who.iter().for_each(Process::kill);
        wait("who was killed is gone", SOON, || who.iter().all(|one| !one.runs()).then_some(()));
        self.seen.extend(self.large_files());
    }
}

/// The server while the script runs: not ready yet.
fn server_that_is_filled(bowline: &Bowline) -> Process {
    wait("the server runs", SLOW, || {
        let resource = resource(bowline);
        let pid = resource["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).map(|pid| Process { pid });
        pid.filter(Process::runs)
    })
}

/// `rows` inserts many rows into `filler`; the script ends with their number as a user.
fn is_filled_once(app: &str, fixture: &str, rows: &str) {
    const STEPS: usize = 40;
    const ROWS: usize = 4_000;
    let bowline = Bowline::new();
    let folder = bowline.app(app, fixture);
    let script = folder.join("source/init.sql");
    let mut text = std::fs::read_to_string(&script).expect("a fixture");
    text.push_str("CREATE TABLE filler (text varchar(400));\n");
    (0..STEPS).for_each(|_| text.push_str(rows));
    text.push_str("INSERT INTO users (name) SELECT count(*) FROM filler;\n");
    std::fs::write(&script, text).expect("a test's file");
    let dir = folder.to_str().expect("UTF-8");
    let mut first = bowline
        .command(&["up", dir, "--detach", "--http", "0", "--https", "0", "--admin", "0"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut middle = Middle { bowline: &bowline, seen: BTreeSet::new() };
    wait("a daemon answers", SOON, || bowline.state().join("daemon.json").exists().then_some(()));
    middle.kill(&[server_that_is_filled(&bowline)]);
    middle.kill(&[Process { pid: bowline.daemon() }]);
    let _ = first.kill();
    let _ = first.wait();
    wait("another daemon answers", SOON, || bowline.run(&["status"]).status.success().then_some(()));
    middle.kill(&[server_that_is_filled(&bowline), Process { pid: bowline.daemon() }]);
    let up = Up::start(&bowline, &folder, SLOW);
    assert_eq!(page(&bowline, &up), format!("ada\ngrace\n{}\n", STEPS * ROWS));
}

#[test]
fn postgres_is_filled_once_whatever_is_killed_in_the_middle() {
    let rows = "INSERT INTO filler SELECT repeat('x', 300) FROM generate_series(1, 4000);\n";
    is_filled_once("init-postgres", "postgres", rows);
}

#[test]
fn mariadb_is_filled_once_whatever_is_killed_in_the_middle() {
    let rows = "INSERT INTO filler SELECT repeat('x', 300) FROM seq_1_to_4000;\n";
    is_filled_once("init-mariadb", "mariadb", rows);
}

#[test]
fn postgres_is_given_to_an_app_and_survives_what_is_killed() {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("data-postgres", "postgres"), SOON);
    let url = variable(&bowline, "data-postgres", "DATABASE_URL");
    let other = url.replace("app_db:", "bowline:");
    let stranger = Command::new("psql").args(["-XAtc", "SELECT 1"]).env("PGCONNECT_TIMEOUT", "10").arg(other).output();
    assert!(!stranger.expect("psql is installed").status.success(), "nobody is the administrator over TCP");
    survives(&bowline, &up, "data-postgres", "ada\ngrace\n");
}

#[test]
fn mariadb_is_given_to_an_app_and_survives_what_is_killed() {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("data-mariadb", "mariadb"), SLOW);
    survives(&bowline, &up, "data-mariadb", "ada\ngrace\n");
}

#[test]
fn redis_is_given_to_an_app_and_survives_what_is_killed() {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("data-redis", "redis"), SOON);
    let refused = curl(&bowline.ca(), &format!("{}/config", up.https()), &[]);
    assert!(
        refused.status == 503 && refused.text().contains("NOPERM"),
        "an app is no administrator: {}",
        refused.text()
    );
    survives(&bowline, &up, "data-redis", "");
}

#[test]
fn a_script_that_fails_is_named_with_its_line_and_nothing_starts() {
    let bowline = Bowline::new();
    let folder = bowline.app("data-script", "postgres");
    let script = folder.join("source/init.sql");
    std::fs::write(&script, "CREATE TABLE users (id int);\n\nINSERT INTO userz VALUES (1);\n").expect("a test's file");
    let dir = folder.to_str().expect("UTF-8");
    let said = bowline.fails(&["up", dir, "--detach", "--http", "0", "--https", "0", "--admin", "0"], 2);
    assert!(said.contains("source/init.sql:3: relation \"userz\" does not exist"), "{said}");
    assert!(bowline.processes_of("data-script").is_empty(), "nothing is left running");

    let script_text = "CREATE TABLE users (id serial, name text);\nINSERT INTO users (name) VALUES ('once');\n";
    std::fs::write(&script, script_text).expect("a test's file");
    let up = Up::start(&bowline, &folder, SOON);
    assert_eq!(page(&bowline, &up), "once\n", "what failed has left nothing behind");
}

#[test]
fn a_database_that_the_file_forgets_keeps_its_data_for_when_it_is_named_again() {
    let bowline = Bowline::new();
    let folder = bowline.app("data-orphan", "postgres");
    let toml = folder.join("bowline.toml");
    let with = std::fs::read_to_string(&toml).expect("a fixture");
    let up = Up::start(&bowline, &folder, SOON);
    add(&bowline, &up, "edith");
    let first = server(&bowline);
    let port = resource(&bowline)["port"].clone();

    let serve = "[service.web]\nrun = \"python3 -m http.server $PORT\"\n";
    std::fs::write(&toml, serve).expect("a test's file");
    drop(Up::start(&bowline, &folder, SOON));
    wait("its server is stopped", SOON, || (!first.runs()).then_some(()));
    let orphan = wait("it is said to be orphaned", SOON, || {
        let resource = resource(&bowline);
        (resource["orphaned"] == true && resource["state"] == "stopped").then_some(resource)
    });
    assert_eq!(orphan["port"], port);

    std::fs::write(&toml, with).expect("a test's file");
    let up = Up::start(&bowline, &folder, SOON);
    assert_eq!(page(&bowline, &up), "ada\ngrace\nedith\n", "the same data");
    assert_eq!(resource(&bowline)["port"], port);
}

#[test]
fn data_of_another_major_version_are_refused_with_the_way_to_go() {
    let bowline = Bowline::new();
    let folder = bowline.app("data-version", "postgres");
    assert!(Up::start(&bowline, &folder, SOON).interrupt().success());
    let toml = folder.join("bowline.toml");
    let text = std::fs::read_to_string(&toml).expect("a fixture");
    std::fs::write(&toml, text.replace("[postgres.db]", "[postgres.db]\nversion = 99")).expect("a test's file");
    let dir = folder.to_str().expect("UTF-8");
    let said = bowline.fails(&["up", dir, "--detach", "--http", "0", "--https", "0", "--admin", "0"], 3);
    assert!(said.contains("not 99") && said.contains("hint: write version = "), "{said}");
}

/// As phpMyAdmin writes it: the session is left with `autocommit` off, and nothing is committed at its end.
const DUMP: &str = r#"-- phpMyAdmin SQL Dump
SET SQL_MODE = "NO_AUTO_VALUE_ON_ZERO";
SET AUTOCOMMIT = 0;
START TRANSACTION;
SET time_zone = "+00:00";

/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
/*!40101 SET NAMES utf8mb4 */;

CREATE TABLE `users` (
  `id` int(11) NOT NULL,
  `name` varchar(80) NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

INSERT INTO `users` (`id`, `name`) VALUES
(1, 'ada'),
(2, 'grace');

ALTER TABLE `users` ADD PRIMARY KEY (`id`);
ALTER TABLE `users` MODIFY `id` int(11) NOT NULL AUTO_INCREMENT, AUTO_INCREMENT=3;
COMMIT;
SET SESSION TRANSACTION READ ONLY;
"#;

#[test]
fn a_dump_that_turns_autocommit_off_fills_a_database_for_good() {
    let bowline = Bowline::new();
    let folder = bowline.app("data-dump", "mariadb");
    std::fs::write(folder.join("source/init.sql"), DUMP).expect("a test's file");
    let up = Up::start(&bowline, &folder, SLOW);
    survives(&bowline, &up, "data-dump", "ada\ngrace\n");
    let up = Up::start(&bowline, &folder, SLOW);
    assert_eq!(page(&bowline, &up), "ada\ngrace\nedith\n", "nor by another start of everything");
}

/// Applies a folder whose script is refused: what is said.
fn refused_script(bowline: &Bowline, folder: &std::path::Path, script: &str) -> String {
    std::fs::write(folder.join("source/init.sql"), script).expect("a test's file");
    let dir = folder.to_str().expect("UTF-8");
    bowline.fails(&["up", dir, "--detach", "--http", "0", "--https", "0", "--admin", "0"], 2)
}

#[test]
fn a_script_of_postgres_has_the_rights_of_the_app_only() {
    let bowline = Bowline::new();
    let folder = bowline.app("data-rights", "postgres");
    let refused = |script: &str, expected: &str| {
        let said = refused_script(&bowline, &folder, script);
        assert!(said.contains(expected), "{script}: {said}");
    };
    refused("RESET ROLE;\nALTER ROLE app_db SUPERUSER;\n", "init.sql:2: must be superuser to alter superuser");
    refused(
        "\nCOPY (SELECT 1) TO PROGRAM 'true';\n",
        "init.sql:2: must be superuser or have privileges of the pg_execute",
    );
    refused("SET SESSION AUTHORIZATION bowline;\n", "init.sql:1: permission denied to set session authorization");
    refused("SELECT 1;\n\\connect postgres\n", "init.sql:2: \\connect is a command of psql");
    let dump = "\\restrict key\nSELECT pg_catalog.set_config('search_path', '', false);\nCREATE TABLE public.users (id serial PRIMARY KEY, \
                name text);\nCREATE FUNCTION public.f() RETURNS int LANGUAGE sql BEGIN ATOMIC\nSELECT 1; SELECT 2;\nEND;\n";
    let copy = |second: &str| {
        format!(
            "{dump}COPY public.users (id, name) FROM stdin;\n1\tada; it's\n{second}\tgrace\n\\.\n\\unrestrict key\n"
        )
    };
    refused(&copy("x"), "init.sql:9: invalid input syntax for type integer");
    let whole = format!("{}SELECT pg_catalog.setval('public.users_id_seq', 2);\n", copy("2"));
    std::fs::write(folder.join("source/init.sql"), whole).expect("a test's file");
    let up = Up::start(&bowline, &folder, SOON);
    survives(&bowline, &up, "data-rights", "ada; it's\ngrace\n");
}

#[test]
fn a_script_of_mariadb_has_the_rights_of_the_app_only_and_is_begun_anew() {
    let bowline = Bowline::new();
    let folder = bowline.app("data-definer", "mariadb");
    let begun = "CREATE TABLE users (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(80));\nINSERT INTO users (name) VALUES ('once');\n";
    let refused = |script: &str, expected: &str| {
        let said = refused_script(&bowline, &folder, &format!("{begun}{script}"));
        assert!(said.contains(expected), "{script}: {said}");
        assert!(bowline.processes_of("data-definer").is_empty(), "nothing is left running");
    };
    refused("GRANT ALL ON *.* TO CURRENT_USER;\n", "init.sql:3: Access denied");
    refused("INSTALL SONAME 'ha_archive';\n", "init.sql:3: INSERT command denied");
    refused("\nINSERT INTO userz VALUES (1);\n", "init.sql:4: Table 'app_db.userz' doesn't exist");

    // A daemon is killed while the script runs, which goes on in the server.
    let sleeps = format!("{begun}SELECT SLEEP(600);\n");
    std::fs::write(folder.join("source/init.sql"), sleeps).expect("a test's file");
    let dir = folder.to_str().expect("UTF-8");
    let args = ["up", dir, "--detach", "--http", "0", "--https", "0", "--admin", "0"];
    let mut waits = bowline.command(&args).stdout(Stdio::null()).spawn().expect("the binary runs");
    let script_runs = || {
        let said = bowline.run(&["status"]);
        bowline_tests::text(&said).contains("its roles and contents").then_some(())
    };
    wait("the script runs", SLOW, script_runs);
    bowline.kill_daemon();
    wait("another daemon ends the script and begins it anew", SOON, script_runs);
    assert!(bowline.run(&["down"]).status.success(), "in the middle of it");
    assert!(!waits.wait().expect("its own child").success(), "who followed it over both is told");
    std::fs::write(folder.join("source/init.sql"), begun).expect("a test's file");
    let up = Up::start(&bowline, &folder, SLOW);
    assert_eq!(page(&bowline, &up), "once\n", "what was begun has left nothing behind");
}

#[test]
fn data_of_another_series_of_mariadb_are_refused() {
    let bowline = Bowline::new();
    let folder = bowline.app("data-series", "mariadb");
    assert!(Up::start(&bowline, &folder, SLOW).interrupt().success());
    let noted = bowline.state().join("data/local/data-series/mariadb.db/config/version");
    let made_by = std::fs::read_to_string(&noted).expect("it is noted who made the data");
    let major = made_by.split('.').next().expect("a number");
    std::fs::write(&noted, format!("{major}.0.1\n")).expect("a test's file");
    let dir = folder.to_str().expect("UTF-8");
    let said = bowline.fails(&["up", dir, "--detach", "--http", "0", "--https", "0", "--admin", "0"], 3);
    assert!(said.contains(&format!("made by version {major}.0, not {major}.")), "{said}");
    std::fs::write(&noted, &made_by).expect("a test's file");
    let up = Up::start(&bowline, &folder, SLOW);
    assert_eq!(page(&bowline, &up), "ada\ngrace\n");
    assert_eq!(std::fs::read_to_string(&noted).expect("still noted"), made_by);
}

#[test]
fn a_version_that_cannot_be_had_costs_the_stable_release_nothing() {
    let bowline = Bowline::new();
    let folder = bowline.app("data-candidate", "postgres");
    let up = Up::start(&bowline, &folder, SOON);
    let before = server(&bowline);
    let load = Load::start(&up.https(), "/", &bowline.ca());
    let toml = folder.join("bowline.toml");
    let text = std::fs::read_to_string(&toml).expect("a fixture");
    std::fs::write(&toml, text.replace("[postgres.db]", "[postgres.db]\nversion = 99")).expect("a test's file");
    let dir = folder.to_str().expect("UTF-8");
    let said = bowline.fails(&["up", dir, "--detach"], 3);
    assert!(said.contains("not 99"), "{said}");
    load.stop().expect_no_failure("a wrong version in a candidate's file");
    assert_eq!(server(&bowline), before, "the same process, ready");
}
