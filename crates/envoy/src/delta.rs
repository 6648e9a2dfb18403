//! One stream of delta ADS, as the server sees it: requests and models in, responses and what they came to out.
//!
//! A cluster and its endpoints are there before any route leads to them, and a cluster goes when no route leads to it any more: clusters,
//! endpoints, certificates, listeners, routes, and removals of clusters at the end ("xDS REST and gRPC protocol", eventual consistency
//! considerations). Of each kind one response is under way at a time; what changes meanwhile goes with the next.
//!
//! Of a response that Envoy refuses it may have applied any part, and does not say which: what was in it is sent again one by one, so that only
//! what is refused stays so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_core::id::Generation;

/// First and last pause before a listener that was refused is sent again: by then its port may be free. Whether anything else is refused depends
/// on nothing but itself.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

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
    /// Tells models of one generation apart.
    pub(crate) number: u64,
    pub(crate) resources: BTreeMap<Kind, BTreeMap<String, Resource>>,
}

impl Model {
    pub(crate) fn of(&self, kind: Kind) -> &BTreeMap<String, Resource> {
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
    Settled(Settled),
}

/// Envoy has all of a model, but what it refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) generation: Generation,
    pub(crate) number: u64,
    pub(crate) refused: Refused,
    /// The routes that it has taken. Of a listener that it does not have it asks for none: those it may have refused as well.
    pub(crate) routes: BTreeSet<String>,
}

/// What Envoy refuses of what is wanted, and why.
pub(crate) type Refused = BTreeMap<(Kind, String), String>;

/// One stream. Architecture invariant: a route or a listener is sent only when all clusters are there, with their endpoints.
#[derive(Debug)]
pub(crate) struct Delta {
    model: Arc<Model>,
    kinds: BTreeMap<Kind, Held>,
    nonces: u64,
    told: Option<Settled>,
}

/// What one stream has of one kind.
#[derive(Debug, Default)]
struct Held {
    names: BTreeSet<String>,
    /// `None`: it may have any, or none at all.
    versions: BTreeMap<String, Option<String>>,
    refused: BTreeMap<String, Refusal>,
    /// They were in a response that was refused, and are sent one by one.
    alone: BTreeSet<String>,
    under_way: Option<UnderWay>,
    /// It was told something: Envoy waits for the first response, even one that has nothing.
    is_greeted: bool,
}

/// One that was not taken.
#[derive(Debug)]
struct Refusal {
    version: String,
    why: String,
    pause: Duration,
    again: Again,
}

/// When it is sent again as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    Never,
    At(Instant),
    Now,
}

#[derive(Debug)]
struct UnderWay {
    nonce: String,
    upserts: BTreeMap<String, String>,
    removed: Vec<String>,
}

impl Held {
    fn has(&self, name: &str, wanted: &Resource) -> bool {
        self.versions.get(name).and_then(Option::as_ref) == Some(&wanted.version)
    }

    /// As it is wanted, whether it is about to be sent again or not.
    fn refusal(&self, name: &str, wanted: &Resource) -> Option<&Refusal> {
        self.refused.get(name).filter(|refusal| refusal.version == wanted.version)
    }

    /// Nothing is to be sent: it is there, or refused for now.
    fn is_done_with(&self, name: &str, wanted: &Resource) -> bool {
        self.has(name, wanted) || self.refusal(name, wanted).is_some_and(|refusal| refusal.again != Again::Now)
    }

    fn refuse(&mut self, kind: Kind, sent: UnderWay, why: &str, now: Instant) {
        for name in sent.upserts.keys() {
            self.versions.insert(name.clone(), None);
        }
        if sent.upserts.len() > 1 {
            self.alone.extend(sent.upserts.into_keys());
            return;
        }
        let Some((name, version)) = sent.upserts.into_iter().next() else {
            // What it does not let go of it keeps.
            sent.removed.iter().for_each(|name| drop(self.versions.remove(name)));
            return;
        };
        let before = self.refused.get(&name).filter(|before| before.version == version);
        let pause = before.map_or(AGAIN.0, |before| (before.pause * 2).min(AGAIN.1));
        let again = match kind {
            Kind::Listener => Again::At(now + pause),
            Kind::Cluster | Kind::Endpoints | Kind::Secret | Kind::Routes => Again::Never,
        };
        self.alone.remove(&name);
        self.refused.insert(name, Refusal { version, why: why.to_owned(), pause, again });
    }

