//! Whether an app is of one release, whole, with one copy per slot, and nothing is left behind of any other.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::client::curl;
use crate::machine::{Process, processes};
use crate::{Bowline, path};

/// An app with one service, `web`, in `production`, whose answer says which instance it is of.
#[derive(Debug, Clone, Copy)]
pub struct Whole<'a> {
    pub bowline: &'a Bowline,
    pub name: &'a str,
    pub url: &'a str,
    /// Instances of `web`.
    pub scale: usize,
    /// Instances of all other apps of this state.
    pub others: usize,
}

/// The status and this app's part of it, if a daemon answers.
pub fn app(bowline: &Bowline, name: &str) -> Option<(Value, Value)> {
    let output = bowline.run(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).ok()?;
    let app = status["apps"].as_array()?.iter().find(|app| app["app"] == name)?.clone();
    Some((status, app))
}

impl Whole<'_> {
    /// The release that serves, or what is not as it should be.
    ///
    /// # Errors
    /// What that is, for people.
    pub fn release(&self) -> Result<u64, String> {
        let (status, app) = app(self.bowline, self.name).ok_or("there is no status")?;
        let settled = app["state"] == "ready" && app["change"].is_null() && status["edge"]["state"] == "serving";
        let release = app["release"].as_u64().filter(|_| settled).ok_or_else(|| format!("{app:#}"))?;
        let running = self.bowline.processes_of(self.name);
        let names = running.iter().filter_map(|process| process.environment("BOWLINE_INSTANCE"));
        let names: BTreeSet<String> = names.filter_map(|name| Some(name.split_once('/')?.1.to_owned())).collect();
        let slots: BTreeSet<&str> = names.iter().filter_map(|name| Some(name.rsplit_once('.')?.0)).collect();
        let of_release = format!("{}.web.r{release}.", self.name);
        let scale = self.scale;
        let right = running.len() == scale && slots.len() == scale && names.iter().all(|n| n.starts_with(&of_release));
        if !right {
            return Err(format!("of release {release} run {names:?}"));
        }
        let left = self.left_behind(&names, &slots);
        if !left.is_empty() {
            return Err(format!("left behind: {left:?}"));
        }
        self.routes_to(&status, &names)?;
        // The head is the edge's word, the body the instance's.
        let answer = curl(&self.bowline.ca(), self.url, &["--http1.1", "--include"]);
        let text = answer.text();
        let head = format!("x-bowline-release: {release}\r\n");
        match answer.status == 200 && text.to_lowercase().contains(&head) && text.contains(&of_release) {
            true => Ok(release),
            false => Err(format!("release {release} answers {} {text}", answer.status)),
        }
    }

    /// The table that the edge serves is the newest one, and leads to these and to nothing else of the app.
    fn routes_to(&self, status: &Value, names: &BTreeSet<String>) -> Result<(), String> {
        let admin = status["daemon"]["admin"].as_str().ok_or("there is no admin port")?;
        let metrics = curl(Path::new("/dev/null"), &format!("http://{admin}/metrics"), &[]).text();
        let generation = |which: &str| {
            let start = format!("bowline_edge_table_generation{{table=\"{which}\"}} ");
            metrics.lines().find_map(|line| line.strip_prefix(start.as_str()))
        };
        if generation("desired").is_none() || generation("desired") != generation("serving") {
            return Err(format!("the edge serves {:?} of {:?}", generation("serving"), generation("desired")));
        }
        let own = format!("app=\"{}\"", self.name);
        let routed = metrics.lines().filter(|line| line.starts_with("http_server_active_requests{"));
        let routed = routed.filter(|line| line.contains(&own));
        let routed: BTreeSet<String> = routed
            .filter_map(|line| line.split_once("instance=\"")?.1.split_once('"')?.0.split_once('/'))
            .map(|(_, name)| name.to_owned())
            .collect();
        match routed == *names {
            true => Ok(()),
            false => Err(format!("the edge's table leads to {routed:?}, and {names:?} run")),
        }
    }

    /// Of processes, control groups, folders and files, those that belong to nothing that runs or may run again.
    fn left_behind(&self, names: &BTreeSet<String>, slots: &BTreeSet<&str>) -> Vec<String> {
        let state = self.bowline.state();
        let own = |name: &str| name.strip_prefix(&format!("{}.", self.name)).map(str::to_owned);
        let short: BTreeSet<String> = names.iter().filter_map(|name| own(name)).collect();
        let mut left = self.processes();
        let instances = entries(&state.join("instances/production").join(self.name));
        left.extend(instances.into_iter().filter(|name| !short.contains(name)));
        let locks = entries(&state.join("instances/locks")).into_iter();
        let locks = locks.filter(|lock| lock.starts_with(&format!("production.{}.", self.name)));
        left.extend(locks.filter(|lock| !slots.contains(lock.trim_start_matches("production."))));
        let groups = self.groups().into_iter();
        left.extend(groups.filter(|group| !names.contains(group.trim_start_matches("production."))));
        let artifacts = entries(&state.join("artifacts"));
        let sealed = |name: &String| artifacts.contains(&format!("{}.json", &name[..name.len().min(64)]));
        let unsealed = |name: &&String| !name.ends_with(".lock") && (name.starts_with(".seal") || !sealed(name));
        left.extend(artifacts.iter().filter(unsealed).cloned());
        for folder in
            [format!("sources/.contents/production/{}", self.name), format!("sources/production/{}", self.name)]
        {
            left.extend(entries(&state.join(folder)).into_iter().filter(|name| name.starts_with("new-")));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        left.extend(mounts.lines().filter(|line| line.contains(path(&state))).map(str::to_owned));
        left
    }

    /// The control groups of this state, in every hierarchy, by the group that its instances are in.
    fn groups(&self) -> Vec<String> {
        let running = self.bowline.processes_of(self.name).into_iter();
        let of = |process: Process| std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).ok();
        let state = |line: &str| line.split('/').find(|part| part.starts_with("bowline-")).map(str::to_owned);
        let Some(state) = running.filter_map(of).find_map(|groups| groups.lines().find_map(state)) else {
            return Vec::new();
        };
        let top = Path::new("/sys/fs/cgroup");
        let hierarchies = entries(top).into_iter().map(|name| top.join(name).join(&state)).chain([top.join(&state)]);
        let all = hierarchies.flat_map(|folder| entries(&folder));
        all.filter(|name| name.starts_with(&format!("production.{}.", self.name))).collect()
    }

    /// Those of this state that are too many: there are one daemon, one edge and one shim for each instance.
    fn processes(&self) -> Vec<String> {
        let kept = self.bowline.state().join("bin");
        let own = |p: &Process| p.arguments().first().is_some_and(|program| Path::new(program).starts_with(&kept));
        let all: Vec<Process> = processes().into_iter().filter(own).filter(Process::runs).collect();
        let of = |role: &str| all.iter().filter(|p| p.arguments().get(1).is_some_and(|word| word == role)).count();
        let counts = [("edge", 1), ("shim", self.scale + self.others), ("builder", 0)];
        counts.into_iter().filter(|(role, most)| of(role) > *most).map(|(r, _)| format!("{} of {r}", of(r))).collect()
    }
}

/// The names in a folder; none where there is no such folder.
pub fn entries(folder: &Path) -> Vec<String> {
    let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
    all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
