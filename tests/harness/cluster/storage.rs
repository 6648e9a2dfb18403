//! Volumes of which nothing is on any disk: each claim of a class gets one as large as it asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::api::Api;
use crate::kubelet::AGAIN;

/// The class that is the default.
pub const CLASS: &str = "tests";
/// The one that examples name, for volumes of several pods.
const SHARED: &str = "shared";

/// Gives for as long as this is held.
#[derive(Debug)]
pub(super) struct Provisioner {
    ended: Arc<AtomicBool>,
}

impl Provisioner {
    pub(super) fn start(api: Api) -> Self {
        for (name, is_default) in [(CLASS, "true"), (SHARED, "false")] {
            let class = json!({
                "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "tests.bowline.dev/nowhere",
                "metadata": { "name": name, "annotations": { "storageclass.kubernetes.io/is-default-class": is_default } },
                "reclaimPolicy": "Retain", "allowVolumeExpansion": true,
            });
            api.create("/apis/storage.k8s.io/v1/storageclasses", &class).done();
        }
        let ended = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&ended);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Acquire) {
                match api.watch("/api/v1/persistentvolumeclaims?watch=true") {
                    Ok(lines) => lines.for_each(|line| give(&api, &line)),
                    Err(_) => std::thread::park_timeout(AGAIN),
                }
            }
        });
        Self { ended }
    }
}

impl Drop for Provisioner {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
    }
}

/// A volume that is this claim's, where it is a new one. One that was made already is refused by its name.
fn give(api: &Api, line: &str) {
    let change: Value = serde_json::from_str(line).expect("a line of a watch is JSON");
    let (claim, about) = (&change["object"], &change["object"]["metadata"]);
    if change["type"] == "DELETED"
        || ![CLASS, SHARED].contains(&claim["spec"]["storageClassName"].as_str().unwrap_or_default())
        || claim["status"]["phase"] != "Pending"
    {
        return;
    }
    let uid = about["uid"].as_str().expect("every object has one");
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": format!("tests-{uid}") },
        "spec": {
            "capacity": { "storage": claim["spec"]["resources"]["requests"]["storage"] },
            "accessModes": claim["spec"]["accessModes"], "storageClassName": claim["spec"]["storageClassName"],
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": { "path": "/nowhere" },
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": about["namespace"],
                "name": about["name"], "uid": uid,
            },
        },
    });
    let _ = api.try_ask("POST", "/api/v1/persistentvolumes", "application/json", &volume);
}
