//! How an app reaches a resource: the parts that `from` references ask for.

use crate::app::{ReferenceField, ResourceKind};
use crate::id::ResourceName;
use crate::instance::EnvValue;
use crate::secret::Secret;

/// Where a server listens and as whom an app speaks to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Holds the password.
    pub url: Secret,
    pub host: String,
    pub port: u16,
    /// Redis: a number.
    pub database: Option<String>,
    pub user: Option<String>,
    pub password: Option<Secret>,
}

/// Why a URL of a server elsewhere is of no use. Holds no part of it: it is a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it is not UTF-8")]
    Encoding,
    #[error("it does not begin with {0}")]
    Scheme(&'static str),
    #[error("it names no host")]
    Host,
    #[error("its port is not a number from 1 to 65535")]
    Port,
    #[error("it has a % that two hexadecimal digits do not follow")]
    Percent,
    #[error("it names no database")]
    Database,
    #[error("it names no user")]
    User,
    #[error("it has no keys before the host: KEY:SECRET@")]
    Keys,
    #[error("behind its host is not the name of a bucket alone")]
    Bucket,
    /// A parameter, and the words that it may have.
    #[error("its {0} is none of: {1}")]
    Mode(&'static str, &'static str),
    #[error("it asks for no encryption, and a CA to verify the server with is given")]
    Clear,
}

/// Role and database of a resource that Bowline runs: no server has one of this form by itself.
pub fn own_name(name: &ResourceName) -> String {
    format!("app_{}", name.as_str().replace('-', "_"))
}

fn schemes(kind: ResourceKind) -> (&'static [&'static str], &'static str, u16) {
    match kind {
        ResourceKind::Postgres => (&["postgresql", "postgres"], "postgresql://", 5432),
        ResourceKind::MariaDb => (&["mysql", "mariadb"], "mysql://", 3306),
        ResourceKind::Redis => (&["redis", "rediss"], "redis:// or rediss://", 6379),
    }
}

impl Endpoint {
    /// Of a server that Bowline runs on this machine. The password is safe in a URL.
    pub fn managed(kind: ResourceKind, name: &ResourceName, port: u16, password: &Secret) -> Self {
        let own = own_name(name);
        let clear = String::from_utf8_lossy(password.expose());
        let (url, user, database) = match kind {
            ResourceKind::Postgres => (format!("postgresql://{own}:{clear}@127.0.0.1:{port}/{own}"), Some(&own), &own),
            ResourceKind::MariaDb => (format!("mysql://{own}:{clear}@127.0.0.1:{port}/{own}"), Some(&own), &own),
            ResourceKind::Redis => (format!("redis://:{clear}@127.0.0.1:{port}/0"), None, &"0".to_owned()),
        };
        Self {
            url: Secret::new(url),
            host: "127.0.0.1".to_owned(),
            port,
            database: Some(database.clone()),
            user: user.cloned(),
            password: Some(password.clone()),
        }
    }

    /// For somebody who is let in for a while, under a name that is safe in a URL.
    pub fn lent(kind: ResourceKind, name: &ResourceName, port: u16, user: &str, password: &Secret) -> Self {
        let own = own_name(name);
        let clear = String::from_utf8_lossy(password.expose());
        let (scheme, database) = match kind {
            ResourceKind::Postgres => ("postgresql", own),
            ResourceKind::MariaDb => ("mysql", own),
            ResourceKind::Redis => ("redis", "0".to_owned()),
        };
        Self {
            url: Secret::new(format!("{scheme}://{user}:{clear}@127.0.0.1:{port}/{database}")),
            host: "127.0.0.1".to_owned(),
            port,
            database: Some(database),
            user: Some(user.to_owned()),
            password: Some(password.clone()),
        }
    }

