//! `bowline data`: what there is, who is let in, what is filled and removed, also when the daemon is killed meanwhile.

use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use bowline_tests::client::curl;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, path, text, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// MariaDB makes its system tables, which takes a while on a busy disk.
const SLOW: Duration = Duration::from_secs(120);

fn psql(url: &str, sql: &str) -> Output {
    let mut psql = Command::new("psql");
    psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]).arg(url).env("PGCONNECT_TIMEOUT", "10");
    psql.output().expect("psql is installed")
}

fn page(bowline: &Bowline, up: &Up) -> String {
    wait("the app answers", SOON, || {
        let answer = curl(&bowline.ca(), &format!("{}/", up.https()), &[]);
        (answer.status == 200).then(|| answer.text())
    })
}

/// `data list`, by `kind.name`.
fn listed(bowline: &Bowline, data: &str) -> Option<Value> {
    let list = bowline.json(&["data", "list"]);
    let all = list["data"].as_array().expect("a list").clone();
    let is =
        |one: &Value| format!("{}.{}", one["kind"].as_str().unwrap_or(""), one["name"].as_str().unwrap_or("")) == data;
    all.into_iter().find(is)
}

fn ok(bowline: &Bowline, args: &[&str]) -> String {
    let output = bowline.run(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output));
    text(&output)
}

#[test]
fn somebody_is_let_in_for_a_while_and_no_longer() {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("verbs-lease", "postgres"), SOON);
    let lend = |more: &[&str]| {
        let args = [&["data", "connect", "verbs-lease", "db"], more].concat();
        bowline.json(&args)["url"].as_str().expect("a URL").to_owned()
    };
    let short = lend(&["--for", "1m"]);
    let reader = lend(&["--read-only", "--for", "1h"]);
    assert_eq!(text(&psql(&reader, "SELECT name FROM users ORDER BY id")), "ada\ngrace\n");
    let mut insists = Command::new("psql");
    insists.args(["-XAtq", "-c", "SET default_transaction_read_only = off", "-c"]);
    let refused = insists.args(["INSERT INTO users (name) VALUES ('x')", &reader]).output().expect("psql is installed");
    assert!(text(&refused).contains("permission denied"), "{}", text(&refused));
    assert!(text(&psql(&reader, "SHOW statement_timeout")).contains("1min"));

    let made = psql(&short, "CREATE TABLE made (); SELECT tableowner FROM pg_tables WHERE tablename = 'made'");
    assert_eq!(text(&made), "app_db\n", "what is made is the app's");
    let said = ok(&bowline, &["data", "connect", "verbs-lease", "db", "--psql", "--", "-XAtc", "SELECT session_user"]);
    assert!(said.starts_with("lease_"), "{said}");
    let events = bowline.json_text(&["events", "-n", "1000"]);
    let (until, ended) = (events.contains("\"until\""), events.contains("data.returned"));
    assert!(events.contains("data.lent") && until && ended, "{events}");

    // A session that goes on past the end of its lease, over the death of the daemon that made it.
    let mut session = Command::new("psql");
    session.args(["-XAtqc", "SELECT pg_sleep(300)"]).arg(&short).env("PGOPTIONS", "-c statement_timeout=0");
    let mut session = session.stderr(Stdio::null()).spawn().expect("psql is installed");
    bowline.kill_daemon();
    assert_eq!(page(&bowline, &up), "ada\ngrace\n");
    wait("another daemon answers", SOON, || bowline.run(&["status"]).status.success().then_some(()));
    wait("the session is ended", Duration::from_secs(120), || session.try_wait().expect("a child of this test"));
    wait("nobody is let in any more", SOON, || {
        let refused = psql(&short, "SELECT 1");
        (!refused.status.success()).then_some(())
    });
    wait("its role is gone", SOON, || {
        let roles = psql(&reader, "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'lease%'");
        (text(&roles).trim() == "1").then_some(())
    });
    assert_eq!(text(&psql(&reader, "SELECT tableowner FROM pg_tables WHERE tablename = 'made'")), "app_db\n");
}

