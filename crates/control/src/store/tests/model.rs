//! Random commands on the store and on a model of maps; both must always hold the same.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bowline_core::id::{EnvironmentId, Generation, Port, ReleaseNumber, SecretName};
use bowline_core::release::SecretVersion;
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Register {
        app: usize,
        folder: u8,
    },
    Want {
        app: usize,
        running: bool,
    },
    AddRevision {
        app: usize,
        text: String,
    },
    Judge {
        app: usize,
        number: u32,
        state: RevisionState,
    },
    PutRollout {
        app: usize,
        state: String,
    },
    ClearRollout {
        app: usize,
    },
    Event {
        app: Option<usize>,
        message: String,
    },
    AddSecret {
        app: usize,
        name: usize,
        value: Vec<u8>,
    },
    Revoke {
        app: usize,
        name: usize,
    },
    Identify {
        env: usize,
        fresh: u8,
    },
    Ports(u16),
    /// Everything of the inner command, and then an error: nothing of it may stay.
    Fail(Box<Op>),
    Reopen,
}

/// Everything in the store.
#[derive(Debug, Clone, PartialEq, Default)]
struct World {
    apps: BTreeMap<AppKey, AppRecord>,
    revisions: BTreeMap<(AppKey, ReleaseNumber), RevisionRecord>,
    rollouts: BTreeMap<AppKey, RolloutRecord>,
    events: Vec<EventRecord>,
    secrets: BTreeMap<(AppKey, SecretName, SecretVersion), SecretRecord>,
    generation: Generation,
    environments: BTreeMap<EnvName, EnvironmentId>,
    ports: Option<EdgePorts>,
}

fn app(index: usize) -> AppKey {
    [key("local", "a"), key("local", "b"), key("beta", "a")][index].clone()
}

fn secret(index: usize) -> SecretName {
    SecretName::new(["token", "db-ca"][index]).unwrap()
}

fn env(index: usize) -> EnvName {
    EnvName::new(["local", "beta"][index]).unwrap()
}

fn ports(n: u16) -> EdgePorts {
    let port = |offset: u16| Port::new(n % 1000 + 1 + offset).unwrap();
    EdgePorts { http: port(0), https: port(1), admin: port(2) }
}

fn op() -> impl Strategy<Value = Op> {
    let state = prop_oneof![
        Just(RevisionState::Pending),
        Just(RevisionState::Active),
        Just(RevisionState::Retired),
        ".{0,8}".prop_map(|reason| RevisionState::Failed { reason }),
    ];
    let simple = prop_oneof![
        3 => (0..3_usize, 0..2_u8).prop_map(|(app, folder)| Op::Register { app, folder }),
        1 => (0..3_usize, any::<bool>()).prop_map(|(app, running)| Op::Want { app, running }),
        2 => (0..3_usize, ".{0,40}").prop_map(|(app, text)| Op::AddRevision { app, text }),
        1 => (0..3_usize, 1..4_u32, state).prop_map(|(app, number, state)| Op::Judge { app, number, state }),
        1 => (0..3_usize, ".{0,20}").prop_map(|(app, state)| Op::PutRollout { app, state }),
        1 => (0..3_usize).prop_map(|app| Op::ClearRollout { app }),
        1 => (proptest::option::of(0..3_usize), ".{0,20}").prop_map(|(app, message)| Op::Event { app, message }),
        2 => (0..3_usize, 0..2_usize, any::<Vec<u8>>()).prop_map(|(app, name, value)| Op::AddSecret { app, name, value }),
        1 => (0..3_usize, 0..2_usize).prop_map(|(app, name)| Op::Revoke { app, name }),
        1 => (0..2_usize, any::<u8>()).prop_map(|(env, fresh)| Op::Identify { env, fresh }),
        1 => any::<u16>().prop_map(Op::Ports),
    ];
    prop_oneof![
        10 => simple.clone(),
        1 => simple.prop_map(|op| Op::Fail(Box::new(op))),
        1 => Just(Op::Reopen),
    ]
}

