//! Rules about the code and the commands.

use super::{Facts, Finding, Fix, Masked, Place, Rule, SecretKind, Seen, Severity, Sighting, Started, WriteKind};
use crate::app::{App, Origin, RouteTo, Service, Value, VarName};
use crate::id::{MAX_NAME, SecretName, ServiceName, env_option};

pub(super) fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found: Vec<Finding> = facts.sightings.iter().filter_map(|s| of_sighting(facts, s)).collect();
    for (name, service) in &facts.app.services {
        if let Some(started) = facts.started.get(name) {
            let service = Running { facts, name, service, started };
            found.extend(service.development_server());
            found.extend(service.fixed_port());
            found.extend(service.no_shutdown());
            found.extend(service.sudo());
        }
        found.extend(debug_variables(facts, name, service));
    }
    found
}

fn place(sighting: &Sighting) -> Place {
    match sighting.line {
        0 => Place::File(sighting.file.clone()),
        line => Place::Source { file: sighting.file.clone(), line },
    }
}

/// What is wrong wherever it is seen.
fn of_sighting(facts: &Facts<'_>, sighting: &Sighting) -> Option<Finding> {
    let found = |rule, severity, what, fix| Some(Finding { rule, severity, at: place(sighting), what, fix });
    match &sighting.seen {
        Seen::Secret { kind, name, value } => {
            let (what, fix) = secret(facts.app, *kind, name.as_deref(), value);
            found(Rule::HardCodedSecret, Severity::Blocker, what, fix)
        }
        Seen::EnvFileTracked => found(
            Rule::EnvFileTracked,
            Severity::Warning,
            "git does not ignore .env".to_owned(),
            Fix::command("echo .env >> .gitignore").and_command("git rm --cached --ignore-unmatch .env"),
        ),
        Seen::DebugSwitch { text } => found(
            Rule::DebugMode,
            Severity::Warning,
            format!("debugging is switched on: {text}"),
            Fix::todo("read it from the environment, off unless said: os.environ.get(\"DEBUG\") == \"1\""),
        ),
        Seen::DockerfileRoot if uses_dockerfile(facts.app, &sighting.file) => found(
            Rule::RunsAsRoot,
            Severity::Warning,
            "the image runs as root".to_owned(),
            Fix::todo("end the Dockerfile with `USER 1000`, before its CMD"),
        ),
        Seen::Writes { kind, path }
            if facts.app.volumes.is_empty() && is_first(facts, sighting) && !is_writable(facts, sighting, path) =>
        {
            let (what, fix) = writes(*kind, path);
            found(Rule::WritesBesideCode, Severity::Warning, what, fix)
        }
        Seen::Unpinned { first, count } => found(
            Rule::UnpinnedDependencies,
            Severity::Warning,
            match count {
                1 => format!("{first} has no version"),
                n => format!("{first} and {} others have no version", n - 1),
            },
            Fix::command("python3 -m venv .venv && .venv/bin/pip install -r requirements.txt")
                .and_command(".venv/bin/pip freeze > requirements.txt"),
        ),
        Seen::NoLock { lock, command } => found(
            Rule::UnpinnedDependencies,
            Severity::Warning,
            format!("there is no {lock} beside it"),
            Fix::command(*command).and_todo(format!("and commit {lock}")),
        ),
        Seen::Writes { .. }
        | Seen::DockerfileRoot
        | Seen::PythonServer { .. }
        | Seen::HealthRoute { .. }
        | Seen::ListensOn { .. }
        | Seen::ReadsPort
        | Seen::HandlesTerm
        | Seen::AdminRoute { .. } => None,
    }
}