    fn take(&mut self, sent: UnderWay) {
        for name in &sent.removed {
            self.versions.remove(name);
        }
        for (name, version) in sent.upserts {
            self.refused.remove(&name);
            self.alone.remove(&name);
            self.versions.insert(name, Some(version));
        }
    }
}

impl Delta {
    pub(crate) fn new(model: Arc<Model>) -> Self {
        Self { model, kinds: BTreeMap::new(), nonces: 0, told: None }
    }

    /// Another model is wanted.
    pub(crate) fn want(&mut self, model: Arc<Model>) -> Vec<Effect> {
        self.model = model;
        for (kind, held) in &mut self.kinds {
            let wanted = self.model.of(*kind);
            held.refused.retain(|name, refusal| wanted.get(name).is_some_and(|one| one.version == refusal.version));
            held.alone.retain(|name| wanted.contains_key(name));
        }
        self.next()
    }

    pub(crate) fn request(&mut self, request: Request, now: Instant) -> Vec<Effect> {
        let is_first = !self.kinds.contains_key(&request.kind);
        let held = self.kinds.entry(request.kind).or_default();
        if is_first {
            held.versions = request.initial.into_iter().map(|(name, version)| (name, Some(version))).collect();
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
            self.answered(request.kind, &request.nonce, request.error.as_deref(), now);
        }
        self.next()
    }

    /// Time has passed.
    pub(crate) fn pass(&mut self, now: Instant) -> Vec<Effect> {
        for refusal in self.kinds.values_mut().flat_map(|held| held.refused.values_mut()) {
            if matches!(refusal.again, Again::At(at) if at <= now) {
                refusal.again = Again::Now;
            }
        }
        self.next()
    }

