//! What passes between a node and its shims: the configuration, the record, the exit record.
//!
//! A shim outlives the daemon that started it, and a daemon may be newer than the shims it finds. Each form carries its
//! version; a reader knows the two latest. Fields are only ever added, with a default.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::ResourceName;
use bowline_core::instance::{DiskPlace, ExitCause, StopSignal};
use bowline_core::units::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use crate::cage::files::Grants;
use crate::layout::{self, Durable};

/// The version that this build writes.
pub(crate) const FORMAT: u32 = 1;
/// The oldest version that this build reads.
pub(crate) const OLDEST: u32 = 1;

const RECORD: &str = "shim.json";
const EXIT: &str = "exit.json";
/// Twenty decimal digits, overwritten in place: a full disk still takes them.
const DROPPED: &str = "dropped";

/// Everything a shim needs; it decides nothing but which isolation the machine allows. Holds secrets in clear: it is
/// passed in a memory file, never written to a disk, and dropped once the app runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    pub format: u32,
    pub id: String,
    pub incarnation: u32,
    /// The folder of this incarnation.
    pub folder: PathBuf,
    pub lock: PathBuf,
    pub log: PathBuf,
    pub log_bytes: u64,
    pub log_files: u32,
    /// The release folder.
    pub root: PathBuf,
    /// Given to `/bin/sh -c`.
    pub script: String,
    pub env: Vec<(String, Clear)>,
    pub secret_files: Vec<FileOfSecret>,
    /// Where secret files go without a mount namespace.
    pub secret_folder: PathBuf,
    pub port: u16,
    /// A database's: the instances of its app may connect, and no edge does.
    #[serde(default)]
    pub open_to_machine: bool,
    pub uid: Option<u32>,
    pub volumes: Vec<Mount>,
    /// Refuse to start when anything cannot be enforced.
    pub cage_required: bool,
    /// What asks the app to end.
    #[serde(default)]
    pub stop: Stop,
    pub grace_ms: u64,
    pub cgroup: Option<crate::cgroup::Membership>,
    /// Use namespaces where the machine allows them.
    pub namespaces: bool,
    /// See [`layout::Layout::mark`].
    pub mark: String,
    /// What the node already knows cannot be enforced.
    pub unenforced: Vec<String>,
    /// Folders of Bowline that no app sees.
    #[serde(default)]
    pub hidden: Vec<PathBuf>,
    /// What the app may read and run beside the release and the system.
    #[serde(default)]
    pub readable: Vec<PathBuf>,
    /// Where its volumes lie.
    #[serde(default)]
    pub volume_folders: Vec<PathBuf>,
    /// Folders below the release folder that it must be able to write to.
    #[serde(default)]
    pub writable: Vec<String>,
    /// Its memory limit, in bytes.
    #[serde(default)]
    pub memory: Option<u64>,
    /// A file system in a file, for its temporary folder and its layer.
    #[serde(default)]
    pub scratch: Option<PathBuf>,
    /// Volumes of every app: those of others are none of its business, and are not kept busy by it.
    #[serde(default)]
    pub all_volumes: Option<PathBuf>,
    /// It is to run in one; `None`: as processes of this machine.
    #[serde(default)]
    pub container: Option<Container>,
}

/// The container that a shim makes, and where.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Container {
    pub socket: PathBuf,
    /// Of its slot.
    pub name: String,
    /// What the engine is told; no secret.
    pub request: serde_json::Value,
    /// What goes into the environment and must not be known to the engine.
    pub hidden: Vec<(String, Clear)>,
    /// Of who joins it later.
    pub entry: Entry,
}

/// The container of an incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contained {
    pub socket: PathBuf,
    /// As its slot names it.
    pub name: String,
    /// As its engine does, whatever it is named later.
    pub id: String,
    /// Its first process, as this machine numbers it.
    pub pid: u32,
    /// Made by the engine, and its to remove.
    pub groups: crate::cgroup::Membership,
}

