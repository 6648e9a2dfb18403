//! `plan --to kubernetes`: what the real server says that a deploy would change.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use bowline_tests::cluster::api::MERGE;
use bowline_tests::registry::Registry;
use bowline_tests::{path, text};
use serde_json::{Value, json};

use super::images::{compiled, greeter, log_in};
use super::{Who, cluster, deploy, deployment, edit, example, image_of, nowhere, words};

/// The same words as of a deploy.
pub(super) fn plan(deploy: &[String]) -> Vec<&str> {
    let mut args = words(deploy);
    args[0] = "plan";
    args
}

fn changes<'a>(plan: &'a Value, becomes: &str) -> Vec<String> {
    let all = plan["changes"].as_array().expect("changes").iter().filter(|one| one["becomes"] == becomes);
    let name =
        |one: &'a Value| format!("{}/{}", one["kind"].as_str().expect("a kind"), one["name"].as_str().expect("a name"));
    all.map(name).collect()
}

#[test]
fn what_a_deploy_would_change_is_said_and_nothing_is_written() {
    cluster().namespace("plans", "restricted");
    let (who, admin) = (Who::admin("plans"), &cluster().admin);
    let folder = example(&who.bowline, "hello");
    let first = deploy(&folder, "hello", "1");
    let seen = who.json(&plan(&first));
    assert_eq!((&seen["outcome"], &seen["release"], &seen["serves"]), (&json!("release"), &json!(1), &Value::Null));
    let created = changes(&seen, "created");
    assert!(created.contains(&"Deployment/hello-web".to_owned()) && created.len() >= 5, "{seen}");
    assert_eq!(created.len(), seen["changes"].as_array().map_or(0, Vec::len), "{seen}");
    assert!(seen["notes"].to_string().contains("secret auth-token is to be made"), "{seen}");
    for kind in ["apis/apps/v1/namespaces/plans/deployments", "api/v1/namespaces/plans/secrets"] {
        assert_eq!(admin.get(&format!("/{kind}")).done()["items"], json!([]), "{kind}");
    }
    let maps = admin.get("/api/v1/namespaces/plans/configmaps").done().to_string();
    assert!(!maps.contains("bowline"), "{maps}");

    who.does(&words(&first));
    let before = deployment("plans", "hello-web");
    let said = who.does(&plan(&first));
    assert!(said.contains("nothing changes: release 1 goes on in kubernetes:tests/plans"), "{said}");
    let seen = who.json(&plan(&first));
    assert_eq!((&seen["outcome"], &seen["changes"]), (&json!("unchanged"), &json!([])));

    // What is changed, field by field; what goes; and the command that does it.
    edit(&folder, "scale = 2\n", "scale = 1\n");
    let second = deploy(&folder, "hello", "2");
    let said = who.does(&plan(&second));
    assert!(said.contains("release 1 → 2 in kubernetes:tests/plans"), "{said}");
    assert!(said.contains("~ Deployment/hello-web") && said.contains("spec.replicas  2 → 1"), "{said}");
    let image = format!("{}/acme/web@sha256:", nowhere());
    assert!(said.contains(&format!("spec.template.spec.containers[web].image  {image}111")), "{said}");
    assert!(said.contains("- PodDisruptionBudget/hello-web"), "{said}");
    assert!(said.contains(&format!("--env production --image web={image}222")), "{said}");
    assert!(said.contains("--to kubernetes:tests/plans"), "{said}");
    let seen = who.json(&plan(&second));
    assert_eq!(changes(&seen, "removed"), ["PodDisruptionBudget/hello-web"], "{seen}");
    let now = deployment("plans", "hello-web");
    assert_eq!(now["metadata"]["generation"], before["metadata"]["generation"]);
    assert_eq!(now["spec"], before["spec"]);
    let releases = who.json(&["releases", "hello", "--env", "production"]);
    assert_eq!(releases["releases"].as_array().map(Vec::len), Some(1));

    // What a deploy is refused by, a plan is.
    let path = "/apis/apps/v1/namespaces/plans/deployments/hello-web?fieldManager=somebody";
    admin.ask("PATCH", path, MERGE, &json!({ "spec": { "replicas": 5 } })).done();
    let said = who.fails(&plan(&second), 3);
    assert!(said.contains("Deployment/hello-web: spec.replicas is set by somebody"), "{said}");
    assert!(said.contains("cannot be seen from here"), "what was noted before it was refused is said: {said}");
    edit(&folder, "scale = 1\n", "scale = 2\n");
    let seen = who.json(&[&plan(&first)[..], &["--take-over"]].concat());
    assert_eq!((&seen["outcome"], &seen["release"]), (&json!("put_right"), &json!(1)), "{seen}");
    let field = json!({ "path": "spec.replicas", "from": 5, "to": 2 });
    assert_eq!(seen["changes"][0]["fields"], json!([field]), "{seen}");
}

