//! Filling data with the tools of each kind, run as the caller with credentials that end.

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;

use bowline_api::{ClientError, Reached, wire};
use bowline_core::app::ResourceKind;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::resource::data::DataId;

use tokio::io::AsyncWriteExt;

use super::account::Account;
use super::archive::Archive;
use super::{Of, client, confirmed, tunnel};
use crate::args::Import;
use crate::cmd::command_words;
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::progress::Progress;
use crate::session::Session;
use crate::target::Target;
use crate::ui::{self, Ui};

/// An import that takes longer is cut short.
const LIMIT_SECONDS: u64 = 24 * 3_600;
/// What is looked through before it is run; a larger dump is better an archive.
const SCRIPT_BYTES: u64 = 1 << 30;

/// How often what was sent is shown.
const SHOWN: Duration = Duration::from_millis(200);

/// What a file holds, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Statements or commands.
    Text,
    /// `pg_dump -Fc` or `-Fd`.
    Archive,
    Rdb,
    Compressed,
    Folder,
    /// A pipe or a device: it can be read once, and may never end.
    Stream,
    /// What a dump that failed leaves.
    Empty,
}

pub(super) async fn run(
    args: Import,
    (target, session): (&Target, &Session),
    interrupts: &mut Interrupts,
    ui: &Ui,
) -> Result<ExitCode, Fault> {
    let Import { app, data, file, replace, env } = args;
    let of = Of { app, env };
    let (id, _) = tokio::select! {
        found = of.find(&data, session) => found?,
        () = interrupts.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let file = std::path::absolute(&file).map_err(|error| unread(&file, &error))?;
    let form = form(&file).map_err(|error| unread(&file, &error))?;
    let server = match &id {
        DataId::Volume(_) => {
            return volume((&of, &id), (&file, form), replace, (target, session), interrupts, ui).await;
        }
        DataId::Server(server) => server,
    };
    check(server.kind, form, &file)?;
    let text = match (form, server.kind) {
        (Form::Text, ResourceKind::Postgres | ResourceKind::Redis) => Some(text(server.kind, &file)?),
        // Its client reads the file bit by bit: there is nothing to look for.
        (_, _) => None,
    };
    let account = Account { of: &of, id: server, session };
    let lend = wire::Lend { rights: wire::Rights::Import, seconds: LIMIT_SECONDS };
    let Some(lent) = account.lend(&lend, interrupts, ui).await? else { return Ok(ExitCode::from(INTERRUPTED)) };
    let source = Source { file: &file, text };
    let has_begun = Cell::new(false);
    let filling = async {
        let (there, _tunnel) = tunnel::lead(lent.clone(), (&of, server), (target, session), ui).await?;
        fill((&of, &id), server.kind, &source, (replace, &has_begun), &there, ui).await
    };
    // The tool is killed with its future; what it did in a transaction is undone.
    let done = tokio::select! {
        done = filling => Some(done),
        () = interrupts.next() => None,
    };
    account.give_back(&lent, interrupts, ui).await;
    let Some(done) = done else {
        let left = if has_begun.get() { left(server.kind) } else { "nothing has changed" };
        ui.aside(format!("  interrupted: {left}"));
        return Ok(ExitCode::from(INTERRUPTED));
    };
    done?;
    ui.object(&serde_json::json!({ "imported": format!("{of}.{id}") }));
    ui.say(format!("  {} is imported into {id} of {of}", file.display()));
    Ok(ExitCode::SUCCESS)
}

/// What an import that did not come to its end leaves.
fn left(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::Postgres => "the database is as it was",
        ResourceKind::MariaDb => "MariaDB commits each statement: correct the file, and import it again with --replace",
        ResourceKind::Redis => "nothing is changed if a command was not understood; others count by themselves",
    }
}

