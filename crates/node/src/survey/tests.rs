//! What is told, and what is not: a report that cries wolf is not read.

use bowline_core::readiness::SecretKind;
use proptest::prelude::*;

use super::*;

/// The secret that is told of a text in a file, as kind and variable.
fn check_secret(file: &str, text: &str, expected: Option<(SecretKind, Option<&str>)>) {
    let found = secrets::sightings(file, text);
    let found: Vec<_> = found
        .into_iter()
        .map(|s| {
            let Seen::Secret { kind, name, value } = s.seen else { panic!("{s:?}") };
            let shown = value.to_string();
            let mut words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() > 5);
            assert!(words.all(|word| !shown.contains(word)), "{shown} shows a part of {text}");
            (kind, name)
        })
        .collect();
    let expected: Vec<_> = expected.into_iter().map(|(kind, name)| (kind, name.map(str::to_owned))).collect();
    assert_eq!(found, expected, "{file}: {text}");
}

/// Put together here, so that no scanner takes this file for a leak.
fn joined(parts: &[&str]) -> String {
    parts.concat()
}

#[test]
fn tokens_are_told_by_their_form() {
    let check = |token: &str, kind| {
        check_secret("app.py", &format!("KEY = '{token}'"), Some((kind, Some("KEY"))));
        check_secret("README.md", &format!("Use {token} here"), Some((kind, None)));
        check_secret("tests/app.py", &format!("KEY = '{token}'"), None);
        check_secret("app.py", &format!("KEY = '{token}'  # bowline:allow"), None);
    };
    check(&joined(&["AKIA", "2Q7RSTUVWXYZ5KLM"]), SecretKind::AwsKey);
    check(&joined(&["ghp_", "16C7e42F292c6912E7710c838347Ae178B4a"]), SecretKind::GitHubToken);
    check(&joined(&["glpat-", "zq8sKd02mPl39xYtRw5v"]), SecretKind::GitLabToken);
    check(&joined(&["xoxb-", "263594206564-2343594206574-FGqddMF8t08v8N7Oq4i57vs1"]), SecretKind::SlackToken);
    check(&joined(&["sk_live_", "4eC39HqLyjWDarjtT1zdp7dc"]), SecretKind::StripeKey);
    check(&joined(&["npm_", "bH7x2Lm9Qr4Tz8Vw1Ky6Np3Sd5Fg0Jc7Xa2B"]), SecretKind::NpmToken);
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI3NzEyIiwicm9sZSI6ImFkbSJ9.q7Zr1mXv9KpL2sTn4WbY8cHd6FgJ3aQe";
    check(jwt, SecretKind::Jwt);
}

#[test]
fn keys_urls_and_assignments_are_told() {
    let check = |text: &str, kind, name| check_secret("config/app.py", text, Some((kind, name)));
    let head = joined(&["-----BEGIN RSA ", "PRIVATE KEY-----"]);
    let body = "MIIEpAIBAAKCAQEAx7Qm2Lr9v0Yk3Zt8Wp5Nc1Hs6Fd4Ga";
    check_secret("deploy/key.pem", &format!("{head}\n{body}\n"), Some((SecretKind::PrivateKey, None)));
    check(&format!("KEY = \"{head}\\n{body}\\n\""), SecretKind::PrivateKey, None);
    let url = joined(&["DB = \"postgres://shop:", "q9vLw2Xr@db.shop.internal/shop\""]);
    check(&url, SecretKind::UrlPassword, Some("DB"));
    check("DB_PASSWORD = \"q9vLw2Xr\"", SecretKind::Password, Some("DB_PASSWORD"));
    check_secret("src/app.rs", "fail(\"write postgres://USER:PASSWORD@HOST:PORT/NAME\")", None);
    check_secret("src/app.rs", &format!("#[cfg(test)]\nmod tests {{\n{url}\n}}"), None);
    check_secret(
        "src/app.rs",
        &format!("#[cfg(test)]\nmod sample;\n{url}"),
        Some((SecretKind::UrlPassword, Some("DB"))),
    );
    check("client = connect(apiKey=\"8fK2pQ7vXz1LmN4r\")", SecretKind::Token, Some("apiKey"));
    check("SECRET_KEY = 'django-insecure-k2#f9s!x'", SecretKind::SessionKey, Some("SECRET_KEY"));
    check("app.secret_key = 'supersecretkey'", SecretKind::SessionKey, Some("SECRET_KEY"));
    // Django draws its keys from an alphabet that has these marks.
    check("SECRET_KEY = 'django-insecure-k2(f9$!x&3@w%v)q'", SecretKind::SessionKey, Some("SECRET_KEY"));
    check("SECRET_KEY = '$k2(f9!x&3@w%vq'", SecretKind::SessionKey, Some("SECRET_KEY"));
    check("DB_PASS = \"q9vLw2Xr(\"", SecretKind::Password, Some("DB_PASS"));
    check("SMTP_PWD2 = \"@q9vLw2Xr\"", SecretKind::Password, Some("SMTP_PWD2"));
    let google = format!(
        "{{\"type\": \"service_account\", \"private_key\": \"{}\\n{}\\n\"}}",
        joined(&["-----BEGIN ", "PRIVATE KEY-----"]),
        body.repeat(40)
    );
    check_secret("config/account.json", &google, Some((SecretKind::PrivateKey, None)));
    let token = joined(&["ghp_", "16C7e42F292c6912E7710c838347Ae178B4a"]);
    let run = format!("run = \"app --token {token}\"");
    check_secret("bowline.toml", &run, Some((SecretKind::GitHubToken, Some("run"))));
    check_secret("bowline.toml", &format!("API_TOKEN = \"{token}\""), None);
    check_secret("config.yaml", "  password: q9vLw2Xr!", Some((SecretKind::Password, Some("password"))));
    check_secret(
        "compose.yaml",
        "      POSTGRES_PASSWORD: q9vLw2Xr",
        Some((SecretKind::Password, Some("POSTGRES_PASSWORD"))),
    );
}

