//! The clients of each kind of server. Passwords go through the environment, never through arguments.

use std::path::Path;
use std::process::Command;

use bowline_api::wire;
use bowline_core::app::ResourceKind;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::resource::Encryption;
use bowline_core::secret::Secret;

/// Where programs are looked for that a login's PATH may lack.
const FOLDERS: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/bin", "/opt/homebrew/bin"];

/// The client, connected as was lent.
pub(super) fn command(kind: ResourceKind, lent: &wire::Lent) -> Result<Command, Fault> {
    let password = lent.password.clone().unwrap_or_default();
    let (user, port) = (lent.user.as_deref(), lent.port.to_string());
    let encryption = Encryption::of(kind, &Secret::new(lent.url.as_str()), false).unwrap_or(Encryption::Preferred);
    match kind {
        ResourceKind::Postgres => {
            let mut psql = program(&["psql"], "postgresql-client")?;
            psql.env("PGHOST", &lent.host).env("PGPORT", port).env("PGPASSWORD", password);
            user.map(|user| psql.env("PGUSER", user));
            lent.database.as_ref().map(|database| psql.env("PGDATABASE", database));
            psql.env(
                "PGSSLMODE",
                match encryption {
                    Encryption::Off => "disable",
                    Encryption::Preferred => "prefer",
                    Encryption::Required => "require",
                    Encryption::Chain => "verify-ca",
                    Encryption::Full => "verify-full",
                },
            );
            Ok(psql)
        }
        ResourceKind::MariaDb => {
            let mut mariadb = program(&["mariadb", "mysql"], "mariadb-client")?;
            // A password in the caller's own option file would win.
            mariadb.arg("--no-defaults").arg("--protocol=TCP").env("MYSQL_PWD", password);
            mariadb.arg(format!("--host={}", lent.host)).arg(format!("--port={port}"));
            user.map(|user| mariadb.arg(format!("--user={user}")));
            lent.database.as_ref().map(|database| mariadb.arg(format!("--database={database}")));
            match encryption {
                Encryption::Off | Encryption::Preferred => {}
                Encryption::Required | Encryption::Chain => drop(mariadb.arg("--ssl")),
                Encryption::Full => drop(mariadb.args(["--ssl", "--ssl-verify-server-cert"])),
            }
            Ok(mariadb)
        }
        ResourceKind::Redis => {
            let mut redis = program(&["redis-cli", "valkey-cli"], "redis-tools")?;
            redis.args(["-h", &lent.host, "-p", &port]).env("REDISCLI_AUTH", password);
            user.map(|user| redis.args(["--user", user]));
            lent.database.as_ref().map(|database| redis.args(["-n", database]));
            match encryption {
                Encryption::Off | Encryption::Preferred => {}
                Encryption::Required => drop(redis.args(["--tls", "--insecure"])),
                Encryption::Chain | Encryption::Full => drop(redis.arg("--tls")),
            }
            Ok(redis)
        }
    }
}

/// The first of these that is installed.
pub(super) fn program(names: &[&str], package: &str) -> Result<Command, Fault> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> =
        std::env::split_paths(&path).chain(FOLDERS.iter().map(|dir| Path::new(dir).to_owned())).collect();
    let found = names.iter().flat_map(|name| folders.iter().map(move |dir| dir.join(name))).find(|path| path.is_file());
    found.map(Command::new).ok_or_else(|| {
        Fault::new(FaultKind::Invalid, format!("{} is not installed on this machine", names[0]))
            .hint(format!("apt install {package}"))
    })
}
