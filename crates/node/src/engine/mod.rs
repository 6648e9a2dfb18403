//! A container engine on this machine, by the API that Docker and Podman share.
//!
//! Architecture invariant: what is asked of it can be asked again: an engine that was started anew, or that answers twice, changes nothing.

pub(crate) mod create;
mod http;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use serde::{Deserialize, de::DeserializeOwned};

use crate::cgroup::{CPU_LIMIT, MEMORY_LIMIT, PROCESS_LIMIT};
use crate::shim::contract::Refusal;
use http::{Answer, Body};

/// What an engine under load may take for one answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// To take an image, and unpack it.
const LOAD_PATIENCE: Duration = Duration::from_secs(600);

/// The engine that listens here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    socket: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("no container engine answers at {}", socket.display())]
    Unreachable {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the container engine answered {status} to {question}: {said}")]
    Refused { question: String, status: u16, said: String },
    #[error("the container engine's answer to {question} is not understood")]
    Form {
        question: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("the container engine did not take the image: {0}")]
    Image(String),
}

impl EngineError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } => Some(
                "start Docker, or Podman's service, and say where it listens: --engine PATH, or DOCKER_HOST=unix://PATH",
            ),
            Self::Refused { .. } | Self::Form { .. } | Self::Image(_) => None,
        }
    }

    /// `what`: what was tried.
    pub fn fault(&self, what: impl Into<String>) -> Fault {
        let fault = Fault::new(FaultKind::Failed, what).source(self);
        match self.hint() {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }

    pub(crate) fn refusal(&self, what: impl Into<String>) -> Refusal {
        let Fault { message, causes, hint, .. } = self.fault(what);
        Refusal { message, causes, hint }
    }
}

