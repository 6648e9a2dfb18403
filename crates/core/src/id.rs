//! Names and numbers that identify things, each its own type so that they cannot be swapped by mistake.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name accepted for an app, a service or any other table of the file: a name becomes part of a DNS label.
pub const MAX_NAME: usize = 40;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name cannot be empty")]
    Empty,
    #[error("a name has at most {MAX_NAME} characters, this one has {0}")]
    TooLong(usize),
    #[error("a name starts with a letter from a to z, not with {0:?}")]
    Start(char),
    #[error("a name is made of a to z, 0 to 9 and '-', not of {0:?}")]
    Character(char),
}

/// `[a-z][a-z0-9-]{0,39}`, the rule for every name in the file.
fn check_name(text: &str) -> Result<(), NameError> {
    let first = text.chars().next().ok_or(NameError::Empty)?;
    if !first.is_ascii_lowercase() {
        return Err(NameError::Start(first));
    }
    if let Some(bad) = text.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')) {
        return Err(NameError::Character(bad));
    }
    match text.len() {
        n if n > MAX_NAME => Err(NameError::TooLong(n)),
        _ => Ok(()),
    }
}

// Shared: every look at a node hands out the names of thousands of instances.
macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash)]
        pub struct $type(Arc<str>);

        /// That of the text. Most names that are compared are clones of one, which need not be read for that.
        impl Ord for $type {
            fn cmp(&self, other: &Self) -> Ordering {
                if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
            }
        }

        impl PartialOrd for $type {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $type {
            /// Parses `[a-z][a-z0-9-]{0,39}`.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check_name(text)?;
                Ok(Self(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// An app, unique within (state, environment).
    AppName
);
name!(
    /// An environment: `local`, `beta`, `production`.
    EnvName
);
name!(
    /// A process type of an app: a table `[service.NAME]`.
    ServiceName
);
name!(
    /// A table `[job.NAME]`.
    JobName
);
name!(
    /// A table `[route.NAME]`.
    RouteName
);
name!(
    /// A table `[secret.NAME]`, or a secret that a value refers to.
    SecretName
);
name!(
    /// A database, volume or bucket.
    ResourceName
);
name!(
    /// A token that lets somebody use the API from elsewhere.
    TokenName
);

/// What sets a name of Bowline's own apart: no file can spell it.
const OWN: char = '_';

impl ServiceName {
    /// What carries a resource's server through everything that runs instances: `postgres_db`.
    pub fn of_resource(kind: &str, name: &ResourceName) -> Self {
        Self(format!("{kind}{OWN}{name}").into())
    }

    /// The same for the runs of a job: `job_cleanup`.
    pub fn of_job(name: &JobName) -> Self {
        Self(format!("job{OWN}{name}").into())
    }

    /// The same for what runs before a release: `release_before`.
    pub fn of_before() -> Self {
        Self(format!("release{OWN}before").into())
    }

    /// Kind and name of what this stands for, a resource or a job; `None`: a service of the file.
    pub fn resource(&self) -> Option<(&str, &str)> {
        self.0.split_once(OWN)
    }

    /// As the file spells what it stands for: `web`, `postgres.db`, `job.cleanup`.
    pub fn spelled(&self) -> String {
        self.0.replacen(OWN, ".", 1)
    }

    /// As it prints in ids and folders: a service of the file, or what stands for a resource or a job.
    fn of_id(text: &str) -> Option<Self> {
        match text.split_once(OWN) {
            Some((kind, name)) => {
                check_name(kind).ok()?;
                ResourceName::new(name).ok().map(|name| Self::of_resource(kind, &name))
            }
            None => Self::new(text).ok(),
        }
    }
}

impl SecretName {
    /// A secret of a resource, made and kept by Bowline: `postgres_db_password`.
    pub fn of_resource(kind: &str, name: &ResourceName, what: &str) -> Self {
        Self(format!("{kind}{OWN}{name}{OWN}{what}").into())
    }

    /// A name as it was stored, Bowline's own ones included.
    pub fn stored(text: &str) -> Result<Self, NameError> {
        let parts: Vec<&str> = text.split(OWN).collect();
        match parts.as_slice() {
            [kind, name, what] => {
                [kind, name, what].into_iter().try_for_each(|part| check_name(part))?;
                Ok(Self(text.into()))
            }
            _ => Self::new(text),
        }
    }

    /// It belongs to Bowline: no file and no person can name it.
    pub fn is_own(&self) -> bool {
        self.0.contains(OWN)
    }
}

/// An app in one environment: what a release, a rollout or a uid belongs to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AppKey {
    pub env: EnvName,
    pub app: AppName,
}

/// What a command about an app of this environment ends with, to be copied: ` --env production`, and nothing where it is the one that
/// commands take by themselves. The only place that knows which that is.
pub fn env_option(env: &str) -> String {
    match env {
        crate::route::LOCAL => String::new(),
        env => format!(" --env {env}"),
    }
}

/// What brings the folder out that one is in.
pub fn start_command(env: &str) -> String {
    match env {
        crate::route::LOCAL => "bowline up".to_owned(),
        env => format!("bowline deploy --env {env}"),
    }
}

impl AppKey {
    /// As a command names it: `shop`, and `shop --env production` where it must.
    pub fn command_words(&self) -> String {
        format!("{}{}", self.app, env_option(self.env.as_str()))
    }

    /// What starts it, after it was stopped, too: `bowline up /home/ann/shop`; elsewhere whoever has its folder does, from there.
    pub fn command_to_start(&self, folder: &Path) -> String {
        let command = start_command(self.env.as_str());
        if self.env.as_str() == crate::route::LOCAL { format!("{command} {}", folder.display()) } else { command }
    }

    /// A whole command: `bowline secret set shop token --env production`.
    pub fn command(&self, verb: &str, rest: &str) -> String {
        format!("bowline {verb} {} {rest}{}", self.app, env_option(self.env.as_str()))
    }
}

impl fmt::Display for AppKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.env, self.app)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $type:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $type(pub $inner);

        impl $type {
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// A release of an app in an environment, counted from 1.
    ReleaseNumber(u32)
);
number!(
    /// The position of an instance among a service's replicas of one release, counted from 0.
    Slot(u16)
);
number!(
    /// How often a slot has been started, counted from 1. One shim per incarnation.
    Incarnation(u32)
);
number!(
    /// A run of a job, counted from 1 per app and environment, those before a release included. It is the incarnation of
    /// its instance.
    RunNumber(u32)
);
number!(
    /// Version of a desired state. Receivers refuse a lower one than they hold.
    Generation(u64)
);

/// Where an instance lives: one copy runs per slot, whatever was killed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotId {
    pub key: AppKey,
    pub service: ServiceName,
    pub release: ReleaseNumber,
    pub slot: Slot,
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.r{}.{}", self.key, self.service, self.release, self.slot)
    }
}

