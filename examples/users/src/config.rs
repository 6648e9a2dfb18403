//! What can be set, all of it by environment variables.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::config::{Host, SslMode};

const PORT: u16 = 8000;
const DB_HOST: &str = "127.0.0.1";
const DB_PORT: u16 = 5432;
/// Name of the database and of its user.
const DB_NAME: &str = "users";

/// A page is read in a millisecond, so whoever waits this long waits for a machine that is gone.
const DB_TIMEOUT: Duration = Duration::from_secs(2);

/// A tenth of what PostgreSQL accepts as it comes, so that several copies and an administrator fit beside each other.
const DB_POOL: NonZeroUsize = NonZeroUsize::new(10).expect("10 is not 0");

/// How the service is set up.
#[derive(Clone)]
pub struct Config {
    /// `PORT`, default 8000; 0: any free one.
    pub port: u16,
    /// `WORKERS`: threads that serve. Default: one per core.
    pub workers: Option<NonZeroUsize>,
    /// `DATABASE_URL`, else `DB_HOST`, `DB_PORT`, `DB_NAME` and `DB_USER`; `DB_PASSWORD` goes with either. Its TLS mode
    /// is `Require` exactly if there is a `ca`.
    pub database: tokio_postgres::Config,
    /// `DATABASE_CA`, else `PGSSLROOTCERT`, else `sslrootcert` of the URL: certificates to trust, PEM.
    pub ca: Option<PathBuf>,
    /// `DB_POOL`: connections kept at most. Default 10.
    pub pool: NonZeroUsize,
    /// `DB_TIMEOUT_MS`, default 2000: how long a request waits for the database, connecting included.
    pub timeout: Duration,
}

/// Shows where the database is, never what opens it.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Config");
        shown.field("port", &self.port).field("database", &self.address()).field("ca", &self.ca);
        shown.finish_non_exhaustive()
    }
}

impl Config {
    /// Reads the variables through `get`. An empty one is as good as none.
    ///
    /// # Errors
    /// A variable that cannot be understood, named. What could be a secret is not repeated.
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let mut tls = Tls { mode: get("PGSSLMODE"), ca: None };
        let mut database = match get("DATABASE_URL") {
            Some(url) => from_url(&url, &mut tls)?,
            None => {
                let mut database = tokio_postgres::Config::new();
                database.host(get("DB_HOST").unwrap_or_else(|| DB_HOST.to_owned()));
                database.port(number("DB_PORT", get("DB_PORT"))?.unwrap_or(DB_PORT));
                database.dbname(get("DB_NAME").unwrap_or_else(|| DB_NAME.to_owned()));
                database.user(get("DB_USER").unwrap_or_else(|| DB_NAME.to_owned()));
                database
            }
        };
        if let Some(password) = get("DB_PASSWORD") {
            database.password(password);
        }
        let ca = get("DATABASE_CA").or_else(|| get("PGSSLROOTCERT")).or(tls.ca.take()).map(PathBuf::from);
        database.ssl_mode(tls.mode(ca.is_some())?);
        database.application_name(env!("CARGO_PKG_NAME"));
        Ok(Self {
            port: number("PORT", get("PORT"))?.unwrap_or(PORT),
            workers: number("WORKERS", get("WORKERS"))?,
            database,
            ca,
            pool: number("DB_POOL", get("DB_POOL"))?.unwrap_or(DB_POOL),
            timeout: match number::<NonZeroUsize>("DB_TIMEOUT_MS", get("DB_TIMEOUT_MS"))? {
                Some(ms) => Duration::from_millis(ms.get() as u64),
                None => DB_TIMEOUT,
            },
        })
    }

    /// Host, port and name of the database.
    pub fn address(&self) -> String {
        let host = self.database.get_hosts().first().map_or_else(String::new, |host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let port = self.database.get_ports().first().copied().unwrap_or(DB_PORT);
        format!("{host}:{port}/{}", self.database.get_dbname().unwrap_or_default())
    }
}

/// What libpq calls `sslmode` and `sslrootcert`.
struct Tls {
    mode: Option<String>,
    ca: Option<String>,
}

impl Tls {
    /// Either the server is verified, its name included, or there is no TLS. Everything between gives a feeling of
    /// safety and none of it: who can read can also answer in the server's place.
    fn mode(&self, has_ca: bool) -> Result<SslMode, String> {
        match (self.mode.as_deref(), has_ca) {
            (Some("disable"), true) => Err("sslmode is disable, and a CA is given: take out one of them".to_owned()),
            (None | Some("allow" | "prefer" | "require" | "verify-ca" | "verify-full"), true) => Ok(SslMode::Require),
            (None | Some("disable" | "allow" | "prefer"), false) => Ok(SslMode::Disable),
            (Some(mode @ ("require" | "verify-ca" | "verify-full")), false) => Err(format!(
                "sslmode is {mode}, and no CA is given: DATABASE_CA=FILE, for example /etc/ssl/certs/ca-certificates.crt"
            )),
            (Some(mode), _) => Err(format!("sslmode: {mode:?} is none of disable, prefer, require, verify-full")),
        }
    }
}

