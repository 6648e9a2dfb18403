//! The timestamp in Redis: one key, one connection that all requests share, and no wait without an end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::{Config, Metrics};

const KEY: &str = "timestamps:current";

/// Why there is no answer. Each but the last passes by itself, so the client is asked to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unavailable {
    #[error("Redis cannot be reached")]
    Unreachable,
    #[error("Redis does not answer")]
    Timeout,
    #[error("Redis does not accept the password")]
    Password,
    #[error("Redis is loading its data")]
    Loading,
    #[error("Redis refuses the command")]
    Refused,
    #[error("what Redis holds is no timestamp; /reset removes it")]
    NotATimestamp,
}

impl Unavailable {
    /// Label of the metric, and of the answer.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Unreachable => "redis_unreachable",
            Self::Timeout => "redis_timeout",
            Self::Password => "redis_password",
            Self::Loading => "redis_loading",
            Self::Refused => "redis_refused",
            Self::NotATimestamp => "not_a_timestamp",
        }
    }

    fn of(error: &RedisError) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "the client's kinds are not ours and grow")]
        match error.kind() {
            ErrorKind::Io => Self::Unreachable,
            ErrorKind::AuthenticationFailed => Self::Password,
            ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown) => Self::Loading,
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => Self::NotATimestamp,
            _ => match error.code() {
                Some("NOAUTH" | "WRONGPASS") => Self::Password,
                Some("WRONGTYPE") => Self::NotATimestamp,
                _ => Self::Refused,
            },
        }
    }
}

/// What was seen last; changes are logged, repetitions are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Seen {
    Nothing = 0,
    Up = 1,
    Down = 2,
}

impl Seen {
    fn name(was: u8) -> &'static str {
        match was {
            was if was == Self::Up as u8 => "up",
            was if was == Self::Down as u8 => "down",
            _ => "unknown",
        }
    }
}

/// The timestamp. Cheap to share; safe to use from many requests at once.
pub struct Store {
    client: Client,
    settings: AsyncConnectionConfig,
    /// For each command, whatever it takes: waiting for a connection, connecting, and once more if that one is dead.
    limit: Duration,
    /// The number tells one connection from the next, so that a late failure of the old one does not throw away the new one.
    connection: Mutex<(u64, Option<MultiplexedConnection>)>,
    /// Connections up to this number are not worth keeping: whoever comes next connects anew.
    dead: AtomicU64,
    seen: AtomicU8,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Does not connect: the service starts, and says it is not ready, while Redis is away.
    ///
    /// # Errors
    /// An address that this build cannot speak to.
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Result<Self, String> {
        let client = Client::open(config.redis.clone()).map_err(|e| e.to_string())?;
        // One limit over all, below, instead of one for each step.
        let settings = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connection = Mutex::new((0, None));
        let limit = config.redis_timeout;
        Ok(Self {
            client,
            settings,
            limit,
            connection,
            dead: AtomicU64::new(0),
            seen: AtomicU8::new(Seen::Nothing as u8),
            metrics,
        })
    }

    /// The timestamp, if one is set.
    pub(crate) async fn get(&self) -> Result<Option<Timestamp>, Unavailable> {
        let text: Option<String> = self.run("GET", redis::cmd("GET").arg(KEY)).await?;
        text.map(|text| text.parse().map_err(|_| Unavailable::NotATimestamp)).transpose()
    }

    pub(crate) async fn set(&self, timestamp: Timestamp) -> Result<(), Unavailable> {
        self.run("SET", redis::cmd("SET").arg(KEY).arg(shown(timestamp))).await
    }

    pub(crate) async fn reset(&self) -> Result<(), Unavailable> {
        self.run("DEL", redis::cmd("DEL").arg(KEY)).await
    }

    pub(crate) async fn ping(&self) -> Result<(), Unavailable> {
        self.run("PING", &redis::cmd("PING")).await
    }

