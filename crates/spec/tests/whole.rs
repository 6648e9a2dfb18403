//! The grammar's own example, in each of its environments.

#![expect(clippy::unwrap_used, reason = "the helpers of tests, too, may fail them")]

use std::time::Duration;

use bowline_core::app::procfile::Procfile;
use bowline_core::app::{App, Auth, Health, Origin, Strategy, Target, Tls};
use bowline_core::id::EnvName;
use bowline_spec::{Defaults, Parsed, canonical, implicit, parse, print};

const WHOLE: &str = include_str!("files/whole.toml");

fn read(text: &str, env: &str) -> Parsed {
    let env = EnvName::new(env).unwrap();
    let defaults = Defaults { folder_name: "My Folder!".to_owned(), ..Default::default() };
    parse(text, "bowline.toml", &env, &defaults).unwrap_or_else(|e| panic!("{}", e.render(false)))
}

fn whole(env: &str) -> App {
    read(WHOLE, env).app
}

#[test]
fn environments_change_what_they_name_and_nothing_else() {
    let (production, beta, local) = (whole("production"), whole("beta"), whole("local"));
    let scale = |app: &App| (app.services["web"].scale.min, app.services["web"].scale.max);
    assert_eq!((scale(&production), scale(&beta)), ((3, 6), (2, 6)));
    assert!(production.environment.protected && !beta.environment.protected);
    let kubernetes = Target::Kubernetes { context: Some("prod".to_owned()), namespace: Some("uploads".to_owned()) };
    assert_eq!(production.environment.server, Some(kubernetes));
    let hosts = |app: &App| app.routes["main"].hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(hosts(&production), ["uploads.example.com"]);
    assert_eq!(hosts(&beta), ["beta.example.com"]);
    assert!(hosts(&local).is_empty(), "in local the table's maker fills in <app>.localhost");
    assert!(matches!(production.routes["main"].access.auth, Some(Auth::Header { .. })));
    assert!(matches!(beta.routes["main"].access.auth, Some(Auth::Basic { .. })), "another kind takes the place");
    assert_eq!(production.services, {
        let mut s = local.services.clone();
        s.get_mut("web").unwrap().scale.min = 3;
        s
    });
}

#[test]
fn values_are_what_the_file_says() {
    let app = whole("local");
    let web = &app.services["web"];
    assert_eq!(web.drain, Duration::from_secs(30));
    assert!(matches!(&web.health, Some(Health::Http(check)) if check.path == "/ready"));
    assert!(matches!(&app.services["worker"].origin, Origin::BuildOf(of) if of.as_str() == "web"));
    assert!(matches!(&app.rollout.strategy, Strategy::Canary { steps } if steps.len() == 3));
    assert_eq!(app.jobs["cleanup"].build_of.as_ref().map(|s| s.as_str()), Some("web"), "the only build");
    assert_eq!(app.jobs["cleanup"].schedule.as_ref().unwrap().hours, 1 << 3);
}

#[test]
fn a_whole_file_survives_printing_and_storing() {
    for env in ["local", "beta", "production"] {
        let app = whole(env);
        let printed = print(&app);
        assert_eq!(read(&printed, env).app, app, "{printed}");
        let stored = canonical::to_json(&app);
        assert_eq!(canonical::from_json(&stored), Ok(app), "{stored}");
    }
}

/// What was let in is what runs: a refusal that came later is for files of people.
#[test]
fn a_stored_limit_that_means_nothing_is_read_and_a_written_one_is_refused() {
    let app = read("[rollout]\nabort = [\"error_rate > 1%\", \"p99 > 500ms\"]\n", "production").app;
    let stored = canonical::to_json(&app).replace("error_rate > 1%", "error_rate > 100%").replace("500ms", "600000ms");
    let read = canonical::from_json(&stored).unwrap();
    assert_eq!(canonical::from_json(&canonical::to_json(&read)), Ok(read.clone()));
    assert_ne!(read.rollout, app.rollout);
    let production = EnvName::new("production").unwrap();
    assert!(parse(&print(&read), "bowline.toml", &production, &Defaults::default()).is_err());
}

#[test]
fn a_folder_without_a_file_is_an_app() {
    let check = |folder: &str, expected: &str| {
        let defaults = Defaults { folder_name: folder.to_owned(), ..Default::default() };
        let app = implicit(&defaults, &EnvName::new("local").unwrap());
        assert_eq!(app.name.as_str(), expected);
        assert_eq!(print(&app), format!("app = \"{expected}\"\n\n[service.web]\n\n[route.main]\nto = \"web\"\n"));
    };
    check("uploads", "uploads");
    check("My Folder!", "my-folder");
    check("2048", "app-2048");
    check("", "app");
    check("…", "app");
    check(&"a-".repeat(40), &format!("{}a", "a-".repeat(19)));
}

