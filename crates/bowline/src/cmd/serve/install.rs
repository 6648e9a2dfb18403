//! `bowline serve --install`: the systemd unit of this server. Why each directive is there, and why others are not:
//! `docs/decisions/0043-a-unit-without-a-namespace.md`.

use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::route::EdgeEngine;
use serde::Serialize;

use crate::args::Serve;
use crate::paths::SERVER_STATE;
use crate::settings::Settings;
use crate::ui::{Tone, Ui};

const UNIT: &str = "/etc/systemd/system/bowline.service";

/// How a unit that may be replaced begins.
const MARK: &str = "# Written by `bowline serve --install`";

/// What was written, with `--json`.
#[derive(Debug, Serialize)]
struct Installed<'a> {
    unit: &'a Path,
    binary: &'a Path,
    /// False: it was there, letter by letter.
    changed: bool,
    next: &'a [String],
}

pub(super) fn run(args: &Serve, state: Option<&Path>, ui: &Ui) -> Result<ExitCode, Fault> {
    // What is wrong with the settings is said now, not at the next start of the machine.
    let settings = Settings::of(args, ui.has_colour())?;
    let binary = std::env::current_exe()
        .map_err(|e| Fault::new(FaultKind::Failed, "this command does not know its own binary").source(&e))?;
    let path = args.unit.as_deref().unwrap_or(Path::new(UNIT));
    let text = unit(&binary, &words(args, state)?)?;
    let changed = write(path, &text, args.force)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let next = ["systemctl daemon-reload".to_owned(), format!("systemctl enable --now {name}")];
    ui.object(&Installed { unit: path, binary: &binary, changed, next: &next });
    let done = if changed { "wrote" } else { "as it was:" };
    ui.say(format!("  {done} {}", ui.paint(Tone::Strong, path.display())));
    ui.say(format!("    it starts {}", binary.display()));
    match &settings.file {
        Some(file) => ui.say(format!("    with the settings of {}", file.display())),
        None => ui.say("    with the defaults of every setting: there is no /etc/bowline/server.toml"),
    }
    if !["/usr", "/opt", "/bin"].iter().any(|top| binary.starts_with(top)) {
        let warning = ui.paint(Tone::Warning, "the unit starts the binary from there");
        ui.say(format!("    {warning}: put it where it stays, as in /usr/local/bin, and say this again"));
    }
    ui.say("\n  next:");
    next.iter().for_each(|line| ui.say(format!("    {line}")));
    Ok(ExitCode::SUCCESS)
}

/// What was said besides, as the unit says it.
fn words(args: &Serve, state: Option<&Path>) -> Result<Vec<String>, Fault> {
    let absolute = |path: &Path| {
        std::path::absolute(path)
            .map_err(|e| Fault::new(FaultKind::Invalid, format!("{} is no path", path.display())).source(&e))
    };
    let mut words = Vec::new();
    for (flag, path) in [("--state", state), ("--config", args.config.as_deref())] {
        if let Some(path) = path {
            words.push(format!("{flag}={}", absolute(path)?.display()));
        }
    }
    let addresses = [("--http", args.http), ("--https", args.https), ("--admin", args.admin)];
    words.extend(addresses.iter().filter_map(|(flag, address)| address.map(|address| format!("{flag}={address}"))));
    words.extend(args.trusted_proxy.iter().map(|network| format!("--trusted-proxy={network}")));
    words.extend(args.edge.map(|engine| format!("--edge={}", EdgeEngine::from(engine).as_str())));
    words.extend(args.runtime.words()?);
    Ok(words)
}

/// The text of the unit.
///
/// # Errors
/// A word that a unit cannot hold.
fn unit(binary: &Path, words: &[String]) -> Result<String, Fault> {
    let binary = binary.to_str().ok_or_else(|| unspeakable(&binary.display().to_string()))?;
    // Variables are expanded in arguments, not in what is executed.
    let binary = quoted(binary)?.replace("$$", "$");
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect::<Result<_, _>>()?;
    let start = [&[binary.clone(), "serve".to_owned()], words.as_slice()].concat().join(" ");
    // Of the server's daemon, whatever other one runs on this machine.
    let state = words.iter().find(|word| word.trim_start_matches('"').starts_with("--state="));
    let state = state.cloned().unwrap_or_else(|| format!("--state={SERVER_STATE}"));
    let upgrade = format!("{binary} serve --upgrade {state}");
    Ok(filled(TEMPLATE, &[("mark", MARK), ("start", &start), ("upgrade", &upgrade)]))
}

/// What is put in is not looked at again.
fn filled(template: &str, values: &[(&str, &str)]) -> String {
    let mut pieces = template.split('{');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once('}').unwrap_or((piece, ""));
        let value = values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        out.extend([value, rest]);
    }
    out
}

const TEMPLATE: &str = "{mark}, which writes it anew. Own lines belong into a drop-in: systemctl edit bowline.

