//! PostgreSQL elsewhere.

use bowline_core::resource::Encryption;
use tokio::net::TcpStream;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Look;
use super::failure::Away;

pub(super) async fn ask(look: &Look) -> Result<Option<String>, Away> {
    let mut config = Config::new();
    config.user(look.user()).dbname(look.database()).application_name("bowline-probe");
    config.ssl_mode(match look.encryption {
        Encryption::Off => SslMode::Disable,
        Encryption::Preferred => SslMode::Prefer,
        Encryption::Required | Encryption::Chain | Encryption::Full => SslMode::Require,
    });
    if let Some(password) = look.password() {
        config.password(password);
    }
    let tls = look.trust.config().map_err(|error| Away::Tls(error.to_string()))?;
    let mut tls = MakeRustlsConnect::new(tls);
    let tls = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut tls, &look.endpoint.host);
    let tls = tls.map_err(|error| Away::Tls(error.to_string()))?;
    let stream = look.connect().await?;
    let (client, connection) = config.connect_raw(stream, tls).await.map_err(|error| away(look, &error))?;
    let asked = async { client.query_one("SHOW server_version", &[]).await };
    tokio::select! {
        row = asked => {
            let row = row.map_err(|error| away(look, &error))?;
            Ok(row.get::<_, String>(0).split_ascii_whitespace().next().map(str::to_owned))
        }
        ended = connection => Err(match ended {
            Ok(()) => Away::NotYet("the server ended the connection".to_owned()),
            Err(error) => away(look, &error),
        }),
    }
}

fn away(look: &Look, error: &Error) -> Away {
    if let Some(said) = error.as_db_error() {
        return match said.code() {
            code if *code == SqlState::INVALID_PASSWORD => Away::Password,
            code if *code == SqlState::INVALID_CATALOG_NAME => Away::NoDatabase,
            code if *code == SqlState::CANNOT_CONNECT_NOW => Away::NotYet(said.message().to_owned()),
            _ => Away::Refused(said.message().to_owned()),
        };
    }
    if let Some(away) = Away::within(error) {
        return away;
    }
    let said = error.to_string();
    let encrypts = look.encryption > Encryption::Preferred;
    match std::error::Error::source(error) {
        Some(source) if encrypts && source.to_string().contains("does not support TLS") => Away::Clear,
        Some(source) => Away::Stranger(format!("{said}: {source}")),
        None => Away::Stranger(said),
    }
}
