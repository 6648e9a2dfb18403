//! Each line that a finding offers is right: written into the file, the file is accepted, and the finding is gone.

use bowline_spec::{Defaults, parse};

use super::*;

/// A folder with these files, and its findings in an environment.
fn check(files: &[(&str, &str)], env: &str) -> Vec<Finding> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let file = read(dir.path(), Some(env), &Ui::new(true)).unwrap();
    report(&file.app, &survey(dir.path()).unwrap(), &BTreeMap::new())
}

fn of(rule: Rule, found: &[Finding]) -> Vec<&Finding> {
    found.iter().filter(|one| one.rule == rule).collect()
}

/// The text of a file with the lines of a fix: each below the header of its table, in the place of one of its key.
fn applied(text: &str, finding: &Finding) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for line in &finding.fix.lines {
        let header = format!("[{}]", line.table);
        let at = lines.iter().position(|l| *l == header).unwrap_or_else(|| {
            lines.push(header);
            lines.len() - 1
        });
        let key = |text: &str| text.split('=').next().unwrap_or("").trim().to_owned();
        let end = lines[at + 1..].iter().position(|l| l.starts_with('[')).map_or(lines.len(), |i| at + 1 + i);
        match lines[at + 1..end].iter().position(|l| key(l) == key(&line.text)) {
            Some(i) => lines[at + 1 + i].clone_from(&line.text),
            None => lines.insert(at + 1, line.text.clone()),
        }
    }
    lines.join("\n")
}

/// The one finding of a rule has lines, and they silence it.
fn check_silenced(rule: Rule, toml: &str, others: &[(&str, &str)], env: &str) {
    let with = |toml: &str| check(&[&[("bowline.toml", toml)], others].concat(), env);
    let found = with(toml);
    let [finding] = of(rule, &found)[..] else { panic!("{}: {found:?}", rule.id()) };
    assert!(!finding.fix.lines.is_empty(), "{finding:?}");
    let mended = applied(toml, finding);
    let env = EnvName::new(env).unwrap();
    let defaults = Defaults { folder_name: "app".into(), ..Defaults::default() };
    parse(&mended, "bowline.toml", &env, &defaults).unwrap_or_else(|e| panic!("{mended}\n{}", e.render(false)));
    let left = with(&mended);
    assert_eq!(of(rule, &left), Vec::<&Finding>::new(), "{mended}");
    assert!(left.iter().all(|one| one.rule != Rule::NotCarried), "{mended}: {left:?}");
}

const PYTHON: (&str, &str) = ("requirements.txt", "flask==3.1.0\n");
const WEB: &str = "[service.web]\nrun = \"gunicorn app:app --bind 0.0.0.0:$PORT\"\n";