#[test]
fn a_variable_called_a_secret_is_one_in_doubt() {
    let check = |name: &str, value: &str, expected: bool| {
        assert_eq!(secret_in(name, value).is_some(), expected, "{name}={value}");
    };
    check("SECRET_KEY", "k2(f9$!x&3@w%v)q", true);
    check("DB_PASSWORD", "kd8(Fh2<x", true);
    check("DB_PASSWORD", "@Secr3t", true);
    check("API_TOKEN", "/8fK2pQ7v/Xz1LmN4r+w=", true);
    check("DB_PASS", "hunter2", true);
    check("SENTRY_DSN", "https://8fk2@sentry.example.com/1", true);
    check("DB_PASSWORD", "${OTHER}", false);
    check("DB_PASSWORD", "$OTHER", false);
    check("DB_PASSWORD", "$(cat /run/secrets/db)", false);
    check("DB_PASSWORD", "/run/secrets/db", false);
    check("DB_PASSWORD", "", false);
    check("PASSWORD_FILE", "/etc/shop/password", false);
    check("LOG_LEVEL", "k2(f9$!x", false);
}

#[test]
fn what_only_looks_like_a_secret_is_not_told() {
    let code = [
        "password = os.environ[\"DB_PASSWORD\"]",
        "SECRET_KEY = os.environ.get(\"SECRET_KEY\", \"development\")",
        "SECRET_KEY = 'test'",
        "token = request.headers.get('X-Auth-Token-2')",
        "PASSWORD_FIELD = \"user_password_1\"",
        "api_key = \"your-api-key-2024\"",
        "API_KEY = \"<insert 1 key>\"",
        "password: \"${DB_PASSWORD1}\"",
        "label = 'Password12'",
        "const tokenUrl = 'https://login.example.com/oauth2/token'",
        "const csrfToken = 'x9f8e7d6c5b4a3'",
        "secret_name = 'prod/db-credentials-2'",
        "TOKEN = \"123e4567-e89b-12d3-a456-426614174000\"",
        "COMMIT = \"9c1185a5c5e9fc54612808977ee8f548b2258d31\"",
        "SHA256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"",
        "ICON = \"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4\"",
        "url = \"postgres://postgres:postgres@localhost:5432/app\"",
        "url = \"postgres://user:password@db/app\"",
        "url = f\"postgres://{user}:{password}@{host}/app\"",
        "url = \"redis://cache:6379/0\"",
        "AWS_ACCESS_KEY_ID = \"AKIAIOSFODNN7EXAMPLE\"",
        "# password = \"q9vLw2Xr\"",
        "if line.startswith(\"-----BEGIN PRIVATE KEY-----\"):",
        "raise ValueError(\"token: wrong1format2here3\")",
        "integrity: \"sha512-oRSIpR8px0/BEEaaCXmWRKfYkBgpPbBHeUNdc/KzB7yzZ2QtTMlU9ThmFJfKl5NS6jJPV4Q==\"",
    ];
    code.iter().for_each(|line| check_secret("app.py", line, None));
    let config = [
        "password: ${DB_PASSWORD}",
        "secretName: web-tls-2024",
        "password_file: /run/secrets/db",
        "token_url: https://login/oauth2",
        "token: !vault web2",
        "image: registry.example.com/shop@sha256:9c1185a5c5e9fc54612808977ee8f548",
    ];
    config.iter().for_each(|line| check_secret("app.yaml", line, None));
    let jwt =
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c";
    check_secret("app.py", &format!("T = '{jwt}'"), None);
    let lock = "\"token\": \"8fK2pQ7vXz1LmN4r\"";
    for foreign in ["package-lock.json", "tests/data.json", "src/app.test.js", "vendor/x.go", "test_app.py", "a.min.js"]
    {
        check_secret(foreign, lock, None);
    }
    check_secret("README.md", "password = \"q9vLw2Xr\"", None);
}

