//! A server of Kubernetes for tests: a few kinds, kept in memory, of which nothing comes up by itself.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::foresee::Plan;
use crate::history::{self, Release, State};
use crate::object::{Object, Owner, Stage};
use crate::rollout::{Done, Order, Rollout, Told};

const NAMESPACE: &str = "/api/v1/namespaces/shop/";

#[derive(Debug, Default)]
struct World {
    objects: BTreeMap<String, Value>,
    made: u64,
    written: u64,
    /// What has changed something: `apply services/shop-web`, `merge …`, `create …`, `delete …`.
    changes: Vec<String>,
    /// What the next request of this is answered.
    refusals: Vec<(String, Value)>,
    /// What somebody else puts there just before the next request of this.
    meanwhile: Vec<(String, String, Value)>,
}

/// Where something is, of which the namespace may be left out.
fn key(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("{NAMESPACE}{path}") }
}

pub(crate) struct Fake {
    world: Arc<Mutex<World>>,
    pub(crate) cluster: Cluster,
    pub(crate) owner: Owner,
    pub(crate) notes: Vec<String>,
}

impl Fake {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cluster = Cluster::of_tests(listener.local_addr().unwrap());
        let world = Arc::new(Mutex::new(World::default()));
        let shared = Arc::clone(&world);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || answer(&shared, stream));
            }
        });
        let owner = Owner { env: "production".to_owned(), app: "shop".to_owned() };
        Self { world, cluster, owner, notes: Vec::new() }
    }

    pub(crate) fn object(&self, kind: &str, name: &str, data: &str) -> Object {
        let labels: BTreeMap<&str, String> = self.owner.labels().into();
        let metadata = json!({ "name": name, "labels": labels });
        let body = json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata, "data": data });
        Object { stage: Stage::Config, body }
    }

    /// Something is there that nobody of us has made.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.world.lock().unwrap().keep(key(path), object);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.world.lock().unwrap().objects.get(&key(path)).cloned()
    }

    /// The next request of this is refused: as in [`Self::changes`], and `judge services/shop-web`.
    pub(crate) fn refuse(&self, asked: &str, code: u16) {
        self.refuse_with(asked, json!({ "status": "Failure", "code": code, "message": "not now" }));
    }

    /// The next request of this is not refused, whatever is to be refused after it.
    pub(crate) fn let_through(&self, asked: &str) {
        self.refuse_with(asked, Value::Null);
    }

    pub(crate) fn refuse_with(&self, asked: &str, status: Value) {
        self.world.lock().unwrap().refusals.push((asked.to_owned(), status));
    }

    /// Somebody else puts this there just before the next request of this.
    pub(crate) fn meanwhile(&self, asked: &str, path: &str, object: Value) {
        self.world.lock().unwrap().meanwhile.push((asked.to_owned(), key(path), object));
    }

    pub(crate) fn changes(&self) -> Vec<String> {
        std::mem::take(&mut self.world.lock().unwrap().changes)
    }

    pub(crate) fn keep(&self, release: &Release) {
        let record = history::encode(&self.owner, release).unwrap();
        let name = history::name(&self.owner, release.number);
        self.put(&format!("configmaps/{name}"), record);
    }

    pub(crate) async fn states(&self) -> Vec<State> {
        self.cluster.releases(&self.owner).await.unwrap().iter().map(|release| release.state).collect()
    }

    pub(crate) async fn deploy(&mut self, objects: impl Into<Vec<Object>>) -> Result<Done, bowline_core::fault::Fault> {
        self.bring(order(objects.into())).await
    }

    pub(crate) async fn bring(&mut self, order: Order) -> Result<Done, bowline_core::fault::Fault> {
        let mut tell = noting(&mut self.notes);
        let done = Rollout { cluster: &mut self.cluster, owner: &self.owner, tell: &mut tell }.deploy(order).await;
        self.cluster.let_go().await;
        done
    }

    pub(crate) async fn plan(&mut self, objects: impl Into<Vec<Object>>) -> Result<Plan, bowline_core::fault::Fault> {
        let order = order(objects.into());
        let mut tell = noting(&mut self.notes);
        Rollout { cluster: &mut self.cluster, owner: &self.owner, tell: &mut tell }.plan(&order).await
    }

    pub(crate) async fn roll_back(&mut self, wanted: Option<u32>) -> Result<Done, bowline_core::fault::Fault> {
        let mut tell = |_| {};
        let mut rollout = Rollout { cluster: &mut self.cluster, owner: &self.owner, tell: &mut tell };
        let done = rollout.roll_back(wanted, false).await;
        self.cluster.let_go().await;
        done
    }
}

fn order(objects: Vec<Object>) -> Order {
    Order { objects, images: BTreeMap::new(), take_over: false, protected: false, planned: None }
}

fn noting(notes: &mut Vec<String>) -> impl FnMut(Told) + Send {
    |told| {
        if let Told::Note { text, .. } = told {
            notes.push(text);
        }
    }
}