#[test]
fn the_lines_to_add_are_accepted_and_silence_their_findings() {
    let local = |rule, toml: &str, others: &[(&str, &str)]| check_silenced(rule, toml, others, "local");
    let health = ("app.py", "@app.get('/healthz')\n");
    local(Rule::NoHealthPath, WEB, &[]);
    local(Rule::NoHealthPath, WEB, &[health]);
    local(Rule::NoHealthPath, "app = \"x\"\n", &[PYTHON]);
    local(Rule::NoLimits, WEB, &[]);
    local(Rule::NoLimits, "[service.web]\nrun = \"x\"\nlimits = { cpu = 0.5 }\n", &[]);
    local(Rule::SingleInstance, WEB, &[]);
    local(Rule::RunsAsRoot, "[service.web]\nrun = \"x\"\nport = 80\n", &[]);
    local(Rule::RunsAsRoot, "[service.web]\nrun = \"sudo ./server\"\n", &[]);
    local(Rule::DevelopmentServer, "[service.web]\nrun = \"flask --app shop run\"\n", &[]);
    local(Rule::DevelopmentServer, "[service.web]\nrun = \"npm run dev\"\n", &[]);
    local(Rule::DevelopmentServer, "[service.web]\nrun = \"uvicorn m:app --reload\"\n", &[]);
    let own = ("app.py", "app.run(host='0.0.0.0', port=int(os.environ['PORT']))\n");
    local(Rule::DevelopmentServer, "[service.web]\nrun = \"python app.py\"\n", &[own]);
    local(Rule::FixedPort, "[service.web]\nrun = \"node server.js\"\n", &[("server.js", "app.listen(3000)\n")]);
    local(Rule::WritesBesideCode, WEB, &[("app.py", "db = sqlite3.connect('notes.db')\n")]);
    local(Rule::HardCodedSecret, "[service.web]\nrun = \"x\"\n[env]\nDB_PASSWORD = \"hunter2\"\n", &[]);
    local(Rule::HardCodedSecret, "[service.web]\nrun = \"x\"\n[service.web.env]\nAPI_KEY = \"k\"\n", &[]);
    let production = |rule, toml: &str| check_silenced(rule, toml, &[], "production");
    production(
        Rule::TlsOff,
        "[service.web]\nrun = \"x\"\n[route.main]\ntls = \"off\"\n[environment.production]\nroute.main.hosts = [\"shop.com\"]\n",
    );
    production(
        Rule::DebugMode,
        "[service.web]\nrun = \"x\"\n[env]\nFLASK_DEBUG = \"1\"\n[environment.production]\nserver = \"local\"\n",
    );
}

#[test]
fn a_secret_of_the_code_is_named_once_and_never_shown() {
    let token = ["ghp_", "16C7e42F292c6912E7710c838347Ae178B4a"].concat();
    let found = check(&[("bowline.toml", WEB), ("shop/mail.py", &format!("\nMAIL_TOKEN = '{token}'\n"))], "local");
    let [finding] = of(Rule::HardCodedSecret, &found)[..] else { panic!("{found:?}") };
    assert_eq!(finding.at, Place::Source { file: "shop/mail.py".into(), line: 2 });
    assert_eq!(finding.fix.lines[0].text, "MAIL_TOKEN = { secret = \"mail-token\" }");
    assert!(finding.fix.commands[0].ends_with(" mail-token"), "{finding:?}");
    assert!(!format!("{found:?}").contains(&token[4..]), "{found:?}");
}

#[test]
fn what_is_right_is_left_alone() {
    let toml = "[service.web]\nrun = \"gunicorn app:app --bind 0.0.0.0:$PORT\"\nhealth = { path = \"/healthz\" }\n\
                limits = { memory = \"256MiB\" }\nscale = 2\n[service.files]\nstatic = { dir = \"public\" }\n";
    let code = "import os\nKEY = os.environ['SECRET_KEY']\n@app.get('/healthz')\ndef health():\n    return 'ok'\n\
                if __name__ == '__main__':\n    app.run(debug=True)\n";
    assert_eq!(check(&[("bowline.toml", toml), ("app.py", code), PYTHON], "local"), []);
    assert_eq!(check(&[("index.html", "<h1>Hello</h1>")], "local"), []);
}

#[test]
fn findings_without_lines_say_what_to_do() {
    let toml = "[service.web]\nrun = \"python worker.py\"\n[route]\n[volume.data]\n";
    let found =
        check(&[("bowline.toml", toml), ("worker.py", "while True: work()\n"), ("requirements.txt", "rq\n")], "local");
    for rule in [Rule::NoShutdown, Rule::UnpinnedDependencies, Rule::NoBackup] {
        let [finding] = of(rule, &found)[..] else { panic!("{}: {found:?}", rule.id()) };
        let fix = &finding.fix;
        assert!(fix.todo.is_some() || !fix.commands.is_empty() || !fix.lines.is_empty(), "{finding:?}");
    }
}

#[test]
fn the_reference_names_every_rule() {
    let page = include_str!("../../../../../docs/reference/check.md");
    for rule in Rule::ALL {
        let row = format!("| `{}` |", rule.id());
        assert!(
            page.contains(&row) && page.contains(rule.why()),
            "docs/reference/check.md lacks: {row} … {}",
            rule.why()
        );
    }
}
