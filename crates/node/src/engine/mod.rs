//! A container engine on this machine, by the API that Docker and Podman share.
//!
//! Architecture invariant: what is asked of it can be asked again: an engine that was started anew, or that answers twice, changes nothing.

pub(crate) mod create;
mod http;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bowline_core::fault::{Fault, FaultKind};
use serde::{Deserialize, de::DeserializeOwned};

use crate::cage::Lack;
use crate::cgroup::{CPU_LIMIT, MEMORY_LIMIT, PROCESS_LIMIT};
use crate::shim::contract::Refusal;
use http::{Answer, Body};

/// What an engine under load may take for one answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// What a daemon that begins waits for one that hangs: what runs is taken up before anything else. And a shim that is told to end.
pub(crate) const BRIEF_PATIENCE: Duration = Duration::from_secs(5);
/// While an instance starts, before its engine was told anything: well within the time that a node has to get it to run.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(20);
/// To kill and unmount a container; an engine goes on with it when nobody waits any more.
const REMOVED_WITHIN: Duration = Duration::from_secs(15);
/// Between two looks at what an engine is about to do.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// What engines call the first process of a container, where they have none.
const INITS: [&str; 3] = ["docker-init", "catatonit", "container-init"];
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
    #[error("the container engine at {} runs without root", socket.display())]
    Rootless { socket: PathBuf },
    #[error("the container engine at {} has its containers on another machine", socket.display())]
    Elsewhere { socket: PathBuf },
}

impl EngineError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } => Some(
                "start Docker, or Podman's service, and say where it listens: --engine PATH, or DOCKER_HOST=unix://PATH",
            ),
            Self::Rootless { .. } => Some(
                "its containers have users, and maybe a network, of their own, out of reach of volumes and edge: say the engine of root, --engine PATH",
            ),
            Self::Elsewhere { .. } => Some(
                "its processes are not among those of this machine: an engine in a virtual machine or beyond a forwarded socket cannot run instances; say this machine's own, --engine PATH",
            ),
            Self::Refused { said, .. } if INITS.iter().any(|init| said.contains(init)) => {
                Some("install what the engine starts containers with: docker-init, or Podman's catatonit")
            }
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
    /// There is none.
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
    /// `name=rootless` among others, as both say it.
    #[serde(default)]
    security_options: Option<Vec<String>>,
    /// As Podman says it, too.
    #[serde(default)]
    rootless: bool,
}

impl Info {
    /// Each one is told as `name=NAME,KEY=VALUE…`.
    fn options(&self) -> impl Iterator<Item = Vec<&str>> {
        self.security_options.iter().flatten().map(|option| option.split(',').collect())
    }

    fn is_rootless(&self) -> bool {
        self.rootless || self.options().any(|option| option.contains(&"name=rootless"))
    }

    /// One may be there that lets everything through.
    fn filters_calls(&self) -> bool {
        self.options().any(|option| option.contains(&"name=seccomp") && !option.contains(&"profile=unconfined"))
    }

