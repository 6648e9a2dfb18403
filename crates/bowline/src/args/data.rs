//! The words of `bowline data`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::age;

#[derive(Debug, Subcommand)]
pub(crate) enum Data {
    /// Every database, cache and volume, those included that no file names any more
    List {
        /// Only this app's
        app: Option<String>,
        /// Only of this environment
        #[arg(long)]
        env: Option<String>,
    },
    /// Credentials for a while: prints their URL, or starts a client with them
    ///
    /// A role of its own that ends by itself; statements are logged and end after a minute. Of a server elsewhere the
    /// app's own URL is taken.
    Connect(Connect),
    /// Fill a database, a cache or a volume
    ///
    /// PostgreSQL: SQL, or what pg_dump writes with -Fc or -Fd; whole or not at all. MariaDB: SQL. Redis: commands, one a
    /// line or as a snapshot has them; whole or not at all. Volumes: a folder, or an archive of tar; whole or not at all.
    /// Where the daemon is elsewhere, it is sent.
    Import(Import),
    /// Remove data that no file names any more, with the port, the user and the passwords that went with them
    Rm {
        /// The app
        app: String,
        /// What, as bowline.toml says it: postgres.db, volume.files
        data: String,
        /// Although the app's file names it; the app must be stopped
        #[arg(long)]
        force: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// The environment
        #[arg(long, default_value = "local")]
        env: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The app
    pub(crate) app: String,
    /// What, as bowline.toml says it: postgres.db, redis.cache
    pub(crate) data: String,
    /// Start psql, mariadb or redis-cli; the credentials end with it
    #[arg(long, visible_alias = "psql")]
    pub(crate) client: bool,
    /// See everything, change nothing
    #[arg(long)]
    pub(crate) read_only: bool,
    /// How long they hold: from 1m to 7d
    #[arg(long = "for", value_name = "TIME", value_parser = age, default_value = "1h")]
    pub(crate) time: Duration,
    /// The environment
    #[arg(long, default_value = "local")]
    pub(crate) env: String,
    /// What the client is given besides
    #[arg(last = true, value_name = "CLIENT ARGS")]
    pub(crate) args: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The app
    pub(crate) app: String,
    /// What, as bowline.toml says it: postgres.db, volume.files
    pub(crate) data: String,
    /// The file or folder
    pub(crate) file: PathBuf,
    /// In the place of what is there
    #[arg(long)]
    pub(crate) replace: bool,
    /// The environment
    #[arg(long, default_value = "local")]
    pub(crate) env: String,
}
