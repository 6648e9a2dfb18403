//! Whatever is done to the files: named and refused, or without effect. Never a wrong answer.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use bowline_core::id::SecretName;

use super::*;

const PARTS: [&str; 3] = ["store.db", "store.db-wal", "store.head"];

/// The bytes of a store's files, as a crash at this moment would leave them.
type Image = BTreeMap<&'static str, Vec<u8>>;

fn image(dir: &Path) -> Image {
    PARTS.iter().filter_map(|name| Some((*name, std::fs::read(dir.join(name)).ok()?))).collect()
}

fn restore(image: &Image) -> TempDir {
    let dir = fast_dir();
    image.iter().for_each(|(name, bytes)| std::fs::write(dir.path().join(name), bytes).unwrap());
    dir
}

/// Opens an image. A refusal must leave it byte for byte as it was.
fn attempt(image: &Image) -> Result<(Opening, Vec<String>), StoreError> {
    attempt_with(image, keys(1))
}

fn attempt_with(given: &Image, keys: Keys) -> Result<(Opening, Vec<String>), StoreError> {
    let dir = restore(given);
    match Store::open(dir.path(), keys) {
        Ok(store) => {
            store.verify().expect("what was accepted is whole");
            Ok((store.opening(), everything(&store)))
        }
        Err(error) => {
            // SQLite may make an empty log beside a database that it only reads.
            let mut left = image(dir.path());
            left.retain(|name, bytes| given.contains_key(name) || !bytes.is_empty());
            assert!(left == *given, "{error}: the files were changed");
            Err(error)
        }
    }
}

/// Everything in the store, as text.
fn everything(store: &Store) -> Vec<String> {
    let read = |view: &View<'_>| {
        let mut lines: Vec<String> = view.apps()?.iter().map(|app| format!("{app:?}")).collect();
        lines.push(format!("{:?} {:?}", view.generation()?, view.edge_ports()?));
        for app in view.apps()? {
            lines.extend(view.revisions(&app.key)?.iter().map(|r| format!("{r:?}")));
            lines.extend(view.rollout(&app.key)?.iter().map(|r| format!("{r:?}")));
            lines.extend(
                view.secrets(&app.key)?.iter().map(|r| format!("{r:?} {:?}", r.value.as_ref().map(|v| &v.sealed))),
            );
        }
        lines.extend(view.events_after(0, u32::MAX)?.iter().map(|e| format!("{e:?}")));
        Ok(lines)
    };
    store.read(read).unwrap()
}

/// A store with something in every table, over several pages.
fn fill(store: &Store, rounds: u32) {
    for n in 0..rounds {
        let fill = move |tx: &mut Tx<'_>| {
            let key = key("local", &format!("app-{}", n % 5));
            tx.register_app(&key, Path::new("/srv/app"), NOW)?;
            tx.set_wanted(&key, Wanted::Running)?;
            let (app, artifacts) = (format!("{{\"n\":{n}}}").repeat(20), "{}".to_owned());
            let revision = NewRevision { app, artifacts, secrets: BTreeMap::new(), created: NOW };
            let number = tx.add_revision(&key, revision)?.number;
            tx.set_revision_state(&key, number, RevisionState::Active)?;
            tx.put_rollout(&RolloutRecord { key: key.clone(), version: 1, state: format!("step {n}") })?;
            let value = SealedValue { sealed: vec![7; 80], wrapped_key: vec![9; 73] };
            tx.add_secret(&key, &SecretName::new("token").unwrap(), NOW, 0, |_| Ok(value))?;
            tx.append_event(NewEvent { key: Some(key), ..event(&format!("round {n}")) })
        };
        store.commit_blocking(fill).unwrap();
    }
}

/// Flips bits all over one file of the image.
fn flip_all_over(given: &Image, file: &str, samples: usize) -> (usize, usize) {
    let expected = attempt(given).unwrap().1;
    let length = given[file].len();
    let (mut noticed, mut harmless) = (0, 0);
    for sample in 0..samples.min(length) {
        // Evenly spread, at another place within each stretch, another bit each time.
        let stretch = length / samples.min(length);
        let at = sample * stretch + sample * 7 % stretch;
        let mut damaged = given.clone();
        damaged.get_mut(file).unwrap()[at] ^= 1 << (sample % 8);
        match attempt(&damaged) {
            Ok((_, found)) => {
                assert_eq!(found, expected, "{file}, byte {at}: read something else");
                harmless += 1;
            }
            Err(error) => {
                assert!(error.is_damage(), "{file}, byte {at}: {error:?}");
                noticed += 1;
            }
        }
    }
    (noticed, harmless)
}