#[test]
fn a_postgresql_is_filled_whole_or_not_at_all() {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("verbs-import", "postgres"), SOON);
    let files = bowline.folder("files");
    let url = bowline.json(&["data", "connect", "verbs-import", "db"])["url"].as_str().expect("a URL").to_owned();
    for (format, name) in [("-Fp", "d.sql"), ("-Fc", "d.dump"), ("-Fd", "d.dir")] {
        let mut dump = Command::new("pg_dump");
        dump.args([format, "--exclude-schema=bowline", "--no-owner", "--no-privileges", "-f"]).arg(files.join(name));
        let dumped = dump.arg(&url).output().expect("pg_dump is installed");
        assert!(dumped.status.success(), "{}", text(&dumped));
    }
    let import = |name: &str, more: &[&str]| {
        bowline.run(&[&["data", "import", "verbs-import", "db", path(&files.join(name))], more].concat())
    };
    let refused = import("d.sql", &[]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("is not empty"), "{}", text(&refused));
    for name in ["d.sql", "d.dump", "d.dir"] {
        assert!(psql(&url, "INSERT INTO users (name) VALUES ('lost')").status.success());
        let imported = import(name, &["--replace"]);
        assert!(imported.status.success(), "{name}: {}", text(&imported));
        assert_eq!(page(&bowline, &up), "ada\ngrace\n", "{name}");
    }
    std::fs::write(files.join("bad.sql"), "CREATE TABLE half ();\nSELECT nothing;\n").expect("a test's file");
    let failed = import("bad.sql", &["--replace"]);
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    assert!(text(&failed).contains("bad.sql:2") && text(&failed).contains("as it was"), "{}", text(&failed));
    assert_eq!(page(&bowline, &up), "ada\ngrace\n", "nothing has changed");
    std::fs::write(files.join("empty.sql"), "").expect("a test's file");
    assert_eq!(import("empty.sql", &["--replace"]).status.code(), Some(2));
    for script in ["DROP TABLE users;\nCOMMIT;\nSELECT no_such;\n", "SELECT 1;\n\\! true\n"] {
        std::fs::write(files.join("ends.sql"), script).expect("a test's file");
        let refused = import("ends.sql", &["--replace"]);
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
        assert!(text(&refused).contains("take line 2 out"), "{}", text(&refused));
    }
    let owners = psql(&url, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'");
    assert_eq!(text(&owners), "app_db\n");

    let held = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 'users'::regclass";
    let roles = || text(&psql(&url, "SELECT rolname FROM pg_roles ORDER BY 1"));
    let before = roles();
    let is_held = || text(&psql(&url, held)) == "1\n";
    let file = files.join("slow.sql");
    std::fs::write(&file, "SELECT pg_sleep(600);\n").expect("a test's file");
    let slow = ["data", "import", "verbs-import", "db", path(&file), "--replace"];
    let mut importing = bowline.command(&slow).stderr(Stdio::piped()).spawn().expect("the binary runs");
    wait("it is under way", SOON, || is_held().then_some(()));
    let pid = Pid::from_raw(i32::try_from(importing.id()).expect("a pid"));
    kill(pid, Signal::SIGINT).expect("it runs");
    let ended = wait("Ctrl-C ends it", SOON, || importing.try_wait().expect("a child of this test"));
    assert_eq!(ended.code(), Some(130));
    let mut said = String::new();
    importing.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert!(said.contains("interrupted: the database is as it was"), "{said}");
    assert!(!is_held(), "neither the client nor its session is left");
    assert_eq!(page(&bowline, &up), "ada\ngrace\n", "nothing has changed");
    assert_eq!(roles(), before, "nor its account");
}

#[test]
fn a_mariadb_and_a_redis_are_filled() {
    let bowline = Bowline::new();
    let sql = bowline.folder("files").join("d.sql");
    std::fs::write(
        &sql,
        "CREATE TABLE users (id INT AUTO_INCREMENT PRIMARY KEY, name TEXT);\n\
        INSERT INTO users (name) VALUES ('imported');\nCREATE VIEW names AS SELECT name FROM users;\n",
    )
    .expect("a file");
    let up = Up::start(&bowline, &bowline.app("verbs-mariadb", "mariadb"), SLOW);
    let import = ["data", "import", "verbs-mariadb", "db", path(&sql)];
    assert_eq!(bowline.run(&import).status.code(), Some(3), "it is not empty");
    ok(&bowline, &[&import, ["--replace"].as_slice()].concat());
    assert_eq!(page(&bowline, &up), "imported\n");
    let definer = "SELECT definer FROM information_schema.views WHERE table_name = 'names'";
    let asked = ok(&bowline, &["data", "connect", "verbs-mariadb", "db", "--client", "--", "-Ne", definer]);
    assert_eq!(asked, "app_db@127.0.0.1\n", "a view outlives who has imported it");
    let read = ["data", "connect", "verbs-mariadb", "db", "--read-only", "--client", "--", "-Ne"];
    assert_eq!(ok(&bowline, &[&read, ["SELECT name FROM users"].as_slice()].concat()), "imported\n");
    let refused = bowline.run(&[&read, ["DELETE FROM users"].as_slice()].concat());
    assert!(text(&refused).contains("denied"), "{}", text(&refused));

    let commands = bowline.folder("files").join("d.txt");
    std::fs::write(&commands, "RPUSH names imported\nSET \"a b\" c\n").expect("a test's file");
    let _redis = Up::start(&bowline, &bowline.app("verbs-redis", "redis"), SOON);
    let import = ["data", "import", "verbs-redis", "cache", path(&commands)];
    ok(&bowline, &import);
    assert_eq!(bowline.run(&import).status.code(), Some(3), "it is not empty any more");
    let ask = |words: &[&str]| {
        ok(&bowline, &[&["data", "connect", "verbs-redis", "cache", "--client", "--"], words].concat())
    };
    assert_eq!(ask(&["GET", "a b"]), "c\n");
    std::fs::write(&commands, "SET x 1\nNONSENSE 1\n").expect("a test's file");
    let failed = bowline.run(&[&import, ["--replace"].as_slice()].concat());
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    assert_eq!(ask(&["GET", "a b"]), "c\n", "nothing has changed");
    std::fs::write(&commands, "SET x 1\n").expect("a test's file");
    ok(&bowline, &[&import, ["--replace"].as_slice()].concat());
    assert_eq!(ask(&["DBSIZE"]), "1\n", "what was imported, and nothing else");
}

