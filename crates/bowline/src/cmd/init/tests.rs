//! What `init` writes is accepted by the grammar, whatever it was made from.

use super::*;

/// The text for a folder with these files, which has been parsed.
fn written(files: &[(&str, &str)]) -> Result<(Draft, String), Fault> {
    let dir = tempfile::Builder::new().prefix("folder-").tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let draft = draft(dir.path())?;
    let text = text(&draft, dir.path())?;
    Ok((draft, text))
}

fn check(files: &[(&str, &str)], expected: &[&str]) {
    let (_, text) = written(files).unwrap_or_else(|fault| panic!("{fault:?}"));
    let lines: Vec<&str> = text.lines().collect();
    for line in expected {
        assert!(lines.contains(line), "{line:?} in\n{text}");
    }
}

#[test]
fn folders_become_files() {
    let python = ("requirements.txt", "flask==3.1.0\n");
    check(&[python, ("app.py", "@app.get('/ready')\n")], &["[service.web]", "health = { path = \"/ready\" }"]);
    check(
        &[python, (".env", "GREETING='say \"hi\"'\nAPI_KEY=abc\nSECRET_KEY=x\nPORT=5000\n")],
        &[
            "GREETING = \"say \\\"hi\\\"\"",
            "API_KEY = { secret = \"api-key\" }",
            "[secret.secret-key]",
            "generate = true",
        ],
    );
    check(
        &[python, ("Procfile", "web: gunicorn -b :$PORT a:b\nmy_worker: python w.py\n")],
        &["run = \"gunicorn -b :$PORT a:b\"", "[service.my-worker]", "build_of = \"web\""],
    );
    check(&[("Dockerfile", "FROM x\nEXPOSE 3000\nCMD [\"./server\"]\n")], &["run = \"./server\"", "port = 3000"]);
    check(
        &[("package.json", r#"{"scripts": {"start": "node s.js"}}"#), ("s.js", "x.listen(3000)\n")],
        &["port = 3000"],
    );
}

#[test]
fn no_value_of_a_secret_is_written() {
    let compose =
        "services:\n  web:\n    build: .\n    environment: {API_KEY: canary-4711, U: 'https://a:canary-4711@b.net/'}\n";
    let files = [("compose.yaml", compose), ("app.py", "")];
    let (draft, text) = written(&files).unwrap();
    assert!(!text.contains("canary") && !format!("{draft:?}").contains("canary"), "{text}\n{draft:?}");
}

/// Numbers without a dependency: what matters is that many compose files are tried, the same ones each time.
fn shuffled(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    }
}

#[test]
fn whatever_the_compose_file_its_translation_parses() {
    const LINES: [&str; 34] = [
        "ports: ['80:80', '90:90']",
        "ports: [8000]",
        "ports: ['1:0']",
        "ports: [{target: 99999}]",
        "command: ''",
        "command: [a, \"b c\", 'd\"e']",
        "command: \"a\\n'b' \\\"c\\\\ \\u0007\"",
        "volumes: ['x:/a', 'x:/b']",
        "volumes: ['A_b.c:/a/../b']",
        "volumes: ['/']",
        "volumes: ['x:/']",
        "volumes: ['./d:/d//e']",
        "volumes: ['x:/proc/a b']",
        "environment: {A-B: 1}",
        "environment: {A: \"\\u0001 é \\\\\"}",
        "environment: [A, B=, =C, PORT=1, BOWLINE_X=1]",
        "environment: {API_KEY: 'x'}",
        "environment: {__: ~, 9: 9}",
        "environment: {U: 'http://s1:80', V: 'http://s1:80/x'}",
        "environment: {D: 'postgres://a:bcd1@s2/x', H: s2}",
        "deploy: {replicas: 0}",
        "deploy: {replicas: 5000}",
        "scale: -1",
        "scale: 2",
        "mem_limit: 1k",
        "mem_limit: 99999g",
        "cpus: 0.0001",
        "cpus: 1e9",
        "healthcheck: {test: 'curl http://localhost/a?b=c'}",
        "healthcheck: {test: 'curl localhost', interval: 0s}",
        "healthcheck: {test: 'wget http://127.0.0.1:1/ok', interval: 1h, timeout: 1ms, start_period: 9999h}",
        "stop_grace_period: 1m0s",
        "stop_grace_period: 99h",
        "image: postgres",
    ];
    const NAMES: [&str; 6] =
        ["s1", "S_1", "s-1", "é", "a-very-long-name-of-a-service-that-does-not-fit-into-forty", "9"];
    for seed in 1..400 {
        let mut pick = shuffled(seed);
        let mut text = format!("name: '{}'\nservices:\n  s2: {{image: 'postgres:1'}}\n", NAMES[pick(NAMES.len())]);
        for name in NAMES.iter().take(1 + pick(NAMES.len())) {
            text.push_str(&format!("  '{name}':\n    build: .\n"));
            let mut used = Vec::new();
            for _ in 0..pick(8) {
                let line = LINES[pick(LINES.len())];
                let key = line.split(':').next().unwrap();
                if !used.contains(&key) {
                    used.push(key);
                    text.push_str(&format!("    {line}\n"));
                }
            }
        }
        match written(&[("compose.yaml", &text), ("app.py", "")]) {
            Ok(_) => {}
            Err(fault) => assert_eq!(fault.kind, FaultKind::Invalid, "seed {seed}:\n{text}\n{fault:?}"),
        }
    }
}

#[test]
fn a_file_that_is_there_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(file::NAME);
    std::fs::write(&path, "app = \"mine\"\n").unwrap();
    let error = write(&path, "app = \"other\"\n", false).unwrap_err();
    assert_eq!(error.kind, FaultKind::Refused);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "app = \"mine\"\n");
    write(&path, "app = \"other\"\n", true).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "app = \"other\"\n");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
}
