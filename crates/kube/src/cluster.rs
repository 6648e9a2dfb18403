//! One namespace of a cluster, asked over its API.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use futures_util::{AsyncBufRead, AsyncReadExt, StreamExt, TryStreamExt, stream};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::history::{self, Release};
use crate::object::{Id, Object, Owner};
use crate::operated;
use crate::refusal::Refusal;
use crate::replicas;
use crate::rollout::now_ms;

/// Who applies: the owner of all fields that are applied.
pub const MANAGER: &str = "bowline";

/// Requests at once, so that a server behind a long line is not waited for a hundred times.
pub(crate) const AT_ONCE: usize = 8;
/// A server may be away for so long: one that is upgraded is.
pub(crate) const AWAY: Duration = Duration::from_secs(60);
/// Before it is asked again.
const PAUSE: Duration = Duration::from_millis(500);
/// A server that does not take a connection for so long is not there.
const CONNECT: Duration = Duration::from_secs(10);
/// A request that is not answered for so long is not: a way that was cut says nothing.
const ANSWERS: Duration = Duration::from_secs(30);

/// Of an object that was there before the app's first release: nothing here deletes it.
const FOUND: &str = "bowline.dev/found";

const JSON: &str = "application/json";
/// As server-side apply takes it; JSON is YAML.
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

/// How often it is said that somebody is there who brings a release out.
const BEAT: Duration = Duration::from_secs(5);

fn beating(at: Option<u64>) -> Value {
    json!({ "metadata": { "annotations": { history::BEAT: at.map(|at| at.to_string()) } } })
}

/// Where objects of a kind are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) plural: String,
    pub(crate) namespaced: bool,
}

/// [`Cluster::put`] of anything that may be asked twice.
pub(crate) async fn patiently<T, A: Future<Output = Result<T, Refusal>>>(ask: impl Fn() -> A) -> Result<T, Refusal> {
    let began = Instant::now();
    loop {
        match ask().await {
            Err(refusal) if refusal.is_away() && began.elapsed() < AWAY => tokio::time::sleep(PAUSE).await,
            answer => return answer,
        }
    }
}

/// The release that comes out.
struct Claim {
    number: u32,
    /// Where its record is.
    path: String,
    /// When it was last said that somebody is there.
    said: Instant,
    serves: bool,
}

/// A release that somebody has begun to bring out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    pub release: u32,
    /// It has come to its end.
    pub serves: bool,
}

/// A namespace, as somebody whom a context of the kubeconfig names.
pub struct Cluster {
    client: Client,
    /// `None`: the cluster that this runs in, as the account of its pod.
    context: Option<String>,
    namespace: String,
    /// By `group/version` and kind; a version that was asked for and is not served has none.
    kinds: BTreeMap<String, BTreeMap<String, Place>>,
    claim: Option<Claim>,
    answers: Duration,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("context", &self.context)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// The one of Argo Rollouts.
const PLUGIN: &str = "argo ";
const PLACES: &str = "a kubeconfig lies in ~/.kube/config, or where KUBECONFIG says";

fn nowhere(context: Option<&str>, error: &dyn std::error::Error) -> Fault {
    let what =
        context.map_or_else(|| "the cluster that this runs in".to_owned(), |context| format!("context {context}"));
    Fault::new(FaultKind::Invalid, format!("{what} leads nowhere")).source(error).hint(PLACES)
}

/// Nobody has written one, nor says where one is; one that cannot be read is another matter. `said`: `KUBECONFIG`.
fn is_none(error: &KubeconfigError, said: Option<&OsStr>) -> bool {
    let is_absent = matches!(error, KubeconfigError::FindPath)
        || matches!(error, KubeconfigError::ReadConfig(error, _) if error.kind() == std::io::ErrorKind::NotFound);
    is_absent && said.is_none_or(OsStr::is_empty)
}

/// As a shell takes it for one word.
fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@+=".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// What became of an object that nobody wants any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    Done,
    /// It is not there, or another's.
    NotOurs,
    /// It was there before the app's first release, and stays.
    Found,
}