    /// What it cannot enforce.
    fn lacks(&self) -> Vec<String> {
        let has = [
            (self.memory_limit, MEMORY_LIMIT),
            (self.cpu_cfs_quota, CPU_LIMIT),
            (self.pids_limit, PROCESS_LIMIT),
            (self.filters_calls(), Lack::Calls.name()),
        ];
        has.into_iter().filter(|(has, _)| !has).map(|(_, what)| what.to_owned()).collect()
    }
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

/// A container among others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Listed {
    /// Its own, whoever has its name after it.
    pub id: String,
    names: Vec<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

impl Listed {
    pub(crate) fn name(&self) -> &str {
        self.names.first().map_or("", |name| name.trim_start_matches('/'))
    }

    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels.as_ref()?.get(name).map(String::as_str)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedImage {
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
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

    /// What it cannot enforce, for a daemon that begins. Blocks, and not for long.
    ///
    /// # Errors
    /// It does not answer, or is none whose containers are reached from here.
    pub fn look(&self) -> Result<Vec<String>, EngineError> {
        self.lacks(BRIEF_PATIENCE)
    }

    /// The same for an instance that starts: an engine under load takes its time.
    pub(crate) fn lacks(&self, patience: Duration) -> Result<Vec<String>, EngineError> {
        let info: Info = understood("GET /info", &self.taken(("GET", "/info"), Body::Empty, patience)?)?;
        if info.is_rootless() {
            return Err(EngineError::Rootless { socket: self.socket.clone() });
        }
        Ok(info.lacks())
    }

    /// Whether anybody is there, whatever is said. Blocks.
    pub(crate) fn answers(&self) -> Result<(), EngineError> {
        self.ask(("GET", "/_ping"), Body::Empty, BRIEF_PATIENCE).map(drop)
    }

    pub(crate) fn has_image(&self, name: &str, patience: Duration) -> Result<bool, EngineError> {
        let path = format!("/images/{name}/json");
        let answer = self.ask(("GET", &path), Body::Empty, patience)?;
        match answer.status {
            404 => Ok(false),
            _ => accepted(&format!("GET {path}"), answer).map(|_| true),
        }
    }

    /// Gives it an archive that names `name`.
    pub(crate) fn load(&self, archive: &File, name: &str) -> Result<(), EngineError> {
        let question = ("POST", "/images/load?quiet=1");
        let said = self.taken(question, Body::Archive(archive), LOAD_PATIENCE)?;
        match self.has_image(name, PATIENCE)? {
            true => Ok(()),
            false => Err(EngineError::Image(String::from_utf8_lossy(&said.body).trim().to_owned())),
        }
    }

    /// Another name for an image.
    pub(crate) fn tag(&self, image: &str, name: &str) -> Result<(), EngineError> {
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
        let path = format!("/images/{image}/tag?repo={repository}&tag={tag}");
        self.taken(("POST", &path), Body::Empty, PATIENCE).map(drop)
    }

    /// The names of images in `repository`.
    pub(crate) fn images(&self, repository: &str) -> Result<Vec<String>, EngineError> {
        let question = ("GET", "/images/json");
        let all: Vec<ListedImage> =
            understood("GET /images/json", &self.taken(question, Body::Empty, BRIEF_PATIENCE)?)?;
        let names = all.into_iter().flat_map(|image| image.repo_tags.unwrap_or_default());
        let is_of = |name: &String| name.strip_prefix(repository).is_some_and(|rest| rest.starts_with(':'));
        Ok(names.filter(is_of).collect())
    }

    /// Takes its name; what nothing uses any more goes with it.
    pub(crate) fn remove_image(&self, name: &str) -> Result<(), EngineError> {
        self.taken(("DELETE", &format!("/images/{name}")), Body::Empty, REMOVED_WITHIN).map(drop)
    }

    /// The id of the new container, by which it is found whatever it is named later. What had the name before is gone: whoever asks
    /// holds the lock of the slot.
    pub(crate) fn create(&self, name: &str, request: &serde_json::Value) -> Result<String, EngineError> {
        self.remove(name)?;
        let body = request.to_string();
        let path = format!("/containers/create?name={name}");
        let answer = self.taken(("POST", &path), Body::Json(body.as_bytes()), PATIENCE)?;
        understood(&format!("POST {path}"), &answer).map(|Created { id }| id)
    }

    pub(crate) fn start(&self, id: &str) -> Result<(), EngineError> {
        // 304: it runs already.
        self.taken(("POST", &format!("/containers/{id}/start")), Body::Empty, PATIENCE).map(drop)
    }

    pub(crate) fn state(&self, id: &str, patience: Duration) -> Result<State, EngineError> {
        let path = format!("/containers/{id}/json");
        let answer = self.ask(("GET", &path), Body::Empty, patience)?;
        if answer.status == 404 {
            return Ok(State::Gone);
        }
        let Inspected { state } = understood(&format!("GET {path}"), &accepted(&format!("GET {path}"), answer)?)?;
        Ok(match state.running && state.pid != 0 {
            true => State::Runs { pid: state.pid },
            false => State::Ended { code: state.exit_code, out_of_memory: state.out_of_memory },
        })
    }

    /// By its name or its id; kills what runs in it. That there is none is no error.
    pub(crate) fn remove(&self, which: &str) -> Result<(), EngineError> {
        let path = format!("/containers/{which}?force=true&v=true");
        let deadline = Instant::now() + REMOVED_WITHIN;
        loop {
            let answer = self.ask(("DELETE", &path), Body::Empty, REMOVED_WITHIN)?;
            match answer.status {
                404 => return Ok(()),
                // Somebody else removes it, who may take a while.
                409 if Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN),
                _ => return accepted(&format!("DELETE {path}"), answer).map(drop),
            }
        }
    }

