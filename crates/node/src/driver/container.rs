//! An instance as a container: its image, and what its shim tells the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bowline_core::app::Command;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{InstanceId, Port, SlotId};
use bowline_core::instance::{EnvValue, InstanceSpec, Phase, Reach, SecretFile};
use bowline_core::resource::ResourceKey;
use rustix::process::{Resource, getrlimit};

use super::awaited::{LastAnswer, Turn};
use super::{Context, image, start};
use crate::cage::files::Grants;
use crate::cgroup::{self, CPU_LIMIT, MEMORY_LIMIT};
use crate::engine::create::{Bind, FILES, GIVEN, LEAST_MEMORY, SECRETS, Wanted};
use crate::engine::{BRIEF_PATIENCE, EngineError, Listed, START_PATIENCE, State};
use crate::layout::{self, Layout};
use crate::procfs;
use crate::shim::contract::{Clear, Contained, Container, Entry, Record};
use crate::{Containers, Engine, Keep};

/// Of open files and processes, where the daemon is given any number. Podman has no more processes itself than the machine has numbers.
const MOST: u64 = 1 << 20;
/// What tells this state's containers from any others.
const STATE_LABEL: &str = "bowline.state";
/// Which incarnation one is of.
const INSTANCE_LABEL: &str = "bowline.instance";

/// The engine of a node, and what is known of it.
#[derive(Debug)]
pub(crate) struct Engines {
    pub of: Containers,
    /// An engine was told to start a container, and then neither whether it did nor to remove it.
    left: Mutex<BTreeSet<InstanceId>>,
    pub(super) answer: LastAnswer,
}

impl Engines {
    pub(super) fn new(of: Containers) -> Self {
        Self { of, left: Mutex::default(), answer: LastAnswer::default() }
    }
}

/// Who waits while an image is made that is not there.
pub(super) struct Preparing<'p> {
    /// Its turn, if that was waited for.
    pub turn: Option<Turn>,
    /// Told when it begins, and when it is over.
    pub tells: &'p dyn Fn(Phase),
    /// Asked before each part of it.
    pub is_wanted: &'p dyn Fn() -> bool,
}

/// The engine that this instance runs in; `None`: none, as a database, which runs beside its app's containers, from this machine's
/// packages and as its own user.
pub(super) fn engine<'c>(context: &'c Context, spec: &InstanceSpec) -> Option<&'c Engines> {
    context.engines.as_ref().filter(|_| spec.reach == Reach::Edge)
}

/// Nothing is begun for one that is to stop.
pub(super) fn refuse_unwanted(spec: &InstanceSpec, preparing: &Preparing<'_>) -> Result<(), Fault> {
    match (preparing.is_wanted)() {
        true => Ok(()),
        false => {
            let fault = Fault::new(FaultKind::Failed, format!("the container of {} is not started", spec.id));
            Err(fault.caused_by("nobody wants it any more"))
        }
    }
}

/// What the shim is given; blocks until its image is there.
pub(super) fn prepare(
    context: &Context,
    engines: &Engines,
    spec: &InstanceSpec,
    (port, uid): (Port, Option<u32>),
    making: (&Command, Preparing<'_>),
) -> Result<Container, Fault> {
    let id = &spec.id;
    let failed = |error: &dyn std::error::Error| {
        Fault::new(FaultKind::Failed, format!("cannot prepare the container of {id}")).source(error)
    };
    let uid = uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw());
    let mut all = start::environment(context, spec, port, Path::new("/"));
    // A container that waits for somebody to join it is of the same image as those of its service.
    let image = image::have(&context.layout, engines, spec, making)?;
    let mounts = mounts(context, spec, uid).map_err(|error| failed(&error))?;
    let entry = entry(spec, &mounts);
    let paths = entry.variables.iter();
    all.extend(paths.map(|(name, path)| (name.clone(), start::clear(path.as_os_str().as_encoded_bytes()))));
    let (hidden, env) = split(spec, all)?;
    let wanted = Wanted {
        image,
        uid,
        env,
        workdir: spec.root.clone(),
        labels: labels(&engines.of.state, id),
        mounts,
        memory: spec.limits.memory.map(|bytes| bytes.0),
        cpu: spec.limits.cpu.map(|cpu| cpu.0),
        processes: cgroup::most_processes(),
        most: [(FILES, Resource::Nofile, MOST), ("nproc", Resource::Nproc, procfs::pid_max().map_or(MOST, u64::from))]
            .map(|(name, resource, most)| (name, getrlimit(resource).maximum.map_or(most, |own| own.min(most)))),
    };
    Ok(Container {
        socket: engines.of.engine.socket().to_owned(),
        name: name(&engines.of.state, &id.slot),
        request: wanted.request().map_err(|error| failed(&error))?,
        hidden,
        entry,
    })
}