#[test]
fn a_flipped_bit_in_the_database_is_noticed_or_harmless() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    fill(&store, 40);
    drop(store);
    let closed = image(dir.path());
    assert!(closed.get("store.db-wal").is_none_or(Vec::is_empty));
    let (noticed, harmless) = flip_all_over(&closed, "store.db", 600);
    assert!(noticed > 150, "{noticed} noticed, {harmless} without effect: free space is large");
}

#[test]
fn a_flipped_bit_in_the_log_is_noticed_or_harmless() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    fill(&store, 12);
    let (noticed, harmless) = flip_all_over(&image(dir.path()), "store.db-wal", 500);
    assert!(noticed > 450, "{noticed} noticed, {harmless} without effect: each frame has SQLite's own checksum");
}

#[test]
fn a_flipped_bit_in_the_database_below_a_log_is_noticed_or_harmless() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    fill(&store, 20);
    drop(store);
    let store = open(dir.path()).unwrap();
    fill(&store, 2);
    flip_all_over(&image(dir.path()), "store.db", 300);
}

#[test]
fn a_flipped_bit_in_the_head_is_noticed_or_repaired() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    for rounds in [1, 2] {
        fill(&store, rounds);
        let given = image(dir.path());
        let (noticed, repaired) = flip_all_over(&given, "store.head", 512);
        // One half is what a crash could have torn, and the database proves that nothing is lost.
        assert_eq!((noticed, repaired), (256, 256), "no byte of the head is without meaning");
    }
}

#[test]
fn a_log_cut_anywhere_is_lost_commits() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    fill(&store, 15);
    let given = image(dir.path());
    let (page, log) = (4096 + 24, given["store.db-wal"].len());
    assert_eq!((log - 32) % page, 0);
    let want = attempt(&given).unwrap();
    assert_eq!(want.0, Opening::Clean);
    let boundaries = (32..log).step_by(page);
    let between = (0..log).step_by(page / 3 + 1);
    for cut in boundaries.chain(between) {
        let mut damaged = given.clone();
        damaged.get_mut("store.db-wal").unwrap().truncate(cut);
        match attempt(&damaged) {
            Err(StoreError::LostCommits { have, want }) => assert!(have < want, "cut at {cut}"),
            other => panic!("cut at {cut}: {other:?}"),
        }
    }
    let mut damaged = given;
    damaged.remove("store.db-wal");
    assert!(matches!(attempt(&damaged), Err(StoreError::LostCommits { .. })));
}

#[test]
fn a_database_cut_or_of_yesterday_is_refused() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    fill(&store, 20);
    drop(store);
    let yesterday = image(dir.path());
    let store = open(dir.path()).unwrap();
    fill(&store, 1);
    drop(store);
    let today = image(dir.path());

    let with = |base: &Image, name: &'static str, from: &Image| {
        let mut mixed = base.clone();
        mixed.insert(name, from[name].clone());
        mixed
    };
    let old_database = attempt(&with(&today, "store.db", &yesterday));
    let (have, want) = (MIGRATIONS.len() as u64 + 20, MIGRATIONS.len() as u64 + 21);
    let lost = matches!(old_database, Err(StoreError::LostCommits { have: h, want: w }) if (h, w) == (have, want));
    assert!(lost, "{old_database:?}");
    for length in (0..today["store.db"].len()).step_by(1024) {
        let mut cut = today.clone();
        cut.get_mut("store.db").unwrap().truncate(length);
        let error = attempt(&cut).expect_err("a cut database");
        assert!(error.is_damage(), "cut at {length}: {error:?}");
    }
    // Pages of two days in one file: every row has a good checksum, some are old.
    let mut mixed = today.clone();
    let pages = today["store.db"].len().min(yesterday["store.db"].len()) / 4096;
    let mut noticed = 0;
    for page in (0..pages).map(|page| page * 4096..(page + 1) * 4096) {
        mixed.get_mut("store.db").unwrap()[page.clone()].copy_from_slice(&yesterday["store.db"][page.clone()]);
        if mixed != today {
            let error = attempt(&mixed).expect_err("a page of yesterday");
            assert!(error.is_damage(), "page at {}: {error:?}", page.start);
            noticed += 1;
        }
        mixed = today.clone();
    }
    assert!(noticed > 3, "{noticed} pages differ");
}

