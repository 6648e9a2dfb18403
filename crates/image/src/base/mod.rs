//! What an app stands on: nothing at all, or those packages of this machine that its programs need.

mod dpkg;
mod elf;
mod machine;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bowline_core::fault::{Fault, FaultKind};

pub use dpkg::{Package, Packages};
pub use elf::{Elf, ElfError};
pub use machine::{Machine, MachineBase};

use crate::error::ImageError;
use crate::image::{Run, USER};
use crate::platform::Platform;
use crate::tree::{Content, Entry, Tree};

/// Folders of packages that bring programs for several machines, of which this one uses its own.
const OF_PACKAGES: [&str; 2] = ["node_modules/", "site-packages/"];
/// Another C library than this machine's has this in its name.
const MUSL: &str = "musl";

/// What a base must have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// What the programs are for; `None`: there is no program.
    pub architecture: Option<String>,
    /// Paths of the machine: `/usr/bin/node`, `/bin/sh`, a loader.
    pub programs: BTreeSet<String>,
    /// `libc.so.6`.
    pub libraries: BTreeSet<String>,
    /// Whole packages, by name, for what is started by nothing that can be read here.
    pub packages: BTreeSet<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    #[error("{path} cannot be read")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no program that runs here")]
    Elf {
        path: String,
        #[source]
        source: ElfError,
    },
    #[error("{path} is for {found}, other programs of the app for {other}")]
    Architectures { path: String, found: String, other: String },
    #[error("the program {0:?} is neither in the app nor on this machine")]
    NoProgram(String),
    #[error("{0} is of no package of this machine, and an image takes whole packages")]
    NoOwner(String),
    #[error("the library {0} is of no package of this machine, and the app does not have it")]
    NoLibrary(String),
    #[error("the package {0} is not installed on this machine")]
    NoPackage(String),
    #[error("this machine has no packages of Debian")]
    NoPackages(#[source] io::Error),
    #[error("the app is for {wanted}, and this machine's packages are for {here}")]
    Foreign { wanted: String, here: String },
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl From<BaseError> for Fault {
    fn from(error: BaseError) -> Self {
        let fault = Self::new(FaultKind::Invalid, "no base fits the app").source(&error);
        match error {
            BaseError::Image(error) => error.into(),
            BaseError::NoOwner(_) | BaseError::NoPackages(_) | BaseError::Foreign { .. } => {
                fault.hint("install it as a package of Debian, or say what it stands on by a `dockerfile`")
            }
            BaseError::NoLibrary(_) => fault.hint("install the package that has it, and build again"),
            BaseError::NoPackage(name) => {
                fault.hint(format!("install it (apt-get install {name}), or leave it out of `packages`"))
            }
            BaseError::NoProgram(_) => fault.hint("say in `run` what the build makes, or install its package"),
            BaseError::Elf { .. } | BaseError::Architectures { .. } => {
                fault.hint("build it for this machine's architecture, or say what it stands on by a `dockerfile`")
            }
            BaseError::Read { .. } => {
                fault.hint("make it as a user who may read that, or say what it stands on by a `dockerfile`")
            }
        }
    }
}

/// What is in every image, whatever it stands on: names for the two users, and a folder for scratch files.
///
/// # Errors
/// None in practice: `tree` holds something else under these names.
pub fn ground(tree: &mut Tree) -> Result<(), ImageError> {
    tree.file(
        "etc/passwd",
        &format!("root:x:0:0:root:/root:/usr/sbin/nologin\napp:x:{USER}:{USER}:app:/tmp:/usr/sbin/nologin\n"),
    )?;
    tree.file("etc/group", &format!("root:x:0:\napp:x:{USER}:\n"))?;
    // Names of hosts by the file first, as every machine does it.
    tree.file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")?;
    tree.put("tmp", Entry::Scratch)
}

/// How an image starts.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    pub run: &'a Run,
    /// Of the image: `/app`.
    pub workdir: &'a str,
    /// Of the image, too: where a command without a slash is looked for, in this order.
    pub path: &'a [String],
}

