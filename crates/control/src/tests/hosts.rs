//! A host is for whoever speaks for the apps that have it.

use bowline_core::id::{AppName, EnvName};

use super::*;

fn only(app: &str, env: &str) -> Scope {
    Scope { apps: [AppName::new(app).unwrap()].into(), environments: [EnvName::new(env).unwrap()].into() }
}

fn key(app: &str, env: &str) -> AppKey {
    AppKey { env: EnvName::new(env).unwrap(), app: AppName::new(app).unwrap() }
}

/// Writes an app with a host and a path, in a folder of its own.
fn write(world: &World, app: &str, host: &str, path: &str) -> String {
    let folder = world.dir.path().join("apps").join(app);
    std::fs::create_dir_all(&folder).unwrap();
    let route = format!("[route.main]\nto = \"web\"\nhosts = [\"{host}\"]\npath = \"{path}\"\n");
    let text = format!("app = \"{app}\"\n[service.web]\nrun = \"serve\"\n{route}");
    std::fs::write(folder.join("bowline.toml"), text).unwrap();
    folder.display().to_string()
}

fn bring_out(world: &mut World, daemon: &mut Daemon, dir: &str, env: &str, scope: Scope) -> Result<(), Fault> {
    let apply = wire::Apply { dir: dir.to_owned(), env: env.to_owned(), plan: None, built: false };
    let foreseen = world.ask(daemon, Request::Plan(apply.clone(), scope.clone()));
    world.run(daemon);
    let foreseen = world.answers.remove(&foreseen).unwrap();
    world.source += 1;
    let ticket = world.ask(daemon, Request::Apply(apply, None, scope));
    world.run(daemon);
    match world.answers.remove(&ticket) {
        Some(Ok(Answer::Accepted(_))) => {
            assert!(matches!(world.last_end(), Some(ChangeStep::Done { .. })), "{:?}", world.last_end());
            Ok(())
        }
        Some(Err(refusal)) => {
            assert_eq!(foreseen.unwrap_err().fault, refusal.fault, "a plan says so, too");
            Err(refusal.fault)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_token_of_another_app_gets_no_part_of_a_host() {
    let mut world = World::new();
    let mut daemon = world.start();
    let shop = write(&world, "shop", "shop.localhost", "/");
    bring_out(&mut world, &mut daemon, &shop, "production", only("shop", "production")).unwrap();
    let board = write(&world, "board", "shop.localhost", "/login");
    let mine = only("board", "production");
    let refused = bring_out(&mut world, &mut daemon, &board, "production", mine.clone()).unwrap_err();
    assert_eq!(refused.kind, FaultKind::Refused);
    assert_eq!(refused.message, "production/board cannot be served on shop.localhost");
    assert!(refused.causes[0].ends_with("shop.localhost belongs to production/shop"), "{refused:?}");
    assert!(refused.hint.as_ref().unwrap().contains("a token that is for production/shop, too"), "{refused:?}");

    // Brought there by one who may, it goes on as it is and takes no more.
    let board = write(&world, "board", "shop.localhost", "/board");
    bring_out(&mut world, &mut daemon, &board, "production", Scope::default()).unwrap();
    bring_out(&mut world, &mut daemon, &board, "production", mine.clone()).unwrap();
    let board = write(&world, "board", "shop.localhost", "/login");
    bring_out(&mut world, &mut daemon, &board, "production", mine.clone()).unwrap_err();
    let shop = write(&world, "shop", "shop.localhost", "/board/login");
    bring_out(&mut world, &mut daemon, &shop, "production", only("shop", "production")).unwrap_err();

    // Once its newest release is elsewhere, the host is free.
    let shop = write(&world, "shop", "other.localhost", "/");
    bring_out(&mut world, &mut daemon, &shop, "production", only("shop", "production")).unwrap();
    bring_out(&mut world, &mut daemon, &board, "production", mine).unwrap();
}

#[test]
fn a_stopped_app_has_its_host_also_at_the_next_daemon() {
    let mut world = World::new();
    let mut daemon = world.start();
    let shop = write(&world, "shop", "shop.localhost", "/");
    bring_out(&mut world, &mut daemon, &shop, "production", only("shop", "production")).unwrap();
    world.ask(&mut daemon, Request::Stop { key: key("shop", "production"), shutdown_when_idle: false, by_uid: None });
    world.run(&mut daemon);
    bring_out(&mut world, &mut daemon, &shop, "beta", only("shop", "beta")).unwrap_err();
    drop(daemon);
    let mut daemon = world.start();
    bring_out(&mut world, &mut daemon, &shop, "beta", only("shop", "beta")).unwrap_err();
    bring_out(&mut world, &mut daemon, &shop, "production", only("shop", "production")).unwrap();
    world.ask(&mut daemon, Request::Stop { key: key("shop", "production"), shutdown_when_idle: false, by_uid: None });
    world.run(&mut daemon);
    bring_out(&mut world, &mut daemon, &shop, "beta", Scope::default()).unwrap();
}

/// The metrics of all apps are for whoever speaks for all; and the way to them is open while a release runs that asks for them.
#[test]
fn only_who_is_for_all_apps_brings_out_what_reads_the_metrics_of_all() {
    let mut world = World::new();
    let mut daemon = world.start();
    let shop = write(&world, "shop", "shop.localhost", "/");
    let file = std::path::Path::new(&shop).join("bowline.toml");
    let plain = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{plain}[env]\nURL = {{ from = \"bowline.metrics\" }}\n")).unwrap();
    let mine = only("shop", "production");
    let refused = bring_out(&mut world, &mut daemon, &shop, "production", mine.clone()).unwrap_err();
    assert_eq!(refused.kind, FaultKind::Refused);
    assert!(refused.message.contains("the metrics of every app"), "{refused:?}");
    assert!(daemon.machine.watchers().is_empty());

    bring_out(&mut world, &mut daemon, &shop, "production", Scope::default()).unwrap();
    assert_eq!(daemon.machine.watchers(), [key("shop", "production")].into());
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert_eq!(daemon.machine.watchers(), [key("shop", "production")].into());
    std::fs::write(&file, plain).unwrap();
    bring_out(&mut world, &mut daemon, &shop, "production", mine).unwrap();
    assert!(daemon.machine.watchers().is_empty());
}
