//! Images of what is deployed: built of the folder and pushed to a real registry, or looked for there.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use bowline_tests::port::Port;
use bowline_tests::registry::Registry;
use bowline_tests::{Bowline, path};
use serde_json::json;

use super::{Goes, Who, cluster, deployment, edit, example, image_of, words};

/// An app of two services that are one build, which says that it was made, and goes to this registry.
pub(super) fn greeter(bowline: &Bowline, host: &str) -> PathBuf {
    let folder = bowline.folder("greeter");
    std::fs::write(folder.join("main.c"), "int main(void) { return 0; }\n").expect("a file of the test");
    let file = format!(
        "app = \"greeter\"\n[service.web]\nbuild = \"cc -static -o greet main.c && echo it is compiled\"\nrun = \"./greet\"\n\
         [service.worker]\nbuild_of = \"web\"\nrun = \"./greet --often\"\n\
         [environment.production.image]\npush = \"{host}/acme/greeter\"\n"
    );
    std::fs::write(folder.join("bowline.toml"), file).expect("a file of the test");
    folder
}

/// How often it was made.
pub(super) fn compiled(said: &str) -> usize {
    said.matches("│ it is compiled").count()
}

pub(super) fn log_in(who: &Who, host: &str) {
    let mut login = who.bowline.command(&["image", "login", host, "--user", "ann"]);
    login.env("DOCKER_CONFIG", who.bowline.folder("docker")).stdin(Stdio::piped());
    let mut login = login.spawn().expect("the binary runs");
    login.stdin.take().expect("it is piped").write_all(b"sesame\n").expect("it reads");
    assert!(login.wait().expect("a child").success());
}

#[test]
fn what_nobody_says_an_image_of_is_built_once_and_pushed() {
    cluster().namespace("built", "restricted");
    let (who, registry) = (Who::admin("built"), Registry::guarded());
    let folder = greeter(&who.bowline, registry.host());
    let deploy = ["deploy", path(&folder), "--env", "production"];
    let nothing_is_applied = || {
        let path = "/apis/apps/v1/namespaces/built/deployments";
        assert_eq!(cluster().admin.get(path).done()["items"], json!([]));
    };

    // What nobody has set is told before anything is built, and before anybody is asked.
    let secret = "[env]\nTOKEN = { secret = \"token\" }\n";
    edit(&folder, "[environment", &format!("{secret}[environment"));
    let said = who.fails(&deploy, 2);
    assert!(said.contains("token is not set") && said.contains("nothing was applied"), "{said}");
    assert_eq!((compiled(&said), registry.asked("")), (0, 0), "{said}");
    edit(&folder, secret, "");

    // Who is not let in is told so before, too, and so is whoever has nobody to push to.
    let said = who.fails(&deploy, 3);
    let doing = format!("nothing can be pushed to {}/acme/greeter; nothing was applied", registry.host());
    assert!(said.contains(&doing) && said.contains("nobody has logged in"), "{said}");
    assert!(said.contains(&format!("bowline image login {}", registry.host())), "{said}");
    assert_eq!(compiled(&said), 0, "{said}");
    let closed = Port::reserve();
    let away = format!("127.0.0.1:{}", closed.number);
    edit(&folder, registry.host(), &away);
    let said = who.fails(&deploy, 4);
    assert!(said.contains(&format!("{away} cannot be reached")) && said.contains("nothing was applied"), "{said}");
    nothing_is_applied();
    edit(&folder, &away, registry.host());

    log_in(&who, registry.host());
    let said = who.does(&deploy);
    assert!(said.contains("serves: release 1") && compiled(&said) == 1, "{said}");
    let image = image_of(&deployment("built", "greeter-web"));
    let digest = image.strip_prefix(&format!("{}/acme/greeter@sha256:", registry.host())).expect("it goes by digest");
    assert_eq!(image_of(&deployment("built", "greeter-worker")), image);
    let manifests = registry.folder().join("acme/greeter/_manifests");
    assert!(manifests.join("revisions/sha256").join(digest).is_dir(), "it is there: {image}");
    assert!(manifests.join("tags").join(format!("web-{}", &digest[..12])).is_dir(), "and nobody's rubbish");
    // The same again is the same image, of which nothing is compiled and nothing sent.
    let sent = registry.asked("PUT /v2/acme/greeter/");
    assert!(sent > 0, "{said}");
    let said = who.does(&deploy);
    assert!(said.contains("serves: release 1, nothing of it has changed") && compiled(&said) == 0, "{said}");
    assert!(said.contains(&format!("{image} is there already")), "{said}");
    assert_eq!(registry.asked("PUT /v2/acme/greeter/"), sent);
    std::fs::write(folder.join("main.c"), "int main(void) { return 1; }\n").expect("a file of the test");
    let said = who.does(&deploy);
    assert!(said.contains("serves: release 2") && compiled(&said) == 1, "{said}");
    assert_ne!(image_of(&deployment("built", "greeter-web")), image);

    // What is said is not built.
    let said = who.does(&[&deploy[..], &["--image", &format!("web={image}")]].concat());
    assert!(said.contains("serves: release 3") && compiled(&said) == 0, "{said}");
    assert_eq!(image_of(&deployment("built", "greeter-web")), image);

    // A tag that the file has is one image's.
    edit(&folder, "/acme/greeter\"", "/acme/greeter:1.4\"");
    who.does(&deploy);
    assert!(manifests.join("tags/1.4").is_dir());
    edit(&folder, "build_of = \"web\"", "build = \"true\"");
    let said = who.fails(&deploy, 2);
    assert!(said.contains("`image.push` has one tag for 2 images"), "{said}");
    edit(&folder, "build = \"true\"", "build_of = \"web\"");
    edit(&folder, "/acme/greeter:1.4\"", "/acme/greeter\"");
    let pushed = format!("[environment.production.image]\npush = \"{}/acme/greeter\"\n", registry.host());
    edit(&folder, &pushed, "[environment.production]\nprotected = false\n");
    let said = who.fails(&deploy, 2);
    assert!(said.contains("nobody says which image web and worker runs"), "{said}");
    assert!(said.contains("[environment.production.image] push = "), "{said}");
}