#[test]
fn the_head_and_the_database_must_belong_together() {
    let check = |given: &Image, expected: &str| {
        let error = attempt(given).expect_err(expected);
        assert!(format!("{error:?}").starts_with(expected), "{error:?} instead of {expected}");
        let fault = bowline_core::fault::Fault::from(&error);
        assert!(fault.hint.is_some_and(|hint| hint.contains("master.key")), "{error:?}");
    };
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    let mut heads = Vec::new();
    for round in 1..=4 {
        fill(&store, round);
        heads.push(image(dir.path())["store.head"].clone());
    }
    append(&store, "one more").unwrap();
    let given = image(dir.path());
    let with = |name: &'static str, bytes: Option<Vec<u8>>| {
        let mut image = given.clone();
        match bytes {
            Some(bytes) => image.insert(name, bytes),
            None => image.remove(name),
        };
        image
    };

    let expected = attempt(&given).unwrap().1;
    let repaired = attempt(&with("store.head", heads.last().cloned())).unwrap();
    assert_eq!(repaired, (Opening::HeadRepaired, expected), "a crash between the two writes");
    check(&with("store.head", Some(heads[1].clone())), "HeadStale");
    check(&with("store.head", None), "HeadMissing");
    check(&with("store.head", Some(Vec::new())), "HeadDamaged");
    check(&with("store.head", Some(vec![0; 8192])), "HeadDamaged");
    check(&with("store.db", Some(Vec::new())), "DatabaseMissing");
    check(&with("store.db", None), "DatabaseMissing");
    let mut only_head = with("store.db", None);
    only_head.remove("store.db-wal");
    check(&only_head, "DatabaseMissing");
    let error = attempt_with(&given, keys(2)).unwrap_err();
    assert!(matches!(error, StoreError::ForeignKey), "{error:?}");

    let other = fast_dir();
    let fork = open(other.path()).unwrap();
    for round in 1..=4 {
        fill(&fork, round);
    }
    append(&fork, "one more, and another").unwrap();
    let forked = image(other.path());
    check(&with("store.head", Some(forked["store.head"].clone())), "HeadForeign");
}

#[test]
fn a_head_torn_while_a_commit_was_confirmed_is_repaired() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    fill(&store, 3);
    let given = image(dir.path());
    let newest = store.shared.acknowledged.load(Ordering::Acquire);
    let slot = usize::try_from(newest % 2).unwrap() * 4096;
    for written in [1, 17, 60, 512, 4095] {
        let mut torn = given.clone();
        // As the commit before it left this half, with the first bytes of the new record.
        let half = &mut torn.get_mut("store.head").unwrap()[slot..slot + 4096];
        half[written..].fill(0);
        let (opening, found) = attempt(&torn).unwrap();
        assert_eq!((opening, found), (Opening::HeadRepaired, everything(&store)), "{written} bytes written");
    }
}

#[test]
fn damage_while_the_store_is_open_is_noticed_too() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    fill(&store, 30);
    drop(store);
    let store = open(dir.path()).unwrap();
    // Behind SQLite's back, in the middle of a revision's text.
    let path = dir.path().join("store.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let found: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"{\"n\":7}")).collect();
    assert!(!found.is_empty());
    found.iter().for_each(|at| bytes[at + 5] = b'8');
    File::options().write(true).open(&path).unwrap().write_all_at(&bytes, 0).unwrap();
    let error = store.read(|view| view.revisions(&key("local", "app-2"))).unwrap_err();
    assert!(
        matches!(&error, StoreError::Corrupt { table, row } if table == "revisions" && row.contains("app-2")),
        "{error:?}"
    );
    assert!(matches!(store.verify(), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_schema_that_says_something_else_is_refused() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    fill(&store, 1);
    drop(store);
    let given = image(dir.path());
    let check = |from: &[u8], to: &[u8]| {
        let mut damaged = given.clone();
        let bytes = damaged.get_mut("store.db").unwrap();
        let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
        let error = attempt(&damaged).expect_err("another schema");
        assert!(matches!(&error, StoreError::Corrupt { table, .. } if table == "sqlite_schema"), "{error:?}");
    };
    // SQLite accepts each of them.
    check(b"CHECK (one = 1)", b"CHECK (one = 3)");
    check(b"message TEXT NOT NULL", b"message BLOB NOT NULL");
    check(b"uid INTEGER NOT NULL", b"uid INTEGER     NULL");
}
