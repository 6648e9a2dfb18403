//! A Procfile: process types and their commands, one per line, as platforms before this one read it.

use super::Command;
use crate::id::ServiceName;

/// The file's name, at the root of a folder.
pub const FILE: &str = "Procfile";

/// Once per release, before any instance starts; no process type.
const RELEASE: &str = "release";

/// What a Procfile says. Names are services' names: `worker_high` becomes `worker-high`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Procfile {
    /// In the order of the file; a name that comes again replaces the one before.
    pub processes: Vec<(ServiceName, Command)>,
    pub release: Option<Command>,
}

/// A line that is no process type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of {FILE} cannot be read: {text:?} is not `name: command`")]
pub struct ProcfileError {
    /// From 1.
    pub line: usize,
    pub text: String,
}

impl Procfile {
    /// Reads the text. Empty lines and comments are passed over.
    ///
    /// # Errors
    /// The first line that is neither of them nor a process type.
    pub fn parse(text: &str) -> Result<Self, ProcfileError> {
        let mut read = Self::default();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = || ProcfileError { line: at + 1, text: line.to_owned() };
            let (name, command) = line.split_once(':').ok_or_else(wrong)?;
            let command = Command(command.trim().to_owned());
            if command.0.is_empty() {
                return Err(wrong());
            }
            if name.trim() == RELEASE {
                read.release = Some(command);
                continue;
            }
            let name = name.trim().to_ascii_lowercase().replace('_', "-");
            let name = ServiceName::new(&name).map_err(|_| wrong())?;
            read.processes.retain(|(known, _)| *known != name);
            read.processes.push((name, command));
        }
        Ok(read)
    }

    /// The service whose build the others run in: `web`, else the first.
    pub fn builder(&self) -> Option<&ServiceName> {
        let web = self.processes.iter().find(|(name, _)| name.as_str() == "web");
        web.or(self.processes.first()).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `web: a | release: b`, or the line that cannot be read.
    fn check(text: &str, expected: Result<&str, usize>) {
        let shown = Procfile::parse(text).map(|read| {
            let release = read.release.map(|run| format!("release: {}", run.0));
            let lines = read.processes.iter().map(|(name, run)| format!("{name}: {}", run.0)).chain(release);
            lines.collect::<Vec<_>>().join(" | ")
        });
        let shown = shown.as_deref().map_err(|error| error.line);
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn process_types_become_services() {
        check("web: gunicorn app:app --bind :$PORT\n", Ok("web: gunicorn app:app --bind :$PORT"));
        let all = "# what runs\n\nrelease: python manage.py migrate\nweb: a\nworker_high:  b \n";
        check(all, Ok("web: a | worker-high: b | release: python manage.py migrate"));
        check("web: a\nWEB: b\r\n", Ok("web: b"));
        check("", Ok(""));
        check("web: a\nnonsense\n", Err(2));
        check("web:\n", Err(1));
        check("2web: a\n", Err(1));
    }

    #[test]
    fn web_builds_where_there_is_one() {
        let builder = |text: &str| Procfile::parse(text).unwrap().builder().map(ToString::to_string);
        assert_eq!(builder("worker: a\nweb: b\n").as_deref(), Some("web"));
        assert_eq!(builder("worker: a\nclock: b\n").as_deref(), Some("worker"));
        assert_eq!(builder(""), None);
    }
}