/// By the daemon: what is on its machine it reads by itself, and what is here is sent to it.
async fn volume(
    (of, id): (&Of, &DataId),
    (file, form): (&Path, Form),
    replace: bool,
    (target, session): (&Target, &Session),
    interrupts: &mut Interrupts,
    ui: &Ui,
) -> Result<ExitCode, Fault> {
    let (env, app, data) = (of.env.as_str(), of.app.as_str(), id.to_string());
    let filling = async {
        if target.is_elsewhere() {
            return send_archive((of, id), (file, form), replace, session, ui).await;
        }
        let fill = wire::Fill { source: file.display().to_string(), replace };
        Ok(session.client.fill(env, app, &data, &fill).await?)
    };
    let filled = tokio::select! {
        filled = filling => filled?,
        () = interrupts.next() => {
            ui.aside(format!("  interrupted: {}", whole_or_not(of)));
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    ui.object(&filled);
    let files = if filled.files == 1 { "1 file".to_owned() } else { format!("{} files", filled.files) };
    ui.say(format!("  {files} from {} are in {id} of {of}", file.display()));
    Ok(ExitCode::SUCCESS)
}

/// Where nobody has heard how it ended.
fn whole_or_not(of: &Of) -> String {
    let list = command_words(&of.app, &of.env);
    format!(
        "all of it is in the volume, or the volume is as it was: `bowline data list {list}` shows how much it holds"
    )
}

async fn send_archive(
    (of, id): (&Of, &DataId),
    (file, form): (&Path, Form),
    replace: bool,
    session: &Session,
    ui: &Ui,
) -> Result<wire::Filled, Fault> {
    if form == Form::Stream {
        return Err(Fault::new(FaultKind::Invalid, format!("{} is neither a file nor a folder", file.display()))
            .hint("write it into a file first"));
    }
    let archive = Archive::of(file).map_err(|error| unread(file, &error))?;
    let (data, query) = (id.to_string(), wire::FillQuery { replace });
    session.client.may_fill(&of.env, &of.app, &data, &query).await?;
    let filling = session.client.fill_with(&of.env, &of.app, &data, &query, || archive.parts());
    tokio::pin!(filling);
    let (mut progress, mut shown) = (Progress::new(ui, None), tokio::time::interval(SHOWN));
    let mut before = None;
    let filled = loop {
        tokio::select! {
            filled = &mut filling => break filled,
            _ = shown.tick() => {
                let (now, all) = (archive.sent(), archive.size().map(|size| format!(" of {}", ui::bytes(size))));
                // What was read last has not gone far.
                let (text, over) = match before.replace(now) == Some(now) && now > 0 {
                    true => (format!("{} sent; the daemon is filling {id}", ui::bytes(now)), ""),
                    false => (format!("sending {}", ui::bytes(now)), all.as_deref().unwrap_or_default()),
                };
                progress.moving(&format!("{text}{over}"));
            }
        }
    };
    drop(progress);
    filled.map_err(|error| match (archive.trouble(), &error) {
        (Some(trouble), _) => trouble,
        (None, ClientError::Broken(_) | ClientError::NoDaemon { reached: Reached::Lost, .. }) => {
            Fault::from(error).hint(whole_or_not(of))
        }
        (None, _) => error.into(),
    })
}

fn unread(file: &Path, error: &std::io::Error) -> Fault {
    Fault::new(FaultKind::Invalid, format!("{} cannot be read", file.display())).source(error)
}

fn form(file: &Path) -> std::io::Result<Form> {
    let meta = std::fs::metadata(file)?;
    if meta.is_dir() {
        return Ok(if file.join("toc.dat").is_file() { Form::Archive } else { Form::Folder });
    }
    if !meta.is_file() {
        return Ok(Form::Stream);
    }
    let mut head = Vec::new();
    File::open(file)?.take(8).read_to_end(&mut head)?;
    Ok(form_of(&head))
}

fn form_of(head: &[u8]) -> Form {
    match head {
        [] => Form::Empty,
        [b'P', b'G', b'D', b'M', b'P', ..] => Form::Archive,
        [b'R', b'E', b'D', b'I', b'S', digit, ..] if digit.is_ascii_digit() => Form::Rdb,
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [0xfd, b'7', b'z', ..] | [b'B', b'Z', b'h', ..] => {
            Form::Compressed
        }
        _ => Form::Text,
    }
}

/// What the kind's tools can take.
fn check(kind: ResourceKind, form: Form, file: &Path) -> Result<(), Fault> {
    let (name, wrong) = (file.display(), |what: String| Fault::new(FaultKind::Invalid, what));
    match (form, kind) {
        (Form::Text, _) | (Form::Archive, ResourceKind::Postgres) => Ok(()),
        (Form::Empty, _) => Err(wrong(format!("{name} is empty")).hint("did the dump that was to be in it fail?")),
        (Form::Stream, _) => {
            Err(wrong(format!("{name} is neither a file nor a folder")).hint("write it into a file first"))
        }
        (Form::Compressed, _) => Err(wrong(format!("{name} is compressed")).hint("unpack it first")),
        (Form::Rdb, ResourceKind::Redis) => {
            Err(wrong(format!("{name} is a snapshot of Redis, which reads one only when it starts")).hint(
                "start a redis-server of your own on it, and import what this prints: redis-cli --scan | … RESTORE \
                 commands, as `redis-dump` and `rdb -c protocol` write them",
            ))
        }
        (Form::Folder, _) => {
            Err(wrong(format!("{name} is a folder")).hint("name the file, or what `pg_dump -Fd` wrote"))
        }
        (Form::Archive, ResourceKind::MariaDb | ResourceKind::Redis) => {
            Err(wrong(format!("{name} is an archive of PostgreSQL, and this is {kind}")))
        }
        (Form::Rdb, ResourceKind::Postgres | ResourceKind::MariaDb) => {
            Err(wrong(format!("{name} is a snapshot of Redis, and this is {kind}")))
        }
    }
}

/// What is imported.
struct Source<'a> {
    file: &'a Path,
    /// Statements or commands that were looked through; `None`: an archive, or statements of MariaDB.
    text: Option<Vec<u8>>,
}

/// A text that can be taken as a whole.
fn text(kind: ResourceKind, file: &Path) -> Result<Vec<u8>, Fault> {
    let mut text = Vec::new();
    let opened = File::open(file).map_err(|error| unread(file, &error))?;
    opened.take(SCRIPT_BYTES + 1).read_to_end(&mut text).map_err(|error| unread(file, &error))?;
    if text.len() as u64 > SCRIPT_BYTES {
        let fault = Fault::new(FaultKind::Invalid, format!("{} is larger than 1 GiB", file.display()));
        return Err(match kind {
            ResourceKind::Postgres => fault.hint("write it with `pg_dump -Fc --no-owner --no-privileges`"),
            ResourceKind::MariaDb | ResourceKind::Redis => fault.hint("`bowline data connect` lends an account for it"),
        });
    }
    match broken_transaction(kind, &text) {
        None => Ok(text),
        Some((line, said)) => {
            let fault = Fault::new(FaultKind::Invalid, format!("{} cannot be imported", file.display()));
            let fault = fault.caused_by("it would not be done whole or not at all");
            let fault = fault.detail(format!("{line:>5} | {said}"));
            Err(fault
                .hint(format!("take line {line} out: an import is one transaction, and runs no client's commands")))
        }
    }
}

/// The first line with which a text would leave the transaction that it is run in.
fn broken_transaction(kind: ResourceKind, text: &[u8]) -> Option<(usize, String)> {
    match kind {
        ResourceKind::Postgres => {
            let text = String::from_utf8_lossy(text);
            bowline_node::breaks_transaction(&text).map(|(line, said)| (line, said.to_owned()))
        }
        // One transaction of tables is not to be had there.
        ResourceKind::MariaDb => None,
        ResourceKind::Redis => redis_commands(text).into_iter().find_map(|(line, word)| {
            let ends = ["multi", "exec", "discard"].iter().any(|end| word.eq_ignore_ascii_case(end));
            ends.then_some((line, word))
        }),
    }
}

/// The first word of each command, and the line that it is in: commands a line (inline), or as clients send them (RESP).
fn redis_commands(text: &[u8]) -> Vec<(usize, String)> {
    let (mut rest, mut line, mut found) = (text, 1, Vec::new());
    while !rest.is_empty() {
        let (word, length) = match sent(rest) {
            Some((word, length)) => (word, length),
            None => {
                let length = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
                let words = String::from_utf8_lossy(&rest[..length]).into_owned();
                (words.split_ascii_whitespace().next().unwrap_or_default().trim_matches('"').to_owned(), length)
            }
        };
        if !word.is_empty() {
            found.push((line, word));
        }
        line += rest[..length].iter().filter(|byte| **byte == b'\n').count();
        rest = &rest[length..];
    }
    found
}

/// An array of bulk strings at the beginning: its first word, and how long all of it is. `None`: it is something else.
fn sent(text: &[u8]) -> Option<(String, usize)> {
    let number = |at: usize, mark: u8| -> Option<(usize, usize)> {
        let line = text.get(at..)?.strip_prefix(&[mark])?;
        let end = line.iter().take(20).position(|byte| *byte == b'\r')?;
        Some((std::str::from_utf8(&line[..end]).ok()?.parse().ok()?, at + end + "*\r\n".len()))
    };
    let (count, mut at) = number(0, b'*')?;
    let mut first = None;
    for _ in 0..count {
        let (length, begin) = number(at, b'$')?;
        let word = text.get(begin..begin.checked_add(length)?)?;
        first.get_or_insert_with(|| String::from_utf8_lossy(word).into_owned());
        at = begin + length + "\r\n".len();
    }
    (at <= text.len()).then_some((first?, at))
}

async fn fill(
    (of, id): (&Of, &DataId),
    kind: ResourceKind,
    source: &Source<'_>,
    (replace, has_begun): (bool, &Cell<bool>),
    lent: &wire::Lent,
    ui: &Ui,
) -> Result<(), Fault> {
    let (file, full) = (source.file, lent.empty != Some(true));
    if full && !replace {
        let question = format!("{id} of {of} is not empty. Put {} in the place of what is there?", file.display());
        let refused = || {
            Fault::new(FaultKind::Refused, format!("{id} of {of} is not empty"))
                .hint("--replace puts the new content in the place of what is there")
        };
        if !confirmed(&question, ui).await.map_err(|_| refused())? {
            return Err(refused());
        }
    }
    has_begun.set(true);
    if ui.is_terminal() {
        ui.say(format!("  importing {} …", file.display()));
    }
    match kind {
        ResourceKind::Postgres => postgres(source, full, lent).await,
        ResourceKind::MariaDb => mariadb(source, full, lent).await,
        ResourceKind::Redis => redis(source, full, lent).await,
    }
    .map_err(|fault| Fault { message: format!("{} cannot be imported into {id} of {of}", file.display()), ..fault })
}

/// One transaction. An archive is turned into a script first: what `pg_restore` cannot read changes nothing.
async fn postgres(source: &Source<'_>, full: bool, lent: &wire::Lent) -> Result<(), Fault> {
    let left = left(ResourceKind::Postgres);
    let mut psql = client::command(ResourceKind::Postgres, lent)?;
    psql.args(["-X", "-q", "--single-transaction", "-v", "ON_ERROR_STOP=1"]);
    if full {
        psql.args(["-c", "DROP OWNED BY CURRENT_USER CASCADE"]);
    }
    let script = match source.text {
        Some(_) => None,
        None => {
            let script = Scratch::new()?;
            let mut restore = client::program(&["pg_restore"], "postgresql-client")?;
            restore.args(["--no-owner", "--no-privileges", "--file"]).arg(&script.0).arg(source.file);
            ended(restore, "pg_restore", left).await?;
            Some(script)
        }
    };
    // What psql says names the caller's own file.
    psql.arg("-f").arg(script.as_ref().map_or(source.file, |script| &script.0));
    ended(psql, "psql", left).await.map_err(|fault| {
        let owners =
            fault.detail.as_ref().is_some_and(|said| said.contains("role \"") && said.contains("does not exist"));
        match owners {
            true => {
                fault.hint("write the dump with pg_dump --no-owner --no-privileges: all is to belong to the app's role")
            }
            false => fault,
        }
    })
}

/// Statement by statement: MariaDB has no transactions of tables.
async fn mariadb(source: &Source<'_>, full: bool, lent: &wire::Lent) -> Result<(), Fault> {
    let name = format!("`{}`", lent.database.clone().unwrap_or_default().replace('`', "``"));
    if full {
        let mut empty = client::command(ResourceKind::MariaDb, lent)?;
        empty.arg(format!("--execute=DROP DATABASE {name}; CREATE DATABASE {name} CHARACTER SET utf8mb4"));
        ended(empty, "mariadb", "the database is as it was").await?;
    }
    let mut mariadb = client::command(ResourceKind::MariaDb, lent)?;
    // A dump is not to run programs of whoever imports it.
    mariadb.arg("--loose-sandbox");
    mariadb.stdin(File::open(source.file).map_err(|error| unread(source.file, &error))?);
    ended(mariadb, "mariadb", left(ResourceKind::MariaDb)).await
}

/// One transaction of commands, one a line.
async fn redis(source: &Source<'_>, full: bool, lent: &wire::Lent) -> Result<(), Fault> {
    let mut redis = client::command(ResourceKind::Redis, lent)?;
    redis.arg("--pipe").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = started(redis, "redis-cli")?;
    let mut stdin = child.stdin.take().expect("it was asked to be a pipe");
    let head: &[u8] = if full { b"MULTI\r\nFLUSHDB\r\n" } else { b"MULTI\r\n" };
    let commands = source.text.as_deref().unwrap_or_default();
    let feed = async {
        for part in [head, commands, b"\r\nEXEC\r\n"] {
            // One that does not read to the end says why.
            if stdin.write_all(part).await.is_err() {
                break;
            }
        }
        drop(stdin);
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    judged(output.map_err(|error| broken("redis-cli", &error))?, "redis-cli", left(ResourceKind::Redis))
}

/// Killed when it is dropped.
fn started(command: Command, name: &str) -> Result<tokio::process::Child, Fault> {
    let mut command = tokio::process::Command::from(command);
    command.stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().map_err(|error| broken(name, &error))
}

fn broken(name: &str, error: &std::io::Error) -> Fault {
    Fault::new(FaultKind::Failed, format!("{name} cannot be run")).caused_by(format!("cannot run {name}")).source(error)
}

async fn ended(mut command: Command, name: &str, hint: &str) -> Result<(), Fault> {
    // What a dump's statements answer is nobody's.
    command.stdout(Stdio::null());
    let output = started(command, name)?.wait_with_output().await.map_err(|error| broken(name, &error))?;
    judged(output, name, hint)
}

fn judged(output: Output, name: &str, hint: &str) -> Result<(), Fault> {
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let fault = Fault::new(FaultKind::Failed, format!("{name} failed"));
    Err(fault.caused_by(format!("{name} ended with {}", output.status)).said(&said).hint(hint))
}

/// A file of this command's own, gone with it.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> Result<Self, Fault> {
        use std::os::unix::fs::OpenOptionsExt;
        let failed = |error: &std::io::Error| {
            Fault::new(FaultKind::Failed, "no file can be made").caused_by("a script is made beside").source(error)
        };
        let random = getrandom::u64()
            .map_err(|error| Fault::new(FaultKind::Failed, "the system gives no random numbers").source(&error))?;
        let path = std::env::temp_dir().join(format!("bowline-import-{random:016x}.sql"));
        File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(|error| failed(&error))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is the temporary folder's to clean up.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_by_their_first_bytes() {
        assert_eq!(form_of(b"PGDMP\x01"), Form::Archive);
        assert_eq!(form_of(b"REDIS0011"), Form::Rdb);
        assert_eq!(form_of(b"\x1f\x8b\x08"), Form::Compressed);
        assert_eq!(form_of(b"-- SQL"), Form::Text);
        assert_eq!(form_of(b""), Form::Empty);
    }

    #[test]
    fn what_a_kind_cannot_take_is_refused_before_anybody_is_let_in() {
        let file = Path::new("/x");
        let check = |kind, form, expected| assert_eq!(check(kind, form, file).is_ok(), expected, "{kind} {form:?}");
        for kind in ResourceKind::ALL {
            check(kind, Form::Text, true);
            check(kind, Form::Archive, kind == ResourceKind::Postgres);
            check(kind, Form::Rdb, false);
            check(kind, Form::Compressed, false);
            check(kind, Form::Folder, false);
            check(kind, Form::Empty, false);
            check(kind, Form::Stream, false);
        }
    }

    #[test]
    fn a_text_is_done_whole_or_not_at_all() {
        let check = |kind, text: &str, expected| {
            let line = broken_transaction(kind, text.as_bytes()).map(|(line, _)| line);
            assert_eq!(line, expected, "{kind} {text}");
        };
        check(ResourceKind::Postgres, "SELECT 1;\nCOMMIT;", Some(2));
        check(ResourceKind::Postgres, "\\! true", Some(1));
        check(ResourceKind::Redis, "SET a b\nexec\n", Some(2));
        check(ResourceKind::Redis, "SET exec discard\n", None);
        check(ResourceKind::Redis, "*2\r\n$3\r\nSET\r\n$8\r\na\nexec\n \r\nGET a\n", None);
        check(ResourceKind::Redis, "*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nEXEC\r\n", Some(6));
        check(ResourceKind::Redis, "*2\r\n$999\r\nGET\r\nexec", Some(4));
        check(ResourceKind::MariaDb, "COMMIT;", None);
    }
}
