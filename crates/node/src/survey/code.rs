//! What lines of code say about how an app runs. Regular expressions over single lines: they see what small apps
//! write, and stay silent about the rest.

use std::sync::LazyLock;

use bowline_core::readiness::{Seen, Sighting, WriteKind};
use regex::Regex;

use super::{Ground, ground, is_comment, lines};

macro_rules! patterns {
    ($($name:ident = $pattern:expr;)+) => {
        $(static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($pattern).expect("a constant that a test compiles"));)+
        #[cfg(test)]
        pub(super) fn compile_all() { $(LazyLock::force(&$name);)+ }
    };
}

patterns! {
    // Receivers are the app itself: what a router of a part says has another path in the end.
    HEALTH = r#"(?:\b(?:app|application|server|api|mux|http|e|r|fastify)\s*\.\s*(?:route|get|GET|Get|all|use|HandleFunc|Handle)|(?:^|\))\s*\.route|\bHandleFunc|^\s*get)\s*\(?\s*["'`](?:GET )?(/(?:_?health(?:z|-?check)?|readyz?|ready|livez?|status|ping|up)/?)["'`]"#;
    DJANGO_HEALTH = r#"\bpath\(\s*["']((?:_?health(?:z|-?check)?|readyz?|status|ping)/?)["']"#;
    ADMIN = r#"\bpath\(\s*["']([A-Za-z0-9_-]+/?)["']\s*,\s*admin\.site\.urls"#;
    READS_PORT = r#"process\.env\.PORT\b|process\.env\[["']PORT["']\]|(?i:env(?:iron)?|getenv|var(?:_os)?)[^\n]{0,24}["']PORT["']|\benv\.PORT\b|\$\{?PORT\b"#;
    TERM = r"SIGTERM|signal\.Notify|SignalKind::terminate|\bctrl_c\(|KeyboardInterrupt|signal\.signal\(";
    PYTHON_SERVER = r"^\s*\w*(?:app|server)\w*\.run\(";
    PYTHON_PORT = r"\bport\s*=\s*(\d{2,5})\b";
    LISTEN = r#"\.listen\(\s*(\d{2,5})\b|\bListenAndServe\(\s*"[^":]*:(\d{2,5})"|\b(?:bind|TcpListener::bind)\(\s*"[^"]*:(\d{2,5})"|\br\.Run\(\s*":(\d{2,5})""#;
    PORT_CONSTANT = r"^\s*(?:const|let|var)\s+(?i:port)\s*=\s*(\d{2,5})\s*;?\s*$";
    DJANGO_DEBUG = r"^(DEBUG\s*=\s*True)\b";
    OPEN_WRITE = r#"\bopen\(\s*f?["']((?:\./)?[A-Za-z0-9_][^"'{}:]*)["']\s*,\s*(?:mode\s*=\s*)?["'][wax]"#;
    NODE_WRITE = r#"\b(?:writeFile|appendFile|createWriteStream|writeFileSync|appendFileSync)\(\s*["'`]((?:\./)?[A-Za-z0-9_][^"'`$:]*)["'`]"#;
    SQLITE = r#"sqlite:///((?:\./)?[A-Za-z0-9_][^"'?\s{}]*)|\b(?:sqlite3\.connect|(?:sqlite3\.)?Database)\(\s*["']((?:\./)?[A-Za-z0-9_][^"':{}]*)["']|\bBASE_DIR\s*/\s*["']([A-Za-z0-9_-]+\.sqlite3?)["']"#;
    UPLOADS = r#"\bUPLOAD_(?:FOLDER|DIR|PATH)(?:["']\])?\s*=\s*["']((?:\./)?[A-Za-z0-9_][^"'{}]*)["']|\bmulter\(\s*\{\s*dest:\s*["'`]((?:\./)?[A-Za-z0-9_][^"'`]*)["'`]"#;
}

/// Programs that people run by hand, on their own machines.
const BY_HAND: [&str; 10] =
    ["scripts", "script", "tools", "bin", "management", "migrations", "alembic", "docs", "notebooks", "bench"];

pub(super) fn sightings(file: &str, text: &str) -> Vec<Sighting> {
    if ground(file) != Ground::Code || file.split('/').any(|part| BY_HAND.contains(&part)) || file.ends_with("setup.py")
    {
        return Vec::new();
    }
    let extension = file.rsplit_once('.').map_or("", |(_, extension)| extension);
    let mut found = Vec::new();
    for (line, text, _) in lines(file, text).filter(|(_, text, _)| !is_comment(text)) {
        let mut add = |seen| found.push(Sighting { file: file.to_owned(), line, seen });
        everywhere(text, &mut add);
        match extension {
            "py" => python(file, text, &mut add),
            "js" | "mjs" | "cjs" | "ts" => node(text, &mut add),
            _ => {}
        }
    }
    found
}

/// The text of the first group that took part.
fn group(pattern: &Regex, line: &str) -> Option<String> {
    let captures = pattern.captures(line)?;
    captures.iter().skip(1).flatten().next().map(|group| group.as_str().to_owned())
}

fn everywhere(line: &str, add: &mut impl FnMut(Seen)) {
    if let Some(path) = group(&HEALTH, line) {
        add(Seen::HealthRoute { path });
    }
    if READS_PORT.is_match(line) {
        add(Seen::ReadsPort);
    } else if let Some(port) = group(&LISTEN, line).and_then(|port| port.parse().ok()) {
        add(Seen::ListensOn { port });
    }
    if TERM.is_match(line) {
        add(Seen::HandlesTerm);
    }
}

fn python(file: &str, line: &str, add: &mut impl FnMut(Seen)) {
    let name = file.rsplit('/').next().unwrap_or(file);
    if PYTHON_SERVER.is_match(line) {
        let compact: String = line.chars().filter(|c| !c.is_whitespace()).collect();
        add(Seen::PythonServer { debug: compact.contains("debug=True") });
        if let Some(port) = group(&PYTHON_PORT, line).and_then(|port| port.parse().ok()) {
            add(Seen::ListensOn { port });
        }
    }
    // What an included file of routes says has a prefix that is written elsewhere.
    let is_root = |at: &str| file.matches('/').count() <= 1 && name == at;
    if let Some(path) = group(&DJANGO_HEALTH, line).filter(|_| is_root("urls.py")) {
        add(Seen::HealthRoute { path: format!("/{path}") });
    }
    if let Some(path) = group(&ADMIN, line) {
        add(Seen::AdminRoute { path: format!("/{path}") });
    }
    if let Some(text) =
        group(&DJANGO_DEBUG, line).filter(|_| matches!(name, "settings.py" | "production.py" | "base.py"))
    {
        add(Seen::DebugSwitch { text });
    }
    if let Some(path) = group(&OPEN_WRITE, line) {
        add(Seen::Writes { kind: WriteKind::File, path });
    }
    stored(line, add);
}

fn node(line: &str, add: &mut impl FnMut(Seen)) {
    if let Some(port) = group(&PORT_CONSTANT, line).and_then(|port| port.parse().ok()) {
        add(Seen::ListensOn { port });
    }
    if let Some(path) = group(&NODE_WRITE, line) {
        add(Seen::Writes { kind: WriteKind::File, path });
    }
    stored(line, add);
}

fn stored(line: &str, add: &mut impl FnMut(Seen)) {
    if let Some(path) = group(&SQLITE, line).filter(|path| !path.contains("memory")) {
        add(Seen::Writes { kind: WriteKind::Sqlite, path });
    }
    if let Some(path) = group(&UPLOADS, line) {
        add(Seen::Writes { kind: WriteKind::Uploads, path });
    }
}