/// By what it says of itself.
fn deletion(now: Option<&Value>, owner: &Owner) -> Deletion {
    match now.filter(|object| owner.has(object)) {
        None => Deletion::NotOurs,
        Some(now) if !now["metadata"]["annotations"][FOUND].is_null() => Deletion::Found,
        Some(_) => Deletion::Done,
    }
}

/// How an object is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct How {
    /// Nothing is changed; all is judged.
    pub dry: bool,
    /// Fields of other managers become ours.
    pub take_over: bool,
}

impl Cluster {
    /// Nothing is asked yet. `None`: what the kubeconfig means; in a pod without one, the cluster that it runs in.
    ///
    /// # Errors
    /// There is no kubeconfig, or none that can be read, or not this context.
    pub async fn connect(context: Option<&str>, namespace: Option<&str>) -> Result<Self, Fault> {
        let wrong = |message: String| Fault::new(FaultKind::Invalid, message);
        let known = match Kubeconfig::read() {
            Ok(known) => known,
            Err(error) => {
                // Whoever names a context, or a file, means no other place.
                if context.is_none()
                    && is_none(&error, std::env::var_os("KUBECONFIG").as_deref())
                    && let Ok(config) = Config::incluster()
                {
                    return Self::within(config, None, namespace);
                }
                return Err(wrong("no cluster is known here".to_owned()).source(&error).hint(PLACES));
            }
        };
        let contexts: Vec<String> = known.contexts.iter().map(|one| one.name.clone()).collect();
        let context = context.map(str::to_owned).or_else(|| known.current_context.clone());
        let context = context.filter(|name| !name.is_empty());
        let context = context.ok_or_else(|| {
            wrong("the kubeconfig has no current context".to_owned())
                .hint("say which: --to kubernetes:CONTEXT/NAMESPACE")
        })?;
        if !contexts.contains(&context) {
            return Err(wrong(format!("the kubeconfig has no context {context}"))
                .hint(format!("it has {}", contexts.join(", "))));
        }
        let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(known, &options).await;
        let config = config.map_err(|error| nowhere(Some(&context), &error))?;
        Self::within(config, Some(context), namespace)
    }

    fn within(mut config: Config, context: Option<String>, namespace: Option<&str>) -> Result<Self, Fault> {
        config.connect_timeout = Some(CONNECT);
        let namespace = namespace.map_or_else(|| config.default_namespace.clone(), str::to_owned);
        let client = Client::try_from(config).map_err(|error| nowhere(context.as_deref(), &error))?;
        Ok(Self { client, context, namespace, kinds: BTreeMap::new(), claim: None, answers: ANSWERS })
    }