/// How a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Runs {
        /// Its first process, as this machine numbers it.
        pid: u32,
    },
    Ended {
        code: i32,
        out_of_memory: bool,
    },
    /// There is none of this name.
    Gone,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    #[serde(default)]
    memory_limit: bool,
    #[serde(default)]
    cpu_cfs_quota: bool,
    #[serde(default)]
    pids_limit: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    state: InspectedState,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    running: bool,
    pid: u32,
    exit_code: i32,
    #[serde(rename = "OOMKilled")]
    out_of_memory: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    names: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedImage {
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Said {
    message: String,
}

impl Engine {
    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it cannot enforce. Blocks.
    ///
    /// # Errors
    /// It does not answer, or is none.
    pub fn look(&self) -> Result<Vec<String>, EngineError> {
        let info: Info = self.read("GET", "/info")?;
        let limits =
            [(info.memory_limit, MEMORY_LIMIT), (info.cpu_cfs_quota, CPU_LIMIT), (info.pids_limit, PROCESS_LIMIT)];
        Ok(limits.into_iter().filter(|(has, _)| !has).map(|(_, limit)| limit.to_owned()).collect())
    }

    pub(crate) fn has_image(&self, name: &str) -> Result<bool, EngineError> {
        let question = ("GET", format!("/images/{name}/json"));
        match self.ask((question.0, &question.1), Body::Empty, PATIENCE)?.status {
            404 => Ok(false),
            _ => self.read::<serde::de::IgnoredAny>(question.0, &question.1).map(|_| true),
        }
    }

    /// Gives it an archive that names `name`.
    pub(crate) fn load(&self, archive: &File, name: &str) -> Result<(), EngineError> {
        let question = ("POST", "/images/load?quiet=1");
        let said = self.taken(question, Body::Archive(archive), LOAD_PATIENCE)?;
        match self.has_image(name)? {
            true => Ok(()),
            false => Err(EngineError::Image(String::from_utf8_lossy(&said.body).trim().to_owned())),
        }
    }

    /// The names of images in `repository`.
    pub(crate) fn images(&self, repository: &str) -> Result<Vec<String>, EngineError> {
        let all: Vec<ListedImage> = self.read("GET", "/images/json")?;
        let names = all.into_iter().flat_map(|image| image.repo_tags.unwrap_or_default());
        let is_of = |name: &String| name.strip_prefix(repository).is_some_and(|rest| rest.starts_with(':'));
        Ok(names.filter(is_of).collect())
    }

    /// Takes its name; what nothing uses any more goes with it.
    pub(crate) fn remove_image(&self, name: &str) -> Result<(), EngineError> {
        self.taken(("DELETE", &format!("/images/{name}")), Body::Empty, PATIENCE).map(drop)
    }

    /// What had the name before is gone: whoever asks holds the lock of the slot.
    pub(crate) fn create(&self, name: &str, request: &serde_json::Value) -> Result<(), EngineError> {
        self.remove(name)?;
        let body = request.to_string();
        let path = format!("/containers/create?name={name}");
        self.taken(("POST", &path), Body::Json(body.as_bytes()), PATIENCE).map(drop)
    }

    pub(crate) fn start(&self, name: &str) -> Result<(), EngineError> {
        // 304: it runs already.
        self.taken(("POST", &format!("/containers/{name}/start")), Body::Empty, PATIENCE).map(drop)
    }

    pub(crate) fn state(&self, name: &str) -> Result<State, EngineError> {
        let path = format!("/containers/{name}/json");
        let answer = self.ask(("GET", &path), Body::Empty, PATIENCE)?;
        if answer.status == 404 {
            return Ok(State::Gone);
        }
        let Inspected { state } = understood(&format!("GET {path}"), &accepted(&format!("GET {path}"), answer)?)?;
        Ok(match state.running && state.pid != 0 {
            true => State::Runs { pid: state.pid },
            false => State::Ended { code: state.exit_code, out_of_memory: state.out_of_memory },
        })
    }

    /// Kills what runs in it. That there is none is no error.
    pub(crate) fn remove(&self, name: &str) -> Result<(), EngineError> {
        let path = format!("/containers/{name}?force=true&v=true");
        let answer = self.ask(("DELETE", &path), Body::Empty, PATIENCE)?;
        match answer.status {
            404 => Ok(()),
            _ => accepted(&format!("DELETE {path}"), answer).map(drop),
        }
    }

    /// Names of the containers with this label, whatever they do.
    pub(crate) fn containers(&self, label: &str) -> Result<Vec<String>, EngineError> {
        // {"label":["NAME=VALUE"]}, as a part of a query: of a label, only these are not written as they are.
        let filter = format!("%7B%22label%22%3A%5B%22{}%22%5D%7D", label.replace('=', "%3D"));
        let all: Vec<Listed> = self.read("GET", &format!("/containers/json?all=true&filters={filter}"))?;
        let name = |listed: Listed| listed.names.first().map(|name| name.trim_start_matches('/').to_owned());
        Ok(all.into_iter().filter_map(name).collect())
    }

    fn read<T: DeserializeOwned>(&self, method: &str, path: &str) -> Result<T, EngineError> {
        understood(&format!("{method} {path}"), &self.taken((method, path), Body::Empty, PATIENCE)?)
    }

    fn taken(&self, question: (&str, &str), body: Body<'_>, patience: Duration) -> Result<Answer, EngineError> {
        accepted(&format!("{} {}", question.0, question.1), self.ask(question, body, patience)?)
    }

    fn ask(&self, question: (&str, &str), body: Body<'_>, patience: Duration) -> Result<Answer, EngineError> {
        let unreachable = |source| EngineError::Unreachable { socket: self.socket.clone(), source };
        http::ask(&self.socket, question, body, patience).map_err(unreachable)
    }
}

fn accepted(question: &str, answer: Answer) -> Result<Answer, EngineError> {
    match answer.status {
        200..=399 => Ok(answer),
        status => {
            let said = serde_json::from_slice(&answer.body).map(|said: Said| said.message);
            let said = said.unwrap_or_else(|_| String::from_utf8_lossy(&answer.body).trim().to_owned());
            Err(EngineError::Refused { question: question.to_owned(), status, said })
        }
    }
}

fn understood<T: DeserializeOwned>(question: &str, answer: &Answer) -> Result<T, EngineError> {
    serde_json::from_slice(&answer.body).map_err(|source| EngineError::Form { question: question.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_the_engine_said() {
        let answer = |status, body: &str| Answer { status, body: body.as_bytes().to_vec() };
        let said = |status, body| accepted("GET /x", answer(status, body)).map(drop).map_err(|error| error.to_string());
        assert_eq!(said(304, ""), Ok(()));
        let expected = |said: &str| Err(format!("the container engine answered 500 to GET /x: {said}"));
        assert_eq!(said(500, r#"{"cause":"c","message":"no room","response":500}"#), expected("no room"));
        assert_eq!(said(500, "page not found\n"), expected("page not found"));
    }

    #[test]
    fn what_is_known_of_a_container_is_read_of_both_engines() {
        let read = |text: &str| -> InspectedState {
            let inspected: Inspected = serde_json::from_str(text).unwrap();
            inspected.state
        };
        let docker = read(
            r#"{"Id":"a","State":{"Status":"exited","Running":false,"Paused":false,"OOMKilled":true,"Dead":false,"Pid":0,"ExitCode":137,"Error":""}}"#,
        );
        assert_eq!((docker.running, docker.exit_code, docker.out_of_memory), (false, 137, true));
        let podman = read(
            r#"{"Id":"a","State":{"OciVersion":"1.0","Status":"running","Running":true,"OOMKilled":false,"Pid":26226,"ExitCode":0,"Health":{"Status":"","FailingStreak":0,"Log":null}}}"#,
        );
        assert_eq!((podman.running, podman.pid), (true, 26_226));
        let info: Info = serde_json::from_str(r#"{"MemoryLimit":true,"CpuCfsQuota":true,"NCPU":2}"#).unwrap();
        assert_eq!((info.memory_limit, info.cpu_cfs_quota, info.pids_limit), (true, true, false));
    }

    #[test]
    fn an_engine_that_is_not_there_is_named_with_what_to_do() {
        let engine = Engine::at("/nowhere/docker.sock".into());
        let fault = engine.look().unwrap_err().fault("containers cannot be run");
        assert_eq!(fault.causes[0], "no container engine answers at /nowhere/docker.sock");
        assert!(fault.hint.unwrap().contains("--engine PATH"));
    }
}