fn answer(world: &Mutex<World>, mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut line, mut length, mut merges) = (String::new(), String::new(), 0, false);
    reader.read_line(&mut first).unwrap();
    while reader.read_line(&mut line).unwrap() > 2 {
        let field = line.to_lowercase();
        if let Some(text) = field.strip_prefix("content-length:") {
            length = text.trim().parse().unwrap();
        }
        merges |= field.contains("merge-patch");
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let [method, target] = [0, 1].map(|at| first.split(' ').nth(at).unwrap_or_default());
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (code, value) = world.lock().unwrap().does(method, target, &body, merges);
    let text = value.to_string();
    let head = format!("HTTP/1.1 {code} -\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", text.len());
    let _ = stream.write_all(format!("{head}{text}").as_bytes());
}

impl World {
    fn does(&mut self, method: &str, target: &str, body: &Value, merges: bool) -> (u16, Value) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let is_dry = query.contains("dryRun");
        let verb = match method {
            "PATCH" if merges => "merge",
            "PATCH" if is_dry => "judge",
            "PATCH" => "apply",
            "POST" => "create",
            "DELETE" => "delete",
            _ => "get",
        };
        let asked = format!("{verb} {}", path.trim_start_matches(NAMESPACE));
        if let Some(at) = self.meanwhile.iter().position(|(text, ..)| asked == *text) {
            let (_, path, object) = self.meanwhile.remove(at);
            self.keep(path, object);
        }
        if let Some(at) = self.refusals.iter().position(|(text, _)| asked == *text) {
            let (_, status) = self.refusals.remove(at);
            if !status.is_null() {
                return (u16::try_from(status["code"].as_u64().unwrap()).unwrap(), status);
            }
        }
        let failure = |code: u16| (code, json!({ "status": "Failure", "code": code, "message": "it is not so" }));
        if !["get", "judge"].contains(&verb) {
            self.changes.push(asked);
        }
        match method {
            "GET" if path == "/api/v1" => (200, json!({ "resources": first_kinds() })),
            "GET" if path == "/apis/postgresql.cnpg.io/v1" => {
                (200, json!({ "resources": [resource("clusters", "Cluster")] }))
            }
            "GET" if path == "/apis/apps/v1" => (200, json!({ "resources": [resource("deployments", "Deployment")] })),
            "GET" if ["/pods", "/events", "/replicasets"].iter().any(|kind| path.ends_with(kind)) => {
                (200, json!({ "items": [] }))
            }
            "GET" if path.ends_with("/configmaps") => {
                let records =
                    self.objects.values().filter(|one| one["metadata"]["labels"]["bowline.dev/record"] == "release");
                (200, json!({ "items": records.collect::<Vec<_>>() }))
            }
            "GET" => self.objects.get(path).map_or_else(|| failure(404), |found| (200, found.clone())),
            "POST" => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                match self.objects.contains_key(&path) {
                    true => failure(409),
                    false => (201, self.keep(path, body.clone())),
                }
            }
            "PATCH" if merges => {
                let Some(mut found) = self.objects.get(path).cloned() else { return failure(404) };
                let read = &body["metadata"]["resourceVersion"];
                if !read.is_null() && *read != found["metadata"]["resourceVersion"] {
                    return failure(409);
                }
                merge(&mut found, body);
                (200, self.keep(path.to_owned(), found))
            }
            "PATCH" if is_dry => (200, body.clone()),
            "PATCH" => {
                let found = applied(self.objects.get(path).cloned().unwrap_or_default(), body);
                (200, self.keep(path.to_owned(), found))
            }
            "DELETE" => self.objects.remove(path).map_or_else(|| failure(404), |found| (200, found)),
            _ => failure(405),
        }
    }

    fn keep(&mut self, path: String, mut object: Value) -> Value {
        if object["metadata"]["uid"].is_null() {
            self.made += 1;
            object["metadata"]["uid"] = self.made.to_string().into();
        }
        self.written += 1;
        object["metadata"]["resourceVersion"] = self.written.to_string().into();
        self.objects.insert(path, object.clone());
        object
    }
}

fn resource(name: &str, kind: &str) -> Value {
    json!({ "name": name, "kind": kind, "namespaced": true })
}

/// Of Kubernetes' first API.
fn first_kinds() -> [Value; 4] {
    [
        resource("configmaps", "ConfigMap"),
        resource("services", "Service"),
        resource("persistentvolumeclaims", "PersistentVolumeClaim"),
        json!({ "name": "nodes", "kind": "Node", "namespaced": false }),
    ]
}

/// What has a generation has another one when it is told to be something else.
fn applied(mut found: Value, body: &Value) -> Value {
    let was = found["spec"].clone();
    merge(&mut found, body);
    if let Some(generation) = found["metadata"]["generation"].as_u64().filter(|_| found["spec"] != was) {
        found["metadata"]["generation"] = (generation + 1).into();
    }
    found
}

/// RFC 7396.
fn merge(value: &mut Value, change: &Value) {
    let Value::Object(changes) = change else {
        *value = change.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    for (key, change) in changes {
        if change.is_null() {
            value.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut value[key], change);
        }
    }
}