    /// The namespace `shop` of a server of tests.
    #[cfg(test)]
    pub(crate) fn of_tests(address: std::net::SocketAddr) -> Self {
        let config = Config::new(format!("http://{address}").parse().expect("an address"));
        Self {
            client: Client::try_from(config).expect("nothing is asked yet"),
            context: Some("tests".to_owned()),
            namespace: "shop".to_owned(),
            kinds: BTreeMap::new(),
            claim: None,
            answers: ANSWERS,
        }
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// As `--to` says it.
    pub fn target(&self) -> String {
        format!("kubernetes:{}/{}", self.context.as_deref().unwrap_or_default(), self.namespace)
    }

    /// A command for a person, which acts on this namespace of this cluster whatever their kubeconfig means otherwise.
    pub fn kubectl(&self, words: &str) -> String {
        self.kubectl_at(&format!("{} {words}", self.namespace))
    }

    /// `place`: a namespace, and the words.
    fn kubectl_at(&self, place: &str) -> String {
        let context = self.context.as_ref().map(|context| format!(" --context {}", word(context))).unwrap_or_default();
        format!("kubectl{context} -n {place}")
    }

    /// A text for a person with the commands that stand in it for this cluster, and for this namespace where they say none. Those of a plugin
    /// stay as they are: kubectl takes no flags before its name.
    pub fn commands(&self, text: &str) -> String {
        let mut parts = text.split("kubectl ");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |told, words| match (words.strip_prefix("-n "), words.starts_with(PLUGIN)) {
            (Some(elsewhere), _) => told + &self.kubectl_at(elsewhere),
            (None, true) => told + "kubectl " + words,
            (None, false) => told + &self.kubectl(words),
        })
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    pub async fn ask(&self, method: Method, path: &str, kind: &str, body: Option<&Value>) -> Result<Value, Refusal> {
        let body = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let request = Request::builder().method(method).uri(path).header("content-type", kind).header("accept", JSON);
        let request = request.body(body).map_err(Refusal::Request)?;
        self.answered(self.client.request(request)).await
    }

    /// What is answered in time.
    pub(crate) async fn answered<T>(&self, answer: impl Future<Output = kube::Result<T>>) -> Result<T, Refusal> {
        match tokio::time::timeout(self.answers, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Refusal::Slow(self.answers)),
        }
    }

    pub async fn get(&self, path: &str) -> Result<Value, Refusal> {
        self.ask(Method::GET, path, JSON, None).await
    }

    /// `None`: it is not there.
    pub async fn find(&self, path: &str) -> Result<Option<Value>, Refusal> {
        match self.get(path).await {
            Ok(object) => Ok(Some(object)),
            Err(refusal) if refusal.is_absent() => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, Refusal> {
        self.ask(Method::POST, &format!("{path}?fieldManager={MANAGER}&fieldValidation=Strict"), JSON, Some(object))
            .await
    }

    pub async fn merge(&self, path: &str, change: &Value) -> Result<Value, Refusal> {
        self.ask(Method::PATCH, &format!("{path}?fieldManager={MANAGER}"), MERGE, Some(change)).await
    }

    /// What a list has, page by page.
    pub async fn list(&self, path: &str, selector: &str) -> Result<Vec<Value>, Refusal> {
        const PAGE: usize = 500;
        let mut all = Vec::new();
        let mut next = String::new();
        loop {
            let mut page = self.get(&format!("{path}?limit={PAGE}{selector}{next}")).await?;
            if let Value::Array(items) = page["items"].take() {
                all.extend(items);
            }
            match page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => next = format!("&continue={token}"),
                None => return Ok(all),
            }
        }
    }

    /// `/api/v1/namespaces/NAMESPACE/…`
    pub fn core(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.namespace)
    }

    /// `/apis/GROUP/VERSION/namespaces/NAMESPACE/…`
    pub fn of(&self, api: &str, rest: &str) -> String {
        format!("/apis/{api}/namespaces/{}/{rest}", self.namespace)
    }

    /// Text that goes on: a log.
    pub async fn stream(&self, path: &str) -> Result<impl AsyncBufRead + use<>, Refusal> {
        let request = Request::get(path).body(Vec::new()).map_err(Refusal::Request)?;
        self.answered(self.client.request_stream(request)).await
    }

