//! One stream of delta ADS, as the server sees it: requests and models in, responses and what they came to out.
//!
//! A cluster and its endpoints are there before any route leads to them, and a cluster goes when no route leads to it any more: clusters,
//! endpoints, certificates, listeners, routes, and removals of clusters at the end ("xDS REST and gRPC protocol", eventual consistency
//! considerations). Of each kind one response is under way at a time; what changes meanwhile goes with the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_core::id::Generation;

/// A kind of resource, in the order in which they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Cluster,
    Endpoints,
    Secret,
    Listener,
    Routes,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Cluster, Self::Endpoints, Self::Secret, Self::Listener, Self::Routes];

    /// The message's full name.
    pub(crate) const fn message(self) -> &'static str {
        match self {
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::Routes => "envoy.config.route.v3.RouteConfiguration",
        }
    }

    pub(crate) fn type_url(self) -> String {
        format!("type.googleapis.com/{}", self.message())
    }

    pub(crate) fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| url == kind.type_url())
    }

    /// What it is called to people.
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::Cluster => "a cluster",
            Self::Endpoints => "endpoints",
            Self::Secret => "a certificate",
            Self::Listener => "a listener",
            Self::Routes => "routes",
        }
    }

    /// Envoy asks for all of them, and for no name.
    const fn is_wildcard(self) -> bool {
        match self {
            Self::Cluster | Self::Listener => true,
            Self::Endpoints | Self::Secret | Self::Routes => false,
        }
    }
}

/// One resource, encoded.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    /// The same for the same resource, whichever daemon has made it.
    pub(crate) version: String,
    pub(crate) body: Arc<[u8]>,
}

/// Bodies may be keys of certificates.
impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Resource({})", self.version)
    }
}

/// All that Envoy should have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Model {
    pub(crate) generation: Generation,
    pub(crate) resources: BTreeMap<Kind, BTreeMap<String, Resource>>,
}

impl Model {
    fn of(&self, kind: Kind) -> &BTreeMap<String, Resource> {
        static NONE: BTreeMap<String, Resource> = BTreeMap::new();
        self.resources.get(&kind).unwrap_or(&NONE)
    }
}

/// What Envoy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    pub(crate) subscribe: Vec<String>,
    pub(crate) unsubscribe: Vec<String>,
    /// What it holds, by name, of an earlier stream.
    pub(crate) initial: BTreeMap<String, String>,
    /// Of the response that it answers; empty: none.
    pub(crate) nonce: String,
    /// Why it does not take it.
    pub(crate) error: Option<String>,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) kind: Kind,
    pub(crate) nonce: String,
    pub(crate) generation: Generation,
    pub(crate) upserts: Vec<(String, Resource)>,
    pub(crate) removed: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    Send(Response),
    /// Envoy has all of this generation.
    Serving(Generation),
    /// It does not take what it was sent of this generation.
    Refused {
        generation: Generation,
        kind: Kind,
        why: String,
    },
}

/// One stream. Architecture invariant: a route or a listener is sent only when all clusters are there, with their endpoints.
#[derive(Debug)]
pub(crate) struct Delta {
    model: Arc<Model>,
    kinds: BTreeMap<Kind, Held>,
    nonces: u64,
    told: Option<Generation>,
}

/// What one stream has of one kind.
#[derive(Debug, Default)]
struct Held {
    names: BTreeSet<String>,
    versions: BTreeMap<String, String>,
    /// Those that were not taken.
    refused: BTreeMap<String, String>,
    under_way: Option<UnderWay>,
    /// It was told something: Envoy waits for the first response, even one that has nothing.
    is_greeted: bool,
}

#[derive(Debug)]
struct UnderWay {
    nonce: String,
    generation: Generation,
    upserts: BTreeMap<String, String>,
    removed: Vec<String>,
}

impl Delta {
    pub(crate) fn new(model: Arc<Model>) -> Self {
        Self { model, kinds: BTreeMap::new(), nonces: 0, told: None }
    }

    /// Another model is wanted.
    pub(crate) fn want(&mut self, model: Arc<Model>) -> Vec<Effect> {
        self.model = model;
        self.next(Vec::new())
    }