/// On the store. The outcome is only whether it was taken.
fn apply(tx: &mut Tx<'_>, op: Op) -> Result<(), StoreError> {
    match op {
        Op::Register { app: a, folder } => tx.register_app(&app(a), &folder_path(folder), NOW).map(drop),
        Op::Want { app: a, running } => tx.set_wanted(&app(a), wanted(running)).map(drop),
        Op::AddRevision { app: a, text } => tx.add_revision(&app(a), revision(&text)).map(drop),
        Op::Judge { app: a, number, state } => tx.set_revision_state(&app(a), ReleaseNumber(number), state).map(drop),
        Op::PutRollout { app: a, state } => tx.put_rollout(&RolloutRecord { key: app(a), version: 3, state }),
        Op::ClearRollout { app: a } => tx.clear_rollout(&app(a)),
        Op::Event { app: a, message } => tx.append_event(NewEvent { key: a.map(app), ..event(&message) }).map(drop),
        Op::AddSecret { app: a, name, value } => {
            let seal = |version: SecretVersion| Ok(sealed(&value, version));
            tx.add_secret(&app(a), &secret(name), NOW, 1000, seal).map(drop)
        }
        Op::Revoke { app: a, name } => tx.revoke_secret(&app(a), &secret(name), NOW).map(drop),
        Op::Identify { env: e, fresh } => tx.identify_environment(&env(e), EnvironmentId([fresh; 16])).map(drop),
        Op::Ports(n) => tx.set_edge_ports(ports(n)),
        Op::Fail(op) => apply(tx, *op).and(Err(StoreError::Closed)),
        Op::Reopen => Ok(()),
    }
}

fn folder_path(folder: u8) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    // A path that is no text.
    PathBuf::from(std::ffi::OsString::from_vec(vec![b'/', 0xff, folder + b'0']))
}

fn wanted(running: bool) -> Wanted {
    if running { Wanted::Running } else { Wanted::Stopped }
}

fn revision(text: &str) -> NewRevision {
    let secrets = BTreeMap::from([(secret(0), SecretVersion(7))]);
    NewRevision { app: text.into(), artifacts: "{}".into(), secrets, created: NOW }
}

fn sealed(value: &[u8], version: SecretVersion) -> SealedValue {
    SealedValue { sealed: value.to_vec(), wrapped_key: version.0.to_be_bytes().to_vec() }
}

impl World {
    /// The same on maps, written apart from the store.
    fn apply(&mut self, op: Op) -> bool {
        match op {
            Op::Register { app: a, folder } => self.register(app(a), folder_path(folder)),
            Op::Want { app: a, running } => self.apps.get_mut(&app(a)).is_some_and(|record| {
                self.generation = self.generation.next();
                record.wanted = wanted(running);
                record.generation = self.generation;
                true
            }),
            Op::AddRevision { app: a, text } => {
                let count = self.revisions.keys().filter(|(key, _)| *key == app(a)).count();
                let number = ReleaseNumber(u32::try_from(count).unwrap() + 1);
                let NewRevision { app: text, artifacts, secrets, created } = revision(&text);
                let state = RevisionState::Pending;
                let record = RevisionRecord { key: app(a), number, app: text, artifacts, secrets, created, state };
                let known = self.apps.contains_key(&app(a));
                known.then(|| self.revisions.insert((app(a), number), record));
                known
            }
            Op::Judge { app: a, number, state } => {
                let record = self.revisions.get_mut(&(app(a), ReleaseNumber(number)));
                record.map(|record| record.state = state).is_some()
            }
            Op::PutRollout { app: a, state } => {
                let known = self.apps.contains_key(&app(a));
                known.then(|| self.rollouts.insert(app(a), RolloutRecord { key: app(a), version: 3, state }));
                known
            }
            Op::ClearRollout { app: a } => {
                self.rollouts.remove(&app(a));
                true
            }
            Op::Event { app: a, message } => {
                let NewEvent { at, kind, message, fields, .. } = event(&message);
                let sequence = self.events.len() as u64 + 1;
                self.events.push(EventRecord { sequence, at, key: a.map(app), kind, message, fields });
                true
            }
            Op::AddSecret { app: a, name, value } => {
                let same = self.secrets.keys().filter(|(key, n, _)| *key == app(a) && *n == secret(name));
                let version = SecretVersion(u32::try_from(same.count()).unwrap() + 1);
                let (key, name, value) = (app(a), secret(name), Some(sealed(&value, version)));
                let id = (key.clone(), name.clone(), version);
                let record = SecretRecord { key, name, version, value, created: NOW, created_by: 1000, revoked: None };
                self.secrets.insert(id, record);
                true
            }
            Op::Revoke { app: a, name } => {
                let all = self.secrets.values_mut().filter(|r| r.key == app(a) && r.name == secret(name));
                let valid = all.filter(|r| r.revoked.is_none()).map(|r| {
                    r.revoked = Some(NOW);
                    r.value = None;
                });
                valid.count() > 0
            }
            Op::Identify { env: e, fresh } => {
                self.environments.entry(env(e)).or_insert(EnvironmentId([fresh; 16]));
                true
            }
            Op::Ports(n) => {
                self.ports = Some(ports(n));
                true
            }
            Op::Fail(_) => false,
            Op::Reopen => true,
        }
    }

