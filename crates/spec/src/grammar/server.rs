//! The tables of `server.toml`.

use super::Kind::{Bool, Integer, List, Table, Text, WordOrTable, Words};
use super::Presence::{Default, Omitted, Required};
use super::{Form, Key, Kind, Presence, TableSpec};

const fn key(name: &'static str, kind: Kind, presence: Presence, doc: &'static str) -> Key {
    Key { name, kind, presence, doc }
}

const fn table(id: &'static str, doc: &'static str, keys: &'static [Key]) -> TableSpec {
    TableSpec { id, doc, keys, conflicts: &[], needs: &[], overrides: false }
}

/// `server.toml`.
pub(crate) static SERVER: TableSpec = table(
    "server",
    "One server: `/etc/bowline/server.toml`, or `--config`. This version refuses another number of addresses than one of \
     HTTP and at most one of HTTPS, `backup` and `limits.connections`.",
    &[
        key(
            "edge",
            Words(&["bowline", "envoy"]),
            Default("\"bowline\""),
            "Which proxy serves: Bowline's own, or [Envoy](envoy.md).",
        ),
        key(
            "runtime",
            Words(&["process", "docker"]),
            Default("\"process\""),
            "What instances are: processes of this machine, or containers of [Docker or Podman](docker.md).",
        ),
        key(
            "engine",
            Text(Form::AbsolutePath),
            Omitted("that of `DOCKER_HOST`, else `/var/run/docker.sock`"),
            "With `runtime = \"docker\"`: the socket of Docker, or of Podman's service.",
        ),
        key(
            "trusted_proxies",
            List(Form::Cidr),
            Omitted("none"),
            "Whose `X-Forwarded-*`, `Forwarded` and PROXY headers are believed.",
        ),
        key("listen", Table(&LISTEN), Omitted("its defaults"), "Where the server listens."),
        key(
            "acme",
            WordOrTable("off", &ACME),
            Omitted(
                "its defaults where the server listens on port 80 or 443, else `\"off\"`; the API's host stays with the local CA",
            ),
            "Certificates of an authority for public names: those of `tls = \"acme\"`, of `tls = \"auto\"` the names that anybody can resolve, \
             and the API's host. `off`: no authority is asked; what one has signed is served until it ends, not renewed, and all others are the local CA's.",
        ),
        key("api", Table(&API), Omitted("only the Unix socket"), "The API over HTTPS, behind the edge."),
        key("backup", Table(&BACKUP), Omitted("kept in the state folder"), "Where backups go."),
        key("otlp", Table(&OTLP), Omitted("none"), "Where [metrics, logs and traces](otlp.md) go."),
        key("limits", Table(&LIMITS), Omitted("its defaults"), "What the server bears."),
    ],
);

static LISTEN: TableSpec = table(
    "listen",
    "Addresses and ports. `[::]` takes IPv4 too.",
    &[
        key("http", List(Form::Listen), Default("[\"[::]:80\"]"), "Plain HTTP."),
        key("https", List(Form::Listen), Default("[\"[::]:443\"]"), "HTTPS."),
        key("admin", Text(Form::Listen), Default("\"127.0.0.1:7070\""), "Console, API and `/metrics`."),
        key(
            "proxy_protocol",
            Bool,
            Default("false"),
            "Connections of `trusted_proxies` begin with a PROXY header, version 1 or 2; those without one are closed. Others have none.",
        ),
    ],
);

static ACME: TableSpec = table(
    "acme",
    "An ACME certificate authority. An account is made there with the first certificate, which agrees to its terms of service.",
    &[
        key(
            "directory",
            Text(Form::Url),
            Default("\"https://acme-v02.api.letsencrypt.org/directory\""),
            "The authority's directory.",
        ),
        key("contact", Text(Form::Email), Omitted("nobody"), "Whom the authority writes to."),
        key(
            "ca",
            Text(Form::AbsolutePath),
            Omitted("the system's"),
            "PEM file that the directory's own certificate is checked against.",
        ),
        key(
            "challenge",
            Words(&["http-01", "tls-alpn-01"]),
            Omitted("one after the other, as far as the server listens, standard ports first"),
            "How names are proven: asked on port 80 over HTTP, or on port 443 in a TLS handshake. What listens on another port must be \
             led to from there.",
        ),
    ],
);

static API: TableSpec = TableSpec {
    id: "api",
    doc: "The API over HTTPS, behind the edge.",
    keys: &[
        key(
            "host",
            Text(Form::Host),
            Required,
            "Its public name. No app is served on it, and it is answered over HTTPS only.",
        ),
        key(
            "certificate",
            Text(Form::AbsolutePath),
            Omitted("made by the authority of `[acme]`, if that is written, else by the local CA"),
            "PEM chain; it and its key are taken anew within seconds after they have changed.",
        ),
        key("key", Text(Form::AbsolutePath), Omitted("made with the certificate"), "PEM key of the chain."),
    ],
    conflicts: &[],
    needs: &[("certificate", "key"), ("key", "certificate")],
    overrides: false,
};

static BACKUP: TableSpec = table(
    "backup-destination",
    "Where backups go, and who can open them.",
    &[
        key("to", Text(Form::Destination), Required, "A folder or an S3 bucket."),
        key("recipient", Text(Form::Recipient), Required, "Backups are encrypted to it."),
    ],
);

static OTLP: TableSpec = table(
    "otlp",
    "An OpenTelemetry receiver: [what is sent](otlp.md).",
    &[
        key(
            "endpoint",
            Text(Form::Url),
            Required,
            "OTLP over HTTP, in protobuf. `/v1/metrics`, `/v1/logs` and `/v1/traces` are added to it.",
        ),
        key(
            "headers",
            Text(Form::AbsolutePath),
            Omitted("none"),
            "File with fields that each request has, one `Name: value` a line, such as a token. It is read when the daemon starts, and again as long as it cannot be.",
        ),
        key(
            "ca",
            Text(Form::AbsolutePath),
            Omitted("the system's"),
            "PEM file that the receiver's certificate is checked against.",
        ),
        key("interval", Text(Form::Positive), Default("\"15s\""), "How often metrics are sent, at least a second."),
        key(
            "sample",
            Text(Form::Share),
            Default("\"100%\""),
            "Of the traces that begin at the edge, those that are recorded. Those that came from elsewhere go by what they say of themselves.",
        ),
    ],
);

static LIMITS: TableSpec = table(
    "server-limits",
    "What the server bears.",
    &[
        key("connections", Integer(16, 1_000_000), Default("10000"), "Client connections open at once."),
        key("build_time", Text(Form::Positive), Default("\"15m\""), "A build that takes longer is killed."),
        key("log_size", Text(Form::Size), Default("\"16MiB\""), "A log file is rotated at this size."),
        key("log_files", Integer(1, 1000), Default("4"), "Rotated log files kept per instance slot."),
    ],
);
