//! The store against a model, against damage, against being killed, against a full disk.

mod bench;
mod crash;
mod damage;
mod migrate;
mod model;
mod space;

use std::path::Path;

use bowline_core::id::{AppKey, AppName, EnvName};
use bowline_core::time::Timestamp;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;

const NOW: Timestamp = Timestamp(1_790_000_000_000);

fn keys(seed: u8) -> Keys {
    Keys { current: ChecksumKey::new(Zeroizing::new([seed; 32])), retiring: None }
}

fn key(env: &str, app: &str) -> AppKey {
    AppKey { env: EnvName::new(env).unwrap(), app: AppName::new(app).unwrap() }
}

/// In memory where there is such a folder: thousands of stores are opened here.
fn fast_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn open(dir: &Path) -> Result<Store, StoreError> {
    Store::open(dir, keys(1))
}

fn event(text: &str) -> NewEvent {
    NewEvent { at: NOW, key: None, kind: "test".into(), message: text.into(), fields: "{}".into() }
}

fn append(store: &Store, text: &str) -> Result<u64, StoreError> {
    let text = text.to_owned();
    store.commit_blocking(move |tx| tx.append_event(event(&text)))
}

fn messages(store: &Store) -> Vec<String> {
    let events = store.read(|view| view.events_after(0, u32::MAX)).unwrap();
    events.into_iter().map(|event| event.message).collect()
}

#[test]
fn the_same_name_from_another_folder_is_refused_naming_the_first() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    let register = |env: &'static str, folder: &'static str| {
        store.commit_blocking(move |tx| tx.register_app(&key(env, "board"), Path::new(folder), NOW))
    };
    let first = register("local", "/home/a/board").unwrap();
    assert_eq!((first.uid, first.wanted), (UID_BASE, Wanted::Stopped));
    assert_eq!(register("local", "/home/a/board").unwrap(), first);
    assert_eq!(register("beta", "/home/b/board").unwrap().uid, UID_BASE + 1, "another environment is another app");
    let fault = bowline_core::fault::Fault::from(register("local", "/home/b/board").unwrap_err());
    assert_eq!(fault.message, "local/board belongs to another folder: /home/a/board");
    assert_eq!(fault.kind.exit_code(), 3);
    assert!(fault.hint.unwrap().contains("/home/b/board"));
}

#[test]
fn one_opener_at_a_time() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(StoreError::InUse(_))));
    let clone = store.clone();
    drop(store);
    assert!(matches!(open(dir.path()), Err(StoreError::InUse(_))));
    drop(clone);
    assert_eq!(open(dir.path()).unwrap().opening(), Opening::Clean);
}

#[test]
fn an_owner_that_is_dying_is_waited_for() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| open(dir.path()).map(|store| store.opening()));
        // The other one has the lock's file open once it waits for the lock.
        let lock = dir.path().canonicalize().unwrap().join("store.lock");
        let openers = || {
            let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            open.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == lock)).count()
        };
        while openers() < 2 && !waiting.is_finished() {
            std::thread::yield_now();
        }
        drop(store);
        assert_eq!(waiting.join().unwrap().unwrap(), Opening::Clean);
    });
}

#[test]
fn a_request_that_fails_or_panics_takes_nothing_else_with_it() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = store.clone();
            scope.spawn(move || {
                for n in 0..25 {
                    let outcome = store.commit_blocking(move |tx| {
                        let sequence = tx.append_event(event("kept or not"))?;
                        match n % 3 {
                            0 => Ok(sequence),
                            1 => Err(StoreError::NoApp(key("local", "nobody"))),
                            _ if thread == 0 && n == 5 => panic!("a defect, on purpose"),
                            _ => tx.append_event(event("the second of two")),
                        }
                    });
                    match (n % 3, outcome) {
                        (1, outcome) => assert!(matches!(outcome, Err(StoreError::NoApp(_)))),
                        (_, outcome) if thread == 0 && n == 5 => assert!(matches!(outcome, Err(StoreError::Closed))),
                        (_, outcome) => assert!(outcome.is_ok()),
                    }
                }
            });
        }
    });
    store.verify().unwrap();
    // Per thread: 9 of one event, 8 of two; one of those panicked.
    assert_eq!(messages(&store).len(), 8 * (9 + 16) - 2);
}

#[test]
fn old_events_are_dropped_and_numbers_go_on() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    let many = EVENTS_KEPT + EVENTS_DROPPED_EVERY + 7;
    let last = store.commit_blocking(move |tx| (0..many).try_fold(0, |_, n| tx.append_event(event(&n.to_string()))));
    assert_eq!(last.unwrap(), many);
    let (first, all) = store.read(|view| Ok((view.events_after(0, 1)?, view.events_after(0, u32::MAX)?))).unwrap();
    assert_eq!((first[0].sequence, first[0].message.as_str()), (501, "500"));
    assert_eq!(all.len() as u64, EVENTS_KEPT + 7);
    store.verify().unwrap();
}