#[test]
fn a_volume_is_filled_and_removed() {
    let bowline = Bowline::new();
    let folder = bowline.app("verbs-volume", "plain");
    let toml = folder.join("bowline.toml");
    let with =
        "[service.web]\nrun = \"python3 -m http.server --directory $BOWLINE_VOLUME_FILES $PORT\"\n[volume.files]\n";
    std::fs::write(&toml, with).expect("a test's file");
    let source = bowline.folder("source");
    std::fs::write(source.join("hello"), "from a folder").expect("a test's file");
    let up = Up::start(&bowline, &folder, SOON);
    let import = ["data", "import", "verbs-volume", "volume.files", path(&source)];
    ok(&bowline, &import);
    let hello = |up: &Up| curl(&bowline.ca(), &format!("{}/hello", up.https()), &[]).text();
    assert_eq!(hello(&up), "from a folder", "a running instance sees it");
    assert!(bowline.fails(&import, 3).contains("not empty"));
    let replace = [&import, ["--replace"].as_slice()].concat();
    assert!(bowline.fails(&replace, 3).contains("stop the app first"));
    assert!(up.interrupt().success());
    std::fs::write(source.join("hello"), "replaced").expect("a test's file");
    ok(&bowline, &replace);
    let up = Up::start(&bowline, &folder, SOON);
    assert_eq!(hello(&up), "replaced");
    let one = listed(&bowline, "volume.files").expect("it is listed");
    assert!(one["state"] == "in use" && one["bytes"].as_u64() > Some(0) && one["orphaned"] == false, "{one}");

    std::fs::write(&toml, "[service.web]\nrun = \"python3 -m http.server $PORT\"\n").expect("a test's file");
    drop(Up::start(&bowline, &folder, SOON));
    assert_eq!(listed(&bowline, "volume.files").expect("it is kept")["orphaned"], true);
    assert!(bowline.fails(&["data", "rm", "verbs-volume", "volume.files"], 2).contains("--yes"));
    // The instance of the release before still has it until it has ended.
    let rm = ["data", "rm", "verbs-volume", "volume.files", "--yes"];
    wait("it is removed", SOON, || bowline.run(&rm).status.success().then_some(()));
    assert_eq!(listed(&bowline, "volume.files"), None);
}