/// What a process is given that joins the container later: all that is there, and to write what the app writes.
fn entry(spec: &InstanceSpec, mounts: &[Bind]) -> Entry {
    let path = |file: &SecretFile| (file.variable.clone(), Path::new(GIVEN).join(SECRETS).join(&file.name));
    let written = mounts.iter().filter(|bind| bind.writable).map(|bind| bind.to.clone());
    Entry {
        variables: spec.secret_files.iter().map(path).collect(),
        grants: Grants { read: vec!["/".into()], write: written.collect(), ..Grants::default() },
    }
}

/// What its engine does not enforce of what is asked for.
pub(super) fn unenforced(engines: &Engines, spec: &InstanceSpec) -> Result<Vec<String>, Fault> {
    let is_asked = |lack: &String| match lack.as_str() {
        MEMORY_LIMIT => spec.limits.memory.is_some(),
        CPU_LIMIT => spec.limits.cpu.is_some(),
        _ => true,
    };
    let lacks =
        engines.of.engine.lacks(START_PATIENCE).map_err(|error| error.fault(format!("cannot start {}", spec.id)))?;
    let is_less = spec.limits.memory.is_some_and(|memory| memory.0 < LEAST_MEMORY);
    let less = (is_less && !lacks.iter().any(|lack| lack == MEMORY_LIMIT)).then(|| MEMORY_LIMIT.to_owned());
    Ok(lacks.into_iter().filter(is_asked).chain(less).collect())
}

/// What all containers of a state are labelled with.
fn of_state(state: &str) -> String {
    format!("{STATE_LABEL}={state}")
}

/// Of a slot, so that an engine runs one copy of it, whoever asks.
fn name(state: &str, slot: &SlotId) -> String {
    let SlotId { key, service, release, slot } = slot;
    let name = format!("bowline-{state}-{}.{}.{service}.r{release}.{slot}", key.env, key.app);
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '-' }).collect()
}

fn labels(state: &str, id: &InstanceId) -> BTreeMap<String, String> {
    let SlotId { key, service, release, slot } = &id.slot;
    let label = |name: &str, value: String| (format!("bowline.{name}"), value);
    [
        (STATE_LABEL.to_owned(), state.to_owned()),
        (INSTANCE_LABEL.to_owned(), id.to_string()),
        label("env", key.env.to_string()),
        label("app", key.app.to_string()),
        label("service", service.spelled()),
        label("release", release.to_string()),
        label("slot", slot.to_string()),
        label("incarnation", id.incarnation.to_string()),
    ]
    .into()
}

type Env = (Vec<(String, Clear)>, BTreeMap<String, String>);

/// What the engine must not know, and what it may.
fn split(spec: &InstanceSpec, all: Vec<(String, Clear)>) -> Result<Env, Fault> {
    let is_secret = |name: &String| matches!(spec.env.get(name), Some(EnvValue::Secret(_)));
    let (hidden, open): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, _)| is_secret(name));
    let is_variable = |name: &str| {
        let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        begins && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if let Some((name, _)) = hidden.iter().find(|(name, _)| !is_variable(name)) {
        let fault = Fault::new(FaultKind::Refused, format!("{} is given a secret as {name:?}", spec.id));
        return Err(fault.caused_by("a shell in its container sets it, and knows letters, digits and _ only"));
    }
    if let Some((name, _)) = hidden.iter().find(|(_, value)| value.0.contains(&0)) {
        let fault = Fault::new(FaultKind::Refused, format!("the secret in {name} of {} holds a NUL byte", spec.id));
        return Err(fault.hint("give it as a file: { secret = …, as = \"file\" }"));
    }
    let text = |(name, value): (String, Clear)| (name, String::from_utf8_lossy(&value.0).into_owned());
    Ok((hidden, open.into_iter().map(text).collect()))
}