#[test]
fn an_empty_table_means_none() {
    let app = read("[route]\n[service.web]\n", "local").app;
    assert!(app.routes.is_empty());
    assert!(read("[service.worker]\n", "local").app.routes.is_empty());
    let defaults = Defaults { folder_name: "My Folder!".to_owned(), ..Default::default() };
    assert_eq!(read("", "local").app, implicit(&defaults, &EnvName::new("local").unwrap()));
}

#[test]
fn a_procfile_says_the_services_of_a_file_that_names_none() {
    let procfile = Procfile::parse("web: ./serve\nworker: ./work\nrelease: ./migrate\n").unwrap();
    let defaults = Defaults { folder_name: "shop".to_owned(), procfile };
    let local = EnvName::new("local").unwrap();
    let check = |text: &str, expected: &str| {
        let app = parse(text, "bowline.toml", &local, &defaults).unwrap().app;
        assert_eq!(print(&app), expected);
    };
    let app = "app = \"shop\"\n\n";
    let services = "[service.web]\nrun = \"./serve\"\n\n[service.worker]\nrun = \"./work\"\nbuild_of = \"web\"\n\n";
    let route = "[route.main]\nto = \"web\"\n";
    check("", &format!("{app}{services}[release]\nbefore = \"./migrate\"\n\n{route}"));
    let own = "[release]\nbefore = \"./own\"\n\n";
    check("[release]\nbefore = \"./own\"\n", &format!("{app}{services}{own}{route}"));
    check("[service.web]\n", &format!("{app}[service.web]\n\n{route}"));
    assert_eq!(implicit(&defaults, &local), parse("", "bowline.toml", &local, &defaults).unwrap().app);
}

#[test]
fn overrides_take_the_place_of_what_they_exclude() {
    let base = "[service.web]\nscale = 2\nhealth = \"tcp\"\n[postgres.db]\nversion = 15\n[route.main]\nto = \"web\"\n\
                [rollout]\nstrategy = \"canary\"\nsteps = [\"5% for 1m\"]\n[environment.beta]\n";
    let check = |over: &str, holds: fn(&App) -> bool| {
        let app = read(&format!("{base}{over}"), "beta").app;
        assert!(holds(&app), "{over}: {app:#?}");
    };
    check("service.web.scale.min = 3", |app| app.services["web"].scale.max == 3);
    check("service.web.image = \"a/b:1\"", |app| matches!(app.services["web"].origin, Origin::Image(_)));
    check("route.main.redirect = \"https://example.com\"", |app| print(app).contains("redirect"));
    check("postgres.db.url = { secret = \"db\" }", |app| !print(app).contains("version"));
    check("rollout.strategy = \"rolling\"", |app| app.rollout.strategy == Strategy::Rolling);
    check("env.A = \"1\"\n[environment.beta.job.x]\nrun = \"true\"", |app| app.jobs.len() == 1 && app.env.len() == 1);
}

#[test]
fn local_is_never_public() {
    let text = "app = \"shop\"\n[route.main]\nhosts = [\"a.example.com\"]\ntls = \"acme\"\n\
                [route.admin]\nhosts = [\"b.example.com\"]\nto = \"web\"\n[route.api]\npath = \"/api\"\n\
                [environment.local.route.api]\nhosts = [\"api.test\"]\n";
    let app = read(text, "local").app;
    let hosts = |name: &str| app.routes[name].hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(hosts("main").is_empty());
    assert_eq!(hosts("admin"), ["admin.shop.localhost"], "two routes cannot claim one host and path");
    assert_eq!(hosts("api"), ["api.test"]);
    assert_eq!(app.routes["main"].tls, Tls::Local);
    assert_eq!(read(&print(&app), "local").app, app);
}

#[test]
fn a_key_is_found_where_it_was_written() {
    let parsed = read(WHOLE, "beta");
    let written = |path: &str| parsed.location(path).map(|span| WHOLE[span].to_owned());
    assert_eq!(written("route.main.allow").as_deref(), Some("allow"));
    assert_eq!(written("postgres.db").as_deref(), Some("db"));
    assert_eq!(written("route.main.hosts[0]").as_deref(), Some("\"beta.example.com\""));
    assert_eq!(written("postgres.db.no.such.key").as_deref(), Some("db"), "its nearest parent");
    assert_eq!(written("mariadb"), None);
}
