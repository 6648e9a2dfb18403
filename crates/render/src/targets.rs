//! What becomes of each key of `bowline.toml` in a cluster and in Compose: the page, and what tests hold the renderers to.

mod compose;

use std::fmt::Write as _;

pub use compose::COMPOSE;

/// Whether a target carries a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carried {
    /// By what is written, or it is about something else than that target.
    Yes,
    /// By some clusters, or in some of its values; refused elsewhere.
    Partly,
    /// Not carried, and a note says so wherever it stands.
    Noted,
    /// Always refused.
    No,
}

/// A key, by the table that it stands in as the JSON Schema calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub table: &'static str,
    pub key: &'static str,
    pub carried: Carried,
    pub how: &'static str,
}

const fn yes(table: &'static str, key: &'static str, how: &'static str) -> Key {
    Key { table, key, carried: Carried::Yes, how }
}

const fn partly(table: &'static str, key: &'static str, how: &'static str) -> Key {
    Key { table, key, carried: Carried::Partly, how }
}

const fn no(table: &'static str, key: &'static str, how: &'static str) -> Key {
    Key { table, key, carried: Carried::No, how }
}

/// Every key of the grammar, in the order of the page, in a cluster.
pub const KEYS: &[Key] = &[
    yes("file", "app", "names of all objects begin with it; label `bowline.dev/app`"),
    yes("file", "service", "Deployment and ServiceAccount, NetworkPolicy; a Service where somebody asks it"),
    yes("file", "env", "ConfigMap by content hash, `envFrom`; secrets by `secretKeyRef`"),
    yes("file", "secret", "a Secret that must be there, or an ExternalSecret"),
    yes("file", "job", "CronJob"),
    yes("file", "release", "see its keys"),
    yes("file", "postgres", "StatefulSet, Service, PersistentVolumeClaim; with `--api cloudnative-pg` a Cluster"),
    yes("file", "mariadb", "StatefulSet, Service, PersistentVolumeClaim"),
    yes("file", "redis", "StatefulSet, Service; a PersistentVolumeClaim where it persists"),
    yes("file", "volume", "PersistentVolumeClaim"),
    partly("file", "bucket", "with `url`: its Secret"),
    yes("file", "route", "HTTPRoute or Ingress, one per route with hosts"),
    partly("file", "rollout", "see its keys"),
    partly("file", "slo", "`availability` alone"),
    yes("file", "image", "see its keys"),
    no("file", "logs", "the cluster collects logs"),
    yes("file", "environment", "label `bowline.dev/env`"),
    yes("service", "dir", "decides the image"),
    yes("service", "run", "decides the image; `command` of the container where it runs another's image"),
    yes("service", "build", "decides the image"),
    yes("service", "build_of", "the image of that service, with `run` as `command`"),
    yes("service", "image", "by its digest, else by that of `--image`"),
    yes("service", "dockerfile", "by `--image`; `deploy` builds it"),
    no("service", "static", "no edge of a cluster serves files yet"),
    yes("service", "packages", "decides the image"),
    yes("service", "runtime", "decides the image"),
    yes("service", "port", "`containerPort`; without it 8080, told as `PORT`. Any number of copies"),
    yes("service", "protocol", "`appProtocol: kubernetes.io/h2c`; ingress-nginx: `backend-protocol: GRPC`"),
    yes(
        "service",
        "health",
        "readiness and startup probe; without it, where a route leads there, whether the port is open",
    ),
    yes("service", "alive", "liveness probe, three failures"),
    yes(
        "service",
        "drain",
        "`preStop` sleep of 10 s and `drain`, then TERM and 10 s more: `terminationGracePeriodSeconds`",
    ),
    yes(
        "service",
        "scale",
        "`replicas`, or a HorizontalPodAutoscaler; from two on a PodDisruptionBudget and spread over zones and machines",
    ),
    yes("service", "limits", "requests and limits; without it requests of 100m and 128Mi and no limit"),
    partly(
        "service",
        "writable",
        "emptyDir of 2Gi at `/app/PATH`, without `:`; not with `image` or `dockerfile`. `/tmp` is there always, all else is read-only",
    ),
    yes("service", "metrics", "annotations `prometheus.io/…`; with `--api prometheus` a ServiceMonitor"),
    yes("service", "cage", "always as Pod Security `restricted` asks"),
    yes("service", "env", "as `env`"),
    no("static", "dir", "see `static`"),
    no("static", "fallback", "see `static`"),
    no("static", "cache", "see `static`"),
    partly("health", "path", "`httpGet`, by HTTP/1.1 alone"),
    yes("health", "grpc", "`grpc`"),
    yes("health", "interval", "`periodSeconds`, whole seconds, at least 1"),
    yes("health", "idle_interval", "kubelets ask by `interval` always"),
    yes("health", "timeout", "`timeoutSeconds`, whole seconds, at least 1"),
    yes("health", "grace", "`failureThreshold` of the startup probe, by `interval`"),
    partly("alive", "path", "`httpGet`, by HTTP/1.1 alone"),
    yes("alive", "interval", "`periodSeconds`, whole seconds, at least 1"),
    yes("alive", "idle_interval", "kubelets ask by `interval` always"),
    yes("alive", "timeout", "`timeoutSeconds`, whole seconds, at least 1"),
    partly("alive", "grace", "its default alone, as everywhere"),
    partly("scale", "min", "`minReplicas`; not 0 below another `max`"),
    partly("scale", "max", "`maxReplicas`, with `cpu`"),
    yes("scale", "cpu", "of `limits.cpu`: `averageUtilization`; else of one core: `averageValue`"),
    no("scale", "in_flight", "a cluster knows no requests in flight without an adapter: say `cpu`"),
    yes("limits", "memory", "requests and limits alike"),
    yes("limits", "cpu", "requests and limits alike"),
    yes("secret", "generate", "a note with the command that makes one"),
    partly(
        "secret",
        "source",
        "`file:` a note with the command; `aws:`, `vault:` an ExternalSecret, with `--api external-secrets` and `kubernetes.secret_store`",
    ),
    yes("job", "run", "`command`"),
    yes("job", "build_of", "whose image, volumes, limits and account it has"),
    partly(
        "job",
        "schedule",
        "`schedule` in UTC, `Forbid`, made up within an hour; without it suspended. Not days that are both, as of `*/2 * mon`: a CronJob takes either",
    ),
    yes("job", "timeout", "`activeDeadlineSeconds`; never repeated"),
    yes("job", "env", "as `env`"),
    yes(
        "release",
        "before",
        "Job, named by the hash of all that it is, which waits for the databases; a note says how to wait for it. What is the same as before an earlier release is not run again. Not in a chart",
    ),
    no("release", "snapshot", "no snapshot is taken in a cluster"),
    yes(
        "database",
        "version",
        "the tag of the official image, or `--image KIND.NAME=…@sha256:…`; without it postgres 17, mariadb 11",
    ),
    partly("database", "url", "its Secret; of its parts `url` alone is handed on"),
    yes("database", "ca", "a note: the app verifies the server itself"),
    yes("database", "init", "ConfigMap, run on an empty database, in PostgreSQL as the app's role; at most 1 MB"),
    no("database", "backup", "backups are not made yet"),
    yes("redis", "version", "the tag of the official image; without it 7"),
    yes("redis", "persist", "append-only file on a PersistentVolumeClaim"),
    partly("redis", "url", "its Secret; of its parts `url` alone is handed on"),
    yes("redis", "ca", "a note: the app verifies the server itself"),
    no("redis", "backup", "backups are not made yet"),
    partly(
        "volume",
        "services",
        "whose pods mount it: one pod ReadWriteOnce and `Recreate`; more ReadWriteMany, with `kubernetes.storage_class`, else refused",
    ),
    partly("volume", "path", "`mountPath`, without `:`; unsaid `/volumes/NAME`"),
    yes("volume", "size", "storage asked for; without it 1Gi, noted"),
    no("volume", "backup", "backups are not made yet"),
    partly(
        "bucket",
        "url",
        "its Secret; of its parts `url` alone is handed on. Without it refused: no S3 server is run",
    ),
    no("bucket", "backup", "backups are not made yet"),
    no("backup", "every", "backups are not made yet"),
    no("backup", "keep", "backups are not made yet"),
    no("backup", "drill", "backups are not made yet"),
    partly("route", "hosts", "hostnames; names alone, no addresses. A route without hosts is noted"),
    partly(
        "route",
        "path",
        "`PathPrefix`, `Prefix`, with ingress-nginx where it must be a regular expression; of what a path holds by RFC 3986",
    ),
    partly("route", "strip", "Gateway: URLRewrite; ingress-nginx: `rewrite-target`"),
    yes("route", "to", "`backendRefs`, `backend`"),
    partly("route", "redirect", "Gateway: RequestRedirect 308; an Ingress carries none that keeps the path"),
    partly("route", "deny", "Envoy Gateway: HTTPRouteFilter; ingress-nginx: `denylist-source-range`"),
    partly(
        "route",
        "tls",
        "a Certificate per host with `kubernetes.issuer`, else a Secret that must be there; `off`; not `local`",
    ),
    partly("route", "http", "Gateway: a second HTTPRoute with a redirect; ingress-nginx: `ssl-redirect`"),
    partly("route", "hsts", "Gateway: ResponseHeaderModifier"),
    partly("route", "compress", "Envoy Gateway: BackendTrafficPolicy"),
    partly("route", "allow", "Envoy Gateway: SecurityPolicy; ingress-nginx: `allowlist-source-range`"),
    partly("route", "auth", "see its keys"),
    yes("route", "limit", "see its keys"),
    partly("route", "upload", "`\"off\"` alone: nothing there looks into bodies"),
    partly("hsts", "age", "see `hsts`"),
    partly("hsts", "subdomains", "see `hsts`"),
    partly("hsts", "preload", "see `hsts`"),
    partly("auth", "header", "Envoy Gateway: SecurityPolicy, `apiKeyAuth`"),
    partly("auth", "secret", "see `header`"),
    partly("auth", "bearer", "Envoy Gateway: SecurityPolicy, `apiKeyAuth`, by a Secret that must be there"),
    partly(
        "auth",
        "basic",
        "Envoy Gateway: SecurityPolicy; ingress-nginx: `auth-type`; by a Secret that must be there",
    ),
    partly(
        "limit",
        "rate",
        "Envoy Gateway: BackendTrafficPolicy; ingress-nginx: `limit-rps`, `limit-rpm`; each proxy for itself",
    ),
    partly("limit", "by", "ingress-nginx: `client` alone"),
    partly("limit", "body", "Envoy Gateway: `requestBuffer`, where it is said; ingress-nginx: `proxy-body-size`"),
    partly(
        "limit",
        "timeout",
        "Gateway: `timeouts.request`, until the end of the answer; ingress-nginx: `proxy-read-timeout`",
    ),
    partly("limit", "idle", "its default; ingress-nginx: the same as `timeout`"),
    no("upload", "extensions", "nothing in front of pods looks into bodies"),
    partly(
        "rollout",
        "strategy",
        "`rolling`: one more before one less; with `kubernetes.rollouts` a Rollout of Argo: `canary` by ingress-nginx, `blue-green` by a second Service",
    ),
    partly("rollout", "steps", "`setWeight` and `pause` of the Rollout"),
    no("rollout", "abort", "nothing in a cluster judges a release by its requests"),
    partly(
        "rollout",
        "watch",
        "`0s` or its default, of which neither is watched: nothing in a cluster judges a release by its requests",
    ),
    partly(
        "slo",
        "availability",
        "PrometheusRule and a dashboard, with `--api prometheus`, over what Envoy Gateway or ingress-nginx counts",
    ),
    no("slo", "latency", "not watched yet"),
    no("slo", "notify", "the cluster's Alertmanager says whom"),
    yes("image", "push", "where `deploy` pushes what it builds; rendering pushes nothing"),
    yes("image", "login", "`imagePullSecrets`, of databases, too: a Secret that must be there"),
    no("logs", "to", "the cluster collects logs"),
    yes("environment", "protected", "a guard of whoever deploys"),
    yes("environment", "id", "a guard of whoever deploys"),
    yes("environment", "server", "says where to, not what"),
    yes("environment", "kubernetes", "see its keys"),
    partly(
        "kubernetes",
        "ingress_class",
        "`ingressClassName`; without it and `gateway` the cluster's default. Not beside `gateway`",
    ),
    yes("kubernetes", "gateway", "`parentRefs` of HTTPRoutes"),
    yes("kubernetes", "issuer", "`issuerRef` of Certificates"),
    partly(
        "kubernetes",
        "address",
        "GKE's classes `gce` and `gce-internal`: the annotation with the name of a reserved address. Else the command that sets it on the Gateway or the controller's Service, which others keep",
    ),
    yes("kubernetes", "storage_class", "`storageClassName`"),
    partly("kubernetes", "node_pool", "`nodeSelector` and a toleration, of databases, too; a label of nodes"),
    yes(
        "kubernetes",
        "rollouts",
        "Rollouts instead of the Deployments of services with routes, where the strategy is not `rolling`",
    ),
    yes("kubernetes", "secret_store", "`secretStoreRef` of ExternalSecrets"),
    yes("secret-ref", "secret", "the object of that secret"),
    partly(
        "value",
        "from",
        "databases, volumes, `service.NAME.url`, `app.name`, `app.env`; not `app.release` and `bowline.metrics`",
    ),
    yes("value", "secret", "`secretKeyRef`"),
    yes("value", "as", "`file`: `/run/secrets/NAME`, on a tmpfs"),
];