#[test]
fn what_is_to_be_pushed_is_built_for_the_deploy_that_follows() {
    cluster().namespace("plans-built", "restricted");
    let (who, registry) = (Who::admin("plans-built"), Registry::guarded());
    let folder = greeter(&who.bowline, registry.host());
    let args = |verb| [verb, path(&folder), "--env", "production"];
    let said = who.fails(&args("plan"), 3);
    assert!(said.contains("nobody has logged in"), "{said}");
    log_in(&who, registry.host());
    let said = who.does(&args("plan"));
    let name = format!("web: {}/acme/greeter@sha256:", registry.host());
    assert!(said.contains(&name) && said.contains("is to be pushed"), "{said}");
    assert_eq!((compiled(&said), registry.asked("PUT /v2/"), registry.asked("POST /v2/")), (1, 0, 0), "{said}");
    let seen = who.json(&args("plan"));
    let said = who.does(&args("deploy"));
    assert!(said.contains("serves: release 1") && compiled(&said) == 0, "{said}");
    assert_eq!(seen["images"]["web"], image_of(&deployment("plans-built", "greeter-web")), "it was the one");
    let seen = who.json(&args("plan"));
    assert_eq!(seen["outcome"], "unchanged", "{seen}");
    assert!(seen["notes"].to_string().contains("is there already"), "{seen}");
    // Another registry, which an authority of its own vouches for.
    let other = Registry::over_tls();
    edit(&folder, registry.host(), &format!("localhost:{}", other.port()));
    let ca = other.file("ca.pem");
    let said = who.does(&[&args("plan")[..], &["--registry-ca", path(&ca)]].concat());
    assert!(said.contains(&format!("localhost:{}/acme/greeter@", other.port())), "{said}");
    assert!(said.contains("is to be pushed"), "{said}");
}

#[test]
fn where_an_environment_is_protected_what_a_plan_shows_comes_out_alone() {
    cluster().namespace("protected", "restricted");
    let (who, registry) = (Who::admin("protected"), Registry::guarded());
    let folder = greeter(&who.bowline, registry.host());
    log_in(&who, registry.host());
    let secret = "[env]\nTOKEN = { secret = \"token\" }\n[secret.token]\ngenerate = true\n";
    edit(&folder, "[environment", &format!("{secret}[environment.production]\nprotected = true\n[environment"));
    let args = |verb| [verb, path(&folder), "--env", "production"];
    let with = |hash: &Value| {
        let hash = hash.as_str().expect("a hash").to_owned();
        [&args("deploy").map(str::to_owned)[..], &["--plan".to_owned(), hash]].concat()
    };

    // It is told before anything is built, and before the registry is asked.
    let asked = registry.asked("");
    let said = who.fails(&args("deploy"), 3);
    assert!(said.contains("production is protected: greeter comes out there as a plan shows, or not at all"), "{said}");
    assert!(said.contains("bowline plan --env production --to kubernetes:tests/protected"), "{said}");
    assert_eq!((compiled(&said), registry.asked("")), (0, asked), "{said}");

    let first = who.json(&args("plan"));
    let said = who.does(&args("plan"));
    let hash = first["hash"].as_str().expect("a hash");
    assert!(said.contains(&format!("plan {hash}")) && said.contains(&format!("--plan {hash}")), "{said}");
    // What was built since is another, and nothing of it is sent or applied.
    std::fs::write(folder.join("main.c"), "int main(void) { return 1; }\n").expect("a file of the test");
    let said = who.fails(&words(&with(&first["hash"])), 3);
    let refused = format!("would not do what plan {} shows; nothing was applied", &hash[..12]);
    assert!(said.contains(&refused) && compiled(&said) == 1, "{said}");
    assert_eq!(registry.asked("PUT /v2/"), 0, "{said}");
    for kind in ["apis/apps/v1/namespaces/protected/deployments", "api/v1/namespaces/protected/secrets"] {
        assert_eq!(cluster().admin.get(&format!("/{kind}")).done()["items"], json!([]), "{kind}");
    }
    std::fs::write(folder.join("main.c"), "int main(void) { return 0; }\n").expect("a file of the test");
    let said = who.does(&words(&with(&first["hash"])));
    assert!(said.contains("serves: release 1"), "{said}");
    // It was made upon nothing, and something serves now.
    let said = who.fails(&words(&with(&first["hash"])), 3);
    assert!(said.contains(&refused), "{said}");

    // Taking it out of the file is a change like any other.
    edit(&folder, "protected = true", "protected = false");
    let said = who.fails(&args("deploy"), 3);
    assert!(said.contains("production is protected"), "{said}");
    let second = who.json(&args("plan"));
    // The file is in the image, which so is another.
    let said = who.does(&words(&with(&second["hash"])));
    assert!(said.contains("serves: release 2"), "{said}");
    let said = who.does(&args("deploy"));
    assert!(said.contains("serves: release 2, nothing of it has changed"), "{said}");
}