#[test]
fn variables_are_secrets_by_name() {
    let check = |name: &str, expected| assert_eq!(is_secret_name(name), expected, "{name}");
    for secret in ["DB_PASSWORD", "apiKey", "API_TOKEN", "SECRET_KEY_BASE", "clientSecret", "AWS_SECRET_ACCESS_KEY"] {
        check(secret, true);
    }
    for plain in
        ["AWS_ACCESS_KEY_ID", "PASSWORD_FILE", "TOKEN_URL", "NEXT_PUBLIC_API_KEY", "KEY", "csrf_token", "LOG_LEVEL"]
    {
        check(plain, false);
    }
}

/// What a file of code says, but for secrets.
fn check_code(file: &str, line: &str, expected: &[Seen]) {
    let found: Vec<Seen> = code::sightings(file, line).into_iter().map(|s| s.seen).collect();
    assert_eq!(found, expected, "{file}: {line}");
}

#[test]
fn code_says_how_it_runs() {
    use bowline_core::readiness::WriteKind;
    let health = |path: &str| Seen::HealthRoute { path: path.to_owned() };
    let writes = |kind, path: &str| Seen::Writes { kind, path: path.to_owned() };
    check_code("app.py", "@app.route(\"/healthz\")", &[health("/healthz")]);
    check_code("app.py", "@app.get('/ready')", &[health("/ready")]);
    check_code("app.py", "@router.get('/health')", &[]);
    check_code("index.js", "app.get('/health', (req, res) => res.send('ok'))", &[health("/health")]);
    check_code("main.go", "http.HandleFunc(\"/healthz\", health)", &[health("/healthz")]);
    check_code("src/main.rs", "    .route(\"/readyz\", get(ready))", &[health("/readyz")]);
    check_code("shop/urls.py", "    path('health/', views.health),", &[health("/health/")]);
    check_code("shop/api/urls.py", "    path('health/', views.health),", &[]);
    check_code("shop/urls.py", "    path('admin/', admin.site.urls),", &[Seen::AdminRoute { path: "/admin/".into() }]);
    check_code("app.py", "    app.run(debug=True)", &[Seen::PythonServer { debug: true }]);
    let both = [Seen::PythonServer { debug: false }, Seen::ListensOn { port: 5000 }];
    check_code("app.py", "    app.run(host='0.0.0.0', port=5000)", &both);
    check_code("server.js", "app.listen(3000)", &[Seen::ListensOn { port: 3000 }]);
    check_code("server.js", "const PORT = 3000;", &[Seen::ListensOn { port: 3000 }]);
    check_code("server.js", "const port = process.env.PORT || 3000", &[Seen::ReadsPort]);
    check_code("app.py", "port = int(os.environ.get(\"PORT\", 5000))", &[Seen::ReadsPort]);
    check_code("main.go", "port := os.Getenv(\"PORT\")", &[Seen::ReadsPort]);
    check_code("worker.py", "signal.signal(signal.SIGTERM, stop)", &[Seen::HandlesTerm]);
    check_code("shop/settings.py", "DEBUG = True", &[Seen::DebugSwitch { text: "DEBUG = True".into() }]);
    check_code("shop/settings.py", "DEBUG = os.environ.get('DEBUG') == '1'", &[]);
    check_code("app.py", "with open('data.json', 'w') as f:", &[writes(WriteKind::File, "data.json")]);
    check_code("app.py", "with open('/tmp/data.json', 'w') as f:", &[]);
    check_code("app.py", "with open('data.json') as f:", &[]);
    check_code("scripts/dump.py", "with open('data.json', 'w') as f:", &[]);
    check_code("app.py", "db = sqlite3.connect('notes.db')", &[writes(WriteKind::Sqlite, "notes.db")]);
    check_code("app.py", "db = sqlite3.connect(':memory:')", &[]);
    check_code("app.py", "URI = 'sqlite:///notes.db'", &[writes(WriteKind::Sqlite, "notes.db")]);
    check_code("app.py", "URI = 'sqlite:////data/notes.db'", &[]);
    check_code("shop/settings.py", "'NAME': BASE_DIR / 'db.sqlite3',", &[writes(WriteKind::Sqlite, "db.sqlite3")]);
    check_code("app.py", "app.config['UPLOAD_FOLDER'] = 'uploads'", &[writes(WriteKind::Uploads, "uploads")]);
    check_code("server.js", "const upload = multer({ dest: 'uploads/' })", &[writes(WriteKind::Uploads, "uploads/")]);
    check_code("server.js", "fs.writeFileSync('./db.json', text)", &[writes(WriteKind::File, "./db.json")]);
    check_code("app.py", "# app.run(debug=True)", &[]);
}

