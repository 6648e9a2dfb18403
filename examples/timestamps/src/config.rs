//! What can be set, all of it by environment variables.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

const PORT: u16 = 8000;
const REDIS_ENDPOINT: &str = "127.0.0.1";
const REDIS_PORT: u16 = 6379;

/// Redis answers within a millisecond, so whoever waits this long waits for a machine that is gone.
const REDIS_TIMEOUT: Duration = Duration::from_secs(1);

/// How the service is set up.
#[derive(Clone)]
pub struct Config {
    /// `PORT`, default 8000; 0: any free one.
    pub port: u16,
    /// `REDIS_URL`, else `REDIS_ENDPOINT` and `REDIS_PORT`; `REDIS_PASSWORD` goes with either.
    pub redis: ConnectionInfo,
    /// `REDIS_TIMEOUT_MS`, default 1000: how long a request waits for Redis, connecting included.
    pub redis_timeout: Duration,
}

/// Shows where Redis is, never what opens it.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("port", &self.port).field("redis", &self.address()).finish()
    }
}

impl Config {
    /// Reads the variables through `get`. An empty one is as good as none.
    ///
    /// # Errors
    /// A variable that cannot be understood, named. What could be a secret is not repeated.
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let port = number("PORT", get("PORT"), PORT)?;
        let redis = match get("REDIS_URL") {
            Some(url) => from_url(&url)?,
            None => from_parts(get("REDIS_ENDPOINT"), get("REDIS_PORT"))?,
        };
        let redis = match get("REDIS_PASSWORD") {
            Some(password) => {
                let settings = redis.redis_settings().clone().set_password(password);
                redis.set_redis_settings(settings)
            }
            None => redis,
        };
        let redis_timeout = match get("REDIS_TIMEOUT_MS") {
            Some(text) => match text.parse() {
                Ok(ms) if ms > 0 => Duration::from_millis(ms),
                Ok(_) | Err(_) => return Err(format!("REDIS_TIMEOUT_MS: {text:?} is no number of milliseconds")),
            },
            None => REDIS_TIMEOUT,
        };
        Ok(Self { port, redis, redis_timeout })
    }

    /// Host and port, or path of the socket.
    pub fn address(&self) -> String {
        self.redis.addr().to_string()
    }
}

fn from_url(url: &str) -> Result<ConnectionInfo, String> {
    if url.starts_with("rediss:") || url.starts_with("valkeys:") {
        return Err(
            "REDIS_URL: this build speaks no TLS to Redis; put a tunnel in front, or use redis:// on a private \
                    network"
                .to_owned(),
        );
    }
    // The error of the client can repeat parts of the URL, and so the password.
    url.into_connection_info().map_err(|_| "REDIS_URL: write redis://:PASSWORD@HOST:PORT/DB or unix:///PATH".to_owned())
}

fn from_parts(endpoint: Option<String>, port: Option<String>) -> Result<ConnectionInfo, String> {
    let host = endpoint.unwrap_or_else(|| REDIS_ENDPOINT.to_owned());
    let is_name = host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if !is_name && host.parse::<IpAddr>().is_err() {
        return Err(format!("REDIS_ENDPOINT: {host:?} is no host name; the port goes into REDIS_PORT"));
    }
    let port = number("REDIS_PORT", port, REDIS_PORT)?;
    ConnectionAddr::Tcp(host, port).into_connection_info().map_err(|e| format!("REDIS_ENDPOINT: {e}"))
}

fn number(name: &str, text: Option<String>, default: u16) -> Result<u16, String> {
    match text {
        Some(text) => text.parse().map_err(|_| format!("{name}: {text:?} is no port")),
        None => Ok(default),
    }
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
        let config = read(&[("PORT", ""), ("REDIS_URL", "")]).unwrap();
        assert_eq!((config.port, config.address()), (8000, "127.0.0.1:6379".to_owned()));
        assert_eq!((config.redis.redis_settings().password(), config.redis_timeout), (None, Duration::from_secs(1)));
    }

    #[test]
    fn redis_is_named_by_url_or_by_parts() {
        let check = |set: &[(&str, &str)], address: &str, password: Option<&str>| {
            let config = read(set).unwrap();
            assert_eq!((config.address().as_str(), config.redis.redis_settings().password()), (address, password));
        };
        check(&[("REDIS_URL", "redis://:s3cret@cache:6380/2")], "cache:6380", Some("s3cret"));
        check(&[("REDIS_URL", "redis://cache"), ("REDIS_PASSWORD", "s3cret")], "cache:6379", Some("s3cret"));
        check(&[("REDIS_URL", "unix:///run/redis.sock")], "/run/redis.sock", None);
        check(&[("REDIS_ENDPOINT", "cache"), ("REDIS_PORT", "6380")], "cache:6380", None);
        check(&[("REDIS_ENDPOINT", "10.0.0.7"), ("REDIS_PASSWORD", "p@s/s")], "10.0.0.7:6379", Some("p@s/s"));
        check(&[("REDIS_URL", "redis://one"), ("REDIS_ENDPOINT", "two")], "one:6379", None);
    }

    #[test]
    fn what_cannot_be_understood_is_named_and_no_secret_is_repeated() {
        let check = |name: &str, value: &str| {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && !error.contains("s3cret"), "{error}");
        };
        check("PORT", "http");
        check("PORT", "70000");
        check("REDIS_PORT", "0x1");
        check("REDIS_TIMEOUT_MS", "1s");
        check("REDIS_TIMEOUT_MS", "0");
        check("REDIS_ENDPOINT", "cache:6379");
        check("REDIS_URL", "http://:s3cret@cache");
        check("REDIS_URL", "redis://:s3cret@cache:port");
        check("REDIS_URL", "rediss://:s3cret@cache");
    }

    #[test]
    fn debug_shows_no_password() {
        let config = read(&[("REDIS_URL", "redis://:s3cret@cache")]).unwrap();
        let shown = format!("{config:?}");
        assert!(shown.contains("cache:6379") && !shown.contains("s3cret"), "{shown}");
    }
}