/// What is looked through.
#[derive(Debug, Clone, Copy)]
struct Sought<'a> {
    trees: &'a [&'a Tree],
    path: &'a [String],
    /// The machine's: `/`.
    root: &'a Path,
}

impl Needs {
    /// Looks into the app's programs and libraries, and for what it starts. `root` is the machine's: `/`.
    ///
    /// # Errors
    /// What `run` starts is nowhere, or a program cannot be read or understood.
    pub fn of(trees: &[&Tree], start: Start<'_>, root: &Path) -> Result<Self, BaseError> {
        let mut needs = Self::default();
        let mut own = BTreeSet::new();
        for (path, entry) in trees.iter().flat_map(|tree| tree.entries()) {
            let name = path.rsplit('/').next().unwrap_or(path);
            own.insert(name.to_owned());
            if let Entry::File { content, executable } = entry
                && (*executable || name.ends_with(".so") || name.contains(".so.") || name.ends_with(".node"))
            {
                needs.look(path, content)?;
            }
        }
        // Libraries that the app brings, as wheels do.
        needs.libraries.retain(|library| !own.contains(library));
        let sought = Sought { trees, path: start.path, root };
        let within = |word: &str| match word.contains('/') && !word.starts_with('/') {
            true => format!("{}/{word}", start.workdir),
            false => word.to_owned(),
        };
        match start.run {
            Run::Shell(line) => {
                needs.programs.insert(SHELL.to_owned());
                if let Some(word) = started(line) {
                    needs.program(sought, &within(word), MAX_SCRIPTS)?;
                }
            }
            Run::Exec(words) => {
                needs.program(sought, &within(words.first().map_or("", String::as_str)), MAX_SCRIPTS)?;
            }
        }
        Ok(needs)
    }

    /// One more program that is started by what is no header: an interpreter, by a script of a shell.
    ///
    /// # Errors
    /// It is nowhere.
    pub fn also(&mut self, program: &str, trees: &[&Tree], start: Start<'_>, root: &Path) -> Result<(), BaseError> {
        self.program(Sought { trees, path: start.path, root }, program, MAX_SCRIPTS)
    }

    /// And of these packages of the machine those that more than a build uses.
    ///
    /// # Errors
    /// One of them is not installed.
    pub fn with_packages(mut self, names: &[String], root: &Path) -> Result<Self, BaseError> {
        let names: Vec<&String> = names.iter().filter(|name| !dpkg::is_of_headers(name)).collect();
        if !names.is_empty() {
            self.packages.extend(Machine::look(root)?.used_by_programs(&names)?);
        }
        Ok(self)
    }

    /// The kernel is enough.
    pub fn is_nothing(&self) -> bool {
        self.programs.is_empty() && self.libraries.is_empty() && self.packages.is_empty()
    }

    /// Something of it is a script of a shell, or a line for one.
    pub(crate) fn has_shell(&self) -> bool {
        let is_shell = |program: &String| matches!(program.rsplit('/').next(), Some("sh" | "bash" | "dash"));
        self.programs.iter().any(is_shell)
    }

    pub fn platform(&self) -> Platform {
        self.architecture.as_deref().map_or_else(Platform::host, Platform::linux)
    }

