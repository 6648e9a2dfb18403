//! Where a collector is, and what the files of its settings say: how it is known, and what it is told with each request.
//!
//! Architecture invariant: a file that is not there holds up what is sent, never the daemon: it is read again with each try.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_core::fault::{Fault, FaultKind};
use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use zeroize::Zeroizing;

use super::Settings;
use crate::folder::read_small;

/// Of a file with fields, in bytes.
const MOST_FIELDS: u64 = 64 << 10;

#[derive(Debug)]
pub(super) struct Collector {
    /// As the settings say it.
    pub(super) endpoint: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) authority: HeaderValue,
    /// Before `/v1/…`.
    pub(super) path: String,
    /// Of https://.
    name: Option<ServerName<'static>>,
    ca: Option<PathBuf>,
    headers: Option<PathBuf>,
}

/// What the files say.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// Their values are never shown.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// What stands in a file of fields is never shown: it may be a token.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilesError {
    #[error("{0} cannot be read")]
    Headers(String, #[source] io::Error),
    #[error("line {line} of {path} is no `Name: value`")]
    Field { path: String, line: usize },
    #[error("the authorities of [otlp] cannot be used")]
    Authorities(#[source] bowline_api::HttpsError),
}

impl Collector {
    /// # Errors
    /// The settings name no collector that could be sent to, whatever their files say.
    pub(super) fn new(settings: &Settings) -> Result<Self, Fault> {
        let wrong =
            |what: String| Fault::new(FaultKind::Invalid, format!("the collector of [otlp] cannot be used: {what}"));
        let endpoint = settings.endpoint.trim_end_matches('/').to_owned();
        let uri: Uri = endpoint.parse().map_err(|error| wrong(format!("{endpoint} is no URL ({error})")))?;
        let authority = uri.authority().ok_or_else(|| wrong(format!("{endpoint} names no host")))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let name =
            is_tls.then(|| ServerName::try_from(host.clone()).map_err(|error| wrong(format!("{host}: {error}"))));
        Ok(Self {
            port: authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|error| wrong(error.to_string()))?,
            path: uri.path().trim_end_matches('/').to_owned(),
            name: name.transpose()?,
            ca: settings.ca.clone(),
            headers: settings.headers.clone(),
            endpoint,
            host,
        })
    }

    /// As they are now. Blocks on the disk.
    pub(super) fn files(&self) -> Result<Files, FilesError> {
        let tls = self.name.clone().map(|name| {
            let config = bowline_api::trust(self.ca.as_deref()).map_err(FilesError::Authorities)?;
            Ok((Arc::new(config), name))
        });
        let headers = self.headers.as_deref().map(fields).transpose()?.unwrap_or_default();
        Ok(Files { tls: tls.transpose()?, headers })
    }
}

/// `Name: value`, each on a line; empty ones and those of `#` are none.
fn fields(path: &Path) -> Result<Vec<(HeaderName, HeaderValue)>, FilesError> {
    let shown = || path.display().to_string();
    let bytes = read_small(path, MOST_FIELDS).map(Zeroizing::new);
    let bytes = bytes.map_err(|error| FilesError::Headers(shown(), error))?;
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).zip(1..);
    let field = |(line, at): (&[u8], usize)| {
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = colon.map(|colon| (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii())).unzip();
        let name = name.and_then(|name| HeaderName::from_bytes(name).ok());
        let value = value.and_then(|value| HeaderValue::from_bytes(value).ok());
        let pair = name.zip(value).ok_or_else(|| FilesError::Field { path: shown(), line: at });
        pair.map(|(name, mut value)| {
            value.set_sensitive(true);
            (name, value)
        })
    };
    lines.filter(|(line, _)| !line.is_empty() && !line.starts_with(b"#")).map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::super::send::tests::settings;
    use super::*;

    #[test]
    fn fields_are_lines_of_a_file_that_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("otlp.headers");
        let collector = Collector::new(&Settings { headers: Some(file.clone()), ..settings("http://c") }).unwrap();
        let check = |text: &str, expected: Result<&[(&str, &str)], usize>| {
            std::fs::write(&file, text).unwrap();
            let got = collector.files();
            assert!(!format!("{got:?}").contains("hunter2"), "{text}");
            match (got, expected) {
                (Ok(got), Ok(expected)) => {
                    let all = got.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
                    assert_eq!(all.collect::<Vec<_>>(), expected);
                }
                (Err(error), Err(line)) => {
                    assert_eq!(error.to_string(), format!("line {line} of {} is no `Name: value`", file.display()));
                }
                (got, _) => panic!("{text}: {got:?}"),
            }
        };
        check(
            "# for us\nAuthorization: Bearer hunter2:x\r\n\n a:b",
            Ok(&[("authorization", "Bearer hunter2:x"), ("a", "b")]),
        );
        check("a: b\nAuthorization hunter2\n", Err(2));
        check("Authorization hunter2:x\n", Err(1));
        check(": hunter2\n", Err(1));
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(collector.files(), Err(FilesError::Headers(path, _)) if path == file.display().to_string()));
    }

    #[test]
    fn authorities_are_read_where_they_are_needed() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        let of = |endpoint| Collector::new(&Settings { ca: Some(ca.clone()), ..settings(endpoint) }).unwrap();
        assert!(matches!(of("https://c").files(), Err(FilesError::Authorities(_))), "there is none");
        std::fs::write(&ca, "no PEM").unwrap();
        assert!(matches!(of("https://c").files(), Err(FilesError::Authorities(_))));
    }
}
