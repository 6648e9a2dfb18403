//! Measurements, run by hand: `cargo test -p bowline-control --release -- --ignored measure --nocapture`.

use std::time::{Duration, Instant};

use super::super::head::{HeadFile, Record};
use super::*;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
#[ignore = "a measurement, not a test"]
fn measure_one_durable_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let time = |work: &dyn Fn()| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    let alone = (0..300).map(|n| time(&|| assert!(append(&store, &n.to_string()).is_ok()))).collect();
    println!("one commit, alone: {:?}", median(alone));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| (0..50).for_each(|n| assert!(append(&store, &n.to_string()).is_ok())));
        }
    });
    println!("one commit, 32 at a time: {:?}", start.elapsed() / 1600);

    let path = dir.path().join("two-slots");
    let key = keys(1).current;
    HeadFile::create(&path, &key).unwrap();
    let file = HeadFile::open(&path).unwrap();
    let record = |sequence| Record { sequence, chain: [1; 32], key: key.id() };
    let in_place = (1..200).map(|n| time(&|| file.write(&record(n), &key).unwrap())).collect();
    println!("head, two slots in place: {:?}", median(in_place));
    let renamed = (1..200).map(|_| time(&|| HeadFile::create(&path, &key).unwrap())).collect();
    println!("head, new file renamed over the old: {:?}", median(renamed));
}