#[test]
fn dependencies_without_versions_are_told() {
    let check = |file: &str, text: &str, others: &[&str], expected: Option<(u32, Seen)>| {
        let files = others.iter().map(|other| (*other).to_owned()).collect();
        let found = dependencies::sightings(file, text, &files).into_iter().next().map(|s| (s.line, s.seen));
        assert_eq!(found, expected, "{file}: {text}");
    };
    let loose = |line, first: &str, count| Some((line, Seen::Unpinned { first: first.to_owned(), count }));
    check("requirements.txt", "# web\nflask\nredis>=5\nrq==2.0\n", &[], loose(2, "flask", 2));
    check("requirements.txt", "flask==3.0 ; python_version > '3.8'\n-r base.txt\n", &[], None);
    check(
        "requirements.txt",
        "https://example.com/a.whl\ngit+https://example.com/x\nx @ https://example.com/x",
        &[],
        None,
    );
    check("requirements.txt", "flask", &["uv.lock"], None);
    check("requirements.txt", "flask\n-c constraints.txt", &[], None);
    let npm = Some((0, Seen::NoLock { lock: "package-lock.json", command: "npm install --package-lock-only" }));
    check("web/package.json", r#"{"dependencies": {"express": "^4"}}"#, &[], npm);
    check("web/package.json", r#"{"dependencies": {"express": "^4"}}"#, &["yarn.lock"], None);
    check("package.json", r#"{"name": "x"}"#, &[], None);
    check("node_modules/x/package.json", r#"{"dependencies": {"a": "1"}}"#, &[], None);
    check("go.mod", "module x\n\ngo 1.22\n", &[], None);
    check(
        "go.mod",
        "module x\nrequire a v1\n",
        &[],
        Some((0, Seen::NoLock { lock: "go.sum", command: "go mod tidy" })),
    );
}

#[test]
fn dockerfiles_are_read() {
    let text = "FROM node:20 AS build\nUSER root\nRUN npm ci \\\n  && npm run build\nFROM node:20\nEXPOSE 3000/tcp 9090\nCMD [\"node\", \"my server.js\"]\n";
    let found = dockerfile::parse(text).unwrap();
    assert_eq!((found.from_line, found.user.as_deref(), found.expose.as_slice()), (5, None, [3000, 9090].as_slice()));
    assert_eq!(found.command.as_deref(), Some("node 'my server.js'"));
    assert_eq!(dockerfile::sightings("Dockerfile", text).len(), 1);
    assert_eq!(dockerfile::sightings("Dockerfile", "FROM a\nUSER 1000:1000"), []);
    assert_eq!(dockerfile::parse("hello"), None);
}

#[test]
fn all_patterns_compile() {
    code::compile_all();
    secrets::sightings("a.py", "x");
}

#[test]
fn a_folder_is_read_as_its_ignore_files_say() {
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| {
        let path = dir.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("app.py", "app.run(debug=True)\n");
    write("old/app.py", "app.run(debug=True)\n");
    write("data/app.py", "app.run(debug=True)\n");
    write(".gitignore", "old/\n");
    write(".bowlineignore", "data/\n");
    write(".env", "PASSWORD=q9vLw2Xr\n");
    std::fs::write(dir.path().join("picture.py"), b"app.run(\0\n").unwrap();
    let found = survey(dir.path()).unwrap();
    assert_eq!(found.sightings.len(), 1, "{:?}", found.sightings);
    assert_eq!(found.sightings[0].file, "app.py");
    assert_eq!(found.text("old/app.py"), None);
    // A repository that would take the file in, and then no more.
    std::fs::create_dir(dir.path().join(".git")).unwrap();
    let tracked = |survey: &Survey| survey.sightings.iter().any(|s| s.seen == Seen::EnvFileTracked);
    assert!(tracked(&survey(dir.path()).unwrap()));
    write(".gitignore", "old/\n.env*\n");
    assert!(!tracked(&survey(dir.path()).unwrap()));
}

proptest! {
    /// Whatever is in a file, reading it ends, and nothing is told of a value.
    #[test]
    fn no_text_makes_the_scanners_panic(text in "(?s).{0,400}", name in "[a-z]{1,8}\\.(py|js|yaml|md|toml|txt)") {
        secrets::sightings(&name, &text);
        code::sightings(&name, &text);
        dependencies::sightings("requirements.txt", &text, &BTreeSet::new());
        dependencies::sightings("package.json", &text, &BTreeSet::new());
        dockerfile::sightings("Dockerfile", &text);
        secret_in(&name, &text);
    }
}