fn secret(app: &App, kind: SecretKind, name: Option<&str>, value: &Masked) -> (String, Fix) {
    let variable = name.and_then(variable).unwrap_or_else(|| kind.variable().to_owned());
    let secret = secret_name(&variable);
    let known = app.env.iter().any(|(name, value)| name.as_str() == variable && matches!(value, Value::Secret { .. }));
    let fix = match known {
        true => Fix::todo(format!("read ${variable} in the code, and revoke the old one")),
        false => Fix::line("env", format!("{variable} = {{ secret = \"{secret}\" }}"))
            .and_command(set_secret(app, &secret))
            .and_todo(format!("read ${variable} in the code, and revoke the old one: it stays in the history")),
    };
    (format!("{kind} is written here: {value}"), fix)
}

/// A name of the code as one of a variable: `config.apiKey` → `API_KEY`.
fn variable(name: &str) -> Option<String> {
    let last = name.rsplit(['.', '-', ':', '>']).next().unwrap_or(name);
    let mut made = String::new();
    let mut lower_before = false;
    for c in last.chars() {
        if c.is_ascii_uppercase() && lower_before {
            made.push('_');
        }
        lower_before = c.is_ascii_lowercase() || c.is_ascii_digit();
        made.push(c.to_ascii_uppercase());
    }
    VarName::new(&made).is_ok().then_some(made)
}

/// The name of the secret for a variable: `API_KEY` → `api-key`.
pub(super) fn secret_name(variable: &str) -> String {
    let lower = variable.to_ascii_lowercase().replace('_', "-");
    let start = lower.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let name: String = start.chars().take(MAX_NAME).collect();
    match SecretName::new(name.trim_end_matches('-')) {
        Ok(name) => name.as_str().to_owned(),
        Err(_) => "secret".to_owned(),
    }
}

pub(super) fn set_secret(app: &App, secret: &str) -> String {
    format!("bowline secret set {} {secret}{}", app.name, env_option(app.environment.name.as_str()))
}

/// The same is often written in several places: once is enough.
fn is_first(facts: &Facts<'_>, sighting: &Sighting) -> bool {
    facts.sightings.iter().find(|s| s.seen == sighting.seen) == Some(sighting)
}

fn uses_dockerfile(app: &App, path: &str) -> bool {
    app.services.values().any(|service| match &service.origin {
        Origin::Dockerfile { dir, file } => {
            format!("{}/{file}", dir.trim_end_matches('/')).trim_start_matches("./") == path
        }
        Origin::Folder { .. } | Origin::BuildOf(_) | Origin::Image(_) | Origin::Static { .. } => false,
    })
}

