//! Databases, which are processes, beside the containers of their app.

use std::path::PathBuf;

use bowline_tests::client::curl;
use bowline_tests::engine::{Container, Engine, Kind};
use bowline_tests::machine::Process;
use bowline_tests::server::Server;
use bowline_tests::{Bowline, SOON, fixture, path, text, wait};

use super::serve;

const APP: &str = "docker-data";

/// One app on all three, by drivers that were installed for it. It ends before its engine.
struct Scene {
    server: Server,
    bowline: Bowline,
    engine: Engine,
    folder: PathBuf,
}

impl Scene {
    fn set() -> Self {
        let (engine, bowline) = (Engine::start(Kind::Docker), Bowline::new());
        let server = serve(&bowline, &engine);
        let folder = bowline.app(APP, "three-databases");
        std::fs::copy(fixture("redis").join("server.py"), folder.join("names.py")).expect("a file of the test");
        let file = folder.join("bowline.toml");
        let plain = std::fs::read_to_string(&file).expect("the fixture's file");
        let route =
            "[route.main]\nto = \"web\"\n[environment.production]\nroute.main.hosts = [\"docker-data.localhost\"]\n";
        std::fs::write(&file, format!("{plain}{route}")).expect("a file of the test");
        Self { server, bowline, engine, folder }
    }

    fn deploy(&self) {
        let output = self.bowline.run(&["deploy", path(&self.folder), "--env", "production"]);
        assert!(output.status.success(), "{}", text(&output));
    }

    fn ask(&self, more: &[&str]) -> String {
        let https = self.bowline.status()["edge"]["https"].as_str().expect("an address").to_owned();
        let url = format!("https://{APP}.localhost:{}", https.rsplit(':').next().expect("a port"));
        let answer = curl(&self.bowline.ca(), &url, more);
        format!("{} {}", answer.status, answer.text())
    }

    fn add(&self, name: &str) {
        assert_eq!(self.ask(&["-d", name]), "200 added\n");
    }

    /// In each of the three, when all that was killed is back.
    fn have(&self, names: &str) {
        let expected = format!("200 {}", format!("{names}\n").repeat(3));
        wait(&format!("all three have {names}"), SOON * 2, || (self.ask(&[]) == expected).then_some(()));
    }

    /// Of its one instance: the databases are none.
    fn only_container(&self) -> Container {
        wait("the app is one container, and there is no other", SOON, || {
            let all = self.engine.containers(APP);
            all.first().filter(|_| all.len() == 1 && self.engine.all().len() == 1).cloned()
        })
    }

    /// The processes of the servers, by their kinds.
    fn databases(&self) -> Vec<(String, u64)> {
        let resources = self.bowline.status()["apps"][0]["resources"].as_array().cloned().expect("resources");
        let told = |one: &serde_json::Value| Some((one["kind"].as_str()?.to_owned(), one["pid"].as_u64()?));
        resources.iter().filter_map(told).collect()
    }
}

#[test]
fn databases_run_beside_the_containers_of_their_app_and_keep_what_they_were_told() {
    let mut scene = Scene::set();
    scene.deploy();
    scene.add("ann");
    scene.have("ann");
    let databases = scene.databases();
    assert_eq!(databases.len(), 3, "{databases:?}");
    let known = scene.engine.inspect(&scene.only_container().name).to_string();
    assert!(!known.contains("PASSWORD"), "passwords are no business of the engine's");
    // Over a release.
    std::fs::write(scene.folder.join("changed"), "x").expect("a file of the test");
    scene.deploy();
    scene.add("ben");
    scene.have("ann ben");
    assert_eq!(scene.databases(), databases, "a release leaves them alone");
    // Over the end of the daemon and of the engine, both at once.
    let copy = scene.only_container();
    scene.engine.stop();
    scene.bowline.kill_daemon();
    scene.engine.go_on();
    let next = serve(&scene.bowline, &scene.engine);
    drop(std::mem::replace(&mut scene.server, next));
    scene.have("ann ben");
    assert_eq!((scene.databases(), &scene.only_container()), (databases.clone(), &copy), "all is adopted");
    // Over the end of the app, and of a server.
    let (_, postgres) = databases.iter().find(|(kind, _)| kind == "postgres").expect("it runs");
    copy.first.kill();
    Process { pid: u32::try_from(*postgres).expect("a pid") }.kill();
    wait("another server runs", SOON, || {
        (scene.databases().len() == 3 && scene.databases() != databases).then_some(())
    });
    scene.have("ann ben");
    scene.add("cy");
    scene.have("ann ben cy");
}
