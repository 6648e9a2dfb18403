//! What an app lacks for production: rules over facts that the rim gathered.
//!
//! A rule stands here only if it is right nearly always, and each finding brings what silences it: the lines for
//! `bowline.toml`, commands, or words. Lines are offered only for keys that this version carries out.
//!
//! Architecture invariant: no value of a secret reaches this module; sightings carry masked text only.

mod config;
mod facts;
mod names;
mod source;

pub use facts::{Facts, Masked, NameSeen, SecretKind, Seen, Setting, Sighting, Started, WriteKind, is_below};

use std::fmt;

/// All findings: blockers first, then by place.
pub fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found = config::findings(facts);
    found.extend(source::findings(facts));
    found.extend(names::findings(facts));
    found.sort_by(|a, b| (a.severity, &a.at, a.rule, &a.what).cmp(&(b.severity, &b.at, b.rule, &b.what)));
    found.dedup();
    found
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Not fit for production: `check` fails.
    Blocker,
    /// Will hurt sooner or later.
    Warning,
    /// Worth a thought.
    Advice,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocker => "blocker",
            Self::Warning => "warning",
            Self::Advice => "advice",
        })
    }
}

macro_rules! rules {
    ($($(#[doc = $doc:literal])+ $rule:ident = $id:literal, $why:literal;)+) => {
        /// Which rule found it. Its id is stable: scripts may filter by it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Rule { $($(#[doc = $doc])+ $rule,)+ }

        impl Rule {
            pub const ALL: &'static [Self] = &[$(Self::$rule),+];

            pub fn id(self) -> &'static str {
                match self { $(Self::$rule => $id,)+ }
            }

            /// Why it matters, in one sentence.
            pub fn why(self) -> &'static str {
                match self { $(Self::$rule => $why,)+ }
            }
        }
    };
}

rules! {
    /// A credential in the code or in the file.
    HardCodedSecret = "hard-coded-secret", "whoever reads the code, or an old copy of it, can use it";
    /// `.env` would be committed.
    EnvFileTracked = "env-file-tracked", "the next `git add .` commits what it holds";
    /// A server that is meant for developers.
    DevelopmentServer = "development-server",
        "it serves one machine's developer: slow, reloading, and some let visitors run code";
    /// Debugging is on.
    DebugMode = "debug-mode", "errors show code, settings and variables to every visitor";
    /// A port is written in the code.
    FixedPort = "fixed-port", "it never listens where it is asked for, so it never gets ready";
    /// The file asks for something that this version does not carry.
    NotCarried = "not-carried", "`up` refuses the file as long as it asks for this";
    /// Plain HTTP on a public host.
    TlsOff = "tls-off", "passwords and cookies cross the network in clear";
    /// A public name that does not lead to the machine that is to serve it.
    NameElsewhere = "name-elsewhere", "visitors do not come, and no authority signs a certificate for it";
    /// Nothing listens where an authority and visitors ask.
    PortClosed = "port-closed", "an authority asks there before it signs a certificate, and so do visitors";
    /// An administration page that everybody reaches.
    OpenAdmin = "open-admin", "it is the first page that scanners try, and one password is all that guards it";
    /// No health path.
    NoHealthPath = "no-health-path", "any answer counts as healthy, errors too, so a broken release takes over";
    /// No limits of memory and processor.
    NoLimits = "no-limits", "one leak or one loop takes the whole machine down with it";
    /// A volume that may fill the disk.
    UnboundedVolume = "unbounded-volume", "a full disk stops every app of the machine, databases first";
    /// Dependencies are whatever is newest on the day of the build.
    UnpinnedDependencies = "unpinned-dependencies", "the same code builds into something else tomorrow";
    /// It wants to be root.
    RunsAsRoot = "runs-as-root", "instances are not root here, and a hole in the app would be one in the machine";
    /// Files that die with the release.
    WritesBesideCode = "writes-beside-code", "what is written below the app's folder is gone with the next release";
    /// Data without a copy.
    NoBackup = "no-backup", "one wrong command, or one dead disk, and the data are gone";
    /// TERM is not handled.
    NoShutdown = "no-shutdown", "each release and each restart cuts off the work at hand";
    /// One copy.
    SingleInstance = "single-instance", "while the one copy restarts, nobody is served";
}

/// Where a finding is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A line, from 1, of a file below the app's folder.
    Source { file: String, line: u32 },
    /// A file as a whole.
    File(String),
    /// A key path of `bowline.toml`: `service.web.run`. What was not written is said of its nearest parent.
    Key(String),
}

/// One thing that is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub rule: Rule,
    pub severity: Severity,
    pub at: Place,
    /// In one sentence, with the object it is about.
    pub what: String,
    pub fix: Fix,
}

/// What silences a finding. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fix {
    /// For `bowline.toml`.
    pub lines: Vec<Line>,
    /// For a shell, in the app's folder.
    pub commands: Vec<String>,
    /// What the lines do not say.
    pub todo: Option<String>,
}

/// A line of `bowline.toml`. It takes the place of one of the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The table it stands in: `service.web`.
    pub table: String,
    /// `limits = { memory = "256MiB" }`; empty for a table without keys.
    pub text: String,
}

impl Fix {
    fn line(table: impl Into<String>, text: impl Into<String>) -> Self {
        Self::default().and_line(table, text)
    }

    fn command(command: impl Into<String>) -> Self {
        Self { commands: vec![command.into()], ..Self::default() }
    }

    fn todo(todo: impl Into<String>) -> Self {
        Self { todo: Some(todo.into()), ..Self::default() }
    }

    fn and_line(mut self, table: impl Into<String>, text: impl Into<String>) -> Self {
        self.lines.push(Line { table: table.into(), text: text.into() });
        self
    }

    fn and_command(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }

    fn and_todo(mut self, todo: impl Into<String>) -> Self {
        self.todo = Some(todo.into());
        self
    }
}
