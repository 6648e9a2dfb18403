//! The *kubelet of the tests*: a node on which nothing runs. Pods that are bound to it get the statuses that a real kubelet
//! would write, step by step, and their containers say what tests let them say. What they do stands in their annotations
//! [`FATE`] and [`SAYS`], unless a test has decided it by [`Kubelet::let_pods`].

mod exec;
mod logs;
mod pod;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use self::logs::Logs;
use self::pod::Step;
pub use self::pod::{FATE, Fate, SAYS};
use crate::client::tls_for;
use crate::cluster::api::{Answer, Api, STRATEGIC};
use crate::cluster::pki::Authority;

/// How often something is tried that was not taken.
const ATTEMPTS: usize = 50;
/// Before the server that was away, or has not taken something, is asked again.
pub(crate) const AGAIN: Duration = Duration::from_millis(20);

/// A node and what is bound to it, for as long as this is held.
#[derive(Debug)]
pub struct Kubelet {
    pub node: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    api: Api,
    node: String,
    ended: AtomicBool,
    /// Namespace, and how the pod's name begins; the last one counts.
    parts: Mutex<Vec<(String, String, Part)>>,
    addresses: AtomicU32,
    logs: Arc<Logs>,
}

/// What a pod does.
#[derive(Debug, Clone)]
struct Part {
    fate: Fate,
    says: String,
}

impl Kubelet {
    /// Registers a node of this name, in a zone of its own.
    pub fn start(server: SocketAddr, authority: &Authority, node: &str) -> Self {
        let user = authority.client(&format!("system:node:{node}"), Some("system:nodes"));
        let shown = authority.server(&format!("kubelet-{node}"), &["127.0.0.1"]);
        let tls = tls_for(&authority.certificate(), &shown.chain, &shown.key);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let logs = Arc::new(Logs::default());
        let said = Arc::clone(&logs);
        std::thread::spawn(move || logs::serve(&listener, &tls, &said));
        let shared = Arc::new(Shared {
            api: Api::new(server, &authority.certificate(), &user),
            node: node.to_owned(),
            ended: AtomicBool::new(false),
            parts: Mutex::default(),
            addresses: AtomicU32::new(0),
            logs,
        });
        shared.api.create("/api/v1/nodes", &registration(node, port)).done();
        let watcher = Arc::clone(&shared);
        std::thread::spawn(move || watcher.run());
        Self { node: node.to_owned(), shared }
    }

    /// From now on, pods of this namespace whose name begins like this do this, after their containers have said this, a
    /// line each. Those that are there, too.
    pub fn let_pods(&self, namespace: &str, begins: &str, fate: Fate, says: &str) {
        let part = Part { fate, says: says.to_owned() };
        self.shared.parts.lock().expect(UNBROKEN).push((namespace.to_owned(), begins.to_owned(), part));
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.node);
        let pods = self.shared.api.get(&path).done();
        for pod in pods["items"].as_array().into_iter().flatten() {
            self.shared.step(pod);
        }
    }

    /// A running container says a line.
    pub fn say(&self, namespace: &str, pod: &str, container: &str, line: &str) {
        self.shared.logs.say(&[namespace, pod, container].map(str::to_owned), line);
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
    }
}

const UNBROKEN: &str = "nobody panics while it is held";

impl Shared {
    fn run(&self) {
        let path = format!("/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3D{}", self.node);
        while !self.ended.load(Ordering::Acquire) {
            let Ok(lines) = self.api.watch(&path) else {
                std::thread::park_timeout(AGAIN);
                continue;
            };
            for line in lines {
                let change: Value = serde_json::from_str(&line).expect("a line of a watch is JSON");
                match change["type"].as_str() {
                    Some("ADDED" | "MODIFIED") => self.step(&change["object"]),
                    Some("DELETED") => self.logs.forget(&change["object"]),
                    Some(_) | None => break,
                }
            }
        }
    }

    /// The next thing that happens to this pod. Its effect comes back as a change, which leads to the one after it. Of what was not taken
    /// no change comes: it is tried again, by what the pod is then.
    fn step(&self, pod: &Value) {
        let mut pod = pod.clone();
        for _ in 0..ATTEMPTS {
            if self.has_stepped(&pod) || self.ended.load(Ordering::Acquire) {
                return;
            }
            std::thread::park_timeout(AGAIN);
            let found = self.api.try_ask("GET", &path_of(&pod), "application/json", &Value::Null);
            let Ok(found) = found else { continue };
            if found.status != 200 || found.value["metadata"]["uid"] != pod["metadata"]["uid"] {
                return;
            }
            pod = found.value;
        }
    }

