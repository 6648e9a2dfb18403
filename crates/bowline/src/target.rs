//! Where the daemon is that a command speaks to: on this machine, at the other end of the user's own ssh, or behind HTTPS.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bowline_api::{Client, Dialer};
use bowline_core::app::Target as Named;
use bowline_core::fault::{Fault, FaultKind};

use crate::credentials;
use crate::paths::Paths;
use crate::session::Session;
use crate::ui::Ui;

/// The program that is asked for a connection, where it is another than `ssh`.
const SSH_VARIABLE: &str = "BOWLINE_SSH";
/// How long a connection is kept for the next command.
const SHARED: &str = "60s";

/// One daemon.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Here(Paths),
    There(Ssh),
    /// With a token.
    Web(Client),
}

/// Who says where to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamedBy {
    Command,
    /// `server` of an environment: whoever wrote the folder.
    Folder,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ssh {
    /// `USER@HOST`, as ssh takes it.
    login: String,
    port: Option<u16>,
    /// The daemon's, on its machine. `None`: the only one there.
    state: Option<PathBuf>,
}

impl Target {
    /// `state` is on the machine of the daemon.
    ///
    /// # Errors
    /// No daemon is there, or none that this user may speak to.
    pub(crate) fn new(to: &Named, state: Option<&Path>, by: NamedBy, ui: &Ui) -> Result<Self, Fault> {
        match to {
            Named::Local => Ok(Self::Here(Paths::of_live(state)?)),
            Named::Ssh { user, host, port } => {
                // Brackets belong to the URL: ssh takes the address alone.
                let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
                let login = user.as_ref().map_or_else(|| host.to_owned(), |user| format!("{user}@{host}"));
                Ok(Self::There(Ssh { login, port: *port, state: state.map(Path::to_owned) }))
            }
            Named::Https { url } => {
                if let Some(state) = state {
                    return Err(Fault::new(FaultKind::Invalid, format!("{} is no state of {url}", state.display()))
                        .hint("an https:// target is one daemon: leave out --state"));
                }
                Ok(Self::Web(credentials::client(url, by, *ui)?))
            }
            Named::Kubernetes { .. } => {
                Err(Fault::new(FaultKind::Invalid, "a cluster has no daemon that this could ask")
                    .hint("there, plan, deploy, status, releases, rollback, scale, logs, exec and secret work"))
            }
        }
    }

    /// Whether files and ports of this machine are not the daemon's.
    pub(crate) fn is_elsewhere(&self) -> bool {
        match self {
            Self::Here(_) => false,
            Self::There(_) | Self::Web(_) => true,
        }
    }

    pub(crate) async fn join(&self) -> Result<Session, Fault> {
        match self {
            Self::Here(paths) => Session::join(paths).await,
            Self::There(ssh) => Session::elsewhere(Client::dialing(ssh.dialer())).await,
            Self::Web(client) => Session::elsewhere(client.clone()).await,
        }
    }

    /// For a verb that needs no app to run: see [`Session::join_or_visit`].
    pub(crate) async fn visit(&self) -> Result<Session, Fault> {
        match self {
            Self::Here(paths) => Session::join_or_visit(paths).await,
            Self::There(_) | Self::Web(_) => self.join().await,
        }
    }

    pub(crate) async fn leave(&self, session: &Session) -> Result<(), Fault> {
        match self {
            Self::Here(paths) => session.leave(paths).await,
            Self::There(_) | Self::Web(_) => Ok(()),
        }
    }
}

impl Ssh {
    fn name(&self) -> String {
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("ssh://{}{port}", self.login)
    }

    /// One connection is shared by all that one command, and the next ones, ask.
    fn dialer(&self) -> Dialer {
        let mut args: Vec<OsString> = vec!["-T".into()];
        let mut option = |text: String| args.extend(["-o".into(), text.into()]);
        if let Some(folder) = crate::paths::for_sockets() {
            option("ControlMaster=auto".to_owned());
            option(format!("ControlPath={}/ssh-%C", folder.display()));
            option(format!("ControlPersist={SHARED}"));
        }
        option("ServerAliveInterval=15".to_owned());
        args.extend(self.port.iter().flat_map(|port| ["-p".into(), port.to_string().into()]));
        args.extend(["--".into(), self.login.clone().into()]);
        let words = ["bowline".to_owned()].into_iter();
        let words = words.chain(self.state.iter().flat_map(|state| ["--state".to_owned(), quoted(state)]));
        args.push(words.chain(["dial".to_owned()]).collect::<Vec<_>>().join(" ").into());
        let program = std::env::var_os(SSH_VARIABLE).filter(|program| !program.is_empty());
        Dialer { name: self.name(), program: program.unwrap_or_else(|| "ssh".into()), args }
    }
}

/// One word for a shell (XCU 2.2.2).
pub(crate) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// As a shell takes it for one word, in a command that people copy.
pub(crate) fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@=[]".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => quoted(Path::new(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_one_word_elsewhere() {
        let to = bowline_spec::parse_target("ssh://a@b.example:22").unwrap();
        let Target::There(ssh) =
            Target::new(&to, Some(Path::new("/srv/it's")), NamedBy::Command, &Ui::new(true)).unwrap()
        else {
            panic!("{to:?}")
        };
        let args = ssh.dialer().args;
        let last = OsString::from("bowline --state '/srv/it'\\''s' dial");
        assert_eq!(args[args.len() - 3..], ["--".into(), "a@b.example".into(), last]);
        let to = bowline_spec::parse_target("ssh://a@[::1]").unwrap();
        let Target::There(bare) = Target::new(&to, None, NamedBy::Command, &Ui::new(true)).unwrap() else {
            panic!("{to:?}")
        };
        assert_eq!(bare.login, "a@::1");
        assert!(args.windows(2).any(|pair| pair == ["-p", "22"]), "{args:?}");
    }

    #[test]
    fn nothing_slips_through_as_an_option_of_ssh() {
        for text in ["ssh://", "ssh://a@", "ssh://-oProxyCommand=id", "ssh://-a@b", "ssh://a b", "ssh://b;id", "b"] {
            assert!(bowline_spec::parse_target(text).is_err(), "{text}");
        }
        let to = bowline_spec::parse_target("kubernetes").unwrap();
        assert!(Target::new(&to, None, NamedBy::Command, &Ui::new(true)).is_err(), "no daemon is there");
        let to = bowline_spec::parse_target("https://b.example").unwrap();
        assert!(
            Target::new(&to, Some(Path::new("/srv")), NamedBy::Command, &Ui::new(true)).is_err(),
            "a state is a machine's own affair"
        );
    }
}