    /// `scheme://[user[:password]@]host[:port][/database][?…]`, RFC 3986; a host of IPv6 in brackets.
    pub fn parse(kind: ResourceKind, url: &Secret) -> Result<Self, UrlError> {
        let text = std::str::from_utf8(url.expose()).map_err(|_| UrlError::Encoding)?;
        let (known, wanted, default_port) = schemes(kind);
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme(wanted))?;
        // SQLAlchemy's `postgresql+driver` names a library of the app's.
        let scheme = scheme.split('+').next().unwrap_or(scheme);
        if !known.contains(&scheme) {
            return Err(UrlError::Scheme(wanted));
        }
        let rest = rest.split(['?', '#']).next().unwrap_or(rest);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = authority.rsplit_once('@').map_or(("", authority), |(login, place)| (login, place));
        let (user, password) = login.split_once(':').map_or((login, None), |(user, word)| (user, Some(word)));
        let (host, port) = place_of(place)?;
        let database = percent_decoded(path)?;
        let user = percent_decoded(user)?;
        let password = password.map(percent_decoded).transpose()?.map(Secret::new);
        if kind != ResourceKind::Redis && database.is_empty() {
            return Err(UrlError::Database);
        }
        if kind != ResourceKind::Redis && user.is_empty() {
            return Err(UrlError::User);
        }
        Ok(Self {
            url: url.clone(),
            host,
            port: port.unwrap_or(default_port),
            database: Some(database).filter(|name| !name.is_empty()),
            user: Some(user).filter(|user| !user.is_empty()),
            password,
        })
    }

    /// The value of one part; `None`: it has none. What holds the password is secret.
    pub fn part(&self, field: ReferenceField) -> Option<EnvValue> {
        match field {
            ReferenceField::Url => Some(EnvValue::Secret(self.url.clone())),
            ReferenceField::Host => Some(EnvValue::Clear(self.host.clone())),
            ReferenceField::Port => Some(EnvValue::Clear(self.port.to_string())),
            ReferenceField::Database => self.database.clone().map(EnvValue::Clear),
            ReferenceField::User => self.user.clone().map(EnvValue::Clear),
            ReferenceField::Password => self.password.clone().map(EnvValue::Secret),
            ReferenceField::Endpoint
            | ReferenceField::Name
            | ReferenceField::Region
            | ReferenceField::Key
            | ReferenceField::Secret => None,
        }
    }
}

pub(super) fn place_of(place: &str) -> Result<(String, Option<u16>), UrlError> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or(UrlError::Host)?;
            (host.to_owned(), rest.strip_prefix(':'))
        }
        None => {
            let (host, port) = place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port)));
            (percent_decoded(host)?, port)
        }
    };
    if host.is_empty() {
        return Err(UrlError::Host);
    }
    let port = port.filter(|port| !port.is_empty()).map(|port| port.parse().map_err(|_| UrlError::Port)).transpose()?;
    if port == Some(0) {
        return Err(UrlError::Port);
    }
    Ok((host, port))
}

pub(super) fn percent_decoded(text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or(UrlError::Percent);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| UrlError::Percent)?);
    }
    String::from_utf8(bytes).map_err(|_| UrlError::Encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parts<'a> = (&'a str, u16, Option<&'a str>, Option<&'a str>, Option<&'a str>);

    fn check(kind: ResourceKind, url: &str, expected: Result<Parts<'_>, UrlError>) {
        let got = Endpoint::parse(kind, &Secret::new(url));
        let password = |e: &Endpoint| e.password.as_ref().map(|p| String::from_utf8_lossy(p.expose()).into_owned());
        let got = got.map(|e| (e.host.clone(), e.port, e.database.clone(), e.user.clone(), password(&e)));
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let expected =
            expected.map(|(host, port, db, user, word)| (host.to_owned(), port, owned(db), owned(user), owned(word)));
        assert_eq!(got, expected, "{url}");
    }

    #[test]
    fn urls_are_taken_apart() {
        use ResourceKind::{MariaDb, Postgres, Redis};
        let p = |host, port| Ok((host, port, Some("d"), Some("u"), Some("p@ss/w:rd")));
        check(
            Postgres,
            "postgres://u:p%40ss%2Fw%3Ard@db.example.com:6432/d?sslmode=require",
            p("db.example.com", 6432),
        );
        check(Postgres, "postgresql+psycopg://u:p%40ss%2Fw%3Ard@[::1]/d", p("::1", 5432));
        check(MariaDb, "mysql://u:p%40ss%2fw:rd@db/d", p("db", 3306));
        check(Redis, "rediss://:w@cache", Ok(("cache", 6379, None, None, Some("w"))));
        check(Redis, "redis://me:w@cache:1/3", Ok(("cache", 1, Some("3"), Some("me"), Some("w"))));
        check(Redis, "redis://cache", Ok(("cache", 6379, None, None, None)));
        check(Postgres, "mysql://u:p@h/d", Err(UrlError::Scheme("postgresql://")));
        check(Postgres, "postgres://u:p@/d", Err(UrlError::Host));
        check(Postgres, "postgres://u:p@h", Err(UrlError::Database));
        check(Postgres, "postgres://h/d", Err(UrlError::User));
        check(Postgres, "postgres://u:p%4@h/d", Err(UrlError::Percent));
        check(Postgres, "postgres://u:p@h:99999/d", Err(UrlError::Port));
        check(Postgres, "postgres://u:p@h:0/d", Err(UrlError::Port));
    }

    #[test]
    fn what_bowline_makes_is_what_it_reads() {
        let name = ResourceName::new("my-db").unwrap();
        for kind in ResourceKind::ALL {
            let made = Endpoint::managed(kind, &name, 15_001, &Secret::new("w0rd"));
            assert_eq!(Endpoint::parse(kind, &made.url), Ok(made));
            let lent = Endpoint::lent(kind, &name, 15_001, "lease_1_2", &Secret::new("w0rd"));
            assert_eq!(Endpoint::parse(kind, &lent.url), Ok(lent));
        }
    }
}
