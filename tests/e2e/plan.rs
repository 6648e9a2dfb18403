//! `bowline plan`: what a deploy would do, and a deploy that is held to it.

use std::path::{Path, PathBuf};
use std::process::Output;

use bowline_tests::server::Server;
use bowline_tests::{Bowline, path, text};
use serde_json::Value;

const ENV: [&str; 2] = ["--env", "production"];

/// An app with an environment for a server; `of_environment` is written into its table.
fn app(bowline: &Bowline, name: &str, of_environment: &str) -> PathBuf {
    let folder = bowline.app(name, "plain");
    let file = folder.join("bowline.toml");
    let plain = std::fs::read_to_string(&file).expect("the fixture's file");
    let toml = format!(
        "{plain}\n[route.main]\nto = \"web\"\n[environment.production]\nroute.main.hosts = [\"{name}.localhost\"]\n\
         {of_environment}\n"
    );
    std::fs::write(&file, toml).expect("a file of the test");
    folder
}

fn edit(folder: &Path, file: &str, change: impl FnOnce(String) -> String) {
    let path = folder.join(file);
    let before = std::fs::read_to_string(&path).expect("a file of the test");
    std::fs::write(path, change(before)).expect("a file of the test");
}

fn words<'a>(verb: &'a str, folder: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&[verb, path(folder)][..], &ENV, more].concat()
}

fn plan(bowline: &Bowline, folder: &Path) -> Value {
    bowline.json(&words("plan", folder, &[]))
}

fn hash(plan: &Value) -> String {
    plan["hash"].as_str().expect("a hash").to_owned()
}

fn deploy(bowline: &Bowline, folder: &Path, hash: &str) -> Output {
    let output = bowline.run(&words("deploy", folder, &["--plan", hash]));
    assert!(output.status.success(), "{}", text(&output));
    output
}