[Unit]
Description=Bowline: apps, their edge, their databases
Wants=network-online.target
After=network-online.target nss-user-lookup.target nftables.service firewalld.service docker.service podman.service
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={start}
ExecReload={upgrade}
TimeoutStartSec=5min
TimeoutStopSec=30s
WatchdogSec=60s

# Edge, apps and databases outlive the daemon; the next one takes them up. `bowline down` stops all, and is no failure.
KillMode=process
Restart=on-failure
RestartSec=1s
# Wrong settings, and a state of somebody else, do not become right by trying again.
RestartPreventExitStatus=2 3

# Each instance has a control group with its own limits.
Delegate=yes
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=1024:1048576
UMask=0077

# Nothing here makes a namespace of mounts: volumes that one daemon mounted are to be seen by the next.
NoNewPrivileges=yes
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_MKNOD
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_SETGID CAP_SETPCAP CAP_SETUID CAP_SYS_ADMIN CAP_SYS_CHROOT
CapabilityBoundingSet=CAP_SYS_NICE CAP_SYS_PTRACE CAP_SYS_RESOURCE
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
SystemCallArchitectures=native
SystemCallFilter=~@cpu-emulation @module @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
";

/// As systemd.syntax(7) and systemd.service(5) read it back: nothing in it is expanded.
fn quoted(word: &str) -> Result<String, Fault> {
    if word.chars().any(char::is_control) {
        return Err(unspeakable(word));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "/.-_=:[]+,@".contains(c);
    let text = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    Ok(if word.chars().all(plain) { text } else { format!("\"{text}\"") })
}

fn unspeakable(word: &str) -> Fault {
    Fault::new(FaultKind::Invalid, format!("a unit cannot hold {word:?}"))
        .hint("use paths without control characters, in UTF-8")
}

/// Whether it had to be written.
fn write(path: &Path, text: &str, force: bool) -> Result<bool, Fault> {
    let failed = |error: io::Error| {
        let fault = Fault::new(FaultKind::Failed, format!("{} cannot be written", path.display())).source(&error);
        fault.hint(match error.kind() == io::ErrorKind::PermissionDenied {
            true => "say it as root, or --unit FILE to write it elsewhere",
            false => "is this a machine with systemd? --unit FILE writes it elsewhere",
        })
    };
    match std::fs::read_to_string(path) {
        Ok(there) if there == text => return Ok(false),
        Ok(there) if !force && !there.starts_with(MARK) => {
            return Err(Fault::new(FaultKind::Refused, format!("{} is there already", path.display()))
                .caused_by("Bowline did not write it")
                .hint("--force puts the unit in its place; --unit FILE writes it elsewhere"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    replace(path, text).map_err(failed)?;
    Ok(true)
}

/// Whole or not at all.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let new: PathBuf = path.with_file_name(name);
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o644).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_as_they_were() {
        let check = |word: &str, expected: &str| assert_eq!(quoted(word).unwrap(), expected);
        check("--state=/srv/bowline", "--state=/srv/bowline");
        check("--http=[::]:80", "--http=[::]:80");
        check("/opt/my apps/bowline", "\"/opt/my apps/bowline\"");
        check("100% $HOME \"a\\b\"", "\"100%% $$HOME \\\"a\\\\b\\\"\"");
        assert_eq!(quoted("two\nlines").unwrap_err().kind, FaultKind::Invalid);
    }

    #[test]
    fn the_unit_starts_what_was_said() {
        let words = ["--state=/srv/a b".to_owned(), "--http=[::]:80".to_owned()];
        let text = unit(Path::new("/usr/local/bin/bowline"), &words).unwrap();
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
        assert_eq!(line("ExecStart="), "ExecStart=/usr/local/bin/bowline serve \"--state=/srv/a b\" --http=[::]:80");
        assert_eq!(line("ExecReload="), "ExecReload=/usr/local/bin/bowline serve --upgrade \"--state=/srv/a b\"");
        let text = unit(Path::new("/usr/local/bin/bowline"), &[]).unwrap();
        assert!(
            text.contains("\nExecReload=/usr/local/bin/bowline serve --upgrade --state=/var/lib/bowline\n"),
            "{text}"
        );
    }

    #[test]
    fn what_somebody_else_wrote_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bowline.service");
        let mine = format!("{MARK}\n[Service]\n");
        assert!(write(&path, &mine, false).unwrap());
        assert!(!write(&path, &mine, false).unwrap(), "it is there");
        assert!(write(&path, &format!("{mine}# newer\n"), false).unwrap(), "an older one of Bowline's is replaced");
        std::fs::write(&path, "[Service]\nExecStart=/bin/true\n").unwrap();
        assert_eq!(write(&path, &mine, false).unwrap_err().kind, FaultKind::Refused);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[Service]\nExecStart=/bin/true\n");
        assert!(write(&path, &mine, true).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    }
}
