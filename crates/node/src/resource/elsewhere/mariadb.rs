//! MariaDB elsewhere.

use bowline_core::resource::Encryption;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, DriverError, Error, IoError, OptsBuilder, SslOpts};

use super::Look;
use super::failure::Away;

/// Numbers of the server's errors.
const DENIED: u16 = 1045;
const NO_DATABASE: u16 = 1049;

pub(super) async fn ask(look: &Look) -> Result<Option<String>, Away> {
    match (try_with(look, ssl(look, None)).await, look.encryption) {
        (Err(Away::Clear), Encryption::Preferred) => try_with(look, None).await,
        // Who signed it has been verified, and its name does not matter: it is asked for by a name that it bears.
        (Err(Away::WrongName(names)), Encryption::Chain) => match names.first().cloned() {
            Some(name) => try_with(look, ssl(look, Some(name))).await,
            None => Err(Away::WrongName(names)),
        },
        (answer, _) => answer,
    }
}

fn ssl(look: &Look, name: Option<String>) -> Option<SslOpts> {
    if look.encryption == Encryption::Off {
        return None;
    }
    let opts = SslOpts::default().with_disable_built_in_roots(true);
    let opts = match look.encryption.verifies() {
        true => opts.with_root_certs(vec![look.trust.pem.clone().into()]),
        false => opts.with_danger_accept_invalid_certs(true),
    };
    Some(opts.with_danger_tls_hostname_override(name))
}

async fn try_with(look: &Look, ssl: Option<SslOpts>) -> Result<Option<String>, Away> {
    let opts = OptsBuilder::default()
        .ip_or_hostname(look.endpoint.host.clone())
        .tcp_port(look.endpoint.port)
        .prefer_socket(false)
        .user(Some(look.user()))
        .pass(look.password())
        .db_name(Some(look.database()))
        .ssl_opts(ssl);
    let mut conn = Conn::new(opts).await.map_err(away)?;
    let version: Option<String> = conn.query_first("SELECT VERSION()").await.map_err(away)?;
    // Said goodbye to, so that the server's log has nothing to tell.
    let _ = conn.disconnect().await;
    Ok(version.and_then(|version| version.split('-').next().map(str::to_owned)))
}

fn away(error: Error) -> Away {
    match error {
        Error::Server(said) => match said.code {
            DENIED => Away::Password,
            NO_DATABASE => Away::NoDatabase,
            _ => Away::Refused(said.message),
        },
        Error::Driver(DriverError::NoClientSslFlagFromServer) => Away::Clear,
        Error::Io(IoError::Io(error)) if is_of_network(&error) => Away::Unreachable(error),
        other @ (Error::Driver(_) | Error::Io(_) | Error::Other(_) | Error::Url(_)) => match Away::within(&other) {
            Some(away) => away,
            None => Away::Stranger(other.to_string()),
        },
    }
}

/// Nobody answered; what breaks off later has answered.
fn is_of_network(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    error.get_ref().is_none_or(|inner| !inner.is::<rustls::Error>())
        && !matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::ConnectionReset)
}