fn releases(bowline: &Bowline, app: &str) -> usize {
    let releases = bowline.json(&[&["releases", app][..], &ENV].concat());
    releases["releases"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_deploy_does_what_its_plan_shows_or_nothing() {
    let bowline = Bowline::new();
    let _server = Server::start(&bowline);
    let folder = app(&bowline, "plan-held", "");
    let first = plan(&bowline, &folder);
    assert_eq!((&first["outcome"], &first["release"], &first["stable"]), (&"release".into(), &1.into(), &Value::Null));
    assert!(first["risks"].to_string().contains("https://plan-held.localhost/"), "{first:#}");
    let said = text(&deploy(&bowline, &folder, &hash(&first)));
    assert!(said.contains("release 1"), "{said}");

    let again = plan(&bowline, &folder);
    assert_eq!(again["outcome"], "unchanged", "{again:#}");
    let said = text(&bowline.run(&words("plan", &folder, &[])));
    assert!(said.contains("nothing changes") && !said.contains("bowline deploy"), "{said}");
    deploy(&bowline, &folder, &hash(&again));

    edit(&folder, "bowline.toml", |toml| toml.replace("[service.web]", "[service.web]\nscale = 2"));
    edit(&folder, "server.py", |code| format!("{code}\n# changed\n"));
    let second = plan(&bowline, &folder);
    let differences = second["differences"].to_string();
    assert!(differences.contains(r#"{"from":"1","path":"service.web.scale","to":"2"}"#), "{second:#}");
    assert_eq!(second["services"][0]["transition"]["kind"], "rolls", "{second:#}");
    assert_eq!(releases(&bowline, "plan-held"), 1, "a plan does nothing");
    // Somebody else brings out something in between.
    edit(&folder, "server.py", |code| format!("{code}\n# by somebody else\n"));
    assert!(bowline.run(&words("deploy", &folder, &[])).status.success());
    edit(&folder, "server.py", |code| code.replace("\n# by somebody else\n", ""));
    let said = bowline.fails(&words("deploy", &folder, &["--plan", &hash(&second)]), 3);
    assert!(said.contains("release 2 serves now, the plan was made on release 1"), "{said}");
    assert_eq!(releases(&bowline, "plan-held"), 2);

    let third = plan(&bowline, &folder);
    deploy(&bowline, &folder, &hash(&third));
    assert_eq!(releases(&bowline, "plan-held"), 3);
    let events = bowline.json_text(&[&["events", "plan-held"][..], &ENV].concat());
    assert!(events.contains(&hash(&third)), "who applied which plan is kept: {events}");
}

#[test]
fn a_plan_reads_well_and_ends_with_the_command_that_applies_it() {
    let bowline = Bowline::new();
    let _server = Server::start(&bowline);
    let folder = app(&bowline, "plan-reads", "");
    edit(&folder, "bowline.toml", |toml| {
        let service = "[service.web]\nport = 28471";
        toml.replace("[service.web]", service) + "[release]\nbefore = \"true\"\n[env]\nLOG_LEVEL = \"info\"\n"
    });
    let output = bowline.run(&words("plan", &folder, &[]));
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for expected in ["plan-reads in production", "+ env.LOG_LEVEL", "rollout", "! `true` runs once before the release"]
    {
        assert!(said.contains(expected), "{expected} is not in\n{said}");
    }
    let last = said.lines().last().expect("a line").trim().to_owned();
    assert!(last.starts_with(&format!("bowline deploy {} --env production --plan ", path(&folder))), "{said}");
    // The command as it is printed.
    let args: Vec<&str> = last.split(' ').skip(1).collect();
    let done = bowline.run(&args);
    assert!(done.status.success(), "{}", text(&done));

    edit(&folder, "bowline.toml", |toml| toml.replace("\"info\"", "\"debug\""));
    let said = text(&bowline.run(&words("plan", &folder, &[])));
    assert!(said.contains("info → debug") && said.contains("port 28471"), "{said}");
    let changed = plan(&bowline, &folder);
    assert_eq!(changed["services"][0]["transition"]["kind"], "stops_first", "{changed:#}");
}

#[test]
fn a_protected_environment_takes_nothing_that_was_not_looked_at() {
    let bowline = Bowline::new();
    let _server = Server::start(&bowline);
    let folder = app(&bowline, "plan-protected", "protected = true");
    let said = bowline.fails(&words("deploy", &folder, &[]), 3);
    assert!(said.contains("production is protected") && said.contains("bowline plan --env production"), "{said}");
    let looked_at = plan(&bowline, &folder);
    edit(&folder, "server.py", |code| format!("{code}\n# changed since\n"));
    let said = bowline.fails(&words("deploy", &folder, &["--plan", &hash(&looked_at)]), 3);
    assert!(said.contains("the folder has changed"), "{said}");
    deploy(&bowline, &folder, &hash(&plan(&bowline, &folder)));
    assert_eq!(releases(&bowline, "plan-protected"), 1);
    assert!(bowline.fails(&words("deploy", &folder, &["--plan", "7"]), 2).contains("64 hexadecimal digits"));
}

#[test]
fn a_folder_that_says_which_environment_it_means_comes_to_no_other() {
    let (bowline, other) = (Bowline::new(), Bowline::new());
    let (server, _other) = (Server::start(&bowline), Server::start(&other));
    let folder = app(&bowline, "plan-pinned", "");
    let said = text(&bowline.run(&words("deploy", &folder, &[])));
    let status = bowline.status();
    let id = status["apps"][0]["environment_id"].as_str().expect("an environment has an identity");
    let line = format!("[environment.production] id = \"{id}\"");
    assert!(said.contains(&line), "{said}");
    // On the next machine, too, an app of its own has come to what is called production.
    let neighbour = app(&other, "plan-neighbour", "");
    assert!(other.run(&words("deploy", &neighbour, &[])).status.success());

    edit(&folder, "bowline.toml", |toml| format!("{toml}\nid = \"{}\"\n", id.to_uppercase()));
    edit(&folder, "server.py", |code| format!("{code}\n# changed\n"));
    for verb in ["plan", "deploy"] {
        let said = other.fails(&words(verb, &folder, &[]), 3);
        assert!(said.contains("meant for another production") && said.contains(id) && said.contains("--to"), "{said}");
    }
    let status = other.status();
    let apps: Vec<_> = status["apps"].as_array().into_iter().flatten().map(|app| &app["app"]).collect();
    assert_eq!(apps, ["plan-neighbour"], "nothing is registered of what is refused");
    drop(server);
    let _again = Server::start(&bowline);
    let said = text(&bowline.run(&words("deploy", &folder, &[])));
    assert!(said.contains("release 2") && !said.contains("id ="), "{said}");
}

#[test]
fn no_plan_shows_a_secret() {
    const CANARY: &str = "canary-of-plan-0815-4711";
    let bowline = Bowline::new();
    let _server = Server::start(&bowline);
    let folder = app(&bowline, "plan-secret", "");
    edit(&folder, "bowline.toml", |toml| {
        format!("{toml}\n[env]\nAPI_TOKEN = {{ secret = \"token\" }}\nOTHER_TOKEN = \"{CANARY}\"\n")
    });
    let said = bowline.fails(&words("plan", &folder, &[]), 2);
    assert!(said.contains("bowline secret set plan-secret token --env production"), "{said}");
    let value = bowline.folder("values").join("token");
    std::fs::write(&value, CANARY).expect("a file of the test");
    let set = [&["secret", "set", "plan-secret", "token", "--file", path(&value)][..], &ENV].concat();
    assert!(bowline.run(&set).status.success());
    let said = text(&bowline.run(&words("plan", &folder, &[])));
    assert!(said.contains("secret token") && said.contains("OTHER_TOKEN") && !said.contains(CANARY), "{said}");
    let shown = plan(&bowline, &folder);
    assert!(!shown.to_string().contains(CANARY), "{shown:#}");
    assert!(bowline.run(&set).status.success());
    let said = bowline.fails(&words("deploy", &folder, &["--plan", &hash(&shown)]), 3);
    assert!(said.contains("secret token is version 2 now") && !said.contains(CANARY), "{said}");
}

/// Nothing runs yet, and nothing does afterwards: what `up` would do.
#[test]
fn a_plan_of_this_machine_alone_needs_no_daemon() {
    let bowline = Bowline::new();
    let folder = bowline.app("plan-local", "plain");
    let shown = bowline.json(&["plan", path(&folder)]);
    assert_eq!((&shown["env"], &shown["release"]), (&"local".into(), &1.into()));
    assert!(!bowline.state().join("daemon.json").exists(), "the daemon that was asked is gone again");
    let ports = ["--http", "0", "--https", "0", "--admin", "0"];
    let up = |hash: &str| {
        let words = [&["up", path(&folder), "--detach", "--plan", hash][..], &ports].concat();
        bowline.run(&words)
    };
    let held = up(&hash(&shown));
    assert!(held.status.success(), "{}", text(&held));
    edit(&folder, "server.py", |code| format!("{code}\n# changed\n"));
    let refused = up(&hash(&shown));
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("would not do what plan"), "{}", text(&refused));
}