/// One start of one slot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InstanceId {
    pub slot: SlotId,
    pub incarnation: Incarnation,
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.incarnation)
    }
}

/// Why a text is not an instance id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an instance id: {0:?} (ENV/APP.SERVICE.rRELEASE.SLOT.INCARNATION)")]
pub struct InstanceIdError(String);

impl FromStr for InstanceId {
    type Err = InstanceIdError;

    fn from_str(text: &str) -> Result<Self, InstanceIdError> {
        parse_instance(text).ok_or_else(|| InstanceIdError(text.to_owned()))
    }
}

fn parse_instance(text: &str) -> Option<InstanceId> {
    let (env, rest) = text.split_once('/')?;
    let mut parts = rest.split('.');
    let app = AppName::new(parts.next()?).ok()?;
    let service = ServiceName::of_id(parts.next()?)?;
    let release = ReleaseNumber(parts.next()?.strip_prefix('r')?.parse().ok()?);
    let slot = Slot(parts.next()?.parse().ok()?);
    let incarnation = Incarnation(parts.next()?.parse().ok()?);
    if parts.next().is_some() {
        return None;
    }
    let key = AppKey { env: EnvName::new(env).ok()?, app };
    Some(InstanceId { slot: SlotId { key, service, release, slot }, incarnation })
}

/// SHA-256 of a content, printed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The first twelve digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a digest: 64 hexadecimal digits are wanted")]
pub struct DigestError;

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError);
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| DigestError)?;
        }
        Ok(Self(bytes))
    }
}

/// Identity of an environment, given by the daemon that holds it when the first app comes there; printed as a UUID
/// (RFC 9562) in lower case. Two daemons' environments of one name are two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvironmentId(pub [u8; 16]);

impl EnvironmentId {
    /// Version 4 of these random bytes.
    pub fn random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }
}

impl fmt::Display for EnvironmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// Why a text is not the identity of an environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID: 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12 are wanted")]
pub struct EnvironmentIdError;