/// Whether the file says that what is written there may die with the release.
fn is_writable(facts: &Facts<'_>, sighting: &Sighting, path: &str) -> bool {
    let path = path.trim_start_matches("./");
    let services = facts.app.services.values().filter(|service| facts.seen(service).any(|s| s == sighting));
    services.flat_map(|service| &service.writable).any(|writable| {
        let writable = writable.trim_start_matches("./").trim_end_matches('/');
        path.strip_prefix(writable).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

fn writes(kind: WriteKind, path: &str) -> (String, Fix) {
    let fix = Fix::line("volume.data", "");
    match kind {
        WriteKind::Sqlite => (
            format!("the SQLite database {path} lies beside the code"),
            fix.and_todo("open it in the folder that $BOWLINE_VOLUME_DATA names"),
        ),
        WriteKind::Uploads => (
            format!("uploads go to {path}, beside the code"),
            fix.and_todo("keep them in the folder that $BOWLINE_VOLUME_DATA names"),
        ),
        WriteKind::File => (
            format!("{path} is written beside the code"),
            fix.and_todo("write it to the folder that $BOWLINE_VOLUME_DATA names, or to $TMPDIR if it may be lost"),
        ),
    }
}

/// Switches in the file's own variables that turn debugging on.
fn debug_variables(facts: &Facts<'_>, name: &ServiceName, service: &Service) -> Vec<Finding> {
    const SWITCHES: [(&str, &str, &str); 8] = [
        ("FLASK_DEBUG", "1", "0"),
        ("FLASK_DEBUG", "true", "0"),
        ("FLASK_ENV", "development", "production"),
        ("DJANGO_DEBUG", "true", "0"),
        ("DJANGO_DEBUG", "1", "0"),
        ("NODE_ENV", "development", "production"),
        ("RAILS_ENV", "development", "production"),
        ("APP_DEBUG", "true", "false"),
    ];
    // An app under `up` on a developer's machine may well run so.
    if facts.app.environment.name.as_str() == crate::route::LOCAL {
        return Vec::new();
    }
    let tables = [("env".to_owned(), &facts.app.env), (format!("service.{name}.env"), &service.env)];
    let mut found = Vec::new();
    for (table, variables) in tables {
        for (variable, on, off) in SWITCHES {
            let value = variables.iter().find(|(name, _)| name.as_str() == variable).map(|(_, value)| value);
            if matches!(value, Some(Value::Text(text)) if text.eq_ignore_ascii_case(on)) {
                found.push(Finding {
                    rule: Rule::DebugMode,
                    severity: Severity::Blocker,
                    at: Place::Key(format!("{table}.{variable}")),
                    what: format!("{variable} is {on:?}"),
                    fix: Fix::line(table.as_str(), format!("{variable} = {off:?}")),
                });
            }
        }
    }
    found
}

/// A service with a command.
struct Running<'a> {
    facts: &'a Facts<'a>,
    name: &'a ServiceName,
    service: &'a Service,
    started: &'a Started,
}

impl Running<'_> {
    fn table(&self) -> String {
        format!("service.{}", self.name)
    }

    fn place(&self) -> Place {
        match &self.started.source {
            Some((file, line)) => Place::Source { file: file.clone(), line: *line },
            None => Place::Key(format!("{}.run", self.table())),
        }
    }

    fn found(&self, rule: Rule, severity: Severity, what: String, fix: Fix) -> Finding {
        Finding { rule, severity, at: self.place(), what, fix }
    }

    fn has(&self, seen: impl Fn(&Seen) -> bool) -> bool {
        self.facts.seen(self.service).any(|s| seen(&s.seen))
    }

    fn is_routed(&self) -> bool {
        self.facts.app.routes.values().any(|route| route.to == RouteTo::Service(self.name.clone()))
    }

    fn development_server(&self) -> Option<Finding> {
        let command = self.started.command.as_str();
        let (server, instead) = development_command(command).or_else(|| self.python_server())?;
        let fix = match instead {
            Instead::Run(run) => Fix::line(self.table(), format!("run = {}", quoted(&run))),
            Instead::Words(words) => Fix::todo(words),
        };
        let what = format!("{} is started by {server}: {command}", self.name);
        Some(self.found(Rule::DevelopmentServer, Severity::Blocker, what, fix))
    }

    /// `python app.py` where that file starts the framework's own server.
    fn python_server(&self) -> Option<(&'static str, Instead)> {
        let words: Vec<&str> = self.started.command.split_ascii_whitespace().collect();
        let program = words.iter().position(|word| is_python(word))?;
        let script = words[program + 1..].iter().find(|word| word.ends_with(".py"))?.trim_start_matches("./");
        let starts = self.facts.seen(self.service).any(|s| {
            matches!(s.seen, Seen::PythonServer { .. })
                && (s.file == *script || s.file.ends_with(&format!("/{script}")))
        });
        let module = script.trim_end_matches(".py").replace('/', ".");
        starts.then(|| ("the framework's own server", Instead::Run(gunicorn(&format!("{module}:app")))))
    }

    /// The app listens on a port of its own choice, and the file does not say so.
    fn fixed_port(&self) -> Option<Finding> {
        let reads = self.has(|seen| *seen == Seen::ReadsPort) || self.started.command.contains("PORT");
        // What a script says about its port counts only where the script itself is run.
        let own = is_own_program(&self.started.command);
        if reads || !own || self.service.fixed_port.is_some() || !self.is_routed() {
            return None;
        }
        let (sighting, port) = self.facts.seen(self.service).find_map(|s| {
            let Seen::ListensOn { port } = s.seen else { return None };
            Some((s, port))
        })?;
        Some(Finding {
            rule: Rule::FixedPort,
            severity: Severity::Blocker,
            at: place(sighting),
            what: format!("{} listens on port {port} whatever $PORT says", self.name),
            fix: Fix::line(self.table(), format!("port = {port}"))
                .and_todo("or listen on $PORT: only then can there be two copies and releases without a gap"),
        })
    }

    fn no_shutdown(&self) -> Option<Finding> {
        let own_loop = is_own_program(&self.started.command);
        if !own_loop || self.is_routed() || self.has(|seen| *seen == Seen::HandlesTerm) {
            return None;
        }
        let what = format!("nothing in the code of {} handles SIGTERM", self.name);
        let fix =
            Fix::todo("on SIGTERM take no new work, finish what is at hand, and exit; KILL follows after a grace");
        Some(self.found(Rule::NoShutdown, Severity::Advice, what, fix))
    }

    fn sudo(&self) -> Option<Finding> {
        let command = &self.started.command;
        let without = command.strip_prefix("sudo ")?;
        let fix = Fix::line(self.table(), format!("run = {}", quoted(without)));
        Some(self.found(Rule::RunsAsRoot, Severity::Warning, format!("{} wants to be root: {command}", self.name), fix))
    }
}

/// A script or binary of the app's own, rather than a server that is known to end well.
fn is_own_program(command: &str) -> bool {
    const KNOWN: [&str; 11] = [
        "gunicorn",
        "uvicorn",
        "hypercorn",
        "waitress-serve",
        "flask",
        "celery",
        "rq",
        "sidekiq",
        "nginx",
        "puma",
        "dramatiq",
    ];
    let mut words = command.split_ascii_whitespace();
    !words.any(|word| KNOWN.contains(&word.rsplit('/').next().unwrap_or(word)))
}

fn is_python(word: &str) -> bool {
    let name = word.rsplit('/').next().unwrap_or(word);
    name.strip_prefix("python").is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// What to write instead of a development server's command.
enum Instead {
    Run(String),
    Words(String),
}

fn gunicorn(target: &str) -> String {
    format!("gunicorn --bind 0.0.0.0:$PORT --workers 2 --threads 8 {target}")
}

/// The development server that a command starts, and what to run instead.
fn development_command(command: &str) -> Option<(&'static str, Instead)> {
    let words: Vec<&str> = command.split_ascii_whitespace().collect();
    let has = |word: &str| words.contains(&word);
    let names = |program: &str| words.iter().any(|word| word.rsplit('/').next() == Some(program));
    let follows = |first: &str, second: &str| {
        words.windows(2).any(|pair| pair[0].rsplit('/').next() == Some(first) && pair[1] == second)
    };
    if names("flask") && has("run") {
        let app = words.iter().position(|w| matches!(*w, "--app" | "-A")).and_then(|i| words.get(i + 1));
        let target = app.map_or("app".to_owned(), |app| app.trim_end_matches(".py").to_owned());
        let target = if target.contains(':') { target } else { format!("{target}:app") };
        return Some(("Flask's development server", Instead::Run(gunicorn(&target))));
    }
    if names("manage.py") && has("runserver") {
        let words = "run gunicorn with the project's wsgi module: gunicorn --bind 0.0.0.0:$PORT PROJECT.wsgi";
        return Some(("Django's development server", Instead::Words(words.to_owned())));
    }
    if has("--reload") && (names("uvicorn") || names("gunicorn") || names("hypercorn")) {
        let without: Vec<&str> = words.iter().copied().filter(|word| *word != "--reload").collect();
        return Some(("a server that reloads its code", Instead::Run(without.join(" "))));
    }
    if follows("fastapi", "dev") {
        return Some(("FastAPI's development server", Instead::Run(command.replacen("fastapi dev", "fastapi run", 1))));
    }
    let scripts = ["npm", "yarn", "pnpm", "bun"];
    let dev = |word: &str| word == "dev" || word.starts_with("dev:");
    let is_dev_script = words.iter().enumerate().any(|(i, word)| {
        scripts.contains(word)
            && words[i + 1..].iter().find(|w| **w != "run" && !w.starts_with('-')).is_some_and(|w| dev(w))
    });
    if is_dev_script {
        let manager = words.iter().find(|word| scripts.contains(word)).unwrap_or(&"npm");
        return Some(("a development script", Instead::Run(format!("{manager} start"))));
    }
    let words = "build the files, and let the edge serve them: static = { dir = \"dist\" }".to_owned();
    match () {
        () if names("webpack-dev-server") || follows("webpack", "serve") => {
            Some(("webpack's development server", Instead::Words(words)))
        }
        () if names("vite") && !has("build") && !has("preview") => {
            Some(("vite's development server", Instead::Words(words)))
        }
        () if follows("react-scripts", "start") || follows("ng", "serve") || follows("vue-cli-service", "serve") => {
            Some(("a bundler's development server", Instead::Words(words)))
        }
        () if follows("next", "dev") => Some(("Next.js' development server", Instead::Run("next start".to_owned()))),
        () if names("nodemon") || names("ts-node-dev") => {
            Some(("a program that restarts on every change", Instead::Words("run it with node".to_owned())))
        }
        () => None,
    }
}

/// As TOML writes it: a literal string where that can hold it.
fn quoted(text: &str) -> String {
    match text.contains('\'') || text.chars().any(char::is_control) {
        false if text.contains(['"', '\\']) => format!("'{text}'"),
        false | true => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn development_servers_are_told_by_their_commands() {
        let check = |command: &str, expected: Option<&str>| {
            let found = development_command(command).map(|(_, instead)| match instead {
                Instead::Run(run) => run,
                Instead::Words(_) => "words".to_owned(),
            });
            assert_eq!(found.as_deref(), expected, "{command}");
        };
        let wsgi = |target: &str| gunicorn(target);
        check("flask run --host 0.0.0.0", Some(&wsgi("app:app")));
        check("python -m flask --app shop.web:make run", Some(&wsgi("shop.web:make")));
        check("python3 manage.py runserver 0.0.0.0:$PORT", Some("words"));
        check("uvicorn main:app --port $PORT --reload", Some("uvicorn main:app --port $PORT"));
        check("fastapi dev main.py --port $PORT", Some("fastapi run main.py --port $PORT"));
        check("npm run dev", Some("npm start"));
        check("yarn dev", Some("yarn start"));
        check("pnpm run dev:server", Some("pnpm start"));
        check("npx vite --port $PORT", Some("words"));
        check("next dev", Some("next start"));
        for right in ["npm start", "vite preview", "node server.js", "gunicorn app:app", "npm run deploy", "./run"] {
            check(right, None);
        }
    }

    #[test]
    fn names_of_the_code_become_variables_and_secrets() {
        let check = |name: &str, expected: &str, secret: &str| {
            let made = variable(name).unwrap();
            assert_eq!((made.as_str(), secret_name(&made).as_str()), (expected, secret), "{name}");
        };
        check("config.apiKey", "API_KEY", "api-key");
        check("db_password", "DB_PASSWORD", "db-password");
        check("_TOKEN2", "_TOKEN2", "token2");
        assert_eq!(variable("PORT"), None);
        assert_eq!(secret_name("__"), "secret");
    }

    #[test]
    fn commands_are_quoted_as_toml_reads_them() {
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted("a \"b\""), "'a \"b\"'");
        assert_eq!(quoted("a 'b' \"c\\\""), "\"a 'b' \\\"c\\\\\\\"\"");
    }
}
