//! The users in PostgreSQL: a pool of verified connections, and no wait without an end.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::page::Page;
use crate::unavailable::{Unavailable, chain, is_lost};
use crate::{Config, Metrics};

const PAGE: &str = "SELECT id, name, email FROM users WHERE id > $1 ORDER BY id LIMIT $2";

/// Whoever can read the table can serve.
const READY: &str = "SELECT FROM users LIMIT 1";

type Parameter<'p> = (&'p (dyn ToSql + Sync), Type);

/// A user as the API shows it.
#[derive(Debug, Serialize)]
pub(crate) struct User {
    pub(crate) id: i64,
    name: String,
    email: String,
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

/// The users. Safe to use from many requests at once.
pub struct Database {
    pool: Pool,
    limit: Duration,
    seen: AtomicU8,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("pool", &self.pool.status()).finish_non_exhaustive()
    }
}

impl Database {
    /// Does not connect: the service starts, and says it is not ready, while the database is away.
    ///
    /// # Errors
    /// A CA file that cannot be used, named.
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Result<Self, String> {
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = match &config.ca {
            Some(ca) => Manager::from_config(config.database.clone(), verified(ca)?, manager),
            None => Manager::from_config(config.database.clone(), NoTls, manager),
        };
        // The server gives up when the client does: otherwise a lock on the table would gather one waiting query per
        // request until no connection is left.
        let settings = format!(
            "SET statement_timeout = {}; SET default_transaction_read_only = on",
            config.timeout.as_millis().min(i32::MAX as u128)
        );
        let prepare = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
            let settings = settings.clone();
            Box::pin(async move { client.batch_execute(&settings).await.map_err(HookError::Backend) })
        });
        let pool = Pool::builder(manager)
            .max_size(config.pool.get())
            .runtime(Runtime::Tokio1)
            // Half of the time for waiting, so that there is some left to ask.
            .wait_timeout(Some(config.timeout / 2))
            .post_create(prepare)
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self { pool, limit: config.timeout, seen: AtomicU8::new(Seen::Nothing as u8), metrics })
    }

    /// The users of a page, and whether there are more behind it.
    pub(crate) async fn users(&self, page: Page) -> Result<(Vec<User>, bool), Unavailable> {
        // One more than asked for tells whether there is a next page.
        let one_more = i64::from(page.limit) + 1;
        let rows = self.query(PAGE, &[(&page.after, Type::INT8), (&one_more, Type::INT8)]).await?;
        let is_more = rows.len() > usize::from(page.limit);
        let users: Result<Vec<User>, _> = rows.iter().take(usize::from(page.limit)).map(User::of).collect();
        // Another schema than that of `source/init.sql`.
        users.map(|users| (users, is_more)).map_err(|_| Unavailable::Schema)
    }

    pub(crate) async fn ready(&self) -> Result<(), Unavailable> {
        self.query(READY, &[]).await.map(drop)
    }

    /// Brings the figures of the pool up to date.
    pub(crate) fn measure(&self) {
        let status = self.pool.status();
        self.metrics.pool_is(status.max_size, status.size, status.available, status.waiting);
    }

    async fn query(&self, query: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Unavailable> {
        let began = Instant::now();
        let mut held = None;
        let result = match timeout(self.limit, self.twice(query, parameters, &mut held)).await {
            Ok(result) => result.map_err(|error| (Unavailable::of(&error), explained(&error))),
            Err(_) => {
                // The next query over this connection would wait for the answer to this one. And if the machine
                // vanished, the others look open for many minutes too.
                drop(held.take().map(Object::take));
                self.empty();
                Err((Unavailable::Timeout, format!("no answer within {} ms", self.limit.as_millis())))
            }
        };
        let outcome = result.as_ref().map_or_else(|(why, _)| why.reason(), |_| "ok");
        self.metrics.queried(outcome, began.elapsed());
        match &result {
            Ok(_) => self.saw(Seen::Up, "", ""),
            Err((why, error)) => self.saw(Seen::Down, why.reason(), error),
        }
        result.map_err(|(why, _)| why)
    }

    /// A connection is found to be dead only by using it. All queries here only read, so they may be sent twice, and
    /// after a restart of the database nobody notices.
    async fn twice(
        &self,
        query: &str,
        with: &[Parameter<'_>],
        held: &mut Option<Object>,
    ) -> Result<Vec<Row>, PoolError> {
        let client = held.insert(self.pool.get().await?);
        match client.query_typed(query, with).await {
            Err(error) if is_lost(&error) => {
                self.empty();
                let client = held.insert(self.pool.get().await?);
                Ok(client.query_typed(query, with).await?)
            }
            result => Ok(result?),
        }
    }

    /// Throws away what lies in the pool: it was opened to the same server.
    fn empty(&self) {
        self.pool.retain(|_, _| false);
    }

    fn saw(&self, seen: Seen, reason: &str, error: &str) {
        self.metrics.database_is(seen == Seen::Up);
        let was = self.seen.swap(seen as u8, Ordering::Relaxed);
        if was == seen as u8 {
            return;
        }
        let was = Seen::name(was);
        match seen {
            Seen::Up => tracing::info!(state = "up", was, "database"),
            Seen::Down => tracing::warn!(state = "down", was, reason, error, "database"),
            Seen::Nothing => {}
        }
    }
}

/// For the log. What the pool was doing meanwhile helps nobody.
fn explained(error: &PoolError) -> String {
    if let PoolError::Backend(cause) = error { chain(cause) } else { chain(error) }
}

impl User {
    fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self { id: row.try_get(0)?, name: row.try_get(1)?, email: row.try_get(2)? })
    }
}

/// TLS that trusts these authorities alone, and checks the name of the server.
fn verified(ca: &Path) -> Result<MakeRustlsConnect, String> {
    let failed = |why: String| format!("the CA file {}: {why}", ca.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|e| failed(e.to_string()))? {
        let certificate = certificate.map_err(|e| failed(e.to_string()))?;
        roots.add(certificate).map_err(|e| failed(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(failed("there is no certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|e| failed(e.to_string()))?.with_root_certificates(roots).with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
