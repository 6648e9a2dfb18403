//! Engines of this machine, by their own commands: one builds by a Dockerfile, and each is given images.
//!
//! Architecture invariant: an engine's word is taken for nothing: what it built comes as an archive, whose every digest is seen.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::process::Stdio;

use bowline_core::fault::{Fault, FaultKind};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::archive::load;
use crate::blob::Blobs;
use crate::error::ImageError;
use crate::image::Image;

/// Of what an engine says, so many lines are shown with its failure.
const TAIL: usize = 20;
/// A longer line is cut here and goes on in the next, in bytes.
const MAX_LINE: u64 = 16 << 10;
/// Lines on their way.
const QUEUE: usize = 64;

/// Builds by a Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Builder {
    Docker,
    Buildah,
    Podman,
}

/// Runs images, or gives them to what does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    Docker,
    Podman,
    /// As a kubelet asks it.
    Containerd,
    K3s,
    Kind,
    Minikube,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("none of them is usable here: {0}")]
    None(String),
    #[error("{program} cannot be run")]
    Start {
        program: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("`{command}` has failed{}", said.iter().map(|line| format!("\n    {line}")).collect::<String>())]
    Failed { command: String, said: Vec<String> },
    #[error("{0} has built something else than one image")]
    NotOne(&'static str),
    #[error("a folder for what it makes cannot be made")]
    Folder(#[source] io::Error),
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl EngineError {
    /// As it is shown. `doing`: `service web cannot be built by its Dockerfile`.
    pub fn fault(self, doing: &str) -> Fault {
        let kind = match &self {
            Self::None(_) => FaultKind::Invalid,
            Self::Start { .. } | Self::Failed { .. } | Self::NotOne(_) | Self::Folder(_) | Self::Image(_) => {
                FaultKind::Failed
            }
        };
        let fault = Fault::new(kind, doing).source(&self);
        match self {
            Self::None(_) => fault.hint(
                "install Docker (and start it), Buildah or Podman; without `dockerfile`, Bowline builds by itself",
            ),
            Self::Start { program, .. } => fault.hint(format!(
                "install {program}, or write one file and load it yourself: bowline image load IMAGE --archive FILE"
            )),
            Self::NotOne(program) => {
                fault.hint(format!("{program} is to build for one platform: look at its settings for several"))
            }
            Self::Failed { .. } => fault.hint("what it said is above; called by hand it says the same"),
            Self::Folder(_) | Self::Image(_) => fault,
        }
    }
}

impl Builder {
    /// In the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Docker, Self::Buildah, Self::Podman];

    pub fn program(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Buildah => "buildah",
            Self::Podman => "podman",
        }
    }

    /// The first that works: a `docker` without its daemon does not.
    ///
    /// # Errors
    /// None does; with why not, for each.
    pub async fn find() -> Result<Self, EngineError> {
        let mut why = Vec::new();
        for one in Self::ALL {
            let args: &[&str] = match one {
                Self::Docker => &["version", "--format", "{{.Server.Version}}"],
                Self::Buildah | Self::Podman => &["--version"],
            };
            match run(one.program(), args.iter().map(Into::into).collect(), None, None).await {
                Ok(()) => return Ok(one),
                Err(EngineError::Failed { said, .. }) => {
                    let last = said.last().cloned().unwrap_or_default();
                    why.push(format!("{} does not work ({last})", one.program()));
                }
                Err(_) => why.push(format!("there is no {}", one.program())),
            }
        }
        Err(EngineError::None(why.join("; ")))
    }

    /// Builds `context` by `file`, and takes what comes of it into `blobs`. What the engine says goes to `lines`.
    ///
    /// # Errors
    /// The engine fails, or what it made is no image.
    pub async fn build(
        self,
        file: &Path,
        context: &Path,
        blobs: &Blobs,
        lines: &mpsc::Sender<String>,
    ) -> Result<Image, EngineError> {
        // With what is kept apart: it goes with that, whatever is killed.
        let folder = tempfile::tempdir_in(blobs.folder()).map_err(EngineError::Folder)?;
        let (id, archive) = (folder.path().join("id"), folder.path().join("image.tar"));
        let mut args: Vec<OsString> = ["build", "--iidfile"].map(OsString::from).into();
        args.extend([id.as_os_str().to_owned(), "--file".into(), file.as_os_str().to_owned()]);
        if matches!(self, Self::Buildah | Self::Podman) {
            args.push("--layers".into());
        }
        args.push(context.as_os_str().to_owned());
        run(self.program(), args, None, Some(lines)).await?;
        let id = std::fs::read_to_string(&id).map_err(EngineError::Folder)?;
        let id = id.trim().trim_start_matches("sha256:");
        let args: Vec<OsString> = match self {
            Self::Docker => vec!["save".into(), "--output".into(), archive.clone().into(), id.into()],
            Self::Podman => {
                let mut args: Vec<OsString> = ["save", "--format", "oci-archive", "--output"].map(Into::into).into();
                args.extend([archive.clone().into(), id.into()]);
                args
            }
            Self::Buildah => {
                // A file asks nobody who one is, and the one that `DOCKER_CONFIG` names need not be there: Buildah ends without it.
                let nobody = folder.path().join("auth.json");
                std::fs::write(&nobody, "{}").map_err(EngineError::Folder)?;
                let mut to = OsString::from("oci-archive:");
                to.push(&archive);
                vec!["push".into(), "--authfile".into(), nobody.into(), id.into(), to]
            }
        };
        run(self.program(), args, None, None).await?;
        let mut saved = load(BufReader::new(File::open(&archive).map_err(EngineError::Folder)?), blobs)?;
        match (saved.pop(), saved.is_empty()) {
            (Some(one), true) => Ok(one.image),
            _ => Err(EngineError::NotOne(self.program())),
        }
    }
}

impl Engine {
    pub const ALL: [Self; 6] = [Self::Docker, Self::Podman, Self::Containerd, Self::K3s, Self::Kind, Self::Minikube];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
            Self::K3s => "k3s",
            Self::Kind => "kind",
            Self::Minikube => "minikube",
        }
    }

    /// The command that takes an archive: its words, and whether it reads the archive from its input. `cluster`: of kind and
    /// minikube, which of several.
    pub fn command(self, archive: &Path, cluster: Option<&str>) -> (Vec<OsString>, bool) {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let named = |option: &str| cluster.map(|name| words(&[option, name])).unwrap_or_default();
        let file = || vec![archive.as_os_str().to_owned()];
        match self {
            Self::Docker => (words(&["docker", "load"]), true),
            Self::Podman => (words(&["podman", "load"]), true),
            // Where a kubelet looks, which sees no other namespace.
            Self::Containerd => (words(&["ctr", "--namespace", "k8s.io", "images", "import", "-"]), true),
            Self::K3s => (words(&["k3s", "ctr", "images", "import", "-"]), true),
            Self::Kind => ([words(&["kind", "load", "image-archive"]), file(), named("--name")].concat(), false),
            Self::Minikube => ([words(&["minikube", "image", "load"]), file(), named("--profile")].concat(), false),
        }
    }

    /// Gives it an archive. What it says goes to `lines`.
    ///
    /// # Errors
    /// It cannot be run, or fails.
    pub async fn load(
        self,
        archive: &Path,
        cluster: Option<&str>,
        lines: &mpsc::Sender<String>,
    ) -> Result<(), EngineError> {
        let (words, is_piped) = self.command(archive, cluster);
        let program = match self {
            Self::Containerd => "ctr",
            Self::Docker | Self::Podman | Self::K3s | Self::Kind | Self::Minikube => self.as_str(),
        };
        let input = is_piped.then(|| File::open(archive)).transpose().map_err(EngineError::Folder)?;
        run(program, words.into_iter().skip(1).collect(), input, Some(lines)).await
    }
}