    pub(crate) fn request(&mut self, request: Request) -> Vec<Effect> {
        let mut effects = Vec::new();
        let is_first = !self.kinds.contains_key(&request.kind);
        let held = self.kinds.entry(request.kind).or_default();
        if is_first {
            held.versions = request.initial.clone();
        }
        for name in &request.unsubscribe {
            held.names.remove(name);
            held.versions.remove(name);
        }
        for name in request.subscribe.iter().filter(|name| *name != "*") {
            // Who asks again for what it has is told again.
            if !held.names.insert(name.clone()) || !is_first {
                held.versions.remove(name);
            }
        }
        if !request.nonce.is_empty() {
            effects.extend(self.answered(&request));
        }
        self.next(effects)
    }

    fn answered(&mut self, request: &Request) -> Option<Effect> {
        let held = self.kinds.get_mut(&request.kind)?;
        let sent = held.under_way.take_if(|sent| sent.nonce == request.nonce)?;
        if let Some(why) = &request.error {
            held.refused = sent.upserts;
            return Some(Effect::Refused { generation: sent.generation, kind: request.kind, why: why.clone() });
        }
        held.refused.retain(|name, _| !sent.upserts.contains_key(name));
        for name in &sent.removed {
            held.versions.remove(name);
        }
        let taken: Vec<String> = sent.upserts.keys().cloned().collect();
        held.versions.extend(sent.upserts);
        if request.kind == Kind::Cluster
            && let Some(endpoints) = self.kinds.get_mut(&Kind::Endpoints)
        {
            // A cluster that was told anew waits for its endpoints anew.
            taken.iter().for_each(|name| drop(endpoints.versions.remove(name)));
        }
        None
    }

    /// Sends what may be sent now.
    fn next(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        for kind in Kind::ALL {
            if let Some(response) = self.response(kind) {
                effects.push(Effect::Send(response));
            }
        }
        let generation = self.model.generation;
        if self.told != Some(generation)
            && Kind::ALL.into_iter().all(|kind| self.is_settled(kind))
            && !self.is_refused()
        {
            self.told = Some(generation);
            effects.push(Effect::Serving(generation));
        }
        effects
    }

    fn is_refused(&self) -> bool {
        let now = |(kind, held): (&Kind, &Held)| {
            let wanted = self.model.of(*kind);
            held.refused.iter().any(|(name, version)| wanted.get(name).is_some_and(|one| one.version == *version))
        };
        self.kinds.iter().any(now)
    }

    fn response(&mut self, kind: Kind) -> Option<Response> {
        let may_be_led_to = self.is_there(Kind::Cluster) && self.is_there(Kind::Endpoints);
        let is_led_by_new = self.is_there(Kind::Listener) && self.is_there(Kind::Routes);
        let held = self.kinds.get(&kind).filter(|held| held.under_way.is_none())?;
        let waits = matches!(kind, Kind::Listener | Kind::Routes) && !may_be_led_to;
        if waits {
            return None;
        }
        let upserts: Vec<(String, Resource)> =
            self.missing(kind, held).map(|(name, resource)| (name.clone(), resource.clone())).collect();
        let goes = kind.is_wildcard() && (kind != Kind::Cluster || is_led_by_new);
        let removed: Vec<String> = if goes { self.surplus(kind, held).cloned().collect() } else { Vec::new() };
        let owes_greeting = kind.is_wildcard() && !held.is_greeted;
        if upserts.is_empty() && removed.is_empty() && !owes_greeting {
            return None;
        }
        self.nonces += 1;
        let (nonce, generation) = (self.nonces.to_string(), self.model.generation);
        let versions = upserts.iter().map(|(name, resource)| (name.clone(), resource.version.clone())).collect();
        let held = self.kinds.entry(kind).or_default();
        held.is_greeted = true;
        held.under_way =
            Some(UnderWay { nonce: nonce.clone(), generation, upserts: versions, removed: removed.clone() });
        Some(Response { kind, nonce, generation, upserts, removed })
    }

