//! What to tell the operator when a build command failed: the command, how it ended, its last words, and what helps.

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::ServiceName;
use bowline_core::time::Humane;
use bowline_core::units::Bytes;
use std::path::PathBuf;
use std::time::Duration;

use super::command::CommandError;
use super::detect::python::COLLECT;
use super::source::is_full;
use crate::builder::contract::Step;
use crate::cgroup::builds_memory;

/// Programs that build commands call, and the Debian package that brings each.
const PACKAGES: [(&str, &str); 20] = [
    ("gcc", "build-essential"),
    ("cc", "build-essential"),
    ("g++", "build-essential"),
    ("c++", "build-essential"),
    ("make", "build-essential"),
    ("cmake", "cmake"),
    ("pkg-config", "pkg-config"),
    ("git", "git"),
    ("curl", "curl"),
    ("wget", "wget"),
    ("unzip", "unzip"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("npx", "npm"),
    ("go", "golang"),
    ("cargo", "cargo"),
    ("rustc", "rustc"),
    ("pg_config", "libpq-dev"),
    ("mysql_config", "default-libmysqlclient-dev"),
    ("pip", "python3-pip"),
];

/// The Debian package that brings a program.
pub(super) fn package_of(program: &str) -> Option<&'static str> {
    PACKAGES.iter().find(|(known, _)| *known == program).map(|(_, package)| *package)
}

/// C headers that Python packages ask for, and the Debian package that brings each.
const HEADERS: [(&str, &str); 9] = [
    ("Python.h", "python3-dev"),
    ("ffi.h", "libffi-dev"),
    ("openssl/", "libssl-dev"),
    ("libpq-fe.h", "libpq-dev"),
    ("mysql.h", "default-libmysqlclient-dev"),
    ("libxml/", "libxml2-dev"),
    ("jpeglib.h", "libjpeg-dev"),
    ("zlib.h", "zlib1g-dev"),
    ("sqlite3.h", "libsqlite3-dev"),
];

/// `shown`: the command as people know it. `hidden`: where a program is that the user who builds cannot reach.
pub(super) fn fault(
    service: &ServiceName,
    shown: &str,
    limit: Duration,
    error: CommandError,
    hidden: &dyn Fn(&str) -> Option<PathBuf>,
) -> Fault {
    let message = match &error {
        CommandError::Required(_) => {
            format!("this machine cannot enforce the cage that the build of service {service} requires")
        }
        CommandError::Cage(..) => format!("the build of service {service} cannot be caged"),
        CommandError::Late(_) | CommandError::Ended(..) | CommandError::Memory(_) | CommandError::Start(_) => {
            format!("the build of service {service} failed")
        }
    };
    let base = Fault::new(FaultKind::Failed, message);
    let (cause, tail) = match &error {
        CommandError::Late(tail) => {
            (format!("`{shown}` was ended: the build took longer than {}", Humane(limit)), tail.as_slice())
        }
        CommandError::Ended(_, tail) | CommandError::Memory(tail) => (format!("`{shown}`: {error}"), tail.as_slice()),
        CommandError::Start(_) => (format!("`{shown}`: {error}"), [].as_slice()),
        CommandError::Cage(..) | CommandError::Required(_) => (error.to_string(), [].as_slice()),
    };
    let mut fault = base.caused_by(cause);
    if let CommandError::Start(source) | CommandError::Cage(_, source) = &error {
        fault = fault.source(source);
    }
    fault.hint = match &error {
        CommandError::Late(_) => Some(
            "make the build faster, or see where its last lines hang: a question, a server that is started?".to_owned(),
        ),
        CommandError::Ended(..) if shown == COLLECT => Some(
            "a build knows no secrets: give the settings that it misses a default, or write your own `build` without it"
                .to_owned(),
        ),
        CommandError::Ended(..) => hint(tail, hidden),
        CommandError::Memory(_) => Some(format!(
            "builds may take {} of this machine's memory: build with fewer jobs at a time, or on a larger machine",
            builds_memory().map_or_else(|| "a part".to_owned(), |bytes| Bytes(bytes).to_string())
        )),
        CommandError::Required(_) => Some("run Bowline as root, or write cage = \"best\"".to_owned()),
        CommandError::Cage(Step::Namespaces | Step::Veil, _) => Some(
            "the machine allows some of the namespaces and mounts of a cage but not all of them; it needs all, or none"
                .to_owned(),
        ),
        CommandError::Cage(..) => None,
        CommandError::Start(e) if is_full(e) => Some("free space on the disk of the state folder".to_owned()),
        CommandError::Start(_) => None,
    };
    match tail.is_empty() {
        true => fault,
        false => fault.detail(tail.join("\n")),
    }
}