/// `docs/reference/targets.md`
pub fn reference() -> String {
    let mut out = HEAD.to_owned();
    let mut table = "";
    for (cluster, compose) in KEYS.iter().zip(COMPOSE) {
        if table != cluster.table {
            table = cluster.table;
            let _ = write!(out, "\n## {table}\n\n| key | in a cluster | | in Compose | |\n|---|---|---|---|---|\n");
        }
        let [cluster_how, compose_how] = [cluster, compose].map(|key| key.how.replace('|', "\\|"));
        let [in_cluster, in_compose] = [cluster, compose].map(|key| word(key.carried));
        let key = cluster.key;
        let _ = writeln!(out, "| `{key}` | {in_cluster} | {cluster_how} | {in_compose} | {compose_how} |");
    }
    out
}

fn word(carried: Carried) -> &'static str {
    match carried {
        Carried::Yes => "yes",
        Carried::Partly => "partly",
        Carried::Noted => "noted",
        Carried::No => "refused",
    }
}

const HEAD: &str = "# What a cluster and Compose carry

<!-- Generated from crates/render/src/targets.rs and targets/compose.rs. `BOWLINE_RENEW=1 cargo test -p bowline-render --test targets` writes it anew. -->

Each key of [bowline.toml](bowline-toml.md), and what [`bowline render kubernetes`](kubernetes.md) and [`bowline render compose`](compose.md) make of it. *Partly*: with
some clusters or in some of its values, refused with the others. *Noted*: not carried, and a note says so. What is refused is refused by its key and with what to do instead;
nothing is left out silently. With `render helm` a chart has what a cluster has.
";