    /// What it is to be sent: wanted, asked for, and neither there nor refused as it is.
    fn missing<'a>(&'a self, kind: Kind, held: &'a Held) -> impl Iterator<Item = (&'a String, &'a Resource)> {
        self.model.of(kind).iter().filter(move |(name, resource)| {
            let same = |known: &BTreeMap<String, String>| known.get(*name) == Some(&resource.version);
            (kind.is_wildcard() || held.names.contains(*name)) && !same(&held.versions) && !same(&held.refused)
        })
    }

    /// What it has and is not wanted.
    fn surplus<'a>(&'a self, kind: Kind, held: &'a Held) -> impl Iterator<Item = &'a String> {
        held.versions.keys().filter(move |name| !self.model.of(kind).contains_key(*name))
    }

    /// All that is wanted of a kind is there, as far as Envoy takes it.
    fn is_there(&self, kind: Kind) -> bool {
        let Some(held) = self.kinds.get(&kind) else { return self.model.of(kind).is_empty() };
        // Of a cluster that it refuses it does not ask for endpoints, nor for routes of such a listener.
        let asks = |name: &String| match kind {
            Kind::Endpoints => !self.has_refused(Kind::Cluster, name),
            Kind::Secret | Kind::Routes => self.kinds.get(&Kind::Listener).is_none_or(|held| held.refused.is_empty()),
            Kind::Cluster | Kind::Listener => true,
        };
        let is_there = |(name, resource): (&String, &Resource)| {
            let same = |known: &BTreeMap<String, String>| known.get(name) == Some(&resource.version);
            same(&held.versions) || same(&held.refused) || !asks(name)
        };
        held.under_way.is_none() && self.model.of(kind).iter().all(is_there)
    }

    fn has_refused(&self, kind: Kind, name: &str) -> bool {
        self.kinds.get(&kind).is_some_and(|held| held.refused.contains_key(name))
    }

    fn is_settled(&self, kind: Kind) -> bool {
        let surplus = |held: &Held| kind.is_wildcard() && self.surplus(kind, held).next().is_some();
        self.is_there(kind) && !self.kinds.get(&kind).is_some_and(surplus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(generation: u64, all: &[(Kind, &str, &str)]) -> Arc<Model> {
        let mut resources: BTreeMap<Kind, BTreeMap<String, Resource>> = BTreeMap::new();
        for (kind, name, version) in all {
            let resource = Resource { version: (*version).to_owned(), body: Arc::from(version.as_bytes()) };
            resources.entry(*kind).or_default().insert((*name).to_owned(), resource);
        }
        Arc::new(Model { generation: Generation(generation), resources })
    }

    fn ask(kind: Kind, names: &[&str]) -> Request {
        let subscribe = names.iter().map(|name| (*name).to_owned()).collect();
        let (unsubscribe, initial) = (Vec::new(), BTreeMap::new());
        Request { kind, subscribe, unsubscribe, initial, nonce: String::new(), error: None }
    }

    fn ack(kind: Kind, nonce: &str) -> Request {
        Request { nonce: nonce.to_owned(), ..ask(kind, &[]) }
    }

    /// `kind +name@version -name #nonce`, `serving N`, `refused kind: why`.
    fn said(effects: &[Effect]) -> Vec<String> {
        let text = |effect: &Effect| match effect {
            Effect::Send(response) => {
                let upserts: String =
                    response.upserts.iter().map(|(name, one)| format!(" +{name}@{}", one.version)).collect();
                let removed: String = response.removed.iter().map(|name| format!(" -{name}")).collect();
                format!("{:?}{upserts}{removed} #{}", response.kind, response.nonce)
            }
            Effect::Serving(generation) => format!("serving {generation}"),
            Effect::Refused { kind, why, .. } => format!("refused {kind:?}: {why}"),
        };
        effects.iter().map(text).collect()
    }

    const FIRST: [(Kind, &str, &str); 4] = [
        (Kind::Cluster, "a", "1"),
        (Kind::Endpoints, "a", "1"),
        (Kind::Listener, "http", "1"),
        (Kind::Routes, "http", "1"),
    ];

    /// A stream that has the first model.
    fn served() -> Delta {
        let mut delta = Delta::new(model(1, &FIRST));
        let mut check = |request: Request, expected: &[&str]| assert_eq!(said(&delta.request(request)), expected);
        check(ask(Kind::Cluster, &[]), &["Cluster +a@1 #1"]);
        check(ask(Kind::Endpoints, &["a"]), &["Endpoints +a@1 #2"]);
        check(ask(Kind::Listener, &[]), &[]);
        check(ack(Kind::Cluster, "1"), &[]);
        // The acknowledged cluster waits for endpoints that come after it.
        check(ack(Kind::Endpoints, "2"), &["Listener +http@1 #3"]);
        check(ask(Kind::Routes, &["http"]), &["Routes +http@1 #4"]);
        check(ack(Kind::Listener, "3"), &[]);
        check(ack(Kind::Routes, "4"), &["serving 1"]);
        delta
    }

    #[test]
    fn a_new_envoy_is_told_all_in_order() {
        served();
    }

    #[test]
    fn a_cluster_comes_before_its_routes_and_goes_after_them() {
        let mut delta = served();
        let second = [
            (Kind::Cluster, "b", "1"),
            (Kind::Endpoints, "b", "1"),
            (Kind::Listener, "http", "1"),
            (Kind::Routes, "http", "2"),
        ];
        assert_eq!(said(&delta.want(model(2, &second))), ["Cluster +b@1 #5"]);
        let mut check = |request: Request, expected: &[&str]| assert_eq!(said(&delta.request(request)), expected);
        check(ack(Kind::Cluster, "5"), &[]);
        check(ask(Kind::Endpoints, &["b"]), &["Endpoints +b@1 #6"]);
        check(ack(Kind::Endpoints, "6"), &["Routes +http@2 #7"]);
        check(ack(Kind::Routes, "7"), &["Cluster -a #8"]);
        check(ack(Kind::Cluster, "8"), &["serving 2"]);
    }

    #[test]
    fn what_is_refused_is_said_and_not_sent_again_as_it_is() {
        let mut delta = served();
        let mut second = FIRST;
        second[3].2 = "bad";
        assert_eq!(said(&delta.want(model(2, &second))), ["Routes +http@bad #5"]);
        let refusal = Request { error: Some("no such filter".to_owned()), ..ack(Kind::Routes, "5") };
        assert_eq!(said(&delta.request(refusal)), ["refused Routes: no such filter"]);
        assert_eq!(said(&delta.want(model(3, &second))), [""; 0], "nor is it served");
        second[3].2 = "good";
        assert_eq!(said(&delta.want(model(4, &second))), ["Routes +http@good #6"]);
        assert_eq!(said(&delta.request(ack(Kind::Routes, "6"))), ["serving 4"]);
    }

    #[test]
    fn an_envoy_that_comes_back_is_told_what_it_does_not_have() {
        let mut delta = Delta::new(model(2, &FIRST));
        let with = |kind, names: &[&str], has: &[(&str, &str)]| {
            let initial = has.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect();
            Request { initial, ..ask(kind, names) }
        };
        let mut check = |request: Request, expected: &[&str]| assert_eq!(said(&delta.request(request)), expected);
        // Its first response has nothing new, and ends the wait for it.
        check(with(Kind::Cluster, &[], &[("a", "1"), ("gone", "1")]), &["Cluster #1"]);
        check(with(Kind::Endpoints, &["a"], &[("a", "0")]), &["Endpoints +a@1 #2"]);
        check(with(Kind::Listener, &[], &[("http", "1")]), &[]);
        check(with(Kind::Routes, &["http"], &[("http", "1")]), &[]);
        check(ack(Kind::Cluster, "1"), &["Cluster -gone #3"]);
        check(ack(Kind::Endpoints, "2"), &[]);
        check(ack(Kind::Cluster, "3"), &["Listener #4"]);
        check(ack(Kind::Listener, "4"), &["serving 2"]);
    }

    #[test]
    fn endpoints_move_by_themselves() {
        let mut delta = served();
        let mut second = FIRST;
        second[1].2 = "2";
        assert_eq!(said(&delta.want(model(2, &second))), ["Endpoints +a@2 #5"]);
        assert_eq!(said(&delta.want(model(3, &second))), [""; 0], "one at a time");
        assert_eq!(said(&delta.request(ack(Kind::Endpoints, "5"))), ["serving 3"]);
    }
}
