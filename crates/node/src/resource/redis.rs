//! Redis: its configuration with two users, and its marker beside the data, where the app's commands do not reach.
//!
//! The default user is the app's: everything but administration, so that `CONFIG SET dir` writes no files. The
//! administrator `bowline` belongs to the node, which comes over the private Unix socket. Both passwords are in the
//! configuration as SHA-256 only.

use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::instance::StopSignal;
use bowline_core::resource::{Access, Prepared, Server, Trouble};
use bowline_core::secret::Secret;
use bowline_core::units::{Bytes, Round};
use redis::aio::MultiplexedConnection;
use redis::{ConnectionAddr, ConnectionInfo, ErrorKind, RedisConnectionInfo, RedisError};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::failure::{self, foreign, unusable};
use super::packages;
use super::site::{Site, memory};

/// The administrator.
pub(super) const ADMIN: &str = "bowline";
/// Says whose data these are.
const MARKER: &str = "environment";
/// A server that listens answers at once, or is busy beyond use.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What an app may do: all but administration; clients ask for some settings at their start.
pub(super) const RULES: &str = "~* &* +@all -@admin +config|get";

/// Binary found, folder made, configuration written.
pub(super) fn prepare(site: &Site<'_>, access: &Access) -> Result<Prepared, Trouble> {
    let (key, wanted) = (site.key, site.server.version);
    let found = packages::only(&["/usr/bin/redis-server", "/usr/local/bin/redis-server"]);
    let fits = found.clone().filter(|one| wanted.is_none_or(|wanted| one.major == wanted));
    let found: Vec<_> = found.into_iter().collect();
    let installed = fits.ok_or_else(|| packages::missing(key, wanted, &found, "redis-server"))?;
    site.make_folders()?;
    check_environment(site, access)?;
    site.make_data(site.uid(), |_, _| Ok(()))?;
    site.write_config("users.acl", &users(site.server, access))?;
    site.write_config("redis.conf", &settings(site))?;
    let (binary, config) = (installed.binary.display().to_string(), site.config("redis.conf").display().to_string());
    Ok(site.prepared(&[&binary, &config], StopSignal::Term, installed.version))
}

fn check_environment(site: &Site<'_>, access: &Access) -> Result<(), Trouble> {
    let path = site.config(MARKER);
    match std::fs::read_to_string(&path) {
        Ok(found) if found.trim() != access.environment => Err(foreign(site.key, found.trim(), &access.environment)),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            site.write_config(MARKER, &format!("{}\n", access.environment))
        }
        Err(error) => Err(failure::file(site.key, "read", &path, &error)),
    }
}

fn users(server: &Server, access: &Access) -> String {
    let admin = server.admin.as_ref().map(|admin| format!("user {ADMIN} on #{} ~* &* +@all\n", hash(admin)));
    format!("user default on #{} {RULES}\n{}", hash(&access.password), admin.unwrap_or_default())
}

/// As `ACL SETUSER` takes it.
pub(super) fn hash(password: &Secret) -> String {
    bowline_core::id::Digest(Sha256::digest(password.expose()).into()).to_string()
}

fn settings(site: &Site<'_>) -> String {
    let quoted = |path: std::path::PathBuf| {
        format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
    };
    let (port, data) = (site.server.port, quoted(site.data()));
    let (socket, acl) = (quoted(site.socket.join("redis.sock")), quoted(site.config("users.acl")));
    // The log is for every write; the snapshot makes restarts short.
    let persistence = match site.server.persist {
        true => "appendonly yes\nappendfsync everysec\naof-use-rdb-preamble yes\nsave 3600 1 300 100 60 10000\n",
        false => "appendonly no\nsave \"\"\n",
    };
    // A cache may forget; data that are to be kept may not.
    let (limit, policy) = match site.server.persist {
        true => (memory() / 2, "noeviction"),
        false => (memory() / 4, "allkeys-lru"),
    };
    format!(
        "# Written by Bowline before every start.\n\
         bind 127.0.0.1\nport {port}\nprotected-mode yes\nunixsocket {socket}\nunixsocketperm 700\ndaemonize no\n\
         dir {data}\nlogfile \"\"\nloglevel notice\naclfile {acl}\nacllog-max-len 32\ntcp-keepalive 60\n\
         maxmemory {limit}\nmaxmemory-policy {policy}\nstop-writes-on-bgsave-error yes\n{persistence}"
    )
}

/// The administrator's connection.
pub(super) async fn connect(site: &Site<'_>) -> Result<MultiplexedConnection, Trouble> {
    let failed = |error: RedisError| unusable(site.key, "the server does not let its administrator in", &error);
    let password = site.server.admin.as_ref().map(|admin| String::from_utf8_lossy(admin.expose()).into_owned());
    let login = RedisConnectionInfo { username: Some(ADMIN.to_owned()), password, ..RedisConnectionInfo::default() };
    let info = ConnectionInfo { addr: ConnectionAddr::Unix(site.socket.join("redis.sock")), redis: login };
    let client = redis::Client::open(info).map_err(failed)?;
    let config =
        redis::AsyncConnectionConfig::new().set_connection_timeout(ANSWER_WITHIN).set_response_timeout(ANSWER_WITHIN);
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| match is_loading(&error) {
        true => failure::soon("it reads its data"),
        false => failed(error),
    })
}

