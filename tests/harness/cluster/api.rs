//! Somebody who asks an API server of Kubernetes: JSON over HTTPS, and nothing of its types.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::Value;

use super::pki::Pair;
use crate::client::tls_as;
use crate::wire::Wire;

/// As server-side apply takes it; JSON is YAML.
pub const APPLY: &str = "application/apply-patch+yaml";
pub const MERGE: &str = "application/merge-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON: &str = "application/json";

/// How long a watch may have nothing to say.
const QUIET: Duration = Duration::from_secs(3600);

/// One user at one API server.
#[derive(Debug, Clone)]
pub struct Api {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

/// What was answered: JSON, else the text as it is.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub value: Value,
}

impl Answer {
    /// The object, of a request that must succeed.
    pub fn done(self) -> Value {
        assert!((200..300).contains(&self.status), "{}: {}", self.status, self.value);
        self.value
    }

    /// What a refusal says, of a request that must be refused like this.
    pub fn refused(self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.value);
        self.value["message"].as_str().unwrap_or_else(|| panic!("no message: {}", self.value)).to_owned()
    }
}

impl Api {
    pub fn new(address: SocketAddr, authority: &Path, user: &Pair) -> Self {
        Self { address, tls: tls_as(authority, &user.chain, &user.key) }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, JSON, &Value::Null)
    }

    pub fn create(&self, path: &str, object: &Value) -> Answer {
        self.ask("POST", path, JSON, object)
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, JSON, &Value::Null)
    }

    /// Server-side apply of an object at its own path, every field of which must be known.
    pub fn apply(&self, path: &str, manager: &str, object: &Value) -> Answer {
        self.ask("PATCH", &format!("{path}?fieldManager={manager}&fieldValidation=Strict"), APPLY, object)
    }

    /// Makes a kind known by its definition in YAML. Returns where its objects will be served, in each version.
    pub(super) fn define(&self, definition: &str) -> Vec<String> {
        let all = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let created = self.send("POST", all, "application/yaml", definition).and_then(|mut wire| wire.answer());
        let created: Value = serde_json::from_str(&created.expect("an answer").text()).expect("JSON");
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{created}")).to_owned();
        let [group, plural] = [&created["spec"]["group"], &created["spec"]["names"]["plural"]].map(text);
        let versions = created["spec"]["versions"].as_array().expect("versions").iter();
        let served = versions.filter(|version| version["served"] == true).map(|version| text(&version["name"]));
        served.map(|version| format!("/apis/{group}/{version}/{plural}")).collect()
    }

    pub fn ask(&self, method: &str, path: &str, kind: &str, body: &Value) -> Answer {
        self.try_ask(method, path, kind, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// The same where the server may be away.
    pub fn try_ask(&self, method: &str, path: &str, kind: &str, body: &Value) -> io::Result<Answer> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut wire = self.send(method, path, kind, &body)?;
        let answer = wire.answer_to(method)?;
        let text = answer.text();
        Ok(Answer { status: answer.status, value: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
    }

    /// What there is and what becomes of it, for as long as the server lets it: `{ "type": …, "object": … }`.
    pub fn watch(&self, path: &str) -> io::Result<Lines> {
        let mut wire = self.send("GET", path, JSON, "")?;
        wire.wait_for(QUIET)?;
        match wire.opens()? {
            200 => Ok(Lines { wire, rest: Vec::new() }),
            status => Err(io::Error::other(format!("{path}: {status}"))),
        }
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &str) -> io::Result<Wire> {
        let mut wire = Wire::connect(self.address)?.secured(&self.address.ip().to_string(), &self.tls)?;
        let (address, length) = (self.address, body.len());
        let fields =
            format!("Host: {address}\r\nAccept: application/json\r\nContent-Type: {kind}\r\nConnection: close");
        wire.send(
            format!("{method} {path} HTTP/1.1\r\n{fields}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes(),
        )?;
        Ok(wire)
    }
}

/// The lines of an answer that goes on.
#[derive(Debug)]
pub struct Lines {
    wire: Wire,
    rest: Vec<u8>,
}

impl Iterator for Lines {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.rest) {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.rest.extend(self.wire.chunk().ok()??);
        }
    }
}