fn mounts(context: &Context, spec: &InstanceSpec, uid: u32) -> io::Result<Vec<Bind>> {
    let given = Bind { from: context.layout.secrets(&spec.id), to: GIVEN.into(), writable: false };
    let mut all = vec![given];
    // Its own `/tmp` would lie over it.
    if spec.root.starts_with("/tmp") {
        let artifact = image::artifact(&context.layout, &spec.root).unwrap_or_else(|| spec.root.clone());
        all.push(Bind { from: artifact.clone(), to: artifact, writable: false });
    }
    for volume in &spec.volumes {
        // Under `BOWLINE_VOLUME_NAME` it is where it is on the machine.
        let places = std::iter::once(volume.source.clone()).chain(volume.path.as_ref().map(PathBuf::from));
        let places: BTreeSet<PathBuf> = places.collect();
        all.extend(places.into_iter().map(|to| Bind { from: volume.source.clone(), to, writable: true }));
    }
    let folder = context.layout.instance(&spec.id).join(layout::WRITABLE);
    for (number, path) in spec.writable.iter().enumerate() {
        layout::make_folder(&folder, 0o711)?;
        let (from, to) = (folder.join(number.to_string()), spec.root.join(path));
        match without_links(&spec.root, path)? {
            Some(source) => copy(&source, &from, uid)?,
            None => make(&from, uid)?,
        }
        all.push(Bind { from, to, writable: true });
    }
    Ok(all)
}

/// A file or folder below `root`; `None`: there is none. Never through a link, and never one: it could lead out of the release, and this
/// process may be root.
fn without_links(root: &Path, path: &str) -> io::Result<Option<PathBuf>> {
    let mut at = root.to_owned();
    let mut is_folder = true;
    for part in Path::new(path).components() {
        let Component::Normal(part) = part else { return Err(io::ErrorKind::InvalidInput.into()) };
        at.push(part);
        match fs::symlink_metadata(&at) {
            Ok(found) if is_folder && (found.is_dir() || found.is_file()) => is_folder = found.is_dir(),
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(at))
}

fn own(path: &Path, uid: u32) -> io::Result<()> {
    match nix::unistd::geteuid().is_root() {
        true => lchown(path, Some(uid), Some(uid)),
        false => Ok(()),
    }
}

/// An empty folder that is the app's.
fn make(folder: &Path, uid: u32) -> io::Result<()> {
    fs::create_dir(folder)?;
    own(folder, uid)
}

/// A copy that is the app's, of an artifact, which nobody changes. Links stay what they are: they lead where they do in the container.
fn copy(from: &Path, to: &Path, uid: u32) -> io::Result<()> {
    let mut left = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = left.pop() {
        match fs::symlink_metadata(&from) {
            Ok(found) if found.is_symlink() => symlink(fs::read_link(&from)?, &to)?,
            Ok(found) if found.is_file() => {
                let mode = (found.permissions().mode() | 0o600) & 0o777;
                let mut source = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&from)?;
                let mut copy = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&to)?;
                io::copy(&mut source, &mut copy)?;
            }
            Ok(found) if found.is_dir() => {
                fs::create_dir(&to)?;
                for entry in fs::read_dir(&from)? {
                    let entry = entry?;
                    left.push((entry.path(), to.join(entry.file_name())));
                }
            }
            Ok(_) => continue,
            Err(error) => return Err(error),
        }
        own(&to, uid)?;
    }
    Ok(())
}

/// Images of artifacts that are not to be kept, and containers that an engine which was away could not be told to remove. Blocks.
pub(crate) fn collect(state: &Path, run: &Path, containers: &Containers, keep: &Keep) {
    let layout = Layout { state: state.to_owned(), run: run.to_owned() };
    collect_containers(&layout, containers);
    image::collect(&layout, containers, keep);
}