    /// All of a log. A byte that is no text is shown as such.
    pub async fn text(&self, path: &str) -> Result<String, Refusal> {
        let read = async {
            let mut log = std::pin::pin!(self.stream(path).await?);
            let mut bytes = Vec::new();
            log.read_to_end(&mut bytes)
                .await
                .map_err(|error| Refusal::Away(Box::new(kube::Error::ReadEvents(error))))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let slow = |_| Refusal::Slow(self.answers);
        tokio::time::timeout(self.answers, read).await.map_err(slow)?
    }

    /// Pods that an operator has made for this, which bear its labels and not the app's.
    pub async fn operated(&self, id: &Id) -> Result<Vec<Value>, Refusal> {
        if id.kind != "Cluster" {
            return Ok(Vec::new());
        }
        let label = operated::OF_CLUSTER.replace('/', "%2F");
        self.list(&self.core("pods"), &format!("&labelSelector={label}%3D{}", id.name)).await
    }

    /// Groups of APIs that are served.
    pub async fn groups(&self) -> Result<BTreeSet<String>, Refusal> {
        let answer = self.get("/apis").await?;
        let groups = answer["groups"].as_array().into_iter().flatten();
        Ok(groups.filter_map(|group| group["name"].as_str().map(str::to_owned)).collect())
    }

    /// Learns where objects of these kinds are; a version that is not served has none.
    pub async fn learn(&mut self, ids: impl IntoIterator<Item = &Id>) -> Result<(), Refusal> {
        let apis: BTreeSet<String> = ids.into_iter().map(Id::api).filter(|api| !self.kinds.contains_key(api)).collect();
        let this = &*self;
        let ask = |api: String| async move {
            let path = if api.contains('/') { format!("/apis/{api}") } else { format!("/api/{api}") };
            let found = this.find(&path).await?.unwrap_or_default();
            let kinds = found["resources"].as_array().into_iter().flatten().filter_map(|one| {
                let plural = one["name"].as_str().filter(|name| !name.contains('/'))?;
                let place = Place { plural: plural.to_owned(), namespaced: one["namespaced"] == true };
                Some((one["kind"].as_str()?.to_owned(), place))
            });
            Ok::<_, Refusal>((api, kinds.collect::<BTreeMap<_, _>>()))
        };
        let found: Vec<_> = stream::iter(apis).map(ask).buffer_unordered(AT_ONCE).try_collect().await?;
        self.kinds.extend(found);
        Ok(())
    }

    pub(crate) fn place(&self, id: &Id) -> Option<&Place> {
        self.kinds.get(&id.api())?.get(&id.kind)
    }

    /// Where an object is, of a kind that was [learned](Self::learn) and is served.
    pub fn path(&self, id: &Id) -> Option<String> {
        let place = self.place(id)?;
        let api = if id.group.is_empty() { format!("/api/{}", id.version) } else { format!("/apis/{}", id.api()) };
        let within = if place.namespaced { format!("/namespaces/{}", self.namespace) } else { String::new() };
        Some(format!("{api}{within}/{}/{}", place.plural, id.name))
    }

    /// The first of these that is there, whoever has made it. What may not be looked at counts as not there.
    ///
    /// # Errors
    /// The server does not say.
    pub async fn first_there<'i>(&mut self, ids: &'i [Id]) -> Result<Option<&'i Id>, Refusal> {
        self.learn(ids).await?;
        for id in ids {
            let Some(path) = self.path(id) else { continue };
            match self.find(&path).await {
                Ok(Some(_)) => return Ok(Some(id)),
                Ok(None) => {}
                Err(refusal) if refusal.is_forbidden() => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(None)
    }

    /// [`Self::apply`], again where the server is away: the same applied twice is the same.
    pub(crate) async fn put(&self, object: &Object, how: How) -> Result<Value, Refusal> {
        patiently(|| self.apply(object, how)).await
    }

    /// Server-side apply. A field that is unknown, or somebody else's, is refused.
    pub async fn apply(&self, object: &Object, how: How) -> Result<Value, Refusal> {
        let id = object.id();
        let path = self.path(&id).unwrap_or_else(|| self.core(&format!("unknown/{}", id.name)));
        if replicas::is_scaled(object) && !how.dry {
            self.hand_over(object, &path).await?;
        }
        let dry = if how.dry { "&dryRun=All" } else { "" };
        let path = format!("{path}?fieldManager={MANAGER}&fieldValidation=Strict&force={}{dry}", how.take_over);
        self.ask(Method::PATCH, &path, APPLY, Some(&object.body)).await
    }

    /// Where the load says from now on how many there are, those that run go on until it does.
    async fn hand_over(&self, object: &Object, path: &str) -> Result<(), Refusal> {
        if object.body["spec"]["replicas"].is_null()
            && let Some(now) = self.find(path).await?
            && let Some(body) = replicas::handed_over(object, &now)
        {
            let path = format!("{path}?fieldManager={}&force=true", replicas::HOLDER);
            self.ask(Method::PATCH, &path, APPLY, Some(&body)).await?;
        }
        Ok(())
    }

    /// It is said that somebody is there who brings this release out, from now on; not where somebody has written its record since it was
    /// `read` in this version.
    pub(crate) async fn claim(&mut self, owner: &Owner, number: u32, read: Option<&str>) -> Result<(), Refusal> {
        // Before it is said: who is interrupted meanwhile lets go of it.
        let path = self.claims(owner, number);
        let mut said = beating(Some(now_ms()));
        said["metadata"]["resourceVersion"] = read.into();
        match self.merge(&path, &said).await {
            Err(refusal) if read.is_some() && refusal.is_taken() => {
                self.claims_nothing();
                Err(refusal)
            }
            // Whoever does not hear it is told by what was applied.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The same, where its record says so already: the path of that.
    pub(crate) fn claims(&mut self, owner: &Owner, number: u32) -> String {
        let path = self.core(&format!("configmaps/{}", history::name(owner, number)));
        self.claim = Some(Claim { number, path: path.clone(), said: Instant::now(), serves: false });
        path
    }

    /// It is recorded as the one that serves.
    pub(crate) fn serves(&mut self) {
        if let Some(claim) = &mut self.claim {
            claim.serves = true;
        }
    }

    /// It is somebody else's, who says so.
    pub(crate) fn claims_nothing(&mut self) {
        self.claim = None;
    }

    /// Says so again, when it is time. Whoever does not hear it is told by what was applied.
    pub(crate) async fn beat(&mut self) {
        if self.claim.as_ref().is_some_and(|claim| claim.said.elapsed() >= BEAT) {
            self.say().await;
        }
    }

    async fn say(&mut self) {
        let Some(path) = self.claim.as_ref().map(|claim| claim.path.clone()) else { return };
        let _ = self.merge(&path, &beating(Some(now_ms()))).await;
        if let Some(claim) = &mut self.claim {
            claim.said = Instant::now();
        }
    }

    /// Nobody is there any more: the next one need not wait until that is noticed. Which release it was that came out.
    pub async fn let_go(&mut self) -> Option<Begun> {
        let path = self.claim.as_ref()?.path.clone();
        // It is held until that is said: who is interrupted meanwhile has applied something still.
        let _ = tokio::time::timeout(BEAT, self.merge(&path, &beating(None))).await;
        self.claim.take().map(|Claim { number, serves, .. }| Begun { release: number, serves })
    }

    /// Marks what was there before the app's first release.
    pub(crate) async fn mark_found(&self, id: &Id) -> Result<(), Refusal> {
        let Some(path) = self.path(id) else { return Ok(()) };
        self.merge(&path, &json!({ "metadata": { "annotations": { FOUND: "true" } } })).await.map(drop)
    }

    /// What would become of something that is deleted.
    pub(crate) async fn would_delete(&self, id: &Id, owner: &Owner) -> Result<Deletion, Refusal> {
        match self.path(id) {
            Some(path) => Ok(deletion(self.find(&path).await?.as_ref(), owner)),
            None => Ok(Deletion::NotOurs),
        }
    }

    /// Deletes what is of this owner.
    pub async fn delete(&self, id: &Id, owner: &Owner) -> Result<Deletion, Refusal> {
        let Some(path) = self.path(id) else { return Ok(Deletion::NotOurs) };
        let found = self.find(&path).await?;
        let (Deletion::Done, Some(now)) = (deletion(found.as_ref(), owner), &found) else {
            return Ok(deletion(found.as_ref(), owner));
        };
        // Whatever has become of it meanwhile is another object.
        let uid = json!({ "uid": now["metadata"]["uid"] });
        let options = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", "preconditions": uid });
        match self.ask(Method::DELETE, &path, JSON, Some(&options)).await {
            Ok(_) => Ok(Deletion::Done),
            Err(refusal) if refusal.is_absent() || refusal.is_taken() => Ok(Deletion::NotOurs),
            Err(refusal) => Err(refusal),
        }
    }

    /// All that is known of an app's releases, by number.
    pub async fn releases(&self, owner: &Owner) -> Result<Vec<Release>, Refusal> {
        let query = format!("&labelSelector={}", history::selector(Some(owner)));
        let records = self.list(&self.core("configmaps"), &query).await?;
        if let Some(newer) = records.iter().find(|record| history::is_newer(record)) {
            return Err(Refusal::Newer(newer["metadata"]["name"].as_str().unwrap_or_default().to_owned()));
        }
        let mut all: Vec<Release> = records.iter().filter_map(history::decode).collect();
        all.sort_by_key(|release| release.number);
        Ok(all)
    }

    /// Whose releases there are.
    pub async fn owners(&self) -> Result<Vec<Owner>, Refusal> {
        let query = format!("&labelSelector={}", history::selector(None));
        let records = self.list(&self.core("configmaps"), &query).await?;
        let mut owners: Vec<Owner> = records.iter().filter_map(history::owner).collect();
        owners.sort_by(|a, b| (&a.env, &a.app).cmp(&(&b.env, &b.app)));
        owners.dedup();
        Ok(owners)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::fake::Fake;
    use crate::object::Stage;

    /// A server that answers one request after another like this.
    fn server(answers: Vec<&'static [u8]>) -> Cluster {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut line, mut length) = (String::new(), 0);
                while reader.read_line(&mut line).unwrap() > 2 {
                    if let Some(text) = line.to_lowercase().strip_prefix("content-length:") {
                        length = text.trim().parse().unwrap();
                    }
                    line.clear();
                }
                reader.read_exact(&mut vec![0; length]).unwrap();
                stream.write_all(answer).unwrap();
            }
        });
        let mut cluster = Cluster::of_tests(address);
        let place = Place { plural: "configmaps".to_owned(), namespaced: true };
        cluster.kinds = BTreeMap::from([("v1".to_owned(), BTreeMap::from([("ConfigMap".to_owned(), place)]))]);
        cluster
    }

    const BROKEN: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nconnection: close\r\ncontent-length: 48\r\n\r\n{\"status\":\"Failure\",\"code\":500,\"message\":\"etcd\"}";
    const DONE: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 20\r\n\r\n{\"kind\":\"ConfigMap\"}";

    fn config() -> Object {
        let body = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "shop-web" } });
        Object { stage: Stage::Config, body }
    }

