//! Why a server elsewhere is of no use, told so that somebody can do something about it.

use std::error::Error;
use std::io;
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::resource::{Nature, ResourceKey, Trouble, UrlError};
use rustls::CertificateError;

use super::Look;
use super::tls::TrustError;
use crate::resource::failure::{lasting, passing, soon};

/// What a look met.
#[derive(Debug)]
pub(super) enum Away {
    Unreachable(io::Error),
    Late(Duration),
    /// Encryption is asked for, and the server has none.
    Clear,
    Untrusted(rustls::Error),
    /// The names that the certificate bears.
    WrongName(Vec<String>),
    /// Another failure of TLS.
    Tls(String),
    Password,
    NoDatabase,
    /// Something answers, and it is no server of this kind.
    Stranger(String),
    /// It reads its data, or is about to stop.
    NotYet(String),
    /// In its own words.
    Refused(String),
}

impl Away {
    /// Of a failure of TLS, wherever it is buried.
    pub(super) fn of_tls(error: &rustls::Error) -> Self {
        if let rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) = error {
            return Self::WrongName(presented.iter().map(|name| plain(name)).collect());
        }
        match matches!(error, rustls::Error::InvalidCertificate(_)) {
            true => Self::Untrusted(error.clone()),
            false => Self::Tls(error.to_string()),
        }
    }

    /// Looks for TLS, then for a connection that broke, among an error's sources.
    pub(super) fn within(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Some(Self::of_tls(tls));
            }
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if let Some(away) = inner.and_then(|inner| Self::within(inner)) {
                return Some(away);
            }
            next = error.source();
        }
        None
    }

    pub(super) fn trouble(self, key: &ResourceKey, look: &Look) -> Trouble {
        let (kind, address) = (key.id.kind, look.address());
        let fault = |how: FaultKind| Fault::new(how, format!("{} of {} cannot be used", key.id, key.app));
        let wrong = || fault(FaultKind::Invalid);
        let secret = "correct the URL that bowline.toml names (bowline secret set) and run the command again";
        match self {
            Self::Unreachable(error) => {
                passing(fault(FaultKind::Unreachable).caused_by(format!("{address} cannot be reached: {error}")).hint(
                    "is the server up, and does a firewall let this machine through? It is asked again by itself",
                ))
            }
            Self::Late(limit) => passing(
                fault(FaultKind::Unreachable)
                    .caused_by(format!("{address} did not answer within {} s", limit.as_secs()))
                    .hint("is the server overloaded, or does a firewall drop packets? It is asked again by itself"),
            ),
            Self::Clear => lasting(
                wrong()
                    .caused_by(format!("{address} offers no encryption, and the URL or the CA ask for it"))
                    .hint("switch TLS on at the server; in clear the password's owner would be anyone who listens"),
            ),
            Self::Untrusted(error) => lasting(
                wrong()
                    .caused_by(format!("the certificate of {address} is not trusted"))
                    .caused_by(error.to_string())
                    .hint(format!("is it signed by {}? Give the right one as `ca`", look.trust.describe())),
            ),
            Self::WrongName(names) => {
                let host = &look.endpoint.host;
                let found = match names.as_slice() {
                    [] => "bears no name that counts".to_owned(),
                    names => format!("is for {}", names.join(", ")),
                };
                lasting(
                    wrong()
                        .caused_by(format!("the certificate of {address} {found}, not for {host}"))
                        .hint("name the host in the URL as the certificate does, or have the certificate made for it"),
                )
            }
            Self::Tls(said) => passing(
                wrong()
                    .caused_by(format!("no encrypted connection to {address} comes about: {said}"))
                    .hint(format!("is it the TLS port of a {kind} server?")),
            ),
            Self::Password => {
                lasting(wrong().caused_by(format!("{address} refuses the password of {}", look.user())).hint(secret))
            }
            Self::NoDatabase => {
                lasting(wrong().caused_by(format!("{address} has no database {}", look.database())).hint(secret))
            }
            Self::Stranger(said) => lasting(
                wrong()
                    .caused_by(format!("what answers at {address} is no {kind} server"))
                    .caused_by(said)
                    .hint(secret),
            ),
            Self::NotYet(said) => soon(said),
            Self::Refused(said) => Trouble {
                fault: wrong()
                    .caused_by(format!("{address} refuses: {said}"))
                    .hint("look at the server's log and at what this user may do"),
                nature: Nature::Passing,
            },
        }
    }
}

/// As the library of certificates prints a name: `DnsName("db.internal")`, `IpAddress(127.0.0.1)`.
fn plain(printed: &str) -> String {
    let inside = printed.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(printed);
    inside.trim_matches('"').to_owned()
}

pub(super) fn bad_url(key: &ResourceKey, error: &UrlError) -> Trouble {
    let fault = Fault::new(FaultKind::Invalid, format!("{} of {} cannot be used", key.id, key.app));
    lasting(
        fault
            .caused_by(format!("its URL: {error}"))
            .hint("correct the URL that bowline.toml names (bowline secret set) and run the command again"),
    )
}

pub(super) fn bad_ca(key: &ResourceKey, error: &TrustError) -> Trouble {
    let fault = Fault::new(FaultKind::Invalid, format!("{} of {} cannot be used", key.id, key.app));
    lasting(fault.source(error).hint("`ca` is a secret with certificates, PEM: -----BEGIN CERTIFICATE-----"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_certificates_are_told_as_people_write_them() {
        let check = |printed: &str, expected: &str| assert_eq!(plain(printed), expected);
        check("DnsName(\"db.internal\")", "db.internal");
        check("IpAddress(127.0.0.1)", "127.0.0.1");
        check("db.internal", "db.internal");
    }
}