    fn look(&mut self, path: &str, content: &Content) -> Result<(), BaseError> {
        let damaged = |source| BaseError::Elf { path: path.to_owned(), source };
        let elf = match content {
            Content::Bytes(bytes) => Elf::read(&mut io::Cursor::new(bytes)).map_err(damaged)?,
            Content::At(from) => Elf::read(&mut open(from)?).map_err(damaged)?,
        };
        let Some(elf) = elf else { return Ok(()) };
        let is_elsewhere = elf.architecture != Platform::host().architecture
            || elf.interpreter.iter().chain(&elf.needed).any(|name| name.contains(MUSL));
        if is_elsewhere && OF_PACKAGES.iter().any(|folder| path.contains(folder)) {
            return Ok(());
        }
        match &self.architecture {
            Some(other) if other != elf.architecture => {
                let (found, other) = (elf.architecture.to_owned(), other.clone());
                return Err(BaseError::Architectures { path: path.to_owned(), found, other });
            }
            Some(_) => {}
            None => self.architecture = Some(elf.architecture.to_owned()),
        }
        self.programs.extend(elf.interpreter);
        self.libraries.extend(elf.needed);
        Ok(())
    }

    /// What starts: of the app, then a script may want its interpreter; or of the machine.
    fn program(&mut self, sought: Sought<'_>, word: &str, left: u8) -> Result<(), BaseError> {
        let nowhere = || BaseError::NoProgram(word.to_owned());
        let left = left.checked_sub(1).ok_or_else(nowhere)?;
        let path = match word.contains('/') {
            true => word.to_owned(),
            false => sought.on_path(word).ok_or_else(nowhere)?,
        };
        match sought.found(&path).ok_or_else(nowhere)? {
            Found::OfMachine(path) => _ = self.programs.insert(path),
            Found::OfApp(content) => {
                for program in interpreter(content)? {
                    self.program(sought, &program, left)?;
                }
            }
        }
        Ok(())
    }
}

/// Where a path leads.
#[derive(Debug)]
enum Found<'a> {
    OfApp(&'a Content),
    OfMachine(String),
}

impl<'a> Sought<'a> {
    fn on_path(&self, name: &str) -> Option<String> {
        let paths = self.path.iter().map(|folder| format!("{folder}/{name}"));
        paths.filter(|_| !name.is_empty()).find(|path| self.found(path).is_some())
    }

    /// A file, over whatever links lead to it, as the kernel would go in the image. `None`: there is none.
    fn found(&self, path: &str) -> Option<Found<'a>> {
        let parts = |path: &str| path.split('/').rev().map(str::to_owned).collect::<Vec<_>>();
        let (mut left, mut at, mut links) = (parts(path), Vec::<String>::new(), 0);
        while let Some(part) = left.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    at.pop();
                    continue;
                }
                _ => at.push(part),
            }
            let inside = at.join("/");
            match self.trees.iter().find_map(|tree| tree.entries().get(&inside)) {
                Some(Entry::Folder | Entry::Scratch) => {}
                Some(Entry::File { content, .. }) => return left.is_empty().then_some(Found::OfApp(content)),
                Some(Entry::Link(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return None;
                    }
                    match target.starts_with('/') {
                        true => at.clear(),
                        false => _ = at.pop(),
                    }
                    left.extend(parts(target));
                }
                None => {
                    at.extend(left.into_iter().rev());
                    let path = at.join("/");
                    return self.root.join(&path).is_file().then(|| Found::OfMachine(format!("/{path}")));
                }
            }
        }
        None
    }
}

const SHELL: &str = "/bin/sh";
/// Links that lead to what starts, as many as the kernel follows.
const MAX_LINKS: u8 = 40;
/// Scripts whose interpreters are scripts: one more than the kernel follows (binfmt_script).
const MAX_SCRIPTS: u8 = 6;

/// The program that a line of a shell begins with, where nothing but its name stands for it; `None`: the shell works it out when it runs.
fn started(line: &str) -> Option<&str> {
    const OWN: [&str; 11] = ["cd", "if", "for", "while", "until", "case", "eval", "export", "set", "trap", "."];
    // What `exec` is said of starts all the same.
    let is_before = |word: &&str| *word == "exec" || word.split_once('=').is_some_and(|(name, _)| is_variable(name));
    let word = line.split([' ', '\t']).filter(|word| !word.is_empty()).find(|word| !is_before(word))?;
    let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c));
    (is_plain && !OWN.contains(&word)).then_some(word)
}

