//! Which proxy is the edge, and what is said of one that runs elsewhere.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{SecretName, ServiceName};
use bowline_core::route::EdgeEngine;
use clap::{Args, ValueEnum};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// Bowline's own edge
    Bowline,
    /// A real Envoy
    Envoy,
}

impl From<Engine> for EdgeEngine {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Bowline => Self::Bowline,
            Engine::Envoy => Self::Envoy,
        }
    }
}

/// What instances are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuntimeKind {
    /// Processes of this machine
    Process,
    /// Containers of Docker, or of Podman by the same API
    Docker,
}

/// What instances are, and of which engine.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RuntimeArgs {
    /// What instances are [default: process]
    #[arg(long, value_enum, value_name = "RUNTIME")]
    pub(crate) runtime: Option<RuntimeKind>,
    /// The socket of Docker, or of Podman's service [default: that of DOCKER_HOST, else /var/run/docker.sock]
    #[arg(long, value_name = "PATH", value_parser = socket, requires = "runtime")]
    pub(crate) engine: Option<PathBuf>,
}

impl RuntimeArgs {
    /// As another command is told: with the engine that is meant here and now.
    pub(crate) fn words(&self) -> Result<Vec<String>, Fault> {
        Ok(match self.runtime {
            None => Vec::new(),
            Some(RuntimeKind::Process) => vec!["--runtime=process".to_owned()],
            Some(RuntimeKind::Docker) => {
                let engine = engine_or_usual(self.engine.as_deref())?;
                vec!["--runtime=docker".to_owned(), format!("--engine={}", engine.display())]
            }
        })
    }

    /// The engine's socket, if instances are its containers. `otherwise`: where the flags do not say what they are.
    pub(crate) fn engine(&self, otherwise: Option<PathBuf>) -> Result<Option<PathBuf>, Fault> {
        match self.runtime {
            None => Ok(otherwise),
            Some(RuntimeKind::Process) => Ok(None),
            Some(RuntimeKind::Docker) => engine_or_usual(self.engine.as_deref()).map(Some),
        }
    }
}

/// Where an engine listens; where none is said, that of the environment.
pub(crate) fn engine_or_usual(said_so: Option<&Path>) -> Result<PathBuf, Fault> {
    /// Where Docker listens if nobody says otherwise.
    const USUAL: &str = "/var/run/docker.sock";
    match (said_so, std::env::var("DOCKER_HOST")) {
        (Some(path), _) => Ok(path.to_owned()),
        (None, Ok(host)) if !host.is_empty() => said(&host),
        (None, Ok(_) | Err(_)) => Ok(USUAL.into()),
    }
}

/// `unix:///run/podman/podman.sock`.
fn said(host: &str) -> Result<PathBuf, Fault> {
    let path = host.strip_prefix("unix://").ok_or_else(|| "it is not of this machine: say unix:///…".to_owned());
    path.and_then(socket).map_err(|why| {
        Fault::new(FaultKind::Invalid, format!("DOCKER_HOST={host} is no engine that instances can run in"))
            .caused_by(why)
            .hint("containers share the network, the volumes and the memory of the machine that the daemon is on; or say --engine PATH")
    })
}

/// Started by the daemon, with listening sockets that it inherits.
#[derive(Debug, Args)]
pub(crate) struct Edge {
    #[arg(long)]
    pub(crate) control_fd: i32,
    #[arg(long)]
    pub(crate) http_fd: Option<i32>,
    #[arg(long)]
    pub(crate) https_fd: Option<i32>,
    #[arg(long)]
    pub(crate) log_dir: PathBuf,
    #[arg(long, default_value_t = 0)]
    pub(crate) workers: usize,
    #[arg(long)]
    pub(crate) successor: bool,
}

/// Started by the daemon beside an Envoy.
#[derive(Debug, Args)]
pub(crate) struct UploadFilter {
    #[arg(long)]
    pub(crate) socket: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RenderEnvoy {
    /// The folder of an app
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The environment
    #[arg(long, default_value = "production")]
    pub(crate) env: String,
    /// Where an instance of a service is; may be said again
    #[arg(long, value_name = "SERVICE=ADDRESS:PORT", value_parser = endpoint)]
    pub(crate) endpoint: Vec<Endpoint>,
    /// A file that holds a secret which a route's `auth` asks for, or a pipe; may be said again
    #[arg(long, value_name = "NAME=FILE", value_parser = secret_file)]
    pub(crate) secret: Vec<SecretFile>,
    /// Where `bowline uploads` listens, if a route has `upload`
    #[arg(long, value_name = "PATH", value_parser = socket)]
    pub(crate) uploads: Option<PathBuf>,
    /// Where Envoy listens for plain HTTP
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:80")]
    pub(crate) http: SocketAddr,
    /// Where Envoy listens for HTTPS
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:443")]
    pub(crate) https: SocketAddr,
    /// Where Envoy's administration listens; on a socket, for Envoy's own user alone
    #[arg(long, value_name = "ADDRESS:PORT|PATH", default_value = "127.0.0.1:9901", value_parser = admin)]
    pub(crate) admin: Admin,
    /// HOST.pem and HOST.key of each host of HTTPS; of a wildcard, with `_` for its `*`
    #[arg(long, value_name = "DIR", default_value = "/etc/envoy/certificates")]
    pub(crate) certificates: PathBuf,
    /// Lines of the access log are written here
    #[arg(long, value_name = "FILE", default_value = "/dev/stdout")]
    pub(crate) access_log: PathBuf,
}

/// An instance of a service that somebody else runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) service: ServiceName,
    pub(crate) at: SocketAddr,
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let (service, at) = text.split_once('=').ok_or("say SERVICE=ADDRESS:PORT")?;
    let service = ServiceName::new(service).map_err(|error| error.to_string())?;
    Ok(Endpoint { service, at: at.parse().map_err(|_| format!("{at} is no ADDRESS:PORT"))? })
}

