//! What becomes of each key in a file of Compose.

use super::{Carried, Key};

const fn yes(table: &'static str, key: &'static str, how: &'static str) -> Key {
    Key { table, key, carried: Carried::Yes, how }
}

const fn partly(table: &'static str, key: &'static str, how: &'static str) -> Key {
    Key { table, key, carried: Carried::Partly, how }
}

const fn noted(table: &'static str, key: &'static str, how: &'static str) -> Key {
    Key { table, key, carried: Carried::Noted, how }
}

const fn no(table: &'static str, key: &'static str, how: &'static str) -> Key {
    Key { table, key, carried: Carried::No, how }
}

const FILES: &str = "nothing of Compose serves files";
const BACKUPS: &str = "Compose makes no backups";
const JUDGED: &str = "nothing in Compose judges a release by its requests";
const PROXY: &str = "of a route with hosts: the proxy's in front";
const COUNTED: &str = "nothing of Compose counts requests";
const ASKED: &str = "asked is the image's HEALTHCHECK";
const ALIVE: &str = "Docker starts anew what has ended, not what is unwell";
const OTHERS: &str = "of another target";
const EXTERNAL: &str = "its secret; of its parts `url` alone is handed on";
const VERIFIED: &str = "the app verifies the server itself";

/// The same keys in the same order as those of a cluster.
pub const COMPOSE: &[Key] = &[
    yes("file", "app", "`name` of the project"),
    yes("file", "service", "a service"),
    yes("file", "env", "`environment`"),
    yes("file", "secret", "a variable of whoever starts it, `NAME` of `[secret.name]`"),
    yes("file", "job", "a service of the profile `jobs`"),
    partly("file", "release", "see its keys"),
    yes("file", "postgres", "a service with a volume, on a network that leads nowhere else"),
    yes("file", "mariadb", "as `postgres`"),
    yes("file", "redis", "as `postgres`; without `persist` in memory"),
    yes("file", "volume", "a volume of Docker"),
    partly("file", "bucket", "with `url`: its secret"),
    partly("file", "route", "the port of its service is open on loopback"),
    partly("file", "rollout", "see its keys"),
    no("file", "slo", COUNTED),
    yes("file", "image", "see its keys"),
    partly("file", "logs", "see its keys"),
    yes("file", "environment", "says which; `app.env`"),
    yes("service", "dir", "below it lies the Dockerfile: `build.context`"),
    yes("service", "run", "decides the image; `entrypoint` where it runs another's image"),
    yes("service", "build", "decides the image"),
    yes("service", "build_of", "the image of that service, with `run` as `entrypoint`"),
    yes("service", "image", "by its digest, else by that of `--image`"),
    yes("service", "dockerfile", "`build.dockerfile`, or `--image`"),
    no("service", "static", FILES),
    yes("service", "packages", "decides the image"),
    yes("service", "runtime", "decides the image"),
    yes("service", "port", "told as `PORT`, 8080 without it; copies have the ports of the machine that follow"),
    yes("service", "protocol", "nothing stands between"),
    yes("service", "health", "`healthcheck`: how often and how long"),
    noted("service", "alive", ALIVE),
    yes("service", "drain", "`stop_grace_period`, and 10 s more"),
    partly("service", "scale", "`deploy.replicas`: one number"),
    yes("service", "limits", "`deploy.resources.limits`"),
    partly(
        "service",
        "writable",
        "`tmpfs` at `/app/PATH`, without `:`; not with `image` or `dockerfile`. `/tmp` is there always, all else is read-only",
    ),
    yes("service", "metrics", "answered on the service's port; nothing of Compose collects them"),
    yes(
        "service",
        "cage",
        "always without capabilities and new privileges; read-only, but with a secret `as = \"file\"` that is not a file of the machine",
    ),
    yes("service", "env", "as `env`"),
    no("static", "dir", FILES),
    no("static", "fallback", FILES),
    no("static", "cache", FILES),
    noted("health", "path", ASKED),
    noted("health", "grpc", ASKED),
    yes("health", "interval", "`interval`"),
    yes("health", "idle_interval", "Docker asks by `interval` always"),
    yes("health", "timeout", "`timeout`"),
    yes("health", "grace", "`start_period`"),
    noted("alive", "path", ALIVE),
    noted("alive", "interval", ALIVE),
    noted("alive", "idle_interval", ALIVE),
    noted("alive", "timeout", ALIVE),
    noted("alive", "grace", ALIVE),
    partly("scale", "min", "the same number as `max`"),
    partly("scale", "max", "the same number as `min`"),
    no("scale", "cpu", "one number of copies runs"),
    no("scale", "in_flight", "one number of copies runs"),
    yes("limits", "memory", "`memory`"),
    yes("limits", "cpu", "`cpus`"),
    yes("secret", "generate", "a note says which variable must be set"),
    partly("secret", "source", "`file:` as a file, with `as = \"file\"`"),
    yes("job", "run", "`entrypoint`"),
    yes("job", "build_of", "whose image, volumes and limits it has"),
    no("job", "schedule", "Compose starts nothing by the clock"),
    noted("job", "timeout", "Compose ends nothing by the clock"),
    yes("job", "env", "as `env`"),
    yes("release", "before", "a service that has ended well before others start"),
    no("release", "snapshot", "Compose takes no snapshot"),
    yes("database", "version", "as in a cluster"),
    partly("database", "url", EXTERNAL),
    noted("database", "ca", VERIFIED),
    yes("database", "init", "`configs`, run on an empty database, in PostgreSQL as the app's role"),
    no("database", "backup", BACKUPS),
    yes("redis", "version", "as in a cluster"),
    yes("redis", "persist", "append-only file on a volume"),
    partly("redis", "url", EXTERNAL),
    noted("redis", "ca", VERIFIED),
    no("redis", "backup", BACKUPS),
    yes("volume", "services", "whose containers have it"),
    partly("volume", "path", "`target`, without `:`; unsaid `/volumes/NAME`"),
    no("volume", "size", "volumes of Docker have none"),
    no("volume", "backup", BACKUPS),
    partly("bucket", "url", "its secret; of its parts `url` alone is handed on. Without it refused"),
    no("bucket", "backup", BACKUPS),
    no("backup", "every", BACKUPS),
    no("backup", "keep", BACKUPS),
    no("backup", "drill", BACKUPS),
    yes("route", "hosts", "the proxy's in front"),
    no("route", "path", PROXY),
    no("route", "strip", PROXY),
    yes("route", "to", "`ports`, on loopback"),
    no("route", "redirect", PROXY),
    no("route", "deny", PROXY),
    yes("route", "tls", "the proxy's in front"),
    no("route", "http", PROXY),
    no("route", "hsts", PROXY),
    no("route", "compress", PROXY),
    no("route", "allow", PROXY),
    no("route", "auth", PROXY),
    no("route", "limit", PROXY),
    no("route", "upload", PROXY),
    no("hsts", "age", PROXY),
    no("hsts", "subdomains", PROXY),
    no("hsts", "preload", PROXY),
    no("auth", "header", PROXY),
    no("auth", "secret", PROXY),
    no("auth", "bearer", PROXY),
    no("auth", "basic", PROXY),
    no("limit", "rate", PROXY),
    no("limit", "by", PROXY),
    no("limit", "body", PROXY),
    no("limit", "timeout", PROXY),
    no("limit", "idle", PROXY),
    no("upload", "extensions", PROXY),
    partly("rollout", "strategy", "`rolling` alone: the old ends before the new starts"),
    no("rollout", "steps", "the old ends before the new starts"),
    no("rollout", "abort", JUDGED),
    partly("rollout", "watch", "its default alone"),
    no("slo", "availability", COUNTED),
    no("slo", "latency", COUNTED),
    no("slo", "notify", COUNTED),
    yes("image", "push", "nothing: rendering pushes no image"),
    yes("image", "login", "whoever pulls has logged in"),
    partly("logs", "to", "`syslog+tls://`: Docker's driver"),
    yes("environment", "protected", "a guard of whoever deploys"),
    yes("environment", "id", "a guard of whoever deploys"),
    yes("environment", "server", "says where to, not what"),
    yes("environment", "kubernetes", OTHERS),
    yes("kubernetes", "ingress_class", OTHERS),
    yes("kubernetes", "gateway", OTHERS),
    yes("kubernetes", "issuer", OTHERS),
    yes("kubernetes", "address", OTHERS),
    yes("kubernetes", "storage_class", OTHERS),
    yes("kubernetes", "node_pool", OTHERS),
    yes("kubernetes", "rollouts", OTHERS),
    yes("kubernetes", "secret_store", OTHERS),
    yes("secret-ref", "secret", "the variable, or the file, of that secret"),
    partly("value", "from", "as in a cluster"),
    yes("value", "secret", "a variable that must be set"),
    yes("value", "as", "`file`: `/run/secrets/NAME`"),
];
