//! The tables of `bowline.toml`.

use super::Kind::{
    Bool, Cpu, Integer, IntegerOrTable, List, Named, SecretRef, Table, Text, Variables, WordOrTable, Words,
};
use super::Presence::{Default, Omitted, Required};
use super::cluster::KUBERNETES;
use super::{Conflict, Form, Key, Kind, Presence, TableSpec};

/// More instances of one service than a machine runs.
const MAX_SCALE: i64 = 1000;

pub(super) const fn key(name: &'static str, kind: Kind, presence: Presence, doc: &'static str) -> Key {
    Key { name, kind, presence, doc }
}

pub(super) const fn table(id: &'static str, doc: &'static str, keys: &'static [Key]) -> TableSpec {
    TableSpec { id, doc, keys, conflicts: &[], needs: &[], overrides: false }
}

const fn conflict(key: &'static str, others: &'static [&'static str], why: &'static str) -> Conflict {
    Conflict { key, values: &[], others, why }
}

/// `bowline.toml`.
pub(crate) static FILE: TableSpec = table(
    "file",
    "One app. What is not written is detected, or has a default that is right for production.",
    &[
        key("app", Text(Form::Name), Omitted("the folder's name"), "The app's name."),
        key("service", Named(&SERVICE), Omitted("one service `web`, detected"), "One table per process type."),
        key("env", Variables, Omitted("none"), "Variables of every service and job; a service's own `env` wins."),
        key("secret", Named(&SECRET), Omitted("Bowline's own store"), "Where a secret's value comes from."),
        key("job", Named(&JOB), Omitted("none"), "Commands run on a schedule or on demand by `bowline run`."),
        key("release", Table(&RELEASE), Omitted("nothing"), "What happens once per release."),
        key("postgres", Named(&DATABASE), Omitted("none"), "PostgreSQL databases."),
        key("mariadb", Named(&DATABASE), Omitted("none"), "MariaDB databases."),
        key("redis", Named(&REDIS), Omitted("none"), "Redis servers."),
        key("volume", Named(&VOLUME), Omitted("none"), "Folders that outlive releases."),
        key("bucket", Named(&BUCKET), Omitted("none"), "S3 buckets."),
        key(
            "route",
            Named(&ROUTE),
            Omitted("`[route.main]` to the service `web`, if there is one"),
            "Where requests go, and what they must pass. An empty `[route]` table means none.",
        ),
        key("rollout", Table(&ROLLOUT), Omitted("rolling"), "How a new release takes over."),
        key("slo", Table(&SLO), Omitted("none"), "What the app promises; alerts and drills judge by it."),
        key("image", Table(&IMAGE), Omitted("not pushed"), "The image that a release becomes."),
        key("logs", Table(&LOGS), Omitted("kept on the machine"), "Where else logs go."),
        key("environment", Named(&ENVIRONMENT), Omitted("none"), "What differs in an environment."),
    ],
);

static SERVICE: TableSpec = TableSpec {
    id: "service",
    doc: "A process type: what runs, how it is checked, how many and how large.",
    keys: &[
        key("dir", Text(Form::RelativePath), Default("\".\""), "The service's folder; a monorepo has several."),
        key("run", Text(Form::Command), Omitted("detected"), "The command. It listens on `$PORT`."),
        key("build", Text(Form::Build), Omitted("detected"), "The build's command; `\"\"` for none."),
        key("build_of", Text(Form::Name), Omitted("a build of its own"), "Runs the build of another service."),
        key("image", Text(Form::Image), Omitted("built"), "An image from a registry instead of a build."),
        key("dockerfile", Text(Form::RelativePath), Omitted("built without"), "Build with this Dockerfile in `dir`."),
        key("static", Table(&STATIC), Omitted("a process"), "No process: the edge serves these files."),
        key(
            "packages",
            List(Form::Package),
            Omitted("none"),
            "System packages that the app needs, to be built or to run. Checked; installed only with consent. Its images have them, but for those that only builds use (`-dev`, and Debian's sections `devel` and `libdevel`).",
        ),
        key(
            "runtime",
            Text(Form::Runtime),
            Omitted("what the build finds"),
            "Verified by the build, and recorded with the release.",
        ),
        key(
            "port",
            Integer(1, 65535),
            Omitted("`$PORT`, one per instance"),
            "Only for apps that ignore `$PORT`: one copy, stopped before the next starts.",
        ),
        key(
            "protocol",
            Words(&["http/1.1", "h2c"]),
            Default("\"http/1.1\""),
            "What the instances speak. `h2c`: HTTP/2 without TLS, with trailers both ways, as gRPC servers do.",
        ),
        key(
            "health",
            WordOrTable("tcp", &HEALTH),
            Omitted("any HTTP answer to `GET /` where a route leads here, else staying up"),
            "What tells that an instance may get traffic: a GET, gRPC's own check, or `\"tcp\"`.",
        ),
        key("alive", Table(&ALIVE), Omitted("no check"), "A GET that restarts the instance after three failures."),
        key(
            "drain",
            Text(Form::Duration),
            Default("\"30s\""),
            "How long outstanding requests may take before TERM. WebSockets are told at once (close 1001).",
        ),
        key(
            "scale",
            IntegerOrTable(0, MAX_SCALE, &SCALE),
            Default("1"),
            "How many instances: a number, or bounds and targets.",
        ),
        key("limits", Table(&LIMITS), Omitted("none"), "What one instance may use."),
        key(
            "writable",
            List(Form::RelativePath),
            Omitted("none"),
            "Paths that the app writes to. They die with the release, unless on a volume.",
        ),
        key(
            "metrics",
            Text(Form::UrlPath),
            Omitted("none"),
            "Path of the app's own Prometheus metrics: scraped and re-exposed.",
        ),
        key(
            "cage",
            Words(&["best", "required"]),
            Default("\"best\""),
            "`required`: refused where the machine cannot enforce the cage.",
        ),
        key(
            "env",
            Variables,
            Omitted("none"),
            "Variables of this service. Static files have no process: text reaches their build, secrets never do.",
        ),
    ],
    conflicts: &[
        conflict("image", &["build_of", "dockerfile", "static"], "a service comes from one place"),
        conflict("build_of", &["dockerfile", "static"], "a service comes from one place"),
        conflict("dockerfile", &["static"], "a service comes from one place"),
        conflict("build", &["build_of", "image", "dockerfile"], "nothing is built here"),
        conflict("dir", &["build_of", "image"], "its files come from elsewhere"),
        conflict("packages", &["build_of", "image", "dockerfile"], "nothing is built here"),
        conflict(
            "static",
            &["run", "port", "protocol", "health", "alive", "drain", "scale", "limits", "writable", "metrics", "cage"],
            "static files have no process",
        ),
    ],
    needs: &[],
    overrides: false,
};

static STATIC: TableSpec = table(
    "static",
    "Files that the edge serves itself.",
    &[
        key("dir", Text(Form::RelativePath), Required, "The folder to serve, below the service's `dir`."),
        key("fallback", Text(Form::RelativePath), Omitted("404"), "Served where no file matches: single-page apps."),
        key("cache", Text(Form::Duration), Default("\"1h\""), "How long clients may keep anything but HTML."),
    ],
);

static HEALTH: TableSpec = TableSpec { conflicts: &[conflict("path", &["grpc"], "one thing is asked")], ..HEALTH_KEYS };

const HEALTH_KEYS: TableSpec = table(
    "health",
    "A check. With a `path`: a GET answered with 2xx or 3xx. With `grpc`: `grpc.health.v1.Health/Check`, answered with \
     `SERVING`. With neither: a TCP connect.",
    &[
        key("path", Text(Form::UrlPath), Omitted("a TCP connect"), "What is asked for."),
        key(
            "grpc",
            Text(Form::GrpcService),
            Omitted("a TCP connect"),
            "The service whose health is asked for, `\"\"` for all. Only with `protocol = \"h2c\"`.",
        ),
        INTERVAL,
        IDLE_INTERVAL,
        TIMEOUT,
        GRACE,
    ],
);

static ALIVE: TableSpec = table(
    "alive",
    "A GET answered with 2xx or 3xx.",
    &[
        key("path", Text(Form::UrlPath), Required, "What is asked for."),
        INTERVAL,
        IDLE_INTERVAL,
        TIMEOUT,
        key(
            "grace",
            Text(Form::Duration),
            Default("\"30s\""),
            "Refused where it is not the default: only an instance that is ready is asked; see `health.grace`.",
        ),
    ],
);

const INTERVAL: Key = key("interval", Text(Form::Positive), Default("\"2s\""), "From one check to the next.");
const IDLE_INTERVAL: Key = key(
    "idle_interval",
    Text(Form::Positive),
    Default("\"10s\""),
    "The same once an instance has been ready for a minute and no request has come to its app for one; at least `interval`.",
);
const TIMEOUT: Key = key("timeout", Text(Form::Positive), Default("\"1s\""), "How long an answer may take.");
const GRACE: Key = key(
    "grace",
    Text(Form::Duration),
    Default("\"30s\""),
    "How long a new instance may take to become ready before it is restarted.",
);

static SCALE: TableSpec = table(
    "scale",
    "Bounds and targets of the number of instances: the load says how many there are between them.",
    &[
        key(
            "min",
            Integer(0, MAX_SCALE),
            Default("1"),
            "At least so many. 0: none while nobody asks for it; the edge holds the first requests while one starts. An open WebSocket, or a monitor from outside, asks. A canary wakes it, and waits for the requests by which it is judged.",
        ),
        key(
            "max",
            Integer(1, MAX_SCALE),
            Omitted("`min`, at least 1"),
            "At most so many, and no more than memory and cores of the machine allow.",
        ),
        key(
            "cpu",
            Text(Form::Share),
            Omitted("not scaled by it"),
            "How busy an instance should be, of `limits.cpu`, else of one core.",
        ),
        key(
            "in_flight",
            Integer(1, 1_000_000),
            Omitted("20 without `cpu`, else not scaled by it"),
            "Requests at once that one instance should carry, seen by the edge.",
        ),
    ],
);

static LIMITS: TableSpec = table(
    "limits",
    "What one instance may use.",
    &[
        key("memory", Text(Form::Size), Omitted("no limit"), "Memory; beyond it the instance is killed and restarted."),
        key("cpu", Cpu, Omitted("no limit"), "Cores: `1.0`, `0.25`."),
    ],
);

static SECRET: TableSpec = TableSpec {
    id: "secret",
    doc: "A secret's source. Values are set by `bowline secret set`, never written here.",
    keys: &[
        key("generate", Bool, Default("false"), "Made once if absent; else `up` and `deploy` stop and say what to do."),
        key("source", Text(Form::SecretSource), Omitted("Bowline's own store"), "An external store."),
    ],
    conflicts: &[conflict("generate", &["source"], "an external store makes its own values")],
    needs: &[],
    overrides: false,
};

static JOB: TableSpec = table(
    "job",
    "A command of the stable release, without overlap; a missed run is made up once.",
    &[
        key("run", Text(Form::Command), Required, "The command."),
        key(
            "build_of",
            Text(Form::Name),
            Omitted("the only build, or that of `web`"),
            "The service whose build it runs in.",
        ),
        key("schedule", Text(Form::Cron), Omitted("only on demand"), "When it runs, UTC."),
        key("timeout", Text(Form::Positive), Default("\"1h\""), "Killed after this long."),
        key("env", Variables, Omitted("none"), "Variables of this job, beside those of the top level."),
    ],
);

static RELEASE: TableSpec = TableSpec {
    id: "release",
    doc: "What happens once per release.",
    keys: &[
        key(
            "before",
            Text(Form::Command),
            Omitted("nothing"),
            "Runs once, before any instance of the release starts and when its databases are ready, in the build of `web` or of the only service and with its variables. Failing stops the release; it is never repeated and never undone by a rollback. Killed after 1 h.",
        ),
        key(
            "snapshot",
            List(Form::Name),
            Omitted("none"),
            "Databases, caches and volumes kept as they are before `before` runs, in `snapshots/` of the state: a rollback does not undo what it does.",
        ),
    ],
    conflicts: &[],
    needs: &[("snapshot", "before")],
    overrides: false,
};

/// `[postgres.NAME]` and `[mariadb.NAME]`.
static DATABASE: TableSpec = TableSpec {
    id: "database",
    doc: "A database that Bowline runs and backs up, or an external one.",
    keys: &[
        key("version", Integer(1, 999), Omitted("the newest on the machine"), "Major version."),
        key("url", SecretRef, Omitted("run by Bowline"), "The URL of an external server."),
        key(
            "ca",
            SecretRef,
            Omitted("the system's"),
            "The CA that the external server's certificate is checked against.",
        ),
        key(
            "init",
            Text(Form::RelativePath),
            Omitted("none"),
            "SQL run once, on an empty database, as the app's own role.",
        ),
        key("backup", Table(&BACKUP), Omitted("none"), "Backups and drills."),
    ],
    conflicts: &[conflict("url", &["version", "init"], "an external server has its own version and contents")],
    needs: &[("ca", "url")],
    overrides: false,
};

static REDIS: TableSpec = TableSpec {
    id: "redis",
    doc: "A Redis server that Bowline runs, or an external one.",
    keys: &[
        key("version", Integer(1, 999), Omitted("the newest on the machine"), "Major version."),
        key("persist", Bool, Default("false"), "Survive a restart: append-only file."),
        key("url", SecretRef, Omitted("run by Bowline"), "The URL of an external server."),
        key(
            "ca",
            SecretRef,
            Omitted("the system's"),
            "The CA that the external server's certificate is checked against.",
        ),
        key("backup", Table(&BACKUP), Omitted("none"), "Backups and drills."),
    ],
    conflicts: &[conflict("url", &["version", "persist"], "an external server has its own settings")],
    needs: &[("ca", "url")],
    overrides: false,
};

static VOLUME: TableSpec = table(
    "volume",
    "A folder that outlives releases. Always given as `$BOWLINE_VOLUME_NAME`.",
    &[
        key("services", List(Form::Name), Omitted("every service and job"), "Who may use it."),
        key("path", Text(Form::AbsolutePath), Omitted("only by its variable"), "Where it is mounted."),
        key(
            "size",
            Text(Form::Size),
            Omitted("no limit"),
            "What it may hold, reserved on the disk as root. It can grow and never shrinks.",
        ),
        key("backup", Table(&BACKUP), Omitted("none"), "Backups and drills."),
    ],
);

static BUCKET: TableSpec = table(
    "bucket",
    "An S3 bucket. References ask for its `url`, `endpoint`, `name`, `region`, `key` and `secret`.",
    &[
        key(
            "url",
            SecretRef,
            Omitted("run by Bowline"),
            "An external bucket: `https://KEY:SECRET@HOST[:PORT]/BUCKET[?region=REGION]`, characters like `/` in the secret as `%2F`.",
        ),
        key("backup", Table(&BACKUP), Omitted("none"), "Backups and drills."),
    ],
);

static BACKUP: TableSpec = table(
    "backup",
    "Backups: encrypted, checksummed, and proven by restoring them.",
    &[
        key("every", Text(Form::Positive), Required, "From one backup to the next."),
        key("keep", Integer(1, 10_000), Default("7"), "How many are kept."),
        key("drill", Text(Form::Positive), Omitted("never"), "How often one is restored and compared."),
    ],
);

static ROUTE: TableSpec = TableSpec {
    id: "route",
    doc: "Requests to these hosts below this path.",
    keys: &[
        key(
            "hosts",
            List(Form::Host),
            Omitted("`<app>.localhost` in `local`, none elsewhere"),
            "In `local` only hosts of `[environment.local]` count.",
        ),
        key("path", Text(Form::UrlPath), Default("\"/\""), "Prefix of whole segments."),
        key("strip", Bool, Default("false"), "Remove the prefix before the request is forwarded."),
        key("to", Text(Form::Name), Omitted("`web`, or the only service"), "The service that answers."),
        key("redirect", Text(Form::Url), Omitted("no redirect"), "Answer 308 to this URL, path and query appended."),
        key("deny", Bool, Omitted("not denied"), "Answer 403."),
        key(
            "tls",
            Words(&["auto", "acme", "local", "off"]),
            Default("\"auto\""),
            "`auto`: ACME for public names, the local CA for the rest. Never ACME in `local`.",
        ),
        key(
            "http",
            Words(&["serve", "redirect"]),
            Omitted(
                "`redirect` where `tls = \"acme\"`, or `\"auto\"` and an authority has issued a certificate, and not in `local`; else `serve`",
            ),
            "`redirect`: what does not come over HTTPS gets 308 to the same over HTTPS, as soon as there is a certificate for the host.",
        ),
        key(
            "hsts",
            Table(&HSTS),
            Omitted("browsers are told nothing"),
            "Told over HTTPS only, and not in `local`, where the name is one of many on this machine.",
        ),
        key(
            "compress",
            Bool,
            Default("false"),
            "Text of at least 1 KiB is compressed with gzip for clients that take it. Not where an answer holds a secret beside what a request says (BREACH).",
        ),
        key("allow", List(Form::Cidr), Omitted("everyone"), "Addresses and networks let in."),
        key("auth", Table(&AUTH), Omitted("everyone"), "What a request must carry."),
        key("limit", Table(&LIMIT), Omitted("its defaults"), "Rates, sizes and times."),
        key(
            "upload",
            WordOrTable("off", &UPLOAD),
            Omitted("not checked"),
            "Which files may be uploaded; checked while streaming. `\"off\"`: not here, for an environment whose edge looks into no bodies and an app that judges for itself.",
        ),
    ],
    conflicts: &[
        conflict("redirect", &["to", "deny", "upload", "strip"], "a route does one thing"),
        conflict("deny", &["to", "upload", "strip"], "a route does one thing"),
        Conflict { key: "tls", values: &["off"], others: &["http", "hsts"], why: "there is no HTTPS" },
    ],
    needs: &[],
    overrides: false,
};

static HSTS: TableSpec = table(
    "hsts",
    "What browsers are to remember of these hosts: to ask them over HTTPS only (`Strict-Transport-Security`). It cannot be taken back sooner.",
    &[
        key("age", Text(Form::Duration), Required, "For how long. `0s` takes it back from whoever comes again."),
        key("subdomains", Bool, Default("false"), "Of all hosts below these, too."),
        key("preload", Bool, Default("false"), "Browsers may be shipped with it: needs a year, and `subdomains`."),
    ],
);

static AUTH: TableSpec = TableSpec {
    id: "auth",
    doc: "A header, a bearer token, or users with passwords.",
    keys: &[
        key("header", Text(Form::Header), Omitted("not by header"), "This header must hold the secret."),
        key("secret", Text(Form::Name), Omitted("only with `header`"), "The secret that the header must hold."),
        key("bearer", SecretRef, Omitted("not by bearer token"), "`Authorization: Bearer` must hold the secret."),
        key("basic", SecretRef, Omitted("not by password"), "The secret holds lines of `user:password`."),
    ],
    conflicts: &[
        conflict("header", &["bearer", "basic"], "a route asks for one thing"),
        conflict("bearer", &["basic"], "a route asks for one thing"),
    ],
    needs: &[("secret", "header"), ("header", "secret")],
    overrides: false,
};

static LIMIT: TableSpec = TableSpec {
    id: "limit",
    doc: "Rates, sizes and times of requests.",
    keys: &[
        key("rate", Text(Form::Rate), Omitted("no limit"), "Requests in a time; answered with 429 beyond."),
        key("by", Words(&["client", "route"]), Default("\"client\""), "Who shares the rate."),
        key("body", Text(Form::Size), Default("\"100MiB\""), "Largest request body; answered with 413 beyond."),
        key(
            "timeout",
            Text(Form::Positive),
            Default("\"60s\""),
            "From the last byte of the request to the first of the response.",
        ),
        key("idle", Text(Form::Positive), Default("\"1h\""), "Without a byte in either direction, WebSocket included."),
    ],
    conflicts: &[],
    needs: &[("by", "rate")],
    overrides: false,
};

static UPLOAD: TableSpec = table(
    "upload",
    "Uploaded files, checked by name and by their first bytes.",
    &[key("extensions", List(Form::Extension), Required, "Extensions let in.")],
);

static ROLLOUT: TableSpec = TableSpec {
    id: "rollout",
    doc: "How a new release takes over.",
    keys: &[
        key(
            "strategy",
            Words(&["rolling", "canary", "blue-green"]),
            Default("\"rolling\""),
            "One instance at a time; in judged steps; or all at once beside the old. In `local` always `rolling`.",
        ),
        key(
            "steps",
            List(Form::Step),
            Default("[\"5% for 1m\", \"25% for 2m\", \"50% for 2m\"]"),
            "Shares of the traffic, rising, and how long each is judged. Only for `canary`.",
        ),
        key(
            "abort",
            List(Form::AbortRule),
            Omitted("readiness, crash loops, and over half of the requests failing"),
            "Limits whose passing rolls back. Times are those until an answer begins.",
        ),
        key(
            "watch",
            Text(Form::Duration),
            Omitted("`10m` for canary and blue-green, `0s` for rolling"),
            "After promotion, still rolled back by itself.",
        ),
    ],
    conflicts: &[Conflict {
        key: "strategy",
        values: &["rolling", "blue-green"],
        others: &["steps"],
        why: "only a canary goes in steps",
    }],
    needs: &[("steps", "strategy")],
    overrides: false,
};

static SLO: TableSpec = table(
    "slo",
    "What the app promises.",
    &[
        key(
            "availability",
            Text(Form::Share),
            Omitted("no promise"),
            "Share of requests answered without a server error.",
        ),
        key(
            "latency",
            Text(Form::LatencyObjective),
            Omitted("no promise"),
            "Share of requests answered faster than a time.",
        ),
        key("notify", SecretRef, Omitted("nobody"), "A webhook that alerts go to."),
    ],
);

static IMAGE: TableSpec = table(
    "image",
    "The image that a release becomes.",
    &[
        key(
            "push",
            Text(Form::Image),
            Required,
            "The repository that it is pushed to by `deploy --to kubernetes`, for all services.",
        ),
        key("login", SecretRef, Omitted("anonymous"), "`user:password` by which a cluster pulls it."),
    ],
);

static LOGS: TableSpec =
    table("logs", "Where else logs go.", &[key("to", Text(Form::LogSink), Required, "The receiver.")]);

/// `[environment.NAME]`.
pub(crate) static ENVIRONMENT: TableSpec = TableSpec {
    id: "environment",
    doc: "Only what differs: every table of the file can be overridden by its name.",
    keys: &[
        key("protected", Bool, Default("false"), "A plan must be approved by its hash; limited roles cannot apply it."),
        key(
            "id",
            Text(Form::EnvironmentId),
            Omitted("any"),
            "The environment that is meant: a server with another one refuses.",
        ),
        key("server", Text(Form::Target), Omitted("`--to` is said"), "Where `deploy` and `plan` go without `--to`."),
        key("kubernetes", Table(&KUBERNETES), Omitted("the cluster's defaults"), "Settings of a cluster."),
    ],
    conflicts: &[],
    needs: &[],
    overrides: true,
};

/// `{ secret = "NAME" }`.
pub(crate) static SECRET_REF: TableSpec =
    table("secret-ref", "A secret by its name.", &[key("secret", Text(Form::Name), Required, "The secret's name.")]);

/// One environment variable, where it is a table.
pub(crate) static VALUE: TableSpec = TableSpec {
    id: "value",
    doc: "A part of a resource, or a secret.",
    keys: &[
        key(
            "from",
            Text(Form::Reference),
            Omitted("not a reference"),
            "What is taken: `postgres.NAME.url`, `service.NAME.url`, `app.env`, `bowline.metrics`, …",
        ),
        key("secret", Text(Form::Name), Omitted("not a secret"), "The secret's name."),
        key(
            "as",
            Words(&["env", "file"]),
            Default("\"env\""),
            "`file`: 0400 on a tmpfs of the instance; the variable holds its path.",
        ),
    ],
    conflicts: &[conflict("from", &["secret", "as"], "a value comes from one place")],
    needs: &[("as", "secret")],
    overrides: false,
};