    #[tokio::test]
    async fn what_a_server_could_not_do_just_then_is_asked_of_it_again() {
        let cluster = server(vec![BROKEN, b"", DONE]);
        let how = How { dry: false, take_over: false };
        assert_eq!(cluster.put(&config(), how).await.unwrap()["kind"], "ConfigMap");
    }

    #[tokio::test]
    async fn commands_for_people_act_on_the_same_place() {
        let mut cluster = server(Vec::new());
        assert_eq!(cluster.kubectl("get pvc"), "kubectl --context tests -n shop get pvc");
        cluster.context = Some("it's new".to_owned());
        assert_eq!(cluster.kubectl("get pvc"), "kubectl --context 'it'\\''s new' -n shop get pvc");
        cluster.context = None;
        assert_eq!(
            (cluster.kubectl("get pvc"), cluster.target()),
            ("kubectl -n shop get pvc".to_owned(), "kubernetes:/shop".to_owned())
        );
        let note = "first kubectl get pvc, then kubectl -n gateways get svc, or kubectl argo rollouts abort";
        let told = "first kubectl -n shop get pvc, then kubectl -n gateways get svc, or kubectl argo rollouts abort";
        assert_eq!(cluster.commands(note), told);
        cluster.context = Some("prod".to_owned());
        assert!(cluster.commands(note).contains("kubectl --context prod -n gateways get svc"));
    }