#[test]
fn what_one_app_does_pushes_out_neither_tokens_nor_other_apps() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    let of = |kind: &str, app: Option<&str>| NewEvent {
        key: app.map(|app| key("beta", app)),
        kind: kind.into(),
        ..event("")
    };
    let done = store.commit_blocking(move |tx| {
        tx.append_event(of("token.created", None))?;
        tx.append_event(of("daemon.started", None))?;
        tx.append_event(of("token.used", Some("board")))?;
        (0..300).try_for_each(|_| tx.append_event(of("rollout.done", Some("shop"))).map(drop))?;
        (0..2 * EVENTS_KEPT).try_for_each(|_| tx.append_event(of("restart.began", Some("board"))).map(drop))?;
        tx.append_event(of("token.revoked", None))
    });
    done.unwrap();
    let events = store.read(|view| view.events_after(0, u32::MAX)).unwrap();
    let count = |kind: &str| events.iter().filter(|event| event.kind == kind).count() as u64;
    let kinds = ["token.created", "daemon.started", "token.used", "rollout.done", "token.revoked"];
    assert_eq!(kinds.map(count), [1, 1, 1, 300, 1]);
    let of_board = count("restart.began");
    assert!((EVENTS_KEPT - 302..=EVENTS_KEPT - 302 + EVENTS_DROPPED_EVERY).contains(&of_board), "{of_board}");
    store.verify().unwrap();
}

#[test]
fn old_runs_of_a_job_are_dropped_and_those_before_releases_are_not() {
    use bowline_core::id::{JobName, RunNumber};
    use bowline_core::job::Task;
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    let app = key("local", "board");
    let tasks = ["cleanup", "report"].map(|name| Task::Job(JobName::new(name).unwrap()));
    let run = move |task: &Task, number: u32, ended: bool| RunRecord {
        app: key("local", "board"),
        number: RunNumber(number),
        task: task.clone(),
        ended: ended.then_some(NOW),
        version: 1,
        state: "{}".into(),
    };
    let ([cleanup, report], before) = (tasks, Task::Before);
    let counted = JobRecord {
        app: app.clone(),
        job: JobName::new("cleanup").unwrap(),
        schedule: "0 3 * * *".into(),
        counted: NOW,
    };
    let (job, put) = (counted.clone(), run);
    store
        .commit_blocking(move |tx| {
            assert!(matches!(tx.put_run(&put(&cleanup, 1, false)), Err(StoreError::NoApp(_))));
            tx.register_app(&key("local", "board"), Path::new("/board"), NOW)?;
            tx.put_job(&job)?;
            tx.put_run(&put(&report, 1, true))?;
            tx.put_run(&put(&cleanup, 2, false))?;
            for number in 3..3 + RUNS_KEPT + 5 {
                tx.put_run(&put(&before, number * 2, true))?;
                tx.put_run(&put(&cleanup, number * 2 + 1, true))?;
            }
            Ok(())
        })
        .unwrap();
    drop(store);
    let store = open(dir.path()).unwrap();
    store.verify().unwrap();
    let (runs, jobs) = store.read(|view| Ok((view.runs(&app)?, view.jobs(&app)?))).unwrap();
    let of = |task: &str| runs.iter().filter(|run| run.task.to_string() == task).count() as u32;
    assert_eq!((of("release.before"), of("job.report")), (RUNS_KEPT + 5, 1));
    assert_eq!(of("job.cleanup"), RUNS_KEPT + 1, "one that is under way is never dropped");
    assert_eq!(runs.last().map(|run| run.number), Some(RunNumber((2 + RUNS_KEPT + 5) * 2 + 1)));
    assert_eq!(store.read(|view| view.run(&app, RunNumber(1))).unwrap().map(|run| run.number), Some(RunNumber(1)));
    assert_eq!(jobs, [counted]);
}

#[test]
fn what_changes_nothing_is_no_commit() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    let before = store.shared.acknowledged.load(Ordering::Acquire);
    store.commit_blocking(|tx| tx.app(&key("local", "board"))).unwrap();
    store.commit_blocking(|tx| tx.clear_rollout(&key("local", "board"))).unwrap();
    assert_eq!(store.shared.acknowledged.load(Ordering::Acquire), before);
}

#[test]
fn a_long_log_is_written_back() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    let text = "x".repeat(200_000);
    for _ in 0..60 {
        append(&store, &text).unwrap();
    }
    // The writer tidies after it has answered; the next answer comes after that.
    append(&store, "last").unwrap();
    let wal = std::fs::metadata(dir.path().join("store.db-wal")).unwrap().len();
    assert!(wal < 5 << 20, "{wal} bytes for 12 MB of commits");
    drop(store);
    assert_eq!(std::fs::metadata(dir.path().join("store.db-wal")).map_or(0, |wal| wal.len()), 0);
    assert_eq!(messages(&open(dir.path()).unwrap()).len(), 61);
}
