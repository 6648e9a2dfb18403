//! What a compose file becomes, and what of it is named.

use bowline_core::app::{Health, Origin, Reference, SecretSource, Value};
use bowline_core::id::EnvName;
use proptest::prelude::*;

use super::*;
use crate::survey::survey;

/// The app that a folder without a file is.
fn base() -> App {
    use bowline_core::app::{
        Access, Environment, Limit, PathPrefix, ReleaseHooks, Rollout, RouteTo, Strategy, Tls, Transfer,
    };
    let route = Route {
        hosts: Vec::new(),
        path: PathPrefix::root(),
        strip: false,
        to: RouteTo::Deny,
        tls: Tls::Auto,
        access: Access::default(),
        limit: Limit::default(),
        upload: None,
        transfer: Transfer::default(),
    };
    App {
        name: AppName::new("app").unwrap(),
        services: BTreeMap::new(),
        jobs: BTreeMap::new(),
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        databases: BTreeMap::new(),
        redis: BTreeMap::new(),
        volumes: BTreeMap::new(),
        buckets: BTreeMap::new(),
        routes: [(bowline_core::id::RouteName::new("main").unwrap(), route)].into(),
        release: ReleaseHooks::default(),
        rollout: Rollout { strategy: Strategy::Rolling, abort: Vec::new(), watch: std::time::Duration::ZERO },
        slo: None,
        image: None,
        logs: None,
        environment: Environment {
            name: EnvName::new("local").unwrap(),
            protected: false,
            id: None,
            server: None,
            kubernetes: None,
        },
    }
}

fn translated(text: &str, variables: &[(&str, &str)]) -> Result<Draft, Fault> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("app.py"), "").unwrap();
    std::fs::create_dir(dir.path().join("api")).unwrap();
    std::fs::write(dir.path().join("api/Dockerfile"), "FROM node\nEXPOSE 4000\nCMD [\"node\", \"api.js\"]\n").unwrap();
    let survey = survey(dir.path()).unwrap();
    let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let env_files = [("web.env".to_owned(), [("FROM_FILE".to_owned(), "1".to_owned())].into())].into();
    translate(
        Input { file: "compose.yaml", text, survey: &survey, variables: &variables, env_files: &env_files },
        base(),
    )
}

/// One service `web` with these lines.
fn web(lines: &str) -> Draft {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    translated(&format!("services:\n  web:\n    build: .\n{lines}"), &[]).unwrap()
}

fn env(draft: &Draft, service: &str, name: &str) -> Option<Value> {
    let variables = &draft.app.services.get(service)?.env;
    variables.iter().find(|(key, _)| key.as_str() == name).map(|(_, value)| value.clone())
}

#[test]
fn ports_and_commands_are_read_in_all_their_forms() {
    let check = |lines: &str, run: Option<&str>, port: Option<u16>, routed: bool| {
        let draft = web(lines);
        let service = &draft.app.services["web"];
        let found = (service.run.as_ref().map(|run| run.0.as_str()), service.fixed_port.map(Port::get));
        assert_eq!((found, !draft.app.routes.is_empty()), ((run, port), routed), "{lines}");
    };
    use bowline_core::id::Port;
    check("command: ./serve --port 8000\nports: ['8000:8000']", Some("./serve --port $PORT"), None, true);
    check(
        "command: gunicorn -b 0.0.0.0:8000 a:b\nports: ['80:8000']",
        Some("gunicorn -b 0.0.0.0:$PORT a:b"),
        None,
        true,
    );
    check("command: ./serve\nports:\n  - target: 8000\n    published: 80", Some("./serve"), Some(8000), true);
    check("command: ['./a b', '-x']\nports: ['127.0.0.1:80:9000/tcp']", Some("'./a b' -x"), Some(9000), true);
    check("command: ./serve\nports: ['53:53/udp']", Some("./serve"), None, false);
    check("command: ./serve\nports: ['${PORT:-8000}:8000']", Some("./serve"), Some(8000), true);
    check("command: ./work", Some("./work"), None, false);
}