/// Whoever starts one has made the folder of its incarnation before, which is there until nothing of it is left.
fn collect_containers(layout: &Layout, containers: &Containers) {
    let all = match containers.engine.containers(&of_state(&containers.state)) {
        Ok(all) => all,
        Err(error) => return tracing::debug!(%error, "old containers stay"),
    };
    let is_left = |one: &&Listed| {
        let id = one.label(INSTANCE_LABEL).and_then(|id| id.parse::<InstanceId>().ok());
        // Not those of a disk that does not answer.
        id.is_some_and(|id| matches!(layout.instance(&id).try_exists(), Ok(false)))
    };
    // Not by name: the next incarnation has the same.
    for one in all.iter().filter(is_left) {
        match containers.engine.remove(&one.id) {
            Ok(()) => {}
            Err(error @ EngineError::Unreachable { .. }) => return tracing::debug!(%error, "old containers stay"),
            Err(error) => tracing::debug!(container = one.name(), %error, "an old container stays"),
        }
    }
}

/// What an incarnation that has ended may have left in the engine. Where it does not answer, this is done before the name is used again.
/// Whether it is gone.
pub(super) fn remove(context: &Context, id: &InstanceId, record: Option<&Record>) -> bool {
    // The servers of databases run beside containers.
    if ResourceKey::of_slot(&id.slot).is_some() {
        return true;
    }
    let kept = record.and_then(|record| record.container.as_ref());
    let removed = match (kept, &context.engines) {
        (Some(Contained { socket, id: own, .. }), _) => remove_own(&Engine::at(socket.clone()), own),
        // Who died before it could say which one it was.
        (_, Some(engines)) => remove_labelled(&engines.of, id),
        (_, None) => return true,
    };
    let removed = removed.inspect_err(|error| {
        tracing::debug!(instance = %id, %error, "its container stays until its name is used again");
    });
    removed.is_ok()
}

/// An engine that was told to start one may do so whenever it comes to itself: it is told to remove it until it has.
pub(super) fn leave(context: &Context, id: &InstanceId) {
    if let Some(engines) = &context.engines {
        engines.left.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
    }
}

/// Removes what [`leave`] was told of. Blocks.
pub(super) fn remove_left(context: &Context) {
    let Some(engines) = &context.engines else { return };
    let left = || engines.left.lock().unwrap_or_else(PoisonError::into_inner);
    let ids = std::mem::take(&mut *left());
    let stays = |id: &InstanceId| remove_labelled(&engines.of, id).is_err();
    let stay: Vec<InstanceId> = ids.into_iter().filter(stays).collect();
    left().extend(stay);
}

/// Asked first: to remove one takes long, and an engine that hangs is not given as much for one that its shim has removed.
fn remove_own(engine: &Engine, id: &str) -> Result<(), EngineError> {
    match engine.state(id, BRIEF_PATIENCE)? {
        State::Gone => Ok(()),
        State::Runs { .. } | State::Ended { .. } => engine.remove(id),
    }
}

/// Not by name: the next incarnation may have it already. And not by its instance alone: another state may have one that is called so.
fn remove_labelled(Containers { engine, state, .. }: &Containers, id: &InstanceId) -> Result<(), EngineError> {
    let (all, id) = (engine.containers(&of_state(state))?, id.to_string());
    all.iter().filter(|one| one.label(INSTANCE_LABEL) == Some(id.as_str())).try_for_each(|one| engine.remove(&one.id))
}

/// Whether there is an engine that answers, or none is asked for. Blocks.
pub(super) fn answers(context: &Context) -> bool {
    let Some(engines) = &context.engines else { return true };
    let answer = engines.of.engine.answers();
    answer.inspect_err(|error| tracing::warn!(%error, "what it has of instances that have ended stays for now")).is_ok()
}

