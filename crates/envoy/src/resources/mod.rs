//! From a table to Envoy's resources: pure, and the same JSON for the same table.

mod access;
mod cluster;
mod listener;
mod policy;
mod replies;
mod route;
mod trace;
mod unsaid;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bowline_core::route::{Action, Cohort, EdgeDesired, Pool, PoolId, RuleId};
use serde_json::{Value, json};

pub(crate) use cluster::ads;
pub(crate) use listener::HTTPS;
pub(crate) use replies::{LATE, TOO_LARGE};
pub(crate) use unsaid::without_unsaid;

use crate::delta::Kind;
use crate::upload;

/// Where Envoy listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    pub http: SocketAddr,
    pub https: Option<SocketAddr>,
}

/// All that the resources are made of.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub desired: &'a EdgeDesired,
    /// Instances that are in no pool any more and have not answered all their requests: they get none, and Envoy goes on counting what they
    /// still have.
    pub draining: &'a BTreeMap<PoolId, Pool>,
    pub listen: Listen,
    /// Lines of the access log are appended here.
    pub access_log: &'a Path,
    /// Where the upload filter listens; `None`: there is none, and no route with `upload` is carried.
    pub uploads: Option<&'a Path>,
}

/// Envoy's resources by their names, in the canonical JSON of their kinds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resources {
    /// `envoy.config.cluster.v3.Cluster`: one for each pool.
    pub clusters: BTreeMap<String, Value>,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`, by the name of the cluster.
    pub endpoints: BTreeMap<String, Value>,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`: certificates.
    pub secrets: BTreeMap<String, Value>,
    /// `envoy.config.listener.v3.Listener`.
    pub listeners: BTreeMap<String, Value>,
    /// `envoy.config.route.v3.RouteConfiguration`: one for plain HTTP, one for each host of HTTPS.
    pub routes: BTreeMap<String, Value>,
    /// Rules that no Envoy can carry out: they are answered 503. A plan names and refuses them; these were accepted by another edge.
    pub refused: Vec<RuleId>,
}

impl Resources {
    pub(crate) fn by_kind(&self) -> [(Kind, &BTreeMap<String, Value>); 5] {
        [
            (Kind::Cluster, &self.clusters),
            (Kind::Endpoints, &self.endpoints),
            (Kind::Secret, &self.secrets),
            (Kind::Listener, &self.listeners),
            (Kind::Routes, &self.routes),
        ]
    }

    pub fn of(input: Input<'_>) -> Self {
        let mut all = Self::default();
        let pools = pools(input);
        for (id, pool) in &pools {
            let name = cluster_name(id);
            all.clusters.insert(name.clone(), cluster::of(&name, id, pool));
            all.endpoints.insert(name.clone(), cluster::endpoints(&name, pool));
        }
        if let Some(api) = &input.desired.table.api {
            all.clusters.insert(cluster::API.to_owned(), cluster::api(&api.socket));
        }
        if let Some(socket) = input.uploads {
            all.clusters.insert(upload::NAME.to_owned(), cluster::uploads(socket));
        }
        listener::all(input, &mut all);
        let rules = input.desired.table.sites.values().flat_map(|site| &site.rules);
        all.refused = rules
            .filter(|rule| !is_carried(&rule.action) || (rule.policies.upload.is_some() && input.uploads.is_none()))
            .map(|rule| rule.id.clone())
            .collect();
        all.refused.sort();
        all.refused.dedup();
        all
    }
}

fn is_carried(action: &Action) -> bool {
    match action {
        Action::Files(_) => false,
        Action::Forward { .. } | Action::Redirect(_) | Action::Deny => true,
    }
}

/// A pool as Envoy is told it.
#[derive(Debug, Clone, Default)]
struct Told {
    pool: Arc<Pool>,
    draining: Pool,
}

/// The pools of the table, and those that are only drained.
fn pools(input: Input<'_>) -> BTreeMap<PoolId, Told> {
    let mut all: BTreeMap<PoolId, Told> = BTreeMap::new();
    for (id, pool) in &input.desired.table.pools {
        all.insert(id.clone(), Told { pool: Arc::clone(pool), draining: Pool::default() });
    }
    for (id, pool) in input.draining {
        all.entry(id.clone())
            .or_insert_with(|| Told {
                pool: Arc::new(Pool { protocol: pool.protocol, ..Pool::default() }),
                ..Told::default()
            })
            .draining = pool.clone();
    }
    all
}

/// `production/shop.web.r7`, `production/shop.web.r7.baseline`.
pub(crate) fn cluster_name(id: &PoolId) -> String {
    let cohort = match id.cohort {
        Cohort::Whole => "",
        Cohort::Baseline => ".baseline",
    };
    format!("{}/{}.{}.r{}{cohort}", id.key.env, id.key.app, id.service, id.release)
}

/// A message of this kind in a field that takes any.
pub(crate) fn any(kind: &str, mut message: Value) -> Value {
    message["@type"] = format!("type.googleapis.com/{kind}").into();
    message
}

pub(crate) fn address(address: SocketAddr) -> Value {
    let ipv4_compat = address.ip().to_string() == "::";
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port(), "ipv4_compat": ipv4_compat } })
}

/// A field that takes the place of any of its name.
fn header(name: &str, value: &str) -> Value {
    json!({ "header": { "key": name, "value": value }, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD" })
}

/// Of a duration, as protobuf's JSON writes it.
fn seconds(time: std::time::Duration) -> String {
    format!("{}.{:09}s", time.as_secs(), time.subsec_nanos())
}

/// A `%` in what Envoy takes for a format.
fn literal(text: &str) -> String {
    text.replace('%', "%%")
}

#[cfg(test)]
mod tests;