    fn register(&mut self, key: AppKey, folder: PathBuf) -> bool {
        if let Some(known) = self.apps.get(&key) {
            return known.folder == folder;
        }
        self.generation = self.generation.next();
        let uid = UID_BASE + u32::try_from(self.apps.len()).unwrap();
        let (id, generation) = (key.clone(), self.generation);
        let record = AppRecord { key, folder, uid, wanted: Wanted::Stopped, generation, created: NOW };
        self.apps.insert(id, record);
        true
    }

    fn read(store: &Store) -> Self {
        let read = |view: &View<'_>| -> Result<Self, StoreError> {
            let mut world = Self { generation: view.generation()?, ports: view.edge_ports()?, ..Self::default() };
            world.events = view.events_after(0, u32::MAX)?;
            for record in view.apps()? {
                assert_eq!(view.app(&record.key)?.as_ref(), Some(&record));
                world.apps.insert(record.key.clone(), record);
            }
            for key in (0..3).map(app) {
                let revisions = view.revisions(&key)?;
                assert_eq!(view.newest_revision(&key)?.as_ref(), revisions.last());
                for record in revisions {
                    assert_eq!(view.revision(&key, record.number)?.as_ref(), Some(&record));
                    world.revisions.insert((key.clone(), record.number), record);
                }
                world.rollouts.extend(view.rollout(&key)?.map(|record| (key.clone(), record)));
                for record in view.secrets(&key)? {
                    let id = (key.clone(), record.name.clone(), record.version);
                    assert_eq!(view.secret(&key, &id.1, id.2)?.as_ref(), Some(&record));
                    world.secrets.insert(id, record);
                }
            }
            for env in (0..2).map(env) {
                world.environments.extend(view.environment(&env)?.map(|id| (env.clone(), id)));
            }
            assert_eq!(view.environments()?, world.environments);
            Ok(world)
        };
        store.read(read).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_holds_what_the_model_holds(ops in proptest::collection::vec(op(), 1..40)) {
        let dir = fast_dir();
        let mut store = Some(open(dir.path()).unwrap());
        let mut model = World::default();
        for op in ops {
            if matches!(op, Op::Reopen) {
                drop(store.take());
                store = Some(open(dir.path()).unwrap());
                prop_assert_eq!(store.as_ref().unwrap().opening(), Opening::Clean);
            }
            let store = store.as_ref().unwrap();
            let expected = model.apply(op.clone());
            let done = op.clone();
            let taken = store.commit_blocking(move |tx| apply(tx, done));
            prop_assert_eq!(taken.is_ok(), expected, "{:?}: {:?}", op, taken);
            prop_assert_eq!(&World::read(store), &model, "after {:?}", op);
        }
        store.as_ref().unwrap().verify().unwrap();
    }
}