/// Where an Envoy's administration is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Admin {
    Port(SocketAddr),
    Socket(PathBuf),
}

fn admin(text: &str) -> Result<Admin, String> {
    match text.starts_with('/') {
        true => socket(text).map(Admin::Socket),
        false => text
            .parse()
            .map(Admin::Port)
            .map_err(|_| format!("{text} is no ADDRESS:PORT, and no path from the root on")),
    }
}

/// Where the value of a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretFile {
    pub(crate) name: SecretName,
    pub(crate) file: PathBuf,
}

fn secret_file(text: &str) -> Result<SecretFile, String> {
    let (name, file) = text.split_once('=').ok_or("say NAME=FILE")?;
    let name = SecretName::new(name).map_err(|error| error.to_string())?;
    match file {
        "" => Err("say NAME=FILE: the file is missing".to_owned()),
        _ => Ok(SecretFile { name, file: file.into() }),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Uploads {
    /// Where Envoy asks: what `render envoy --uploads` says
    #[arg(long, value_name = "PATH", value_parser = socket)]
    pub(crate) socket: PathBuf,
    /// Who may ask, as permissions of the socket: 600 is its own user, 660 its group, too
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = mode)]
    pub(crate) mode: u32,
}

/// A path that leads to the same place wherever it is said.
fn socket(text: &str) -> Result<PathBuf, String> {
    /// Of `sockaddr_un`, less the byte that ends it (unix(7)).
    const LONGEST: usize = 107;
    match text {
        _ if !text.starts_with('/') => Err("say it from the root on: /…".to_owned()),
        _ if text.ends_with('/') => Err("it is a folder: say a file in it".to_owned()),
        _ if text.len() > LONGEST => Err(format!("the path of a socket has at most {LONGEST} bytes")),
        _ => Ok(text.into()),
    }
}

fn mode(text: &str) -> Result<u32, String> {
    let is_octal = text.len() == 3 && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if is_octal && mode & 0o600 == 0o600 => Ok(mode),
        Ok(_) | Err(_) => Err("say three octal digits, the first of them 6 or 7: 600, 660".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_named_with_its_file() {
        let read = |text| secret_file(text).map(|SecretFile { name, file }| (name.to_string(), file));
        assert_eq!(read("api-token=/run/a=b"), Ok(("api-token".to_owned(), "/run/a=b".into())));
        for wrong in ["api-token", "api-token=", "=/file", "Api=/file"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_engine_is_one_of_this_machine() {
        assert_eq!(said("unix:///run/podman/podman.sock").unwrap(), PathBuf::from("/run/podman/podman.sock"));
        for wrong in ["tcp://10.0.0.1:2375", "ssh://box", "unix://docker.sock", "/run/docker.sock"] {
            assert!(said(wrong).is_err(), "{wrong}");
        }
        let args = |runtime| RuntimeArgs { runtime, engine: Some("/run/d.sock".into()) };
        assert_eq!(args(Some(RuntimeKind::Docker)).words().unwrap(), ["--runtime=docker", "--engine=/run/d.sock"]);
        assert_eq!(args(None).words().unwrap(), [""; 0]);
        let engine = |runtime| args(runtime).engine(Some("/run/of-the-file.sock".into())).unwrap();
        assert_eq!(engine(None), Some("/run/of-the-file.sock".into()));
        assert_eq!(engine(Some(RuntimeKind::Process)), None);
        assert_eq!(engine(Some(RuntimeKind::Docker)), Some("/run/d.sock".into()));
    }

    #[test]
    fn a_socket_is_where_it_is_for_everybody() {
        assert_eq!(socket("/run/uploads.sock"), Ok("/run/uploads.sock".into()));
        for wrong in ["uploads.sock", "", "/run/", &format!("/{}", "x".repeat(107))] {
            assert!(socket(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_administration_has_a_port_or_a_socket() {
        assert_eq!(admin("[::1]:9901"), Ok(Admin::Port("[::1]:9901".parse().unwrap())));
        assert_eq!(admin("/run/admin.sock"), Ok(Admin::Socket("/run/admin.sock".into())));
        assert!(admin("9901").is_err() && admin("run/admin.sock").is_err());
    }

    #[test]
    fn a_mode_lets_at_least_its_own_user_ask() {
        assert_eq!((mode("600"), mode("660")), (Ok(0o600), Ok(0o660)));
        for wrong in ["0", "060", "400", "0600", "680", "+60", "rw"] {
            assert!(mode(wrong).is_err(), "{wrong}");
        }
    }
}