/// Takes out what only libpq knows, and hands the rest to the driver.
fn from_url(url: &str, tls: &mut Tls) -> Result<tokio_postgres::Config, String> {
    // The error of the driver can repeat parts of the URL, and so the password.
    let error = || "DATABASE_URL: write postgres://USER:PASSWORD@HOST:PORT/NAME".to_owned();
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(error());
    }
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(error)?;
        let decoded = || percent_decode_str(value).decode_utf8().map(Into::into).map_err(|_| error());
        match name {
            "sslmode" => tls.mode = Some(decoded()?),
            "sslrootcert" => tls.ca = Some(decoded()?),
            _ => rest.push(pair),
        }
    }
    format!("{base}?{}", rest.join("&")).parse().map_err(|_| error())
}

fn number<T: FromStr>(name: &str, text: Option<String>) -> Result<Option<T>, String> {
    text.map(|text| text.parse().map_err(|_| format!("{name}: {text:?} is no number that fits"))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Config, String> {
        let set: Vec<(String, String)> = set.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Config::from_environment(|name| set.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()))
    }

    #[test]
    fn nothing_has_to_be_set() {
        let config = read(&[("PORT", ""), ("DATABASE_URL", "")]).unwrap();
        assert_eq!((config.port, config.pool.get(), config.timeout), (8000, 10, Duration::from_secs(2)));
        assert_eq!((config.address().as_str(), config.database.get_user()), ("127.0.0.1:5432/users", Some("users")));
        assert_eq!((config.database.get_ssl_mode(), config.ca, config.workers), (SslMode::Disable, None, None));
    }

    #[test]
    fn the_database_is_named_by_url_or_by_parts() {
        let check = |set: &[(&str, &str)], address: &str, user: &str, password: Option<&str>| {
            let config = read(set).unwrap();
            let password = password.map(str::as_bytes);
            let found = (config.address(), config.database.get_user(), config.database.get_password());
            assert_eq!(found, (address.to_owned(), Some(user), password));
        };
        check(&[("DATABASE_URL", "postgres://me:s%2F3@db:6432/app")], "db:6432/app", "me", Some("s/3"));
        check(&[("DATABASE_URL", "postgresql://me@db/app"), ("DB_PASSWORD", "s3")], "db:5432/app", "me", Some("s3"));
        check(&[("DATABASE_URL", "postgres://me@/app?host=/run/pg&connect_timeout=3")], "/run/pg:5432/app", "me", None);
        let parts =
            [("DB_HOST", "db"), ("DB_PORT", "6432"), ("DB_NAME", "app"), ("DB_USER", "me"), ("DB_PASSWORD", "s/3")];
        check(&parts, "db:6432/app", "me", Some("s/3"));
    }

    #[test]
    fn tls_is_verified_or_not_used() {
        let check = |set: &[(&str, &str)], mode: SslMode, ca: Option<&str>| {
            let config = read(set).unwrap();
            assert_eq!((config.database.get_ssl_mode(), config.ca), (mode, ca.map(PathBuf::from)), "{set:?}");
        };
        const URL: &str = "DATABASE_URL";
        check(&[("DATABASE_CA", "/ca")], SslMode::Require, Some("/ca"));
        check(&[("PGSSLROOTCERT", "/ca")], SslMode::Require, Some("/ca"));
        check(&[("DATABASE_CA", "/mine"), ("PGSSLROOTCERT", "/ca")], SslMode::Require, Some("/mine"));
        check(&[(URL, "postgres://db?sslmode=verify-full&sslrootcert=%2Fca")], SslMode::Require, Some("/ca"));
        check(&[(URL, "postgres://db?sslmode=require"), ("DATABASE_CA", "/ca")], SslMode::Require, Some("/ca"));
        check(&[(URL, "postgres://db?sslmode=disable"), ("PGSSLMODE", "require")], SslMode::Disable, None);
        check(&[("PGSSLMODE", "prefer")], SslMode::Disable, None);
        for mode in ["require", "verify-ca", "verify-full"] {
            let error = read(&[("PGSSLMODE", mode)]).unwrap_err();
            assert!(error.contains(mode) && error.contains("DATABASE_CA"), "{error}");
        }
        assert!(read(&[("PGSSLMODE", "disable"), ("DATABASE_CA", "/ca")]).is_err());
        assert!(read(&[("PGSSLMODE", "sometimes")]).is_err());
    }

    #[test]
    fn what_cannot_be_understood_is_named_and_no_secret_is_repeated() {
        let check = |name: &str, value: &str| {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && !error.contains("s3cret"), "{error}");
        };
        check("PORT", "70000");
        check("WORKERS", "0");
        check("DB_PORT", "pg");
        check("DB_POOL", "0");
        check("DB_TIMEOUT_MS", "2s");
        check("DATABASE_URL", "mysql://me:s3cret@db/app");
        check("DATABASE_URL", "postgres://me:s3cret@db:port/app");
        check("DATABASE_URL", "postgres://me:s3cret@db/app?password_of=s3cret");
        check("DATABASE_URL", "postgres://me:s3cret@db/app?s3cret");
    }

    #[test]
    fn debug_shows_no_password() {
        let config = read(&[("DATABASE_URL", "postgres://me:s3cret@db/app")]).unwrap();
        let shown = format!("{config:?}");
        assert!(shown.contains("db:5432/app") && !shown.contains("s3cret"), "{shown}");
    }
}