#[test]
fn health_limits_copies_and_volumes_are_translated() {
    let draft = web(
        "command: ./x $$PORT\nports: ['80:80']\nhealthcheck:\n  test: curl -f http://localhost:80/up || exit 1\n  start_period: 1m30s\n\
         deploy:\n  replicas: 3\n  resources:\n    limits: {memory: 1g, cpus: '0.25'}\nvolumes: ['data:/data', './code:/x/node_modules']",
    );
    let service = &draft.app.services["web"];
    let Some(Health::Http(check)) = &service.health else { panic!("{service:?}") };
    assert_eq!((check.path.as_str(), check.probe.grace.as_secs()), ("/up", 90));
    assert_eq!((service.scale.min, service.scale.max), (3, 3));
    assert_eq!((service.limits.memory.unwrap().0, service.limits.cpu.unwrap().0), (1 << 30, 250));
    let volumes: Vec<_> = draft.app.volumes.iter().map(|(n, v)| (n.as_str(), v.path.as_deref())).collect();
    assert_eq!(volumes, [("data", Some("/data"))]);
    assert_eq!(draft.left, [], "{draft:?}");
    let draft = web("command: x\nvolumes: ['up:/usr/src/app/uploads']");
    assert_eq!(draft.app.volumes["up"].path, None);
    assert!(draft.left[0].todo.contains("$BOWLINE_VOLUME_UP"), "{draft:?}");
}

#[test]
fn databases_are_referred_to() {
    let text = "services:\n  api:\n    build: ./api\n    environment:\n      - DATABASE_URL=postgres://u:pw12@db/shop\n      \
                - PGHOST=db\n      - PGPASSWORD=pw12\n      - CACHE_URL=redis://r:6379\n      - OTHER=postgres://u:pw12@elsewhere.net/x\n  \
                db:\n    image: postgres:16\n    environment: {POSTGRES_PASSWORD: pw12}\n  r:\n    image: library/redis\n  \
                m:\n    image: mysql:8\n";
    let draft = translated(text, &[]).unwrap();
    let check = |name: &str, from: fn(&Reference) -> bool| {
        let value = env(&draft, "api", name);
        assert!(matches!(&value, Some(Value::From(reference)) if from(reference)), "{name}: {value:?}");
    };
    check("DATABASE_URL", |r| matches!(r, Reference::Database(..)));
    check("PGHOST", |r| matches!(r, Reference::Database(..)));
    check("PGPASSWORD", |r| matches!(r, Reference::Database(..)));
    check("CACHE_URL", |r| matches!(r, Reference::Redis(..)));
    let value = env(&draft, "api", "OTHER");
    assert!(matches!(value, Some(Value::Secret { .. })), "a password is no text: {value:?}");
    assert_eq!((draft.app.databases.len(), draft.app.redis.len()), (2, 1));
    assert!(draft.left.iter().any(|left| left.todo.contains("MariaDB")), "{:?}", draft.left);
    // What the folder does not say, its Dockerfile does.
    let api = &draft.app.services["api"];
    assert_eq!((api.run.as_ref().unwrap().0.as_str(), api.fixed_port.unwrap().get()), ("node api.js", 4000));
}

#[test]
fn variables_are_read_in_both_forms_and_filled_in() {
    let text = "services:\n  web:\n    build: .\n    env_file: web.env\n    environment:\n      A: ${X:-fall back}\n      B: $$5\n      \
                API_KEY: ${API_KEY}\n      SECRET_KEY: abc\n      C: ${Y}\n      D: $X.$Z\n      PORT: 80\n";
    let draft = translated(text, &[("X", ""), ("Z", "z")]).unwrap();
    let check = |name: &str, expected: Option<&str>| {
        let value = env(&draft, "web", name).map(|value| match value {
            Value::Text(text) => text,
            Value::Secret { name, .. } => format!("secret {name}"),
            Value::From(reference) => format!("{reference:?}"),
        });
        assert_eq!(value.as_deref(), expected, "{name}");
    };
    check("A", Some("fall back"));
    check("B", Some("$5"));
    check("API_KEY", Some("secret api-key"));
    check("SECRET_KEY", Some("secret secret-key"));
    check("C", None);
    check("D", Some(".z"));
    check("PORT", None);
    check("FROM_FILE", Some("1"));
    let sources: Vec<_> = draft.app.secrets.values().cloned().collect();
    assert_eq!(sources, [SecretSource::Store { generate: false }, SecretSource::Store { generate: true }]);
    assert_eq!(draft.commands, ["bowline secret set app api-key"]);
    assert!(draft.left.iter().any(|left| left.what.ends_with(".C") && left.line == 10), "{:?}", draft.left);
}