/// Known last words, from the most telling to the least.
fn hint(tail: &[String], hidden: &dyn Fn(&str) -> Option<PathBuf>) -> Option<String> {
    let any = |needle: &str| tail.iter().rev().find(|line| line.contains(needle));
    if any("No space left on device").is_some() || any("Disk quota exceeded").is_some() {
        return Some("the disk is full: free space on the disk of the state folder".to_owned());
    }
    if let Some(line) = any("No matching distribution found for ") {
        let name = line.rsplit("No matching distribution found for ").next().unwrap_or_default().trim();
        return Some(format!(
            "{name}: check its name and version in requirements.txt; it may not exist for this Python (`runtime = \"python X.Y\"` chooses another)"
        ));
    }
    if any("ResolutionImpossible").is_some() {
        return Some(
            "packages in requirements.txt want versions that exclude each other: loosen one of them".to_owned(),
        );
    }
    if any("Temporary failure in name resolution").is_some() || any("Failed to establish a new connection").is_some() {
        return Some("the package index cannot be reached: check the network, HTTPS_PROXY or PIP_INDEX_URL".to_owned());
    }
    if any("CERTIFICATE_VERIFY_FAILED").is_some() {
        return Some(
            "a proxy with its own certificate? Set SSL_CERT_FILE (or PIP_CERT) to its CA where Bowline is started"
                .to_owned(),
        );
    }
    let missing = tail.iter().rev().find_map(|line| missing_header(line).or_else(|| missing_program(line, hidden)));
    missing.or_else(|| tail.iter().rev().find_map(|line| refused(line)).map(str::to_owned))
}

/// What the cage refuses, in the words of those whom it does.
fn refused(line: &str) -> Option<&'static str> {
    const NOT_ROOT: &str =
        "a build is not root and cannot become it: install system packages on the machine, and name them in `packages`";
    const PLACES: &str = "a build is caged: it writes to its own folder, $HOME, $TMPDIR, /tmp and $BOWLINE_BUILD_CACHE, and sees the \
                          system and the tools on PATH, but no home and no other app";
    let any = |needles: &[&str]| needles.iter().any(|needle| line.contains(needle));
    match () {
        () if any(&["no new privileges", "must be run as root", "are you root?", "requires superuser"]) => {
            Some(NOT_ROOT)
        }
        () if any(&["Permission denied", "Operation not permitted", "EACCES", "EPERM", "Read-only file system"]) => {
            Some(PLACES)
        }
        () if any(&["No such file or directory"]) && any(&["/home/", "/root/"]) => Some(PLACES),
        () => None,
    }
}

/// `fatal error: ffi.h: No such file or directory`
fn missing_header(line: &str) -> Option<String> {
    let header = line.split("fatal error: ").nth(1)?.split(": No such file").next()?;
    let (_, package) = HEADERS.iter().find(|(name, _)| header.starts_with(name))?;
    Some(format!("{header} is missing: apt install {package}, and add it to `packages` in bowline.toml"))
}

/// `/bin/sh: 1: npm: not found`, `make: gcc: No such file or directory`, `error: command 'gcc' failed`
fn missing_program(line: &str, hidden: &dyn Fn(&str) -> Option<PathBuf>) -> Option<String> {
    let line = line.trim_end();
    let name = if let Some(rest) = line.split("error: command '").nth(1) {
        rest.split('\'').next().filter(|_| line.contains("No such file"))?
    } else if let Some(rest) = line.strip_suffix(": not found").or(line.strip_suffix(": command not found")) {
        rest.rsplit(": ").next()?
    } else if let Some(rest) = line.strip_suffix(": Permission denied") {
        rest.rsplit(": ").next().filter(|name| hidden(name).is_some())?
    } else {
        let rest = line.strip_suffix(": No such file or directory")?;
        rest.rsplit([' ', ':']).next()?.trim_matches('\'')
    };
    if let Some(path) = hidden(name) {
        return Some(format!(
            "{} is closed to the user that builds: install {name} where every user can run it, such as /usr/local",
            path.display()
        ));
    }
    match package_of(name) {
        Some(package) => Some(format!(
            "{name} is not on the build's PATH: apt install {package}, or install it where other users can run it"
        )),
        None if line.contains("not found") => {
            Some(format!("{name} is not on the build's PATH: install it, or write its full path"))
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_last_words_get_a_hint() {
        let check = |line: &str, expected: Option<&str>| {
            let hidden = |name: &str| (name == "cargo").then(|| PathBuf::from("/home/ann/.cargo/bin/cargo"));
            let hint = hint(&["before".to_owned(), line.to_owned(), "after".to_owned()], &hidden);
            match expected {
                Some(part) => assert!(hint.as_deref().is_some_and(|h| h.contains(part)), "{line}: {hint:?}"),
                None => assert_eq!(hint, None, "{line}"),
            }
        };
        check("ERROR: No matching distribution found for flassk==9", Some("flassk==9"));
        check("/bin/sh: 1: npm: not found", Some("apt install npm"));
        check("bash: line 1: frobnicate: command not found", Some("frobnicate is not on"));
        check("make: gcc: No such file or directory", Some("build-essential"));
        check("error: command 'gcc' failed: No such file or directory", Some("build-essential"));
        check("x.c:3:10: fatal error: ffi.h: No such file or directory", Some("libffi-dev"));
        check("OSError: [Errno 28] No space left on device", Some("disk is full"));
        check("/bin/sh: 1: cargo: not found", Some("/home/ann/.cargo/bin/cargo is closed to the user that builds"));
        check("sh: 1: cargo: Permission denied", Some("/home/ann/.cargo/bin/cargo is closed to the user that builds"));
        check("cat: notes.txt: No such file or directory", None);
        check("cat: /home/ann/notes.txt: No such file or directory", Some("no home"));
        check("touch: cannot touch '/usr/local/x': Permission denied", Some("a build is caged"));
        check("npm error code EACCES", Some("$BOWLINE_BUILD_CACHE"));
        check("sudo: The \"no new privileges\" flag is set", Some("name them in `packages`"));
        check("AssertionError", None);
    }
}