impl FromStr for EnvironmentId {
    type Err = EnvironmentIdError;

    /// In either case.
    fn from_str(text: &str) -> Result<Self, EnvironmentIdError> {
        let groups: Vec<&str> = text.split('-').collect();
        let is_uuid = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
            && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
        let number = is_uuid.then(|| u128::from_str_radix(&groups.concat(), 16).ok()).flatten();
        number.map(|number| Self(number.to_be_bytes())).ok_or(EnvironmentIdError)
    }
}

/// A TCP port that is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(std::num::NonZeroU16);

impl Port {
    pub fn new(port: u16) -> Option<Self> {
        std::num::NonZeroU16::new(port).map(Self)
    }

    pub fn get(self) -> u16 {
        self.0.get()
    }

    /// The port on IPv4 loopback, where instances listen.
    pub fn on_loopback(self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.get()))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_one_rule() {
        assert_eq!(AppName::new("uploads-2").unwrap().as_str(), "uploads-2");
        assert_eq!(AppName::new(""), Err(NameError::Empty));
        assert_eq!(AppName::new("9a"), Err(NameError::Start('9')));
        assert_eq!(AppName::new("aB"), Err(NameError::Character('B')));
        assert_eq!(AppName::new("a/../b"), Err(NameError::Character('/')));
        assert_eq!(AppName::new(&"a".repeat(41)), Err(NameError::TooLong(41)));
    }

    #[test]
    fn instance_ids_round_trip() {
        let text = "local/uploads.web.r3.0.12";
        assert_eq!(text.parse::<InstanceId>().unwrap().to_string(), text);
        let server = "local/uploads.postgres_db-1.r0.0.2";
        assert_eq!(server.parse::<InstanceId>().unwrap().to_string(), server);
        for bad in [
            "",
            "local/a.b_.r1.0.1",
            "local/a._b.r1.0.1",
            "local/a.b.3.0.1",
            "local/a.b.r3.0",
            "local/a.b.r3.0.1.2",
            "a.b.r3.0.1",
        ] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_resources_cannot_be_spelled() {
        let name = ResourceName::new("db").unwrap();
        let (service, secret) =
            (ServiceName::of_resource("postgres", &name), SecretName::of_resource("postgres", &name, "password"));
        assert_eq!(service.resource(), Some(("postgres", "db")));
        assert!(ServiceName::new(service.as_str()).is_err() && SecretName::new(secret.as_str()).is_err());
        assert_eq!(SecretName::stored(secret.as_str()), Ok(secret.clone()));
        assert!(secret.is_own() && !SecretName::stored("token").unwrap().is_own());
        assert!(SecretName::stored("a_b").is_err());
    }

    #[test]
    fn names_of_own_are_spelled_as_the_file_has_them() {
        let job = ServiceName::of_job(&JobName::new("clean-up").unwrap());
        let all = [job, ServiceName::of_before(), ServiceName::new("web").unwrap()];
        assert_eq!(all.map(|name| name.spelled()), ["job.clean-up", "release.before", "web"]);
    }

    #[test]
    fn digests_round_trip() {
        let text = "0a1b2c3d-4e5f-4071-8293-a4b5c6d7e8f9";
        let id: EnvironmentId = text.parse().unwrap();
        assert_eq!((id.to_string(), id.0[0], id.0[15]), (text.to_owned(), 0x0a, 0xf9));
        assert_eq!(text.to_uppercase().parse(), Ok(id));
        assert_eq!(EnvironmentId::random([0xff; 16]).to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        for wrong in [
            "",
            &text[1..],
            &text.replace('-', ""),
            &text.replace("0a", "+a"),
            &format!("{text}-"),
            "0a1b2c3-d4e5f-4071-8293-a4b5c6d7e8f9",
        ] {
            assert!(wrong.parse::<EnvironmentId>().is_err(), "{wrong}");
        }
        let digest = Digest([0xab; 32]);
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        assert!("AB".repeat(32).parse::<Digest>().is_err());
    }

    #[test]
    fn a_command_names_the_environment_where_it_must() {
        let check = |env: &str, words: &str, command: &str| {
            let key = AppKey { env: EnvName::new(env).unwrap(), app: AppName::new("shop").unwrap() };
            assert_eq!(
                (key.command_words(), key.command("secret set", "token")),
                (words.to_owned(), command.to_owned())
            );
        };
        check("local", "shop", "bowline secret set shop token");
        check("production", "shop --env production", "bowline secret set shop token --env production");
    }
}