    /// Those with this label, whatever they do.
    pub(crate) fn containers(&self, label: &str) -> Result<Vec<Listed>, EngineError> {
        // {"label":["NAME=VALUE"]}, as a part of a query: of a label, only these are not written as they are.
        let filter = format!("%7B%22label%22%3A%5B%22{}%22%5D%7D", label.replace('=', "%3D"));
        let path = format!("/containers/json?all=true&filters={filter}");
        let listed = self.taken(("GET", &path), Body::Empty, BRIEF_PATIENCE)?;
        understood(&format!("GET {path}"), &listed)
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

/// An engine of a test's own.
#[cfg(test)]
pub(crate) mod fake {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;

    use super::Engine;

    /// Answers what begins like one of these, of which the first one counts, and tells what it was asked. The folder is its socket's.
    pub(crate) fn engine(answers: &'static [(&str, u16, &str)]) -> (Engine, mpsc::Receiver<String>, tempfile::TempDir) {
        answering(move |question| {
            let found = answers.iter().find(|(begins, ..)| question.starts_with(begins));
            let (_, status, body) = found.unwrap_or(&("", 404, "{}"));
            (*status, (*body).to_owned())
        })
    }

    /// The same of any answers.
    pub(crate) fn answering(
        mut answer: impl FnMut(&str) -> (u16, String) + Send + 'static,
    ) -> (Engine, mpsc::Receiver<String>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (told, asked) = mpsc::channel();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut line = String::new();
                let mut lines = BufReader::new(stream.try_clone().unwrap());
                lines.read_line(&mut line).unwrap();
                let question = line.trim_end().trim_end_matches(" HTTP/1.0").to_owned();
                let (status, body) = answer(&question);
                // Until its head has ended: one that is closed with something unread is reset.
                while lines.read_line(&mut line).unwrap() > 2 {}
                if told.send(question).is_err() {
                    return;
                }
                write!(stream, "HTTP/1.0 {status} X\r\n\r\n{body}").unwrap();
            }
        });
        (Engine::at(socket), asked, folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_again_is_answered_as_before() {
        let (engine, asked, _folder) = fake::engine(&[
            ("DELETE /containers/a", 404, r#"{"message":"No such container: a"}"#),
            ("POST /containers/a/start", 304, ""),
            ("GET /containers/a/json", 404, r#"{"message":"No such container: a"}"#),
            ("GET /info", 200, r#"{"SecurityOptions":["name=rootless"]}"#),
        ]);
        assert!(engine.remove("a").is_ok() && engine.start("a").is_ok());
        assert_eq!(engine.state("a", PATIENCE).unwrap(), State::Gone);
        assert!(!engine.has_image("localhost/x:1", PATIENCE).unwrap());
        let fault = engine.look().unwrap_err().fault("instances cannot run in containers");
        assert!(fault.causes[0].ends_with("runs without root") && fault.hint.is_some(), "{fault:?}");
        let all: Vec<String> = asked.try_iter().collect();
        assert_eq!(all[0], "DELETE /containers/a?force=true&v=true");
        assert_eq!(all[3], "GET /images/localhost/x:1/json");
    }

    #[test]
    fn a_refusal_says_what_the_engine_said() {
        let answer = |status, body: &str| Answer { status, body: body.as_bytes().to_vec() };
        let said = |status, body| accepted("GET /x", answer(status, body)).map(drop).map_err(|error| error.to_string());
        assert_eq!(said(304, ""), Ok(()));
        let expected = |said: &str| Err(format!("the container engine answered 500 to GET /x: {said}"));
        assert_eq!(said(500, r#"{"cause":"c","message":"no room","response":500}"#), expected("no room"));
        assert_eq!(said(500, "page not found\n"), expected("page not found"));
        let hint = |body| accepted("POST /x", answer(500, body)).unwrap_err().fault("cannot run a container").hint;
        assert_eq!(hint(r#"{"message":"no room"}"#), None);
        for lacks in [
            r#"{"message":"exec: \"docker-init\": executable file not found in $PATH"}"#,
            r#"{"message":"finding container-init binary: exec: \"catatonit\": executable file not found"}"#,
        ] {
            assert!(hint(lacks).is_some_and(|hint| hint.starts_with("install")), "{lacks}");
        }
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
        assert_eq!(info.lacks(), [PROCESS_LIMIT, Lack::Calls.name()]);
        let whole = r#"{"MemoryLimit":true,"CpuCfsQuota":true,"PidsLimit":true,"SecurityOptions":["name=apparmor","name=seccomp,profile=default"]}"#;
        assert_eq!(serde_json::from_str::<Info>(whole).unwrap().lacks(), [""; 0]);
        let idle = r#"{"MemoryLimit":true,"CpuCfsQuota":true,"PidsLimit":true,"SecurityOptions":["name=seccomp,profile=unconfined"]}"#;
        assert_eq!(serde_json::from_str::<Info>(idle).unwrap().lacks(), [Lack::Calls.name()], "a filter of nothing");
        let is_rootless = |text: &str| serde_json::from_str::<Info>(text).unwrap().is_rootless();
        assert!(!is_rootless(r#"{"SecurityOptions":["name=seccomp,profile=default"],"Rootless":false}"#));
        assert!(!is_rootless(r#"{"SecurityOptions":null}"#));
        assert!(is_rootless(r#"{"SecurityOptions":["name=seccomp,profile=default","name=rootless"]}"#));
        assert!(is_rootless(r#"{"SecurityOptions":[],"Rootless":true}"#));
    }

    #[test]
    fn an_engine_that_is_not_there_is_named_with_what_to_do() {
        let engine = Engine::at("/nowhere/docker.sock".into());
        let fault = engine.look().unwrap_err().fault("containers cannot be run");
        assert_eq!(fault.causes[0], "no container engine answers at /nowhere/docker.sock");
        assert!(fault.hint.unwrap().contains("--engine PATH"));
    }
}