fn is_loading(error: &RedisError) -> bool {
    error.kind() == ErrorKind::BusyLoadingError
}

/// A value is held whole while it is written down.
const LARGEST: u64 = 256 << 20;
/// Keys asked for at once.
const PAGE: usize = 256;

/// Everything in it, as commands that make it anew (`redis-cli --pipe`); each key as it is when its turn comes.
pub(super) async fn dump(site: &Site<'_>, to: &mut (dyn AsyncWrite + Unpin + Send)) -> Result<(), Trouble> {
    let failed = |error: RedisError| unusable(site.key, "reading what is in it", &error);
    let unwritten = |error: std::io::Error| unusable(site.key, "writing down what is in it", &error);
    let mut admin = connect(site).await?;
    for number in databases(&mut admin).await.map_err(failed)? {
        redis::cmd("SELECT").arg(number).exec_async(&mut admin).await.map_err(failed)?;
        send(to, &[b"SELECT", number.to_string().as_bytes()]).await.map_err(unwritten)?;
        let mut cursor: u64 = 0;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("COUNT").arg(PAGE);
            let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(&mut admin).await.map_err(failed)?;
            for key in keys {
                let mut usage = redis::cmd("MEMORY");
                usage.arg("USAGE").arg(&key);
                let bytes: Option<u64> = usage.query_async(&mut admin).await.map_err(failed)?;
                if bytes.is_some_and(|bytes| bytes > LARGEST) {
                    return Err(too_large(site, &key));
                }
                let mut both = redis::pipe();
                both.atomic().cmd("PTTL").arg(&key).cmd("DUMP").arg(&key);
                let (left, value): (i64, Option<Vec<u8>>) = both.query_async(&mut admin).await.map_err(failed)?;
                // It may be gone meanwhile, or in this millisecond.
                let Some(value) = value.filter(|_| left != 0) else { continue };
                let left = left.max(0).to_string();
                send(to, &[b"RESTORE", &key, left.as_bytes(), &value, b"REPLACE"]).await.map_err(unwritten)?;
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// Those that hold anything: `db0:keys=…` of INFO.
async fn databases(admin: &mut MultiplexedConnection) -> Result<Vec<u32>, RedisError> {
    let info: String = redis::cmd("INFO").arg("keyspace").query_async(admin).await?;
    Ok(info.lines().filter_map(|line| line.strip_prefix("db")?.split(':').next()?.parse().ok()).collect())
}

/// As clients send it (RESP, arrays of bulk strings).
async fn send(to: &mut (dyn AsyncWrite + Unpin + Send), words: &[&[u8]]) -> std::io::Result<()> {
    to.write_all(format!("*{}\r\n", words.len()).as_bytes()).await?;
    for word in words {
        to.write_all(format!("${}\r\n", word.len()).as_bytes()).await?;
        to.write_all(word).await?;
        to.write_all(b"\r\n").await?;
    }
    Ok(())
}

fn too_large(site: &Site<'_>, key: &[u8]) -> Trouble {
    let name: String = String::from_utf8_lossy(key).chars().take(80).collect();
    let fault = Fault::new(FaultKind::Refused, format!("{} of {} cannot be kept as it is", site.key.id, site.key.app))
        .caused_by(format!("the key {name:?} takes more than {}", Round(Bytes(LARGEST))));
    failure::lasting(fault.hint("take it out of `snapshot`, and keep its own files (appendonlydir) instead"))
}

/// Users as they should be. One that runs from before may not persist yet, which costs no restart; that it does and need not
/// loses nothing.
pub(super) async fn provision(site: &Site<'_>, access: &Access) -> Result<(), Trouble> {
    let mut admin = connect(site).await?;
    if site.server.persist {
        let mut log = redis::cmd("CONFIG");
        log.arg("SET").arg("appendonly").arg("yes");
        log.exec_async(&mut admin).await.map_err(|error| match is_loading(&error) {
            true => failure::soon("it reads its data"),
            false => unusable(site.key, "having it write down what changes", &error),
        })?;
    }
    let mut user = redis::cmd("ACL");
    user.arg("SETUSER").arg("default").arg("reset").arg("on").arg(format!("#{}", hash(&access.password)));
    RULES.split(' ').for_each(|rule| {
        user.arg(rule);
    });
    user.exec_async(&mut admin).await.map_err(|error| match is_loading(&error) {
        true => failure::soon("it reads its data"),
        false => unusable(site.key, "giving the app its password", &error),
    })
}