impl Contained {
    /// The groups that hold nothing else.
    pub(crate) fn own_groups(&self) -> crate::cgroup::Membership {
        self.groups.named(&self.id)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stop {
    #[default]
    Term,
    Int,
}

impl From<StopSignal> for Stop {
    fn from(signal: StopSignal) -> Self {
        match signal {
            StopSignal::Term => Self::Term,
            StopSignal::Int => Self::Int,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FileOfSecret {
    pub variable: String,
    pub name: String,
    pub value: Clear,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Mount {
    pub name: String,
    pub source: PathBuf,
    pub path: PathBuf,
}

/// A value that may be secret and need not be UTF-8: hexadecimal in JSON, wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Clear(pub Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Clear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clear(…)")
    }
}

impl Serialize for Clear {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = Zeroizing::new(String::with_capacity(self.0.len() * 2));
        for byte in self.0.iter() {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Clear {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: &str = Deserialize::deserialize(deserializer)?;
        let digit = |b: u8| char::from(b).to_digit(16);
        let byte = |pair: &[u8]| match pair {
            [high, low] => Some((digit(*high)? * 16 + digit(*low)?) as u8),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        bytes.map(|b| Self(Zeroizing::new(b))).ok_or_else(|| de::Error::custom("not hexadecimal"))
    }
}

/// Who runs an incarnation: written before the app starts, again once its process id is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub format: u32,
    pub id: String,
    /// The shim.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: tells a process from a later one with the same number.
    pub start_time: u64,
    pub boot_id: String,
    pub port: u16,
    #[serde(default)]
    pub open_to_machine: bool,
    /// The app's user, where it has one of its own.
    #[serde(default)]
    pub uid: Option<u32>,
    /// The app's main process.
    pub child: Option<u32>,
    pub since_ms: u64,
    /// From TERM to KILL.
    pub grace_ms: u64,
    pub unenforced: Vec<String>,
    /// The shim is the first process of a PID namespace: killing it kills everything below it.
    pub contained: bool,
    pub mark: String,
    pub cgroup: Option<crate::cgroup::Membership>,
    pub secret_folder: PathBuf,
    /// Where its volumes lie.
    #[serde(default)]
    pub volumes: Vec<PathBuf>,
    /// `None`: the app has not been started yet, or by a version that knew no sessions.
    #[serde(default)]
    pub entry: Option<Entry>,
    /// `None`: it runs as processes of this machine, or its container has not been started yet.
    #[serde(default)]
    pub container: Option<Contained>,
}

/// What a process that joins the instance later must be given to be what the app is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Where its secret files lie, by the variables that say so.
    pub variables: Vec<(String, PathBuf)>,
    pub grants: Grants,
}

/// How an incarnation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExitRecord {
    pub format: u32,
    pub at_ms: u64,
    pub end: End,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    Code(i32),
    Signal(i32),
    OutOfMemory,
    Stopped,
    Killed,
    /// Written by the node, before it killed the shim: the disk was almost full, and this instance grew.
    FilledDisk {
        bytes: u64,
        /// `None`: its temporary folder and its layer.
        volume: Option<String>,
    },
    /// It never ran.
    Refused(Refusal),
}

impl End {
    /// `None`: it never ran.
    pub(crate) fn cause(&self) -> Option<ExitCause> {
        match self {
            Self::Code(code) => Some(ExitCause::Code(*code)),
            Self::Signal(signal) => Some(ExitCause::Signal(*signal)),
            Self::OutOfMemory => Some(ExitCause::OutOfMemory),
            Self::Stopped => Some(ExitCause::Stopped),
            Self::Killed => Some(ExitCause::Killed),
            Self::FilledDisk { bytes, volume } => {
                let volume = volume.as_deref().and_then(|name| ResourceName::new(name).ok());
                let place = volume.map_or(DiskPlace::Scratch, DiskPlace::Volume);
                Some(ExitCause::FilledDisk { bytes: Bytes(*bytes), place })
            }
            Self::Refused(_) => None,
        }
    }
}

/// Why a shim did not start its app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub message: String,
    pub causes: Vec<String>,
    pub hint: Option<String>,
}

impl Refusal {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), causes: Vec::new(), hint: None }
    }

    pub(crate) fn caused_by(mut self, cause: &dyn std::error::Error) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let mut fault = Self::new(FaultKind::Failed, refusal.message);
        fault.causes = refusal.causes;
        fault.hint = refusal.hint;
        fault
    }
}

/// What a shim answers on its standard output: one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Started(Box<Record>),
    Refused(Refusal),
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("cannot read it")]
    Io(#[from] io::Error),
    #[error("it is not a record")]
    Form(#[from] serde_json::Error),
    #[error("its format is {0}, this version of Bowline reads {OLDEST} to {FORMAT}")]
    Format(u32),
}

/// `None`: there is none.
fn read<T: for<'de> Deserialize<'de>>(path: &Path, format: fn(&T) -> u32) -> Result<Option<T>, RecordError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let value: T = serde_json::from_slice(&text)?;
    match format(&value) {
        OLDEST..=FORMAT => Ok(Some(value)),
        other => Err(RecordError::Format(other)),
    }
}

impl Record {
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, RecordError> {
        read(&folder.join(RECORD), |r: &Self| r.format)
    }

    /// One that was read while its shim began says by now what it is in.
    pub(crate) fn completed(&self, folder: &Path) -> Cow<'_, Self> {
        let says = self.container.is_some() || self.cgroup.is_some();
        let later = if says { None } else { Self::read(folder).ok().flatten() };
        later.map_or(Cow::Borrowed(self), Cow::Owned)
    }

    /// It names processes, which a power cut ends: nothing is synced.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        layout::replace(&folder.join(RECORD), &serde_json::to_vec(self)?, Durable::No)
    }
}

impl ExitRecord {
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, RecordError> {
        read(&folder.join(EXIT), |r: &Self| r.format)
    }

    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        layout::replace(&folder.join(EXIT), &serde_json::to_vec(self)?, Durable::Yes)
    }
}

/// The number of log lines lost, as the shim last wrote it.
pub(crate) fn read_dropped(folder: &Path) -> u64 {
    fs::read_to_string(folder.join(DROPPED)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

pub(crate) fn open_dropped(folder: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(folder.join(DROPPED))?;
    file.write_all_at(format!("{:020}", 0).as_bytes(), 0)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clear_value_survives_json_and_does_not_print() {
        let value = Clear(Zeroizing::new(vec![0, 0xff, b'a', 0x80]));
        let json = serde_json::to_string(&value).unwrap();
        assert_eq!(json, "\"00ff6180\"");
        assert_eq!(serde_json::from_str::<Clear>(&json).unwrap(), value);
        assert!(serde_json::from_str::<Clear>("\"0\"").is_err());
        assert_eq!(format!("{value:?}"), "Clear(…)");
    }

    #[test]
    fn a_record_of_an_unknown_format_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        assert!(ExitRecord::read(folder.path()).unwrap().is_none());
        let mut exit = ExitRecord { format: FORMAT, at_ms: 7, end: End::Signal(9) };
        exit.write(folder.path()).unwrap();
        assert_eq!(ExitRecord::read(folder.path()).unwrap(), Some(exit.clone()));
        exit.format = FORMAT + 1;
        exit.write(folder.path()).unwrap();
        assert!(matches!(ExitRecord::read(folder.path()), Err(RecordError::Format(f)) if f == FORMAT + 1));
    }
}