    /// When to call [`Self::pass`].
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let at = |refusal: &Refusal| match refusal.again {
            Again::At(at) => Some(at),
            Again::Never | Again::Now => None,
        };
        self.kinds.values().flat_map(|held| held.refused.values()).filter_map(at).min()
    }

    fn answered(&mut self, kind: Kind, nonce: &str, error: Option<&str>, now: Instant) {
        let Some(held) = self.kinds.get_mut(&kind) else { return };
        let Some(sent) = held.under_way.take_if(|sent| sent.nonce == nonce) else { return };
        let names: Vec<String> = sent.upserts.keys().cloned().collect();
        match error {
            Some(why) => held.refuse(kind, sent, why, now),
            None => held.take(sent),
        }
        if kind == Kind::Cluster
            && let Some(endpoints) = self.kinds.get_mut(&Kind::Endpoints)
        {
            // A cluster that was told anew waits for its endpoints anew.
            names.iter().for_each(|name| drop(endpoints.versions.remove(name)));
        }
    }

    /// Sends what may be sent now.
    fn next(&mut self) -> Vec<Effect> {
        let mut effects: Vec<Effect> =
            Kind::ALL.into_iter().filter_map(|kind| self.response(kind).map(Effect::Send)).collect();
        if Kind::ALL.into_iter().all(|kind| self.is_settled(kind)) {
            let Model { generation, number, .. } = *self.model;
            let settled = Settled { generation, number, refused: self.refused(), routes: self.routes() };
            if self.told.as_ref() != Some(&settled) {
                self.told = Some(settled.clone());
                effects.push(Effect::Settled(settled));
            }
        }
        effects
    }

    fn refused(&self) -> Refused {
        let of = |(kind, held): (&Kind, &Held)| {
            let wanted = self.model.of(*kind).iter();
            let refused = wanted.filter_map(|(name, one)| Some((name.clone(), held.refusal(name, one)?.why.clone())));
            refused.map(|(name, why)| ((*kind, name), why)).collect::<Vec<_>>()
        };
        self.kinds.iter().flat_map(of).collect()
    }

    /// Those that it has as they are wanted.
    fn routes(&self) -> BTreeSet<String> {
        let Some(held) = self.kinds.get(&Kind::Routes) else { return BTreeSet::new() };
        let has = self.model.of(Kind::Routes).iter().filter(|(name, wanted)| held.has(name, wanted));
        has.map(|(name, _)| name.clone()).collect()
    }

    fn response(&mut self, kind: Kind) -> Option<Response> {
        let may_be_led_to = self.is_there(Kind::Cluster) && self.is_there(Kind::Endpoints);
        let held = self.kinds.get(&kind).filter(|held| held.under_way.is_none())?;
        let waits = matches!(kind, Kind::Listener | Kind::Routes) && !may_be_led_to;
        if waits {
            return None;
        }
        let missing: Vec<(String, Resource)> =
            self.missing(kind, held).map(|(name, resource)| (name.clone(), resource.clone())).collect();
        let (alone, mut upserts): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|(name, _)| held.alone.contains(name));
        if upserts.is_empty() {
            upserts.extend(alone.into_iter().next());
        }
        let goes = kind.is_wildcard() && (kind != Kind::Cluster || self.is_led_by_new());
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
        held.under_way = Some(UnderWay { nonce: nonce.clone(), upserts: versions, removed: removed.clone() });
        Some(Response { kind, nonce, generation, upserts, removed })
    }

    /// What it is to be sent: wanted, asked for, and neither there nor refused as it is.
    fn missing<'a>(&'a self, kind: Kind, held: &'a Held) -> impl Iterator<Item = (&'a String, &'a Resource)> {
        self.model.of(kind).iter().filter(move |(name, resource)| {
            (kind.is_wildcard() || held.names.contains(*name)) && !held.is_done_with(name, resource)
        })
    }

    /// What it has and is not wanted.
    fn surplus<'a>(&'a self, kind: Kind, held: &'a Held) -> impl Iterator<Item = &'a String> {
        held.versions.keys().filter(move |name| !self.model.of(kind).contains_key(*name))
    }

    /// Routes that are not wanted lead to no cluster any more. Those of before lead on where the ones of now are refused.
    fn is_led_by_new(&self) -> bool {
        self.is_there(Kind::Listener) && self.is_there(Kind::Routes) && !self.refuses(Kind::Routes)
    }

    fn refuses(&self, kind: Kind) -> bool {
        let held = self.kinds.get(&kind);
        held.is_some_and(|held| self.model.of(kind).iter().any(|(name, one)| held.refusal(name, one).is_some()))
    }

    /// All that is wanted of a kind is there, as far as Envoy takes it.
    fn is_there(&self, kind: Kind) -> bool {
        let held = self.kinds.get(&kind);
        // Of a cluster that it refuses it does not ask for endpoints, nor for routes of such a listener.
        let is_due = |name: &String| match kind {
            Kind::Endpoints => !self.has_refused(Kind::Cluster, name),
            Kind::Secret | Kind::Routes => !self.refuses(Kind::Listener),
            Kind::Cluster | Kind::Listener => true,
        };
        let asks = |name: &String| held.is_some_and(|held| held.names.contains(name));
        let is_done_with = |name: &String, wanted: &Resource| held.is_some_and(|held| held.is_done_with(name, wanted));
        let is_there =
            |(name, wanted): (&String, &Resource)| is_done_with(name, wanted) || !(is_due(name) || asks(name));
        held.is_none_or(|held| held.under_way.is_none()) && self.model.of(kind).iter().all(is_there)
    }

    fn has_refused(&self, kind: Kind, name: &str) -> bool {
        self.kinds.get(&kind).is_some_and(|held| held.refused.contains_key(name))
    }

    fn is_settled(&self, kind: Kind) -> bool {
        let goes = kind.is_wildcard() && (kind != Kind::Cluster || !self.refuses(Kind::Routes));
        let surplus = |held: &Held| goes && self.surplus(kind, held).next().is_some();
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
        Arc::new(Model { generation: Generation(generation), number: generation, resources })
    }

    fn ask(kind: Kind, names: &[&str]) -> Request {
        let subscribe = names.iter().map(|name| (*name).to_owned()).collect();
        let (unsubscribe, initial) = (Vec::new(), BTreeMap::new());
        Request { kind, subscribe, unsubscribe, initial, nonce: String::new(), error: None }
    }

    fn ack(kind: Kind, nonce: &str) -> Request {
        Request { nonce: nonce.to_owned(), ..ask(kind, &[]) }
    }

    fn nack(kind: Kind, nonce: &str, why: &str) -> Request {
        Request { error: Some(why.to_owned()), ..ack(kind, nonce) }
    }

    /// `kind +name@version -name #nonce`, `settled N`, `settled N but kind name: why`.
    fn said(effects: &[Effect]) -> Vec<String> {
        let text = |effect: &Effect| match effect {
            Effect::Send(response) => {
                let upserts: String =
                    response.upserts.iter().map(|(name, one)| format!(" +{name}@{}", one.version)).collect();
                let removed: String = response.removed.iter().map(|name| format!(" -{name}")).collect();
                format!("{:?}{upserts}{removed} #{}", response.kind, response.nonce)
            }
            Effect::Settled(Settled { generation, refused, routes, .. }) => {
                assert!(routes.iter().all(|name| !refused.contains_key(&(Kind::Routes, name.clone()))));
                let but = |((kind, name), why): (&(Kind, String), &String)| format!(" but {kind:?} {name}: {why}");
                format!("settled {generation}{}", refused.iter().map(but).collect::<String>())
            }
        };
        effects.iter().map(text).collect()
    }

    /// What a stream is told, at a time of its own.
    struct Stream {
        delta: Delta,
        now: Instant,
    }

    impl Stream {
        fn new(model: Arc<Model>) -> Self {
            Self { delta: Delta::new(model), now: Instant::now() }
        }

        #[track_caller]
        fn check(&mut self, request: Request, expected: &[&str]) {
            assert_eq!(said(&self.delta.request(request, self.now)), expected);
        }

        #[track_caller]
        fn want(&mut self, generation: u64, all: &[(Kind, &str, &str)], expected: &[&str]) {
            assert_eq!(said(&self.delta.want(model(generation, all))), expected);
        }

        /// So many seconds later, when it wants to be woken.
        #[track_caller]
        fn later(&mut self, seconds: u64, expected: &[&str]) {
            let at = self.now + Duration::from_secs(seconds);
            assert_eq!(self.delta.next_deadline(), Some(at));
            assert_eq!(said(&self.delta.pass(at - Duration::from_millis(1))), [""; 0], "too early");
            self.now = at;
            assert_eq!(said(&self.delta.pass(at)), expected);
            assert_eq!(self.delta.next_deadline(), None, "it is under way");
        }
    }

    const FIRST: [(Kind, &str, &str); 4] = [
        (Kind::Cluster, "a", "1"),
        (Kind::Endpoints, "a", "1"),
        (Kind::Listener, "http", "1"),
        (Kind::Routes, "http", "1"),
    ];

    /// A stream that has the first model.
    fn served() -> Stream {
        let mut stream = Stream::new(model(1, &FIRST));
        stream.check(ask(Kind::Cluster, &[]), &["Cluster +a@1 #1"]);
        stream.check(ask(Kind::Endpoints, &["a"]), &["Endpoints +a@1 #2"]);
        stream.check(ask(Kind::Listener, &[]), &[]);
        stream.check(ack(Kind::Cluster, "1"), &[]);
        // The acknowledged cluster waits for endpoints that come after it.
        stream.check(ack(Kind::Endpoints, "2"), &["Listener +http@1 #3"]);
        stream.check(ask(Kind::Routes, &["http"]), &["Routes +http@1 #4"]);
        stream.check(ack(Kind::Listener, "3"), &[]);
        stream.check(ack(Kind::Routes, "4"), &["settled 1"]);
        stream
    }

    #[test]
    fn a_new_envoy_is_told_all_in_order() {
        served();
    }

    #[test]
    fn a_cluster_comes_before_its_routes_and_goes_after_them() {
        let mut stream = served();
        let second = [
            (Kind::Cluster, "b", "1"),
            (Kind::Endpoints, "b", "1"),
            (Kind::Listener, "http", "1"),
            (Kind::Routes, "http", "2"),
        ];
        stream.want(2, &second, &["Cluster +b@1 #5"]);
        stream.check(ack(Kind::Cluster, "5"), &[]);
        stream.check(ask(Kind::Endpoints, &["b"]), &["Endpoints +b@1 #6"]);
        stream.check(ack(Kind::Endpoints, "6"), &["Routes +http@2 #7"]);
        stream.check(ack(Kind::Routes, "7"), &["Cluster -a #8"]);
        stream.check(ack(Kind::Cluster, "8"), &["settled 2"]);
    }

    #[test]
    fn what_is_refused_is_said_holds_up_nothing_and_is_not_sent_again_as_it_is() {
        let mut stream = served();
        let mut second = FIRST;
        second[3].2 = "bad";
        stream.want(2, &second, &["Routes +http@bad #5"]);
        stream.check(nack(Kind::Routes, "5", "no such filter"), &["settled 2 but Routes http: no such filter"]);
        stream.want(3, &second, &["settled 3 but Routes http: no such filter"]);
        second[3].2 = "good";
        stream.want(4, &second, &["Routes +http@good #6"]);
        stream.check(ack(Kind::Routes, "6"), &["settled 4"]);
    }

    #[test]
    fn what_was_there_before_a_refusal_is_sent_again() {
        let mut stream = served();
        let mut second = FIRST;
        second[3].2 = "bad";
        stream.want(2, &second, &["Routes +http@bad #5"]);
        stream.check(nack(Kind::Routes, "5", "why"), &["settled 2 but Routes http: why"]);
        stream.want(3, &FIRST, &["Routes +http@1 #6"]);
        stream.check(ack(Kind::Routes, "6"), &["settled 3"]);
        stream.want(4, &second, &["Routes +http@bad #7"]);
    }

    #[test]
    fn of_several_only_the_one_that_is_refused_alone_stays_refused() {
        let mut stream = served();
        let routes = |b, http| {
            let first =
                FIRST.map(|(kind, name, version)| (kind, name, if kind == Kind::Routes { http } else { version }));
            [&first[..], &[(Kind::Routes, "b", b), (Kind::Routes, "c", "1"), (Kind::Routes, "d", "1")]].concat()
        };
        stream.want(2, &routes("bad", "1"), &[]);
        stream.check(ask(Kind::Routes, &["b", "c", "d"]), &["Routes +b@bad +c@1 +d@1 #5"]);
        stream.check(nack(Kind::Routes, "5", "why"), &["Routes +b@bad #6"]);
        stream.check(nack(Kind::Routes, "6", "why"), &["Routes +c@1 #7"]);
        stream.want(3, &routes("bad", "2"), &[]);
        // What has nothing to do with it comes first.
        stream.check(ack(Kind::Routes, "7"), &["Routes +http@2 #8"]);
        stream.check(ack(Kind::Routes, "8"), &["Routes +d@1 #9"]);
        stream.check(ack(Kind::Routes, "9"), &["settled 3 but Routes b: why"]);
        // Whichever of them it had applied.
        stream.want(4, &routes("good", "2"), &["Routes +b@good #10"]);
        stream.check(ack(Kind::Routes, "10"), &["settled 4"]);
    }

    #[test]
    fn a_listener_that_is_refused_is_sent_again_with_pauses_that_grow() {
        let mut stream = served();
        let second = [&FIRST[..], &[(Kind::Listener, "https", "1")]].concat();
        stream.want(2, &second, &["Listener +https@1 #5"]);
        stream.check(nack(Kind::Listener, "5", "cannot bind"), &["settled 2 but Listener https: cannot bind"]);
        let pauses = [1, 2, 4, 8, 16, 30, 30];
        for (nonce, pause) in (6..).zip(pauses) {
            stream.later(pause, &[&format!("Listener +https@1 #{nonce}")]);
            stream.check(nack(Kind::Listener, &nonce.to_string(), "cannot bind"), &[]);
        }
        stream.later(30, &["Listener +https@1 #13"]);
        stream.check(ack(Kind::Listener, "13"), &["settled 2"]);
        assert_eq!(stream.delta.next_deadline(), None);
    }

    #[test]
    fn an_envoy_that_cannot_listen_at_all_holds_up_nothing() {
        let mut stream = Stream::new(model(1, &FIRST));
        stream.check(ask(Kind::Cluster, &[]), &["Cluster +a@1 #1"]);
        stream.check(ask(Kind::Endpoints, &["a"]), &["Endpoints +a@1 #2"]);
        stream.check(ask(Kind::Listener, &[]), &[]);
        stream.check(ack(Kind::Cluster, "1"), &[]);
        stream.check(ack(Kind::Endpoints, "2"), &["Listener +http@1 #3"]);
        // It asks for no routes of a listener that it has not.
        let routes = |stream: &Stream| stream.delta.told.as_ref().map(|told| told.routes.iter().cloned().collect());
        stream.check(nack(Kind::Listener, "3", "cannot bind"), &["settled 1 but Listener http: cannot bind"]);
        assert_eq!(routes(&stream), Some(Vec::new()), "nobody knows what it says of them");
        stream.later(1, &["Listener +http@1 #4"]);
        stream.check(ask(Kind::Routes, &["http"]), &["Routes +http@1 #5"]);
        stream.check(ack(Kind::Listener, "4"), &[]);
        stream.check(ack(Kind::Routes, "5"), &["settled 1"]);
        assert_eq!(routes(&stream), Some(vec!["http".to_owned()]));
    }

    #[test]
    fn a_cluster_to_which_routes_of_before_lead_stays() {
        let mut stream = served();
        let second = [
            (Kind::Cluster, "b", "1"),
            (Kind::Endpoints, "b", "1"),
            (Kind::Listener, "http", "1"),
            (Kind::Routes, "http", "bad"),
        ];
        stream.want(2, &second, &["Cluster +b@1 #5"]);
        stream.check(ack(Kind::Cluster, "5"), &[]);
        stream.check(ask(Kind::Endpoints, &["b"]), &["Endpoints +b@1 #6"]);
        stream.check(ack(Kind::Endpoints, "6"), &["Routes +http@bad #7"]);
        stream.check(nack(Kind::Routes, "7", "why"), &["settled 2 but Routes http: why"]);
        let third = second.map(|(kind, name, version)| (kind, name, if version == "bad" { "good" } else { version }));
        stream.want(3, &third, &["Routes +http@good #8"]);
        stream.check(ack(Kind::Routes, "8"), &["Cluster -a #9"]);
        stream.check(ack(Kind::Cluster, "9"), &["settled 3"]);
    }

    #[test]
    fn what_may_be_there_since_it_was_refused_is_taken_away() {
        let mut stream = served();
        let second = [&FIRST[..], &[(Kind::Cluster, "b", "bad"), (Kind::Endpoints, "b", "1")]].concat();
        stream.want(2, &second, &["Cluster +b@bad #5"]);
        stream.check(nack(Kind::Cluster, "5", "why"), &["settled 2 but Cluster b: why"]);
        stream.want(3, &FIRST, &["Cluster -b #6"]);
        stream.check(ack(Kind::Cluster, "6"), &["settled 3"]);
    }

    #[test]
    fn an_envoy_that_comes_back_is_told_what_it_does_not_have() {
        let mut stream = Stream::new(model(2, &FIRST));
        let with = |kind, names: &[&str], has: &[(&str, &str)]| {
            let initial = has.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect();
            Request { initial, ..ask(kind, names) }
        };
        // Its first response has nothing new, and ends the wait for it.
        stream.check(with(Kind::Cluster, &[], &[("a", "1"), ("gone", "1")]), &["Cluster #1"]);
        stream.check(with(Kind::Endpoints, &["a"], &[("a", "0")]), &["Endpoints +a@1 #2"]);
        stream.check(with(Kind::Listener, &[], &[("http", "1")]), &[]);
        stream.check(with(Kind::Routes, &["http"], &[("http", "1")]), &[]);
        stream.check(ack(Kind::Cluster, "1"), &["Cluster -gone #3"]);
        stream.check(ack(Kind::Endpoints, "2"), &[]);
        stream.check(ack(Kind::Cluster, "3"), &["Listener #4"]);
        stream.check(ack(Kind::Listener, "4"), &["settled 2"]);
    }

    #[test]
    fn endpoints_move_by_themselves() {
        let mut stream = served();
        let mut second = FIRST;
        second[1].2 = "2";
        stream.want(2, &second, &["Endpoints +a@2 #5"]);
        stream.want(3, &second, &[]);
        stream.check(ack(Kind::Endpoints, "5"), &["settled 3"]);
    }
}