/// The way to a registry, on which something happens just before a part of an image is sent.
struct Relay {
    port: u16,
    meanwhile: Arc<Mutex<Option<Command>>>,
}

impl Relay {
    fn to(registry: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let meanwhile = Arc::<Mutex<Option<Command>>>::default();
        let happens = Arc::clone(&meanwhile);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let happens = Arc::clone(&happens);
                let server = TcpStream::connect(("127.0.0.1", registry)).expect("the registry listens");
                std::thread::spawn(move || pass(&client, &server, &happens));
            }
        });
        Self { port, meanwhile }
    }

    /// Once.
    fn before_it_is_sent(&self, command: Command) {
        *self.meanwhile.lock().expect("unbroken") = Some(command);
    }
}

fn pass(mut client: &TcpStream, mut server: &TcpStream, happens: &Mutex<Option<Command>>) {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = std::io::copy(&mut server, &mut client);
            let _ = client.shutdown(Shutdown::Write);
        });
        let mut buffer = [0; 65536];
        while let Some(length) = client.read(&mut buffer).ok().filter(|length| *length > 0) {
            let part = &buffer[..length];
            if part.starts_with(b"POST ")
                && let Some(mut command) = happens.lock().expect("unbroken").take()
            {
                let done = command.output().expect("the binary runs");
                assert!(done.status.success(), "{}", text(&done));
            }
            if server.write_all(part).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Write);
    });
}

#[test]
fn a_secret_that_is_set_while_images_are_pushed_is_not_what_was_approved() {
    cluster().namespace("set-meanwhile", "restricted");
    let (who, registry) = (Who::admin("set-meanwhile"), Registry::start());
    let relay = Relay::to(registry.port());
    let folder = greeter(&who.bowline, &format!("127.0.0.1:{}", relay.port));
    let secret = "[env]\nTOKEN = { secret = \"token\" }\n[secret.token]\ngenerate = true\n";
    edit(&folder, "[environment", &format!("{secret}[environment"));
    let args = |verb| [verb, path(&folder), "--env", "production"];
    let deployments = || {
        let path = "/apis/apps/v1/namespaces/set-meanwhile/deployments";
        cluster().admin.get(path).done()["items"].as_array().map_or(0, Vec::len)
    };
    // One that was to be made, and then one that somebody had set.
    for (value, code) in [("one", "0"), ("two", "1")] {
        std::fs::write(folder.join("main.c"), format!("int main(void) {{ return {code}; }}\n")).expect("a file");
        let hash = who.json(&args("plan"))["hash"].as_str().expect("a hash").to_owned();
        let file = who.bowline.folder("values").join(value);
        std::fs::write(&file, value).expect("a file of the test");
        let set = ["secret", "set", "greeter", "token", "--file", path(&file), "--env", "production"];
        relay.before_it_is_sent(who.command(&set));
        let said = who.fails(&[&args("deploy")[..], &["--plan", &hash]].concat(), 3);
        let set =
            "secret token of production/greeter was set, or removed, while images were pushed; no release was made";
        assert!(said.contains(set), "{said}");
        assert!(relay.meanwhile.lock().expect("unbroken").is_none(), "it was sent: {said}");
        assert_eq!(deployments(), 0, "{said}");
    }
    let hash = who.json(&args("plan"))["hash"].as_str().expect("a hash").to_owned();
    let said = who.does(&[&args("deploy")[..], &["--plan", &hash]].concat());
    assert!(said.contains("serves: release 1"), "{said}");
}

/// What a deploy makes by itself was not there when it was planned: whoever is cut off after that goes on by the same plan.
#[test]
fn a_plan_holds_after_what_it_makes_was_made() {
    cluster().namespace("made-once", "restricted");
    let who = Who::admin("made-once");
    let folder = example(&who.bowline, "hello");
    let deploy = deploy(&folder, "hello", "1");
    let hash = who.json(&plan(&deploy))["hash"].as_str().expect("a hash").to_owned();
    who.does(&words(&deploy));
    // As if it had never served.
    let records = "/api/v1/namespaces/made-once/configmaps/bowline.production.hello.v1";
    cluster().admin.ask("DELETE", records, "application/json", &Value::Null).done();
    let index = cluster().admin.get("/api/v1/namespaces/made-once/secrets").done().to_string();
    assert!(index.contains("hello-auth-token"), "it is made: {index}");
    let again = who.json(&plan(&deploy));
    assert_eq!(again["hash"], json!(hash), "{again}");
    let planned: Vec<&str> = words(&deploy).into_iter().chain(["--plan", &hash]).collect();
    assert!(who.does(&planned).contains("serves: release 1"));
}