#[test]
fn an_image_that_is_nowhere_is_found_before_anything_is_applied() {
    cluster().namespace("nowhere", "restricted");
    let (who, registry) = (Who::admin("nowhere"), Registry::guarded());
    let folder = example(&who.bowline, "hello");
    let deploy = |host: &str| {
        let image = format!("web={host}/acme/hello@sha256:{}", "1".repeat(64));
        ["deploy", path(&folder), "--env", "production", "--image", &image].map(str::to_owned).to_vec()
    };
    // Who is not let in cannot say that it is not there, and nor can who does not reach it: the cluster may.
    let said = who.does(&words(&deploy(registry.host())));
    let unseen = format!("whether {} has what is deployed cannot be seen from here", registry.host());
    assert!(said.contains(&unseen) && said.contains("nobody has logged in"), "{said}");
    assert!(said.contains("serves: release 1"), "{said}");
    let closed = Port::reserve();
    let away = format!("127.0.0.1:{}", closed.number);
    let said = who.does(&words(&deploy(&away)));
    assert!(said.contains(&format!("whether {away} has what is deployed cannot be seen from here")), "{said}");
    assert!(said.contains("serves: release 2"), "{said}");

    log_in(&who, registry.host());
    let said = who.fails(&words(&deploy(registry.host())), 1);
    let absent = format!("web: {} has no {}/acme/hello@sha256:111", registry.host(), registry.host());
    assert!(said.contains(&absent) && said.contains("nothing was applied"), "{said}");
    assert!(said.contains("say the digest of one that is there"), "{said}");
    let releases = who.json(&["releases", "hello", "--env", "production"]);
    assert_eq!(releases["releases"].as_array().map(Vec::len), Some(2), "{releases}");
}

#[test]
fn a_missing_file_of_a_secret_is_told_before_anything_is_built() {
    cluster().namespace("fileless", "restricted");
    let (who, registry) = (Who::admin("fileless"), Registry::guarded());
    let folder = greeter(&who.bowline, registry.host());
    log_in(&who, registry.host());
    let deploy = ["deploy", path(&folder), "--env", "production"];
    let token = folder.join("token.txt");
    let source = format!("source = \"file:{}\"", path(&token));
    let secret = format!("[env]\nTOKEN = {{ secret = \"token\" }}\n[secret.token]\n{source}\n");
    edit(&folder, "[environment", &format!("{secret}[environment"));
    std::fs::write(&token, "sesame").expect("a file of the test");
    who.does(&deploy);
    // A release has its value already.
    std::fs::remove_file(&token).expect("a file of the test");
    std::fs::write(folder.join("main.c"), "int main(void) { return 2; }\n").expect("a file of the test");
    let sent = registry.asked("");
    let said = who.fails(&deploy, 2);
    assert!(said.contains("token.txt"), "{said}");
    assert_eq!((compiled(&said), registry.asked("")), (0, sent), "{said}");
}

#[test]
fn who_interrupts_a_build_has_pushed_and_applied_nothing() {
    cluster().namespace("cut-off", "restricted");
    let (who, registry) = (Who::admin("cut-off"), Registry::guarded());
    let folder = greeter(&who.bowline, registry.host());
    log_in(&who, registry.host());
    edit(&folder, "echo it is compiled", "echo it is compiled && tail -f /dev/null");
    let mut goes = Goes::start(who.command(&["deploy", path(&folder), "--env", "production"]));
    goes.says("it is compiled");
    goes.interrupt();
    goes.ends(130);
    assert_eq!((registry.asked("PUT /v2/"), registry.asked("POST /v2/")), (0, 0));
    for kind in ["apis/apps/v1/namespaces/cut-off/deployments", "api/v1/namespaces/cut-off/secrets"] {
        assert_eq!(cluster().admin.get(&format!("/{kind}")).done()["items"], json!([]), "{kind}");
    }
    let releases = cluster().admin.get("/api/v1/namespaces/cut-off/configmaps").done().to_string();
    assert!(!releases.contains("bowline"), "{releases}");
}
