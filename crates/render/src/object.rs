//! Objects, and the order in which they are to be there.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::need::{Need, Needed};

/// What tells two objects of a namespace apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Empty: Kubernetes' first API.
    pub group: String,
    pub version: String,
    pub kind: String,
    pub name: String,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// What comes before what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wave {
    /// Configuration, accounts and the rules of the network.
    Config,
    /// Volumes and databases.
    Data,
    /// What runs once before the release.
    Before,
    Workload,
    /// How requests come in.
    Edge,
    /// Who watches.
    Watch,
}

/// One object. It has no namespace: that is where it is applied to.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub id: ObjectId,
    pub wave: Wave,
    pub body: Value,
}

impl Object {
    pub(crate) fn new(wave: Wave, object: &impl Serialize) -> Self {
        let body = serde_json::to_value(object).expect("objects of Kubernetes have text as keys alone");
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let api = text("/apiVersion");
        let (group, version) = api.split_once('/').unwrap_or(("", &api));
        let id = ObjectId {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: text("/kind"),
            name: text("/metadata/name"),
        };
        Self { id, wave, body }
    }
}

/// All that a cluster is given for one app.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifests {
    /// By wave, kind and name.
    pub objects: Vec<Object>,
    /// Secrets that must be there first.
    pub needs: Vec<Need>,
    /// What whoever applies them should know. A sentence each.
    pub notes: Vec<String>,
    /// Of these, what is to be known by who applies them by hand alone.
    pub by_hand: BTreeSet<String>,
}

/// Manifests that are being made.
#[derive(Debug, Default)]
pub(crate) struct Out {
    objects: Vec<Object>,
    needs: Vec<Need>,
    notes: Vec<String>,
    by_hand: BTreeSet<String>,
}

impl Out {
    pub(crate) fn put(&mut self, wave: Wave, object: &impl Serialize) {
        let object = Object::new(wave, object);
        // Configuration is named by its content: two that are the same are one.
        if !self.objects.iter().any(|known| known.id == object.id && known.body == object.body) {
            self.objects.push(object);
        }
    }

    pub(crate) fn need(&mut self, object: String, key: &'static str, what: Needed) {
        let need = Need { object, key, what };
        if !self.needs.contains(&need) {
            self.needs.push(need);
        }
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Of those who have nothing that applies one object after another.
    pub(crate) fn note_by_hand(&mut self, note: String) {
        self.by_hand.insert(note.clone());
        self.note(note);
    }

    pub(crate) fn done(mut self) -> Manifests {
        let order = |object: &Object| (object.wave, object.id.kind.clone(), object.id.name.clone());
        self.objects.sort_by_key(order);
        Manifests { objects: self.objects, needs: self.needs, notes: self.notes, by_hand: self.by_hand }
    }
}