/// Runs to the end; dropped, it ends the command.
async fn run(
    program: &'static str,
    args: Vec<OsString>,
    input: Option<File>,
    lines: Option<&mpsc::Sender<String>>,
) -> Result<(), EngineError> {
    let shown: Vec<String> = args.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut command = Command::new(program);
    command.args(args).stdin(input.map_or_else(Stdio::null, Stdio::from)).kill_on_drop(true);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let failed = |source| EngineError::Start { program, source };
    let mut child = child.map_err(failed)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (send, mut said) = mpsc::channel::<String>(QUEUE);
    let reading = async {
        let (out, err) = (out.expect("it is piped"), err.expect("it is piped"));
        tokio::join!(read(out, send.clone()), read(err, send.clone()));
        drop(send);
    };
    let telling = async {
        let mut tail = Vec::new();
        while let Some(line) = said.recv().await {
            if tail.len() == TAIL {
                tail.remove(0);
            }
            if let Some(lines) = lines {
                // Nobody watching is no reason to stop.
                let _ = lines.send(line.clone()).await;
            }
            tail.push(line);
        }
        tail
    };
    let ((), tail, ended) = tokio::join!(reading, telling, child.wait());
    match ended.map_err(failed)?.success() {
        true => Ok(()),
        false => Err(EngineError::Failed { command: format!("{program} {}", shown.join(" ")), said: tail }),
    }
}

async fn read(pipe: impl AsyncRead + Unpin, lines: mpsc::Sender<String>) {
    let mut reader = tokio::io::BufReader::new(pipe);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match (&mut reader).take(MAX_LINE).read_until(b'\n', &mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&bytes);
                let text: String = text.trim_end().chars().filter(|c| !c.is_control()).collect();
                if lines.send(text).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engine_has_its_own_words() {
        let check = |engine: Engine, cluster: Option<&str>, expected: &str, is_piped: bool| {
            let (words, piped) = engine.command(Path::new("/x/a.tar"), cluster);
            let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
            assert_eq!((words.join(" ").as_str(), piped), (expected, is_piped));
        };
        check(Engine::Docker, None, "docker load", true);
        check(Engine::Podman, None, "podman load", true);
        check(Engine::Containerd, None, "ctr --namespace k8s.io images import -", true);
        check(Engine::K3s, None, "k3s ctr images import -", true);
        check(Engine::Kind, Some("two"), "kind load image-archive /x/a.tar --name two", false);
        check(Engine::Minikube, Some("two"), "minikube image load /x/a.tar --profile two", false);
        check(Engine::Minikube, None, "minikube image load /x/a.tar", false);
    }
}