fn is_variable(name: &str) -> bool {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    first && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// What a script is started with: `#!/usr/bin/env node` is `env`, and `node` of the path.
fn interpreter(content: &Content) -> Result<Vec<String>, BaseError> {
    let mut head = Vec::new();
    match content {
        Content::Bytes(bytes) => head.extend_from_slice(&bytes[..bytes.len().min(256)]),
        Content::At(from) => {
            let failed = |source| BaseError::Read { path: from.display().to_string(), source };
            open(from)?.take(256).read_to_end(&mut head).map_err(failed)?;
        }
    }
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Some(line) = line.strip_prefix(b"#!").and_then(|line| std::str::from_utf8(line).ok()) else {
        return Ok(Vec::new());
    };
    let mut words = line.split_whitespace();
    let program = words.next().map(str::to_owned);
    // Behind its options and variables (`env -S NODE_ENV=x node --flag`).
    let by_env = program.as_deref() == Some("/usr/bin/env");
    let named = words.find(|word| !word.starts_with('-') && !word.contains('=')).filter(|_| by_env);
    Ok(program.into_iter().chain(named.map(str::to_owned)).collect())
}

fn open(path: &PathBuf) -> Result<File, BaseError> {
    File::open(path).map_err(|source| BaseError::Read { path: path.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn file(bytes: &[u8]) -> Entry {
        Entry::File { content: Content::Bytes(Arc::from(bytes)), executable: true }
    }

    fn needs(files: &[(&str, Entry)], run: &str) -> Result<Needs, BaseError> {
        let mut tree = Tree::default();
        files.iter().for_each(|(path, entry)| tree.put(path, entry.clone()).unwrap());
        let run = match run.strip_prefix("sh: ") {
            Some(line) => Run::Shell(line.to_owned()),
            None => Run::Exec(run.split(' ').map(str::to_owned).collect()),
        };
        let path = ["/app/node_modules/.bin", "/venv/bin", "/usr/local/bin", "/usr/bin", "/bin"].map(str::to_owned);
        Needs::of(&[&tree], Start { run: &run, workdir: "/app", path: &path }, Path::new("/"))
    }

    #[test]
    fn a_static_program_stands_on_nothing() {
        let needs = needs(&[("app/bin/hello", file(&elf::tests::tiny())), ("app/x.txt", file(b"text"))], "bin/hello");
        let needs = needs.unwrap();
        assert!(needs.is_nothing());
        assert_eq!(needs.platform(), Platform::linux("amd64"));
    }

    #[test]
    fn what_is_wanted_of_the_machine_is_found_in_the_app() {
        let programs = |files: &[(&str, Entry)], run: &str| -> Vec<String> {
            needs(files, run).unwrap().programs.into_iter().collect()
        };
        let script = |text: &str| [("app/run", file(text.as_bytes()))];
        assert_eq!(programs(&script("#!/bin/sh\nexec x"), "./run"), ["/bin/sh"]);
        assert_eq!(programs(&script("#! /bin/sh -e\n"), "/app/run"), ["/bin/sh"]);
        assert_eq!(programs(&script("#!/usr/bin/env sh\n"), "/app/run"), ["/usr/bin/env", "/usr/bin/sh"]);
        assert_eq!(programs(&[], "sh: PORT=1 env --x=$PORT"), ["/bin/sh", "/usr/bin/env"]);
        assert_eq!(programs(&script("#!/bin/bash"), "sh: ./run --port $PORT"), ["/bin/bash", "/bin/sh"]);
        assert_eq!(programs(&script("text"), "sh: cd x && ./run"), ["/bin/sh"], "the shell's own");
        assert_eq!(programs(&script("text"), "sh: $RUN"), ["/bin/sh"], "nobody knows yet");
        assert_eq!(programs(&[], "sh -c x"), ["/usr/bin/sh"]);
        assert_eq!(programs(&[], "/usr/bin/env x"), ["/usr/bin/env"]);
        let link = [
            ("venv/bin/python", Entry::Link("python3".into())),
            ("venv/bin/python3", Entry::Link("/usr/bin/env".into())),
        ];
        assert_eq!(programs(&link, "/venv/bin/python app.py"), ["/usr/bin/env"]);
        assert_eq!(programs(&link, "python app.py"), ["/usr/bin/env"], "by the path of the image");
        assert_eq!(programs(&link, "sh: exec python app.py --port $PORT"), ["/bin/sh", "/usr/bin/env"]);
        let real = std::fs::read("/bin/true").unwrap();
        let all = needs(&[("app/true", file(&real))], "./true").unwrap();
        assert!(all.libraries.contains("libc.so.6") && all.programs.len() == 1, "{all:?}");
        // A library of its own is not asked for elsewhere.
        let own = needs(&[("app/true", file(&real)), ("app/libs/libc.so.6", file(b""))], "./true").unwrap();
        assert!(!own.libraries.contains("libc.so.6"));
    }

    #[test]
    fn a_program_of_a_package_is_found_as_its_links_lead() {
        let programs = |files: &[(&str, Entry)], run: &str| -> Vec<String> {
            needs(files, run).unwrap().programs.into_iter().collect()
        };
        // As npm, and as pnpm, which has folders behind links, lay them.
        let npm = [
            ("app/node_modules/.bin/serve", Entry::Link("../serve/bin/serve.js".into())),
            ("app/node_modules/serve/bin/serve.js", file(b"#!/usr/bin/env -S env --flag\n")),
        ];
        assert_eq!(programs(&npm, "serve"), ["/usr/bin/env"]);
        let pnpm = [
            ("app/node_modules/serve", Entry::Link(".pnpm/serve@1/node_modules/serve".into())),
            ("app/node_modules/.pnpm/serve@1/node_modules/serve/cli.js", file(b"#!/usr/bin/env env\n")),
            ("app/node_modules/.bin/serve", Entry::Link("../serve/cli.js".into())),
        ];
        assert_eq!(programs(&pnpm, "sh: serve -p $PORT"), ["/bin/sh", "/usr/bin/env"]);
        let python = [
            ("venv/bin/gunicorn", file(b"#!/venv/bin/python\nimport sys\n")),
            ("venv/bin/python", Entry::Link("/usr/bin/env".into())),
        ];
        assert_eq!(programs(&python, "gunicorn app:app"), ["/usr/bin/env"], "an interpreter of the app's own");
    }

    #[test]
    fn packages_bring_programs_for_others() {
        let mut arm = elf::tests::tiny();
        arm[18] = 183;
        let files = [("app/a", file(&elf::tests::tiny())), ("app/node_modules/x/prebuilds/arm64/x.node", file(&arm))];
        assert!(needs(&files, "./a").unwrap().is_nothing());
    }

    #[test]
    fn what_starts_must_be_somewhere() {
        let check = |run: &str| {
            assert!(matches!(needs(&[("app/x", Entry::Folder)], run), Err(BaseError::NoProgram(_))), "{run}")
        };
        check("bin/hello");
        check("sh: node_such --port $PORT");
        check("no-such-program-anywhere");
        check("/no/such/program");
        check("./x");
        check("");
        let turning = [("app/a", Entry::Link("b".into())), ("app/b", Entry::Link("/app/a".into()))];
        assert!(matches!(needs(&turning, "./a"), Err(BaseError::NoProgram(_))));
        let mut arm = elf::tests::tiny();
        arm[18] = 183;
        let both = needs(&[("app/a", file(&elf::tests::tiny())), ("app/b", file(&arm))], "./a");
        assert!(matches!(both, Err(BaseError::Architectures { .. })));
    }
}
