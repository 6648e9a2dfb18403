//! What an instance uses, and what its log has lost.

use bowline_core::id::InstanceId;
use bowline_core::instance::Usage;

use super::Context;
use crate::procfs;
use crate::shim::contract::{self, Record};

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    pub id: InstanceId,
    pub usage: Usage,
    pub dropped_lines: u64,
    /// What its container is called: one that was adopted before it ran says so now.
    pub container: Option<String>,
}

pub(super) fn one(context: &Context, id: InstanceId, record: &Record) -> Measured {
    let folder = context.layout.instance(&id);
    let record = record.completed(&folder);
    let container = record.container.as_ref().map(|container| container.name.clone());
    Measured { usage: usage(&record), dropped_lines: contract::read_dropped(&folder), container, id }
}

fn usage(record: &Record) -> Usage {
    let groups = record.container.as_ref().map(|container| &container.groups).or(record.cgroup.as_ref());
    let counted = groups.and_then(|groups| groups.usage());
    let first = record.container.as_ref().map_or(record.pid, |container| container.pid);
    counted.unwrap_or_else(|| procfs::usage_below(first))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use bowline_core::units::Bytes;

    use super::*;
    use crate::Engine;
    use crate::cgroup::Membership;
    use crate::driver::fake;
    use crate::shim::contract::{Contained, FORMAT};

    fn record(container: Option<Contained>) -> Record {
        Record {
            format: FORMAT,
            id: String::new(),
            pid: std::process::id(),
            start_time: 0,
            boot_id: String::new(),
            port: 1,
            open_to_machine: false,
            uid: None,
            child: None,
            since_ms: 0,
            grace_ms: 0,
            unenforced: Vec::new(),
            contained: false,
            mark: String::new(),
            cgroup: None,
            secret_folder: "/nowhere".into(),
            volumes: Vec::new(),
            entry: None,
            container,
        }
    }

    fn container(groups: &Path) -> Contained {
        for (file, content) in [("memory.current", "4096"), ("memory.stat", ""), ("cpu.stat", "usage_usec 7\n")] {
            fs::write(groups.join(file), content).unwrap();
        }
        let groups = serde_json::json!({
            "folders": [groups], "memory": ["two", groups], "cpu": null, "pids": null, "kill": null,
        });
        let groups: Membership = serde_json::from_value(groups).unwrap();
        Contained {
            socket: "/nowhere".into(),
            name: "its name".to_owned(),
            id: String::new(),
            pid: std::process::id(),
            groups,
        }
    }

    #[test]
    fn a_container_that_was_adopted_before_it_ran_is_measured() {
        let (root, groups) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let context = fake::context(root.path(), Engine::at("/nowhere/engine.sock".into()));
        let id: InstanceId = "local/shop.web.r3.0.1".parse().unwrap();
        let folder = context.layout.instance(&id);
        fs::create_dir_all(&folder).unwrap();
        record(Some(container(groups.path()))).write(&folder).unwrap();
        let usage = Usage { memory: Bytes(4096), cpu_us: 7 };
        let expected = Measured { id: id.clone(), usage, dropped_lines: 0, container: Some("its name".to_owned()) };
        assert_eq!(one(&context, id, &record(None)), expected);
    }
}