#[test]
fn a_volume_with_a_size_is_filled_while_nothing_uses_it_and_removed() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let bowline = Bowline::new();
    let folder = bowline.app("verbs-sized", "plain");
    let toml = folder.join("bowline.toml");
    let with = "[service.web]\nrun = \"python3 -m http.server --directory $BOWLINE_VOLUME_FILES $PORT\"\n\
                [volume.files]\nsize = \"32MiB\"\n";
    std::fs::write(&toml, with).expect("a test's file");
    let source = bowline.folder("source");
    std::fs::write(source.join("hello"), "from a folder").expect("a test's file");
    let import = ["data", "import", "verbs-sized", "volume.files", path(&source)];
    let replace = [&import, ["--replace"].as_slice()].concat();
    let up = Up::start(&bowline, &folder, SOON);
    assert!(bowline.fails(&import, 1).contains("while its app is stopped"));
    assert!(up.interrupt().success());
    ok(&bowline, &import);
    assert!(bowline.fails(&import, 3).contains("not empty"));
    std::fs::write(source.join("hello"), "replaced").expect("a test's file");
    std::fs::write(source.join("large"), vec![0; 40 << 20]).expect("a test's file");
    bowline.fails(&replace, 1);
    let hello = || {
        let up = Up::start(&bowline, &folder, SOON);
        let text = curl(&bowline.ca(), &format!("{}/hello", up.https()), &[]).text();
        assert!(up.interrupt().success());
        text
    };
    assert_eq!(hello(), "from a folder", "what did not fit has changed nothing");
    std::fs::remove_file(source.join("large")).expect("a test's file");
    ok(&bowline, &replace);
    assert_eq!(hello(), "replaced");
    let one = listed(&bowline, "volume.files").expect("it is listed");
    assert!(one["bytes"].as_u64() >= Some(32 << 20), "what is reserved counts: {one}");

    std::fs::write(&toml, "[service.web]\nrun = \"python3 -m http.server $PORT\"\n").expect("a test's file");
    drop(Up::start(&bowline, &folder, SOON));
    // The instance of the release before still has it until it has ended.
    let rm = ["data", "rm", "verbs-sized", "volume.files", "--yes"];
    wait("it is removed", SOON, || bowline.run(&rm).status.success().then_some(()));
    assert_eq!(listed(&bowline, "volume.files"), None);
    let left = std::fs::read_dir(bowline.state().join("volumes/local/verbs-sized")).into_iter().flatten().count();
    assert_eq!(left, 0, "neither its file system nor its lock is left");
}

#[test]
fn data_that_no_file_names_are_removed_whatever_is_killed() {
    let bowline = Bowline::new();
    let folder = bowline.app("verbs-rm", "postgres");
    let toml = folder.join("bowline.toml");
    let with = std::fs::read_to_string(&toml).expect("a fixture");
    let up = Up::start(&bowline, &folder, SOON);
    let answer = curl(&bowline.ca(), &format!("{}/", up.https()), &["--data", "edith"]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let rm = ["data", "rm", "verbs-rm", "db", "--yes"];
    assert!(bowline.fails(&rm, 3).contains("is named by its bowline.toml"));
    assert!(bowline.fails(&[&rm, ["--force"].as_slice()].concat(), 3).contains("stop the app first"));
    drop(up);

    std::fs::write(&toml, "[service.web]\nrun = \"python3 -m http.server $PORT\"\n").expect("a test's file");
    drop(Up::start(&bowline, &folder, SOON));
    wait("its server is stopped", SOON, || {
        let one = listed(&bowline, "postgres.db")?;
        (one["orphaned"] == true && one["state"] == "stopped").then_some(())
    });
    let data = bowline.state().join("data/local/verbs-rm/postgres.db");
    assert!(data.join("data/PG_VERSION").exists());
    // The daemon dies somewhere in the middle, at another place each time.
    for attempt in 0.. {
        let mut removing = bowline.command(&rm).stderr(Stdio::null()).spawn().expect("the binary runs");
        std::thread::park_timeout(Duration::from_millis(10 * attempt));
        bowline.kill_daemon();
        removing.wait().expect("a child of this test");
        wait("another daemon answers", SOON, || bowline.run(&["status"]).status.success().then_some(()));
        assert!(data.join("data/PG_VERSION").exists() || !data.exists(), "all is there, or nothing");
        if listed(&bowline, "postgres.db").is_none() || attempt == 8 {
            break;
        }
    }
    if listed(&bowline, "postgres.db").is_some() {
        ok(&bowline, &rm);
    }
    assert_eq!(listed(&bowline, "postgres.db"), None);
    assert_eq!(bowline.json(&["status"])["apps"][0]["resources"].as_array().map(Vec::len), None);
    wait("nothing is left on the disk", SOON, || {
        let left = std::fs::read_dir(data.parent().expect("it has one")).expect("the app's folder").count();
        (left == 0).then_some(())
    });
    assert!(bowline.json_text(&["events", "-n", "1000"]).contains("data.removed"));

    std::fs::write(&toml, with).expect("a test's file");
    let up = Up::start(&bowline, &folder, SOON);
    assert_eq!(page(&bowline, &up), "ada\ngrace\n", "it begins anew");
    drop(up);
    ok(&bowline, &["down"]);
    ok(&bowline, &[&rm, ["--force"].as_slice()].concat());
    let up = Up::start(&bowline, &folder, SOON);
    assert_eq!(page(&bowline, &up), "ada\ngrace\n", "and again");
}