    async fn run<T: FromRedisValue>(&self, name: &'static str, command: &Cmd) -> Result<T, Unavailable> {
        let began = Instant::now();
        let mut used = None;
        let result = match timeout(self.limit, self.twice(command, &mut used)).await {
            Ok(result) => result.map_err(|error| (Unavailable::of(&error), error.to_string())),
            Err(_) => {
                // A machine that vanished leaves a connection that looks open for many minutes.
                self.forget(used);
                Err((Unavailable::Timeout, format!("no answer within {} ms", self.limit.as_millis())))
            }
        };
        let outcome = result.as_ref().map_or_else(|(why, _)| why.reason(), |_| "ok");
        self.metrics.commanded(name, outcome, began.elapsed());
        match &result {
            Ok(_) | Err((Unavailable::NotATimestamp, _)) => self.saw(Seen::Up, "", ""),
            Err((why, error)) => self.saw(Seen::Down, why.reason(), error),
        }
        result.map_err(|(why, _)| why)
    }

    /// A connection is found to be dead only by using it. Each of the commands here may be sent twice, so after a
    /// restart of Redis nobody notices.
    async fn twice<T: FromRedisValue>(&self, command: &Cmd, used: &mut Option<u64>) -> Result<T, RedisError> {
        match self.once(command, used).await {
            Err(error) if error.is_connection_dropped() => self.once(command, used).await,
            result => result,
        }
    }

    async fn once<T: FromRedisValue>(&self, command: &Cmd, used: &mut Option<u64>) -> Result<T, RedisError> {
        let (number, mut connection) = self.connection().await?;
        *used = Some(number);
        let result = command.query_async(&mut connection).await;
        if result.as_ref().is_err_and(RedisError::is_unrecoverable_error) {
            self.forget(*used);
        }
        result
    }

    /// One request connects, the others wait for it.
    async fn connection(&self) -> Result<(u64, MultiplexedConnection), RedisError> {
        let mut slot = self.connection.lock().await;
        if let (number, Some(open)) = &*slot
            && *number > self.dead.load(Ordering::Relaxed)
        {
            return Ok((*number, open.clone()));
        }
        let open = self.client.get_multiplexed_async_connection_with_config(&self.settings).await?;
        *slot = (slot.0 + 1, Some(open.clone()));
        Ok((slot.0, open))
    }

    /// The connection of this number, and those before it, are given to nobody any more.
    fn forget(&self, used: Option<u64>) {
        if let Some(number) = used {
            self.dead.fetch_max(number, Ordering::Relaxed);
        }
    }

    fn saw(&self, seen: Seen, reason: &str, error: &str) {
        self.metrics.redis_is(seen == Seen::Up);
        let was = self.seen.swap(seen as u8, Ordering::Relaxed);
        if was == seen as u8 {
            return;
        }
        let was = Seen::name(was);
        match seen {
            Seen::Up => tracing::info!(state = "up", was, "redis"),
            Seen::Down => tracing::warn!(state = "down", was, reason, error, "redis"),
            Seen::Nothing => {}
        }
    }
}

/// As it is stored and answered: RFC 3339 in UTC with milliseconds, so that text sorts as time does.
pub(crate) fn shown(timestamp: Timestamp) -> String {
    format!("{timestamp:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_utc_with_milliseconds() {
        let check = |given: &str, expected: &str| assert_eq!(shown(given.parse().unwrap()), expected);
        check("2026-02-03T04:05:06Z", "2026-02-03T04:05:06.000Z");
        check("2026-02-03T04:05:06.7894+02:00", "2026-02-03T02:05:06.789Z");
    }

    #[test]
    fn every_failure_has_a_reason() {
        let check = |error: RedisError, expected: &str| assert_eq!(Unavailable::of(&error).reason(), expected);
        let io = |kind: std::io::ErrorKind| RedisError::from(std::io::Error::from(kind));
        check(io(std::io::ErrorKind::ConnectionRefused), "redis_unreachable");
        check(io(std::io::ErrorKind::TimedOut), "redis_timeout");
        check((ErrorKind::AuthenticationFailed, "no").into(), "redis_password");
        check((ErrorKind::Server(ServerErrorKind::BusyLoading), "no").into(), "redis_loading");
        check((ErrorKind::Server(ServerErrorKind::ReadOnly), "no").into(), "redis_refused");
        check((ErrorKind::UnexpectedReturnType, "no").into(), "not_a_timestamp");
    }
}