/// Containers of this state that no shim keeps.
pub(super) fn sweep<'i>(context: &Context, alive: impl Iterator<Item = &'i InstanceId>) {
    let Some(Engines { of: Containers { engine, state, .. }, .. }) = &context.engines else { return };
    // Not by name: somebody may have given it another one.
    let kept: BTreeSet<String> = alive.map(InstanceId::to_string).collect();
    let is_kept = |one: &Listed| one.label(INSTANCE_LABEL).is_some_and(|id| kept.contains(id));
    let all = engine.containers(&of_state(state));
    let all = all.inspect_err(|error| tracing::warn!(%error, "the engine's containers cannot be looked at"));
    for one in all.unwrap_or_default().iter().filter(|one| !is_kept(one)) {
        tracing::info!(container = one.name(), "a container that nobody keeps is removed");
        if let Err(error) = engine.remove(&one.id) {
            tracing::warn!(container = one.name(), %error, "it stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use bowline_core::app::Limits;
    use bowline_core::units::Bytes;

    use super::*;
    use crate::driver::fake;

    #[test]
    fn a_container_is_named_by_its_slot_and_labelled_by_its_incarnation() {
        let [one, next]: [InstanceId; 2] =
            ["local/shop.web.r3.0.1", "local/shop.web.r3.0.2"].map(|id| id.parse().unwrap());
        assert_eq!(name("own", &one.slot), name("own", &next.slot));
        assert_eq!(name("own", &one.slot), "bowline-own-local.shop.web.r3.0");
        assert_eq!(labels("own", &next)["bowline.incarnation"], "2");
    }

    #[test]
    fn a_container_without_a_folder_is_nobodys_and_its_name_may_be_anothers() {
        let state = tempfile::tempdir().unwrap();
        let layout = Layout { state: state.path().to_owned(), run: "/r".into() };
        let (engine, asked, _folder) = crate::engine::fake::engine(&[
            (
                "GET /containers/json",
                200,
                r#"[{"Id":"old","Names":["/n"],"Labels":{"bowline.instance":"local/shop.web.r3.0.1"}},
                    {"Id":"new","Names":["/n"],"Labels":{"bowline.instance":"local/shop.web.r3.0.2"}},
                    {"Id":"odd","Names":["/m"],"Labels":null}]"#,
            ),
            ("DELETE ", 204, ""),
        ]);
        fs::create_dir_all(layout.instance(&"local/shop.web.r3.0.2".parse().unwrap())).unwrap();
        collect_containers(&layout, &fake::containers(engine));
        let asked: Vec<String> = asked.try_iter().filter(|question| question.starts_with("DELETE")).collect();
        assert_eq!(asked, ["DELETE /containers/old?force=true&v=true"]);
    }

    #[test]
    fn an_engine_that_cannot_be_told_is_told_later() {
        let root = tempfile::tempdir().unwrap();
        let all = r#"[{"Id":"late","Names":["/n"],"Labels":{"bowline.instance":"local/shop.web.r3.0.1"}}]"#;
        let mut answers = [(500, ""), (200, all), (500, ""), (200, all), (204, "")].into_iter();
        let (engine, asked, _folder) = crate::engine::fake::answering(move |_| {
            let (status, body) = answers.next().unwrap();
            (status, body.to_owned())
        });
        let context = fake::context(root.path(), engine);
        remove_left(&context);
        assert_eq!(asked.try_iter().count(), 0, "nothing was left");
        leave(&context, &"local/shop.web.r3.0.1".parse().unwrap());
        (0..4).for_each(|_| remove_left(&context));
        let asked: Vec<String> =
            asked.try_iter().map(|question| question[..question.find('/').unwrap()].to_owned()).collect();
        assert_eq!(asked, ["GET ", "GET ", "DELETE ", "GET ", "DELETE "]);
    }

    #[test]
    fn a_container_that_was_renamed_is_its_shims_still() {
        let root = tempfile::tempdir().unwrap();
        const ALL: &str = r#"[{"Id":"kept","Names":["/renamed"],"Labels":{"bowline.instance":"local/shop.web.r3.0.1"}},
                      {"Id":"old","Names":["/bowline-own-local.shop.web.r3.0"],"Labels":{"bowline.instance":"local/shop.web.r3.0.0"}}]"#;
        let (engine, asked, _folder) =
            crate::engine::fake::engine(&[("GET /containers/json", 200, ALL), ("DELETE ", 204, "")]);
        sweep(&fake::context(root.path(), engine), [&"local/shop.web.r3.0.1".parse().unwrap()].into_iter());
        let asked: Vec<String> = asked.try_iter().filter(|question| question.starts_with("DELETE")).collect();
        assert_eq!(asked, ["DELETE /containers/old?force=true&v=true"]);
    }

    #[test]
    fn what_an_incarnation_has_left_is_found_by_its_id() {
        let (engine, asked, _folder) = crate::engine::fake::engine(&[
            ("GET /containers/left/json", 200, r#"{"State":{"Running":true,"Pid":7,"ExitCode":0,"OOMKilled":false}}"#),
            ("DELETE ", 204, ""),
        ]);
        remove_own(&engine, "left").unwrap();
        remove_own(&engine, "removed").unwrap();
        let asked: Vec<String> = asked.try_iter().collect();
        let expected =
            ["GET /containers/left/json", "DELETE /containers/left?force=true&v=true", "GET /containers/removed/json"];
        assert_eq!(asked, expected);
    }

    #[test]
    fn what_an_incarnation_has_left_is_of_its_own_state() {
        let (engine, asked, _folder) = crate::engine::fake::engine(&[
            (
                "GET /containers/json?all=true&filters=%7B%22label%22%3A%5B%22bowline.state%3Down%22%5D%7D",
                200,
                r#"[{"Id":"own","Names":["/a"],"Labels":{"bowline.instance":"local/shop.web.r3.0.1"}},
                    {"Id":"next","Names":["/a"],"Labels":{"bowline.instance":"local/shop.web.r3.0.2"}}]"#,
            ),
            // Of all states.
            (
                "GET /containers/json",
                200,
                r#"[{"Id":"foreign","Names":["/b"],"Labels":{"bowline.instance":"local/shop.web.r3.0.1"}}]"#,
            ),
            ("DELETE ", 204, ""),
        ]);
        remove_labelled(&fake::containers(engine), &"local/shop.web.r3.0.1".parse().unwrap()).unwrap();
        let asked: Vec<String> = asked.try_iter().filter(|question| question.starts_with("DELETE")).collect();
        assert_eq!(asked, ["DELETE /containers/own?force=true&v=true"]);
    }

    #[test]
    fn a_limit_that_its_engine_does_not_take_is_said_not_to_be_enforced() {
        let (engine, _asked, _folder) = crate::engine::fake::engine(&[(
            "GET /info",
            200,
            r#"{"MemoryLimit":true,"CpuCfsQuota":true,"PidsLimit":true,"SecurityOptions":["name=seccomp"]}"#,
        )]);
        let engines = Engines::new(fake::containers(engine));
        let lacks = |memory: u64| {
            let limits = Limits { memory: Some(Bytes(memory)), cpu: None };
            unenforced(&engines, &InstanceSpec { limits, ..fake::spec("local/shop.web.r3.0.1") }).unwrap()
        };
        assert_eq!((lacks(1 << 20), lacks(6 << 20)), (vec![MEMORY_LIMIT.to_owned()], Vec::new()));
    }

    #[test]
    fn what_an_app_may_write_to_is_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::write(from.join("a/b/c"), "x").unwrap();
        fs::set_permissions(from.join("a/b/c"), fs::Permissions::from_mode(0o555)).unwrap();
        symlink("b/c", from.join("a/link")).unwrap();
        copy(&from, &to, nix::unistd::geteuid().as_raw()).unwrap();
        assert_eq!(fs::read_to_string(to.join("a/link")).unwrap(), "x");
        assert_eq!(fs::metadata(to.join("a/b/c")).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn nothing_beyond_a_release_is_copied_for_an_app() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "x").unwrap();
        symlink(outside.path(), root.path().join("up")).unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        fs::write(root.path().join("file"), "x").unwrap();
        for bad in ["up", "up/secret", "up/new", "../x", "file/x"] {
            assert!(without_links(root.path(), bad).is_err(), "{bad}");
        }
        let inside = |path: &str| without_links(root.path(), path).unwrap();
        assert_eq!(["a/b", "file"].map(inside), ["a/b", "file"].map(|path| Some(root.path().join(path))));
        assert_eq!(["new", "a/new"].map(inside), [None, None]);
    }
}