    #[test]
    fn a_kubeconfig_that_cannot_be_read_is_not_none() {
        let read = |kind: std::io::ErrorKind| KubeconfigError::ReadConfig(kind.into(), "config".into());
        let check = |error: KubeconfigError, said: Option<&str>, expected: bool| {
            assert_eq!(is_none(&error, said.map(OsStr::new)), expected, "{error} {said:?}");
        };
        check(KubeconfigError::FindPath, None, true);
        check(read(std::io::ErrorKind::NotFound), None, true);
        check(read(std::io::ErrorKind::NotFound), Some(""), true);
        check(read(std::io::ErrorKind::NotFound), Some("/nowhere"), false);
        check(read(std::io::ErrorKind::PermissionDenied), None, false);
        check(KubeconfigError::KindMismatch, None, false);
    }

    #[tokio::test]
    async fn whoever_is_interrupted_while_it_is_said_lets_go() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut cluster = Cluster::of_tests(listener.local_addr().unwrap());
        let owner = Owner { env: "production".to_owned(), app: "shop".to_owned() };
        let said = tokio::time::timeout(Duration::from_millis(20), cluster.claim(&owner, 7, None)).await;
        assert!(said.is_err(), "nobody answers");
        let let_go = tokio::time::timeout(Duration::from_millis(20), cluster.let_go()).await;
        assert!(let_go.is_err(), "who is interrupted meanwhile has begun still");
        cluster.answers = Duration::from_millis(20);
        let begun = Begun { release: 7, serves: false };
        assert_eq!((cluster.let_go().await, cluster.let_go().await), (Some(begun), None));
    }

    #[tokio::test]
    async fn data_are_found_by_their_name_whoever_has_made_them() {
        let mut fake = Fake::new();
        let ids = ["shop-postgres-db", "shop-postgres-old"].map(|name| {
            let body = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name } });
            Id::of(&body)
        });
        let unserved = Id { group: "postgresql.cnpg.io".to_owned(), kind: "Cluster".to_owned(), ..ids[0].clone() };
        let all = [unserved, ids[0].clone(), ids[1].clone()];
        assert_eq!(fake.cluster.first_there(&all).await.unwrap(), None);
        let path = "persistentvolumeclaims/shop-postgres-old";
        fake.put(path, json!({ "metadata": { "name": "shop-postgres-old" } }));
        assert_eq!(fake.cluster.first_there(&all).await.unwrap(), Some(&all[2]));
        fake.refuse(&format!("get {path}"), 403);
        assert_eq!(fake.cluster.first_there(&all).await.unwrap(), None);
        fake.refuse(&format!("get {path}"), 500);
        assert!(fake.cluster.first_there(&all).await.is_err());
    }

    #[tokio::test]
    async fn nobody_waits_for_ever_for_a_server_that_says_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        let mut cluster = server(Vec::new());
        (cluster.client, cluster.answers) = (Client::try_from(config).unwrap(), Duration::from_millis(20));
        let refusal = cluster.get("/api").await.unwrap_err();
        assert!(matches!(refusal, Refusal::Slow(_)) && refusal.is_away(), "{refusal}");
        assert!(matches!(cluster.text("/log").await, Err(Refusal::Slow(_))));
        drop(listener);
    }

    #[tokio::test]
    async fn a_byte_that_is_no_text_hides_no_log() {
        let cluster = server(vec![b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 8\r\n\r\none \xff\ntw"]);
        assert_eq!(cluster.text("/log").await.unwrap(), "one \u{fffd}\ntw");
    }
}
