//! What an engine is told to make of an instance, as its API wants it: nothing but a translation.
//!
//! Architecture invariant: nothing of this is secret. Whoever may ask the engine reads it, and so does whoever reads its files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cage::entry::OPEN_FILES;
use crate::cgroup;

/// Where a container finds what its shim has left for it: how it starts, its secret files, where its output goes.
pub(crate) const GIVEN: &str = "/run/bowline";
/// In [`GIVEN`]: what `/bin/sh` reads.
pub(crate) const START: &str = "start";
/// In [`GIVEN`]: its standard output and error.
pub(crate) const STREAMS: [&str; 2] = ["out", "err"];
/// In [`GIVEN`].
pub(crate) const SECRETS: &str = "secrets";
/// Where temporary files go.
const TMP: &str = "/tmp";
/// Temporary files, and what processes share, are memory: half of the limit each, and without a limit so much.
const TEMPORARY: u64 = 256 << 20;
/// Open files, as engines call them.
pub(crate) const FILES: &str = "nofile";
/// Docker takes no lower limit of memory.
pub(crate) const LEAST_MEMORY: u64 = 6 << 20;

/// A container as it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wanted {
    pub image: String,
    pub uid: u32,
    pub env: BTreeMap<String, String>,
    pub workdir: PathBuf,
    pub labels: BTreeMap<String, String>,
    pub mounts: Vec<Bind>,
    /// In bytes; less than [`LEAST_MEMORY`] is as much as that.
    pub memory: Option<u64>,
    /// In thousandths of a processor.
    pub cpu: Option<u32>,
    pub processes: u32,
    /// Open files and processes of the user, as the daemon has them: an engine may not give more than it has itself, and says so late.
    pub most: [(&'static str, u64); 2],
}

/// A folder of the machine, in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bind {
    pub from: PathBuf,
    pub to: PathBuf,
    pub writable: bool,
}

