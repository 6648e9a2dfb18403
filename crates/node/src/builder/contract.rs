//! What passes between a node and a builder over one socket: the order, then what became of it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::shim::contract::Clear;

/// One command of a build and the cage that it runs in. Both ends are the same binary: it has no version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// All of it. May hold logins of package mirrors.
    pub env: BTreeMap<String, Clear>,
    pub cage: CageOrder,
}

/// What every command of a build is given of the machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CageOrder {
    /// Working directory.
    pub dir: PathBuf,
    pub uid: Option<u32>,
    /// Use namespaces where the machine allows them.
    pub namespaces: bool,
    /// Refuse to run anything where anything lacks.
    pub required: bool,
    /// What the node already knows cannot be enforced.
    pub unenforced: Vec<String>,
    /// The build's own, and nothing in it is.
    pub scratch: PathBuf,
    /// Covered beside what is covered on every machine.
    pub hidden: Vec<PathBuf>,
    /// Volumes of all apps, which are none of its business and are not kept busy by it.
    pub volumes: PathBuf,
    /// Its control groups: the only ones it sees of their hierarchies.
    pub groups: Vec<PathBuf>,
    pub readable: Vec<PathBuf>,
    pub writable: Vec<PathBuf>,
    /// Written as the build's user before the command runs, below `writable`.
    pub files: Vec<GivenFile>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GivenFile {
    pub path: PathBuf,
    pub content: Clear,
}

/// Lines of JSON: one of the first kind before the command is executed, and the second instead of or after it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// What this machine does not enforce, by the names that `bowline status` uses.
    Entered {
        lacks: Vec<String>,
    },
    Refused {
        step: Step,
        errno: i32,
    },
}

/// Where it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    #[error("its builder does not understand its order")]
    Order,
    #[error("its namespaces could not be made")]
    Namespaces,
    #[error("its process could not be prepared")]
    Prepare,
    #[error("the machine could not be hidden from it")]
    Veil,
    #[error("its user could not be changed")]
    User,
    #[error("its user cannot enter its folder: every folder above must be passable (x)")]
    Folder,
    #[error("this machine does not enforce all of it")]
    Required,
    #[error("the configuration of package managers could not be copied into its home")]
    Files,
    /// It is not the cage's fault.
    #[error("it could not be executed")]
    Execute,
}

/// Why a command never ran.
#[derive(Debug)]
pub(crate) struct Refused {
    pub step: Step,
    pub source: io::Error,
    /// What was found out until then.
    pub lacks: Vec<String>,
}

/// Reads what a builder said until it was executed or ended.
///
/// # Errors
/// It refused, or died without a word.
pub(crate) fn read_report(text: &[u8]) -> Result<Vec<String>, Refused> {
    let mut entered = None;
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Report::Entered { lacks }) => entered = Some(lacks),
            Ok(Report::Refused { step, errno }) => {
                let source = io::Error::from_raw_os_error(errno);
                return Err(Refused { step, source, lacks: entered.unwrap_or_default() });
            }
            Err(error) => return Err(Refused { step: Step::Prepare, source: error.into(), lacks: Vec::new() }),
        }
    }
    let died = || io::Error::new(io::ErrorKind::UnexpectedEof, "its builder ended without a word");
    entered.ok_or_else(|| Refused { step: Step::Prepare, source: died(), lacks: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts_and_silence_is_none() {
        let line = |report: &Report| serde_json::to_string(report).unwrap() + "\n";
        let entered = line(&Report::Entered { lacks: vec!["own /proc".to_owned()] });
        let refused = line(&Report::Refused { step: Step::Execute, errno: libc::ENOENT });
        assert_eq!(read_report(entered.as_bytes()).unwrap(), ["own /proc"]);
        let after = read_report((entered + &refused).as_bytes()).unwrap_err();
        assert_eq!((after.step, after.source.raw_os_error()), (Step::Execute, Some(libc::ENOENT)));
        assert_eq!(after.lacks, ["own /proc"]);
        for text in ["", "\n", "nonsense\n"] {
            assert_eq!(read_report(text.as_bytes()).unwrap_err().step, Step::Prepare, "{text:?}");
        }
    }
}
