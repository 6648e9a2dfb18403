//! Servers elsewhere: asked who they are with the app's own credentials, never changed.
//!
//! A look is one connection as an app would make it, verified as the URL and the CA say, and one question for the
//! version. No marker is left: the server is somebody else's.
//!
//! Architecture invariant: no part of a URL but host, port, user and database gets into an error.

mod failure;
mod mariadb;
mod postgres;
mod redis;
mod tls;

use std::time::Duration;

use bowline_core::app::ResourceKind;
use bowline_core::resource::{Encryption, Endpoint, External, ResourceKey, Trouble};
use tokio::net::TcpStream;

use failure::{Away, bad_url};
use tls::Trust;

/// A server that answers at all answers by then.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What a look needs.
#[derive(Debug)]
struct Look {
    endpoint: Endpoint,
    encryption: Encryption,
    trust: Trust,
}

impl Look {
    /// `db.example.com:5432`; an address of IPv6 in brackets.
    fn address(&self) -> String {
        let Endpoint { host, port, .. } = &self.endpoint;
        match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        }
    }

    fn user(&self) -> String {
        self.endpoint.user.clone().unwrap_or_else(|| "default".to_owned())
    }

    fn database(&self) -> String {
        self.endpoint.database.clone().unwrap_or_default()
    }

    fn password(&self) -> Option<String> {
        let password = self.endpoint.password.as_ref()?;
        Some(String::from_utf8_lossy(password.expose()).into_owned())
    }

    async fn connect(&self) -> Result<TcpStream, Away> {
        let Endpoint { host, port, .. } = &self.endpoint;
        TcpStream::connect((host.as_str(), *port)).await.map_err(Away::Unreachable)
    }
}

/// Its version, where it tells.
pub(super) async fn probe(key: &ResourceKey, external: &External) -> Result<Option<String>, Trouble> {
    let has_ca = external.ca.is_some();
    let endpoint = Endpoint::parse(key.id.kind, &external.url).map_err(|error| bad_url(key, &error))?;
    let encryption = Encryption::of(key.id.kind, &external.url, has_ca).map_err(|error| bad_url(key, &error))?;
    let trust = Trust::of(encryption, external.ca.as_ref()).map_err(|error| failure::bad_ca(key, &error))?;
    let look = Look { endpoint, encryption, trust };
    let asked = async {
        match key.id.kind {
            ResourceKind::Postgres => postgres::ask(&look).await,
            ResourceKind::MariaDb => mariadb::ask(&look).await,
            ResourceKind::Redis => redis::ask(&look).await,
        }
    };
    let answer = tokio::time::timeout(ANSWER_WITHIN, asked).await;
    answer.unwrap_or(Err(Away::Late(ANSWER_WITHIN))).map_err(|away| away.trouble(key, &look))
}