    /// Whether nothing is left to be tried again.
    fn has_stepped(&self, pod: &Value) -> bool {
        let part = self.part(pod);
        let address = || {
            let number = self.addresses.fetch_add(1, Ordering::Relaxed);
            format!("10.88.{}.{}", number / 250, number % 250 + 1)
        };
        let path = path_of(pod);
        let is_taken = |answer: std::io::Result<Answer>| {
            answer.is_ok_and(|answer| answer.status == 404 || (200..300).contains(&answer.status))
        };
        match pod::next(pod, part.fate, address, &now()) {
            Step::Nothing => true,
            Step::Remove => {
                let uid = json!({ "uid": pod["metadata"]["uid"] });
                let options = json!({ "gracePeriodSeconds": 0, "preconditions": uid });
                is_taken(self.api.try_ask("DELETE", &path, "application/json", &options))
            }
            Step::Write { status, happens } => {
                self.logs.take(pod, happens, &part.says);
                let change = json!({ "metadata": { "uid": pod["metadata"]["uid"] }, "status": status });
                if !is_taken(self.api.try_ask("PATCH", &format!("{path}/status"), STRATEGIC, &change)) {
                    return false;
                }
                if let Some((reason, message)) = happens.warning(pod) {
                    self.warn(pod, reason, &message);
                }
                true
            }
        }
    }

    fn part(&self, pod: &Value) -> Part {
        let [namespace, name] = ["namespace", "name"].map(|key| text(&pod["metadata"][key]));
        let parts = self.parts.lock().expect(UNBROKEN);
        let decided = parts.iter().rev().find(|(of, begins, _)| of == namespace && name.starts_with(begins.as_str()));
        if let Some((_, _, part)) = decided {
            return part.clone();
        }
        let annotations = &pod["metadata"]["annotations"];
        let fate = match annotations[FATE].as_str() {
            Some(word) => Fate::parse(word),
            None => Fate::of(pod),
        };
        Part { fate, says: text(&annotations[SAYS]).to_owned() }
    }

    fn warn(&self, pod: &Value, reason: &str, message: &str) {
        let (about, now) = (&pod["metadata"], now());
        let namespace = text(&about["namespace"]);
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": reason, "message": message, "count": 1,
            "metadata": { "generateName": format!("{}.", text(&about["name"])), "namespace": namespace },
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": about["name"], "uid": about["uid"],
            },
            "source": { "component": "kubelet", "host": self.node }, "firstTimestamp": now, "lastTimestamp": now,
        });
        let path = format!("/api/v1/namespaces/{namespace}/events");
        let _ = self.api.try_ask("POST", &path, "application/json", &event);
    }
}

fn path_of(pod: &Value) -> String {
    let [namespace, name] = ["namespace", "name"].map(|key| text(&pod["metadata"][key]));
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}

/// The text of a value, nothing where it is none.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// As Kubernetes writes times.
fn now() -> String {
    format!("{:.0}", jiff::Timestamp::now())
}

fn registration(node: &str, port: u16) -> Value {
    let room = json!({ "cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "1000" });
    let now = now();
    let condition = |kind: &str, status: &str| {
        json!({
            "type": kind, "status": status, "reason": "Tests", "message": "the kubelet of the tests",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    let kinds = [("Ready", "True"), ("MemoryPressure", "False"), ("DiskPressure", "False"), ("PIDPressure", "False")];
    let conditions = kinds.map(|(kind, status)| condition(kind, status));
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": node, "labels": {
            "kubernetes.io/hostname": node, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/region": "tests", "topology.kubernetes.io/zone": format!("zone-{node}"),
        } },
        "status": {
            "capacity": room, "allocatable": room,
            "conditions": conditions,
            "addresses": [
                { "type": "InternalIP", "address": "127.0.0.1" }, { "type": "Hostname", "address": node },
            ],
            "declaredFeatures": [exec::FEATURE],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
            "nodeInfo": {
                "machineID": node, "systemUUID": node, "bootID": node, "kernelVersion": "tests", "osImage": "tests",
                "containerRuntimeVersion": "tests://0", "kubeletVersion": "v1.36.3", "kubeProxyVersion": "",
                "operatingSystem": "linux", "architecture": "amd64",
            },
        },
    })
}
