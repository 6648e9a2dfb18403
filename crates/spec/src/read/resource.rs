//! Databases, volumes, buckets and secrets.

use std::path::Path;

use bowline_core::app::{Backup, Bucket, Database, DatabaseSource, Redis, RedisSource, SecretSource, Volume};

use super::{Reader, Section};
use crate::diagnostic::Diagnostic;
use crate::literal;

/// How many backups are kept.
pub(crate) const KEEP: u16 = 7;

impl Reader {
    pub(super) fn database(&mut self, s: &Section<'_>) -> Database {
        let version = self.integer(s, "version");
        let ca = self.secret(s, "ca");
        let source = match self.secret(s, "url") {
            Some(url) => DatabaseSource::External { url, ca },
            None => DatabaseSource::Managed { version },
        };
        Database { source, init: self.parsed(s, "init", literal::relative_below), backup: self.backup(s) }
    }

    pub(super) fn redis(&mut self, s: &Section<'_>) -> Redis {
        let version = self.integer(s, "version");
        let persist = self.boolean(s, "persist").unwrap_or(false);
        let ca = self.secret(s, "ca");
        let source = match self.secret(s, "url") {
            Some(url) => RedisSource::External { url, ca },
            None => RedisSource::Managed { version, persist },
        };
        Redis { source, backup: self.backup(s) }
    }

    pub(super) fn volume(&mut self, s: &Section<'_>) -> Volume {
        Volume {
            services: self.list(s, "services", literal::name),
            path: self.parsed(s, "path", literal::mount_point),
            size: self.parsed(s, "size", literal::size),
            backup: self.backup(s),
        }
    }

    pub(super) fn bucket(&mut self, s: &Section<'_>) -> Bucket {
        Bucket { external: self.secret(s, "url"), backup: self.backup(s) }
    }

    fn backup(&mut self, s: &Section<'_>) -> Option<Backup> {
        let s = self.section(s, "backup")?;
        let keep = self.integer(&s, "keep").unwrap_or(KEEP);
        let drill = self.parsed(&s, "drill", literal::positive);
        Some(Backup { every: self.parsed(&s, "every", literal::positive)?, keep, drill })
    }

    pub(super) fn secret_source(&mut self, s: &Section<'_>) -> SecretSource {
        let generate = self.boolean(s, "generate").unwrap_or(false);
        self.parsed(s, "source", literal::secret_source).unwrap_or(SecretSource::Store { generate })
    }

    /// Two volumes in one place: the second would hide the first.
    pub(super) fn check_mounts(
        &mut self,
        volumes: &std::collections::BTreeMap<bowline_core::id::ResourceName, Volume>,
    ) {
        let mounted: Vec<_> = volumes.iter().filter_map(|(name, v)| Some((name, v, v.path.as_ref()?))).collect();
        for (index, (name, volume, path)) in mounted.iter().enumerate() {
            let shares = |other: &Volume| match (&volume.services, &other.services) {
                (Some(ours), Some(theirs)) => ours.iter().any(|service| theirs.contains(service)),
                (None, _) | (_, None) => true,
            };
            let at_or_below = |path: &str, other: &str| Path::new(path).starts_with(other);
            let meets = |other: &str| at_or_below(path, other) || at_or_below(other, path);
            let Some((first, _, there)) = mounted[..index].iter().find(|(_, other, p)| meets(p) && shares(other))
            else {
                continue;
            };
            let at = format!("volume.{name}.path");
            let message = match path == there {
                true => format!("`volume.{name}` and `volume.{first}` are both mounted at {path}"),
                false => format!("`volume.{name}` at {path} and `volume.{first}` at {there} are one inside the other"),
            };
            let other = self.value_at(&format!("volume.{first}.path"));
            self.push(Diagnostic::new(at.clone(), self.value_at(&at), message).related(other, "the other is here"));
        }
    }
}