/// The body of `POST /containers/create`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Create<'w> {
    image: &'w str,
    user: String,
    env: Vec<String>,
    entrypoint: [String; 2],
    cmd: [String; 0],
    working_dir: &'w PathBuf,
    labels: &'w BTreeMap<String, String>,
    host_config: HostConfig<'w>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig<'w> {
    network_mode: &'static str,
    userns_mode: &'static str,
    readonly_rootfs: bool,
    init: bool,
    cap_drop: [&'static str; 1],
    security_opt: [&'static str; 1],
    restart_policy: RestartPolicy,
    log_config: LogConfig,
    mounts: Vec<Mount<'w>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tmpfs: BTreeMap<&'static str, String>,
    pids_limit: u32,
    shm_size: u64,
    ulimits: Vec<Ulimit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u64>,
    /// Memory and swap together.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_swap: Option<u64>,
    /// In microseconds. Not `NanoCpus`, of which Docker takes no more than the machine has.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_period: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_quota: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RestartPolicy {
    name: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct LogConfig {
    #[serde(rename = "Type")]
    kind: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Mount<'w> {
    #[serde(rename = "Type")]
    kind: &'static str,
    source: &'w PathBuf,
    target: &'w PathBuf,
    read_only: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Ulimit {
    name: &'static str,
    soft: u64,
    hard: u64,
}

impl Wanted {
    /// As the engine reads it.
    pub(crate) fn request(&self) -> serde_json::Result<serde_json::Value> {
        let memory = self.memory.map(|memory| memory.max(LEAST_MEMORY));
        let temporary = memory.map_or(TEMPORARY, |memory| memory / 2);
        let limit = |(name, most): (&'static str, u64)| match name {
            // As without a container: some programs walk through all that they may have.
            FILES => Ulimit { name, soft: most.min(OPEN_FILES), hard: most },
            _ => Ulimit { name, soft: most, hard: most },
        };
        // A volume there is in its place.
        let is_taken = self.mounts.iter().any(|bind| bind.to == Path::new(TMP));
        let tmpfs = (!is_taken).then(|| (TMP, format!("rw,nosuid,nodev,exec,mode=1777,size={temporary}")));
        let mount = |bind| {
            let Bind { from, to, writable }: &Bind = bind;
            Mount { kind: "bind", source: from, target: to, read_only: !writable }
        };
        serde_json::to_value(Create {
            image: &self.image,
            user: format!("{0}:{0}", self.uid),
            env: self.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            entrypoint: ["/bin/sh".to_owned(), format!("{GIVEN}/{START}")],
            cmd: [],
            working_dir: &self.workdir,
            labels: &self.labels,
            host_config: HostConfig {
                // The edge, the port that is closed to others by its user, and `PORT` are as without containers.
                network_mode: "host",
                userns_mode: "host",
                readonly_rootfs: true,
                // The first process of a container ignores what it has no handler for: that is not the app's affair.
                init: true,
                cap_drop: ["ALL"],
                security_opt: ["no-new-privileges"],
                // The daemon starts it again, as another incarnation.
                restart_policy: RestartPolicy { name: "no" },
                // Its output goes to its shim.
                log_config: LogConfig { kind: "none" },
                mounts: self.mounts.iter().map(mount).collect(),
                tmpfs: tmpfs.into_iter().collect(),
                pids_limit: self.processes,
                shm_size: temporary,
                // Core files hold secrets.
                ulimits: self.most.into_iter().chain([("core", 0)]).map(limit).collect(),
                memory,
                memory_swap: memory,
                cpu_period: self.cpu.map(|_| cgroup::CPU_PERIOD_US),
                cpu_quota: self.cpu.map(cgroup::cpu_quota_us),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_is_closed_but_for_what_it_is_given() {
        let wanted = Wanted {
            image: "localhost/bowline-a:b".into(),
            uid: 70_001,
            env: [("PORT".to_owned(), "15000".to_owned())].into(),
            workdir: "/s/artifacts/d/app".into(),
            labels: [("bowline.state".to_owned(), "abc".to_owned())].into(),
            mounts: vec![
                Bind { from: "/run/b/1".into(), to: GIVEN.into(), writable: false },
                Bind { from: "/s/v".into(), to: "/data".into(), writable: true },
            ],
            memory: Some(64 << 20),
            cpu: Some(1500),
            processes: 4096,
            most: [(FILES, 1 << 20), ("nproc", 512)],
        };
        let expected = json!({
            "Image": "localhost/bowline-a:b",
            "User": "70001:70001",
            "Env": ["PORT=15000"],
            "Entrypoint": ["/bin/sh", "/run/bowline/start"],
            "Cmd": [],
            "WorkingDir": "/s/artifacts/d/app",
            "Labels": { "bowline.state": "abc" },
            "HostConfig": {
                "NetworkMode": "host",
                "UsernsMode": "host",
                "ReadonlyRootfs": true,
                "Init": true,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "RestartPolicy": { "Name": "no" },
                "LogConfig": { "Type": "none" },
                "Mounts": [
                    { "Type": "bind", "Source": "/run/b/1", "Target": "/run/bowline", "ReadOnly": true },
                    { "Type": "bind", "Source": "/s/v", "Target": "/data", "ReadOnly": false },
                ],
                "Tmpfs": { "/tmp": "rw,nosuid,nodev,exec,mode=1777,size=33554432" },
                "PidsLimit": 4096,
                "ShmSize": 33_554_432,
                "Ulimits": [
                    { "Name": "nofile", "Soft": 65_536, "Hard": 1_048_576 },
                    { "Name": "nproc", "Soft": 512, "Hard": 512 },
                    { "Name": "core", "Soft": 0, "Hard": 0 },
                ],
                "Memory": 67_108_864,
                "MemorySwap": 67_108_864,
                "CpuPeriod": 100_000,
                "CpuQuota": 150_000,
            },
        });
        assert_eq!(wanted.request().unwrap(), expected);
        let at_tmp = Bind { from: "/s/v".into(), to: TMP.into(), writable: true };
        let at_tmp = Wanted { mounts: vec![at_tmp], ..wanted.clone() }.request().unwrap();
        assert_eq!(
            (&at_tmp["HostConfig"]["Mounts"][0]["Target"], at_tmp["HostConfig"].get("Tmpfs")),
            (&json!(TMP), None)
        );
        // As little as the engine and the kernel take.
        let least = Wanted { memory: Some(1), cpu: Some(1), ..wanted.clone() }.request().unwrap();
        let least = ["Memory", "MemorySwap", "CpuQuota"].map(|key| least["HostConfig"][key].as_u64());
        assert_eq!(least, [Some(6 << 20), Some(6 << 20), Some(1_000)]);
        let unbounded = Wanted { memory: None, cpu: None, ..wanted }.request().unwrap();
        let host = unbounded["HostConfig"].as_object().unwrap();
        assert!(["Memory", "MemorySwap", "CpuPeriod", "CpuQuota"].iter().all(|key| !host.contains_key(*key)));
        assert!(host["Tmpfs"]["/tmp"].as_str().unwrap().ends_with("size=268435456"));
    }
}
