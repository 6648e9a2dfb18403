//! Redis elsewhere.

use bowline_core::resource::Encryption;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisConnectionInfo, RedisError};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::Look;
use super::failure::Away;

pub(super) async fn ask(look: &Look) -> Result<Option<String>, Away> {
    let stream = look.connect().await?;
    if look.encryption == Encryption::Off {
        return greet(look, stream).await;
    }
    let config = look.trust.config().map_err(|error| Away::Tls(error.to_string()))?;
    let name = ServerName::try_from(look.endpoint.host.clone()).map_err(|error| Away::Tls(error.to_string()))?;
    let stream = TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await;
    greet(look, stream.map_err(|error| Away::within(&error).unwrap_or_else(|| Away::Tls(error.to_string())))?).await
}

async fn greet<S>(look: &Look, stream: S) -> Result<Option<String>, Away>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let db = look.endpoint.database.as_deref().map_or(Ok(0), str::parse).map_err(|_| Away::NoDatabase)?;
    let login = RedisConnectionInfo {
        db,
        username: look.endpoint.user.clone(),
        password: look.password(),
        ..RedisConnectionInfo::default()
    };
    let (mut client, connection) = MultiplexedConnection::new(&login, stream).await.map_err(away)?;
    let asked = async {
        redis::cmd("PING").exec_async(&mut client).await?;
        redis::cmd("INFO").arg("server").query_async::<String>(&mut client).await
    };
    tokio::select! {
        info = asked => match info {
            Ok(info) => Ok(version(&info)),
            // A user who may not ask for it may do all else.
            Err(error) if error.code() == Some("NOPERM") => Ok(None),
            Err(error) => Err(away(error)),
        },
        () = connection => Err(Away::NotYet("the server ended the connection".to_owned())),
    }
}

fn version(info: &str) -> Option<String> {
    let of = |name| info.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned());
    of("valkey_version:").or_else(|| of("redis_version:"))
}

fn away(error: RedisError) -> Away {
    let said = || error.detail().map_or_else(|| error.to_string(), str::to_owned);
    match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => Away::Password,
        (ErrorKind::BusyLoadingError, _) => Away::NotYet("it reads its data".to_owned()),
        (ErrorKind::IoError | ErrorKind::ParseError | ErrorKind::TypeError | ErrorKind::ClientError, _) => {
            Away::within(&error).unwrap_or_else(|| Away::Stranger(error.to_string()))
        }
        (_, _) if said().contains("DB index is out of range") => Away::NoDatabase,
        (_, _) => Away::Refused(said()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_what_servers_tell() {
        assert_eq!(version("# Server\r\nredis_version:7.0.15\r\nx:1\r\n").as_deref(), Some("7.0.15"));
        assert_eq!(version("redis_version:7.2.4\r\nvalkey_version:8.0.1\r\n").as_deref(), Some("8.0.1"));
        assert_eq!(version(""), None);
    }
}