#[test]
fn services_of_one_folder_share_its_build() {
    let text = "services:\n  web: {build: ., command: ./web}\n  worker: {build: ., command: ./work}\n";
    let draft = translated(text, &[]).unwrap();
    assert!(matches!(&draft.app.services["worker"].origin, Origin::BuildOf(web) if web.as_str() == "web"));
}

#[test]
fn what_is_not_translated_is_named_with_its_line() {
    let check = |lines: &str, what: &str, line: u32| {
        let draft = web(lines);
        let found =
            draft.left.iter().any(|left| left.what.contains(what) && left.line == line && !left.todo.is_empty());
        assert!(found, "{what}:{line} in {:?}", draft.left);
    };
    check("command: x\nprivileged: true", "services.web.privileged", 5);
    check("extends: {file: a.yaml, service: b}", "services.web.extends", 4);
    check("profiles: [a]", "services.web.profiles", 4);
    check("secrets: [a]", "services.web.secrets", 4);
    check("nonsense: 1", "services.web.nonsense", 4);
    check("volumes: ['/var/run/docker.sock:/x']", "docker.sock", 4);
    check("volumes: ['./files:/files']", "./files", 4);
    check("volumes: ['./app.py:/etc/nginx/nginx.conf']", "./app.py at /etc/nginx", 4);
    check("stop_signal: SIGINT", "stop_signal", 4);
    check("tmpfs: /cache", "tmpfs", 4);
    check("healthcheck: {test: pg_isready}", "healthcheck.test", 4);
    check("build: {context: ., target: prod}", "build.target", 4);
    let refused = |text: &str| translated(text, &[]).unwrap_err();
    for text in
        ["", "services: {}", "services: {web: {image: nginx}}", "services: {web: {build: ../x}}", "a: [", "\t- ]"]
    {
        assert!(refused(text).hint.is_some(), "{text}");
    }
}

#[test]
fn small_texts_cannot_become_large_trees() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    assert_eq!(yaml::parse(&bomb), Err(YamlError::TooLarge));
    assert_eq!(yaml::parse(&"[".repeat(100)), Err(YamlError::TooDeep));
    // Beyond that the parser has a limit of its own.
    for opening in ["[", "- ", "{a: ", "? "] {
        assert!(yaml::parse(&opening.repeat(5_000)).is_err(), "{opening}");
    }
    let merged = yaml::parse("a: &a {x: 1, y: 1}\nb: {<<: *a, y: 2}\n").unwrap();
    let b = merged.get("b").unwrap();
    assert_eq!((b.get("x").unwrap().text(), b.get("y").unwrap().text()), (Some("1"), Some("2")));
}

proptest! {
    #[test]
    fn no_text_makes_the_translation_panic(text in "(?s).{0,300}") {
        let _ = translated(&text, &[]);
        env_files(&text);
    }

    #[test]
    fn no_service_makes_the_translation_panic(
        keys in proptest::collection::vec(("(ports|volumes|environment|command|build|deploy|healthcheck|image|mem_limit|cpus|scale|env_file)", "[ -~]{0,24}"), 0..6)
    ) {
        let lines: String = keys.iter().map(|(key, value)| format!("    {key}: {value}\n")).collect();
        let _ = translated(&format!("services:\n  web:\n    build: .\n{lines}"), &[]);
    }
}

#[test]
fn the_examples_own_files_are_read() {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for (app, services) in [("uploads", 1), ("timestamps", 2), ("hello", 1), ("board", 1), ("users", 2)] {
        let text = std::fs::read_to_string(examples.join(app).join("deploy/compose.yaml")).unwrap();
        let nodes = yaml::parse(&text).unwrap();
        let found = nodes.get("services").map_or(0, |all| all.entries().len());
        assert_eq!(found, services, "{app}");
    }
}
