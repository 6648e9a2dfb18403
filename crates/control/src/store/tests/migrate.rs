//! From an older form to a newer one, and from one key to another.

use super::super::schema::{self, Migration};
use super::super::table::Table;
use super::*;

const WIDER_META: Table = Table { name: "meta", columns: &["name", "value", "note"], key: 1 };

/// One more form, as a later release would bring it.
fn forms() -> Vec<Migration> {
    let next = Migration {
        // A column before the checksum would need the table to be made anew; order in the file does not matter.
        sql: "ALTER TABLE meta ADD COLUMN note TEXT; UPDATE meta SET note = 'from before';",
        tables: &[
            WIDER_META,
            schema::APPS,
            schema::REVISIONS,
            schema::ROLLOUTS,
            schema::EVENTS,
            schema::SECRETS,
            schema::RESOURCES,
            schema::JOBS,
            schema::RUNS,
        ],
    };
    MIGRATIONS.iter().copied().chain([next]).collect()
}

#[test]
fn an_older_store_is_brought_forward_and_a_newer_one_refused() {
    let dir = fast_dir();
    let store = open(dir.path()).unwrap();
    append(&store, "kept").unwrap();
    store.commit_blocking(|tx| tx.next_generation()).unwrap();
    drop(store);
    let files = Files::of(dir.path());
    for round in 0..2 {
        let (engine, opening) = Engine::open(&files, &keys(1), &forms()).unwrap();
        // One commit per form, and the two above.
        assert_eq!((opening, engine.sequence()), (Opening::Clean, forms().len() as u64 + 2), "round {round}");
        engine.close();
    }
    let error = open(dir.path()).unwrap_err();
    let known = schema::form(MIGRATIONS);
    let too_new = matches!(error, StoreError::TooNew { found, known: k } if (found, k) == (known + 1, known));
    assert!(too_new, "{error:?}");
}

fn wrap(byte: u8) -> impl FnMut(&SecretRecord, &[u8]) -> Result<Vec<u8>, StoreError> {
    move |record, wrapped| Ok([wrapped, &[byte, u8::try_from(record.version.0).unwrap()]].concat())
}

#[test]
fn a_store_is_put_under_another_key_whole_or_not_at_all() {
    let dir = fast_dir();
    let both = Keys { retiring: Some(keys(1).current), ..keys(2) };
    let files = Files::of(dir.path());
    let token = bowline_core::id::SecretName::new("token").unwrap();
    let store = open(dir.path()).unwrap();
    let value = SealedValue { sealed: vec![1], wrapped_key: vec![5] };
    let name = token.clone();
    store.commit_blocking(move |tx| tx.add_secret(&key("local", "a"), &name, NOW, 0, |_| Ok(value))).unwrap();
    drop(store);

    // Fails half way: still under the old key.
    let (mut engine, _) = Engine::open(&files, &both, MIGRATIONS).unwrap();
    let failing = engine.rekey(both.current.clone(), MIGRATIONS, &mut |_, _| Err(StoreError::Closed));
    assert!(matches!(failing, Err(StoreError::Closed)));
    drop(engine);
    let store = open(dir.path()).unwrap();
    store.verify().unwrap();
    drop(store);

    // Killed between the database and the head: both keys open it, the new one is in charge.
    let head = std::fs::read(&files.head).unwrap();
    let (mut engine, _) = Engine::open(&files, &both, MIGRATIONS).unwrap();
    engine.rekey_once(both.current.clone(), MIGRATIONS, &mut wrap(8)).unwrap();
    drop(engine);
    std::fs::write(&files.head, head).unwrap();
    let store = Store::open(dir.path(), both.clone()).unwrap();
    assert_eq!((store.opening(), store.is_under_retiring_key().unwrap()), (Opening::HeadRepaired, false));
    drop(store);

    // The whole way: the old key is not needed for anything.
    let (mut engine, _) = Engine::open(&files, &both, MIGRATIONS).unwrap();
    engine.rekey(both.current.clone(), MIGRATIONS, &mut wrap(9)).unwrap();
    engine.close();
    let store = Store::open(dir.path(), keys(2)).unwrap();
    let secrets = store.read(|view| view.secrets(&key("local", "a"))).unwrap();
    assert_eq!(secrets[0].value.as_ref().unwrap().wrapped_key, [5, 8, 1, 9, 1]);
    drop(store);
    assert!(matches!(open(dir.path()), Err(StoreError::ForeignKey)));
}
