use bowline_core::app::{
    App, Backup, Bucket, Database, DatabaseKind, DatabaseSource, Redis, RedisSource, SecretSource, Volume,
};
use bowline_core::id::ResourceName;

use super::{Writer, node};
use crate::literal;
use crate::read::KEEP;
use crate::tree::Data;

impl Writer {
    pub(super) fn databases(&mut self, app: &App) {
        for (kind, key) in [(DatabaseKind::Postgres, "postgres"), (DatabaseKind::MariaDb, "mariadb")] {
            let of_kind = app.databases.iter().filter(|((k, _), _)| *k == kind);
            let tables = of_kind.map(|((_, name), database): (&(_, ResourceName), _)| (name, database));
            self.named(key, tables, false, |w, database| w.database(database));
        }
    }

    fn database(&mut self, database: &Database) {
        match &database.source {
            DatabaseSource::Managed { version } => self.integer("version", *version),
            DatabaseSource::External { url, ca } => {
                self.secret("url", Some(url));
                self.secret("ca", ca.as_ref());
            }
        }
        self.optional("init", database.init.as_ref());
        self.backup(database.backup);
    }

    pub(super) fn redis(&mut self, redis: &Redis) {
        match &redis.source {
            RedisSource::Managed { version, persist } => {
                self.integer("version", *version);
                self.boolean("persist", *persist, false);
            }
            RedisSource::External { url, ca } => {
                self.secret("url", Some(url));
                self.secret("ca", ca.as_ref());
            }
        }
        self.backup(redis.backup);
    }

    pub(super) fn volume(&mut self, volume: &Volume) {
        // No service at all is not the same as every service.
        if let Some(services) = &volume.services {
            let items = services.iter().map(|name| node(Data::Text(name.to_string())));
            self.table.put("services", Data::List(items.collect()));
        }
        self.optional("path", volume.path.as_ref());
        self.optional("size", volume.size);
        self.backup(volume.backup);
    }

    pub(super) fn bucket(&mut self, bucket: &Bucket) {
        self.secret("url", bucket.external.as_ref());
        self.backup(bucket.backup);
    }

    fn backup(&mut self, backup: Option<Backup>) {
        let Some(backup) = backup else { return };
        self.inner("backup", |w| {
            w.text("every", bowline_core::time::Humane(backup.every));
            w.default("keep", &backup.keep, &KEEP, |keep| Data::Integer((*keep).into()));
            w.optional("drill", backup.drill.map(bowline_core::time::Humane));
        });
    }

    pub(super) fn secret_source(&mut self, source: &SecretSource) {
        match source {
            SecretSource::Store { generate } => self.boolean("generate", *generate, false),
            SecretSource::Aws(_) | SecretSource::Vault(_) | SecretSource::File(_) => {
                self.optional("source", literal::print_secret_source(source));
            }
        }
    }
}
