//! Releases as the cluster keeps them: a ConfigMap each, with what was applied, so that a way back needs no folder and no build.
//!
//! They hold no secret: of secrets a release has names alone. So whoever deploys needs no right to read any.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bowline_core::fault::{Fault, FaultKind};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::object::{Id, Object, Owner};

/// Releases that are kept, beside the one that serves: of those that served and of those that did not come up.
pub const KEPT: usize = 10;
/// What is said of one, read at most: a ConfigMap has a mebibyte, which is packed.
const MOST: u64 = 64 << 20;
const FORM: u64 = 1;
pub(crate) const RECORD: &str = "bowline.dev/record";
const STATE: &str = "bowline.dev/state";
const RELEASE: &str = "release";
/// When whoever brings it out was there the last time, in milliseconds since 1970.
pub(crate) const BEAT: &str = "bowline.dev/beat";
/// Whether what comes after it comes out as a plan shows alone.
pub(crate) const PROTECTED: &str = "bowline.dev/protected";
/// Who has not been there for so long has been cut off.
const FRESH_MS: u64 = 30_000;

/// How far a release has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is coming out, or whoever brought it out was cut off.
    Pending,
    Serves,
    /// Another one has taken over from it.
    Served,
    /// It was taken back.
    Rejected,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Serves => "serves",
            Self::Served => "served",
            Self::Rejected => "rejected",
        }
    }
}

/// One release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    pub number: u32,
    /// When it was made, in milliseconds since 1970.
    pub at: u64,
    /// When it took over the last time.
    pub served: Option<u64>,
    pub state: State,
    /// By service.
    pub images: BTreeMap<String, String>,
    /// Why it was taken back.
    pub why: Option<String>,
    /// All that it consists of.
    pub objects: Vec<Object>,
    /// When whoever brings it out was there the last time: said of the record, not in it.
    #[serde(skip)]
    pub beat: Option<u64>,
    /// The record's own version, as it was read.
    #[serde(skip)]
    pub version: Option<String>,
    /// Whether its environment is protected: said of the record, not in it, since the same release may come to be, or not to be.
    #[serde(skip)]
    pub protected: bool,
}

impl Release {
    /// As it is recorded first.
    pub fn begun(number: u32, at: u64, objects: Vec<Object>) -> Self {
        Self {
            number,
            at,
            served: None,
            state: State::Pending,
            images: BTreeMap::new(),
            why: None,
            objects,
            beat: None,
            version: None,
            protected: false,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    form: u64,
    #[serde(flatten)]
    release: Release,
}

/// What the record of a release is called.
pub fn name(owner: &Owner, number: u32) -> String {
    format!("bowline.{}.{}.v{number}", owner.env, owner.app)
}

/// That record, among objects.
pub(crate) fn id(owner: &Owner, number: u32) -> Id {
    Id { group: String::new(), version: "v1".to_owned(), kind: "ConfigMap".to_owned(), name: name(owner, number) }
}

/// The record, as an object.
///
/// # Errors
/// It is too large for one.
pub fn encode(owner: &Owner, release: &Release) -> Result<Value, Fault> {
    let stored = Stored { form: FORM, release: release.clone() };
    let text = serde_json::to_vec(&stored).expect("a release has text as keys alone");
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&text).expect("memory takes all");
    let packed = packed.finish().expect("memory takes all");
    const LARGEST: usize = 1_000_000;
    if packed.len() > LARGEST {
        return Err(Fault::new(FaultKind::Invalid, format!("release {} is too large for a cluster", release.number))
            .caused_by(format!("its objects take {} bytes packed, and {LARGEST} are the most", packed.len())));
    }
    let mut labels: BTreeMap<&str, String> = owner.labels().into();
    labels.insert(RECORD, RELEASE.to_owned());
    labels.insert(STATE, release.state.as_str().to_owned());
    Ok(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": name(owner, release.number), "labels": labels,
            // Merged, nothing takes it out.
            "annotations": { PROTECTED: release.protected.then_some("true") },
        },
        "binaryData": { RELEASE: BASE64_STANDARD.encode(packed) },
    }))
}

/// The release of a record. `None`: of a newer Bowline, or of nobody.
pub fn decode(record: &Value) -> Option<Release> {
    let stored: Stored = serde_json::from_value(stored(record)?).ok()?;
    let beat = record["metadata"]["annotations"][BEAT].as_str().and_then(|text| text.parse().ok());
    let protected = record["metadata"]["annotations"][PROTECTED] == "true";
    let version = record["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    (stored.form == FORM).then_some(Release { beat, version, protected, ..stored.release })
}

fn stored(record: &Value) -> Option<Value> {
    let packed = BASE64_STANDARD.decode(record["binaryData"][RELEASE].as_str()?).ok()?;
    let mut text = Vec::new();
    GzDecoder::new(packed.as_slice()).take(MOST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Whether a newer Bowline has written it: what it says is not known here.
pub(crate) fn is_newer(record: &Value) -> bool {
    let form = stored(record).and_then(|stored| stored["form"].as_u64());
    form.is_some_and(|form| form > FORM)
}

/// Those records of releases that are asked for, in a query.
pub(crate) fn selector(owner: Option<&Owner>) -> String {
    let kind = format!("{}%3D{RELEASE}", RECORD.replace('/', "%2F"));
    match owner {
        Some(owner) => format!("{}%2C{kind}", owner.selector()),
        None => kind,
    }
}

/// Whose record it is.
pub(crate) fn owner(record: &Value) -> Option<Owner> {
    let label = |name: &str| record["metadata"]["labels"][name].as_str().map(str::to_owned);
    Some(Owner { env: label("bowline.dev/env")?, app: label("bowline.dev/app")? })
}

/// Which one serves: where whoever wrote them was cut off, the one that took over last.
pub fn serving(releases: &[Release]) -> Option<&Release> {
    let all = releases.iter().filter(|release| release.state == State::Serves);
    all.max_by_key(|release| (release.served, release.number))
}

/// The one that somebody brings out just now, or back, or in another number.
pub fn busy(releases: &[Release], now: u64) -> Option<&Release> {
    releases.iter().rfind(|release| is_busy(release, now))
}

fn is_busy(release: &Release, now: u64) -> bool {
    // The clocks of two machines are not the same.
    release.why.is_none() && release.beat.is_some_and(|beat| now.abs_diff(beat) < FRESH_MS)
}

/// Which other one somebody brings out just now, or has brought to serve since `before` was read: what was judged by that is not so any
/// more.
pub(crate) fn overtakes(before: &[Release], releases: &[Release], own: u32, now: u64) -> Option<u32> {
    let other = releases.iter().rfind(|release| release.number != own && is_busy(release, now));
    let serves = |all: &[Release]| serving(all).map(|release| release.number);
    let newly = serves(releases).filter(|number| *number != own && Some(*number) != serves(before));
    other.map(|release| release.number).or(newly)
}

/// Whether nothing is left to be recorded: none has begun and not come to its end, and none serves beside another.
pub fn is_settled(releases: &[Release]) -> bool {
    !is_unfinished(releases) && releases.iter().filter(|release| release.state == State::Serves).count() < 2
}

/// Whether one has begun to come out and has not come to its end: it was cut off, or could not be taken back.
pub fn is_unfinished(releases: &[Release]) -> bool {
    releases.iter().any(|release| release.state == State::Pending)
}

/// Which one is gone back to: that of this number, else the one that served last before the one that does. Where another has begun
/// and not come to its end, it is the one that serves.
///
/// # Errors
/// There is none.
pub fn back<'a>(releases: &'a [Release], owner: &Owner, wanted: Option<u32>) -> Result<&'a Release, Fault> {
    let serves = serving(releases);
    let invalid = |message: String| Fault::new(FaultKind::Invalid, message);
    match wanted {
        // The one that serves, too: a way back that failed has left another half there.
        Some(number) => {
            let found = releases.iter().find(|release| release.number == number);
            let found = found.ok_or_else(|| invalid(format!("there is no release {number} of {owner}")))?;
            match found.state {
                State::Rejected => {
                    Err(invalid(format!("release {number} of {owner} was taken back, and is not tried again")))
                }
                State::Served | State::Serves => Ok(found),
                State::Pending => Err(invalid(format!("release {number} of {owner} has never served"))),
            }
        }
        None => {
            // Who was cut off has left two that serve.
            let now = serves.map(|release| release.number);
            let has_served = |release: &&Release| match release.state {
                State::Served => true,
                State::Serves => Some(release.number) != now,
                State::Pending | State::Rejected => false,
            };
            let served = releases.iter().filter(has_served);
            let last = served.max_by_key(|release| (release.served, release.number));
            let last = serves.filter(|_| is_unfinished(releases)).or(last);
            last.ok_or_else(|| invalid(format!("no release of {owner} has served before this one")))
        }
    }
}

/// What is known when this release has taken over: with these objects, as the one that serves.
pub(crate) fn after(objects: &[Object], number: u32, releases: &[Release]) -> Vec<Release> {
    let was = releases.iter().find(|one| one.number == number);
    let mut all: Vec<Release> = releases.iter().filter(|one| one.number != number).cloned().collect();
    all.iter_mut().filter(|one| one.state == State::Serves).for_each(|one| one.state = State::Served);
    let at = was.map_or(0, |was| was.at);
    all.push(Release { served: Some(u64::MAX), state: State::Serves, ..Release::begun(number, at, objects.to_vec()) });
    all
}

/// Records that are given up when this one has come out.
pub fn outlived(releases: &[Release]) -> Vec<u32> {
    let now = serving(releases).map(|release| release.number);
    let others = releases.iter().filter(|release| Some(release.number) != now);
    // However many do not come up, the way back stays.
    let (mut served, mut failed): (Vec<&Release>, Vec<&Release>) = others.partition(|release| release.served.is_some());
    served.sort_by_key(|release| (release.served, release.number));
    failed.sort_by_key(|release| release.number);
    let first = |all: &[&Release]| -> Vec<u32> {
        all[..all.len().saturating_sub(KEPT)].iter().map(|release| release.number).collect()
    };
    [first(&served), first(&failed)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Stage;

    fn release(number: u32, state: State, served: Option<u64>) -> Release {
        Release { state, served, ..Release::begun(number, 7, Vec::new()) }
    }

    fn shop() -> Owner {
        Owner { env: "production".to_owned(), app: "shop".to_owned() }
    }

    #[test]
    fn a_release_is_kept_whole() {
        let body =
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": { "A": "é" } });
        let one = Release {
            objects: vec![Object { stage: Stage::Config, body }],
            protected: true,
            ..release(3, State::Serves, Some(9))
        };
        let record = encode(&shop(), &one).unwrap();
        assert_eq!(decode(&record), Some(one));
        assert_eq!(record["metadata"]["name"], "bowline.production.shop.v3");
        assert_eq!(record["metadata"]["labels"][STATE], "serves");
        assert_eq!(owner(&record), Some(shop()));
        assert_eq!(decode(&json!({ "binaryData": { "release": "AAAA" } })), None);
        assert!(!is_newer(&record) && !is_newer(&json!({ "binaryData": { "release": "AAAA" } })));
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(json!({ "form": FORM + 1, "release": "otherwise" }).to_string().as_bytes()).unwrap();
        let newer = json!({ "binaryData": { "release": BASE64_STANDARD.encode(packed.finish().unwrap()) } });
        assert!(decode(&newer).is_none() && is_newer(&newer));
    }

    #[test]
    fn the_way_back_leads_to_what_served_last() {
        let all = [
            release(1, State::Served, Some(50)),
            release(2, State::Served, Some(20)),
            release(3, State::Rejected, None),
            release(4, State::Serves, Some(60)),
        ];
        let check = |wanted, expected: Option<u32>| {
            assert_eq!(back(&all, &shop(), wanted).ok().map(|one| one.number), expected)
        };
        check(None, Some(1));
        check(Some(2), Some(2));
        check(Some(3), None);
        check(Some(4), Some(4));
        check(Some(9), None);
        assert!(back(&all[3..], &shop(), None).is_err(), "there was none before it");
    }

    #[test]
    fn of_two_that_serve_the_one_before_has_served() {
        let all = [
            release(1, State::Served, Some(20)),
            release(2, State::Serves, Some(50)),
            release(3, State::Serves, Some(60)),
        ];
        assert_eq!(back(&all, &shop(), None).ok().map(|one| one.number), Some(2));
        assert!(!is_settled(&all) && is_settled(&all[..2]));
        assert!(!is_settled(&[release(1, State::Pending, None)]));
    }

    #[test]
    fn from_a_release_that_was_cut_off_the_way_back_leads_to_the_one_that_serves() {
        let all = [
            release(1, State::Served, Some(50)),
            release(2, State::Serves, Some(60)),
            release(3, State::Pending, None),
        ];
        let check = |all: &[Release], wanted, expected: Option<u32>| {
            assert_eq!(back(all, &shop(), wanted).ok().map(|one| one.number), expected)
        };
        check(&all, None, Some(2));
        check(&all, Some(2), Some(2));
        check(&all, Some(1), Some(1));
        check(&all, Some(3), None);
        check(&all[2..], None, None);
    }

    #[test]
    fn a_release_comes_out_as_long_as_somebody_is_there() {
        let now = 1_000_000;
        let check = |state, beat: Option<u64>, why: Option<&str>, expected: bool| {
            let one = Release { beat, why: why.map(str::to_owned), ..release(1, state, None) };
            assert_eq!(busy(&[one], now).is_some(), expected, "{state:?} {beat:?}");
        };
        check(State::Pending, Some(now - 29_000), None, true);
        check(State::Pending, Some(now + 5_000), None, true);
        check(State::Pending, Some(now - 31_000), None, false);
        check(State::Pending, None, None, false);
        check(State::Pending, Some(now), Some("it could not be taken back"), false);
        // Somebody goes back to it, or gives it another number.
        check(State::Serves, Some(now), None, true);
        check(State::Served, Some(now), None, true);
        check(State::Serves, None, None, false);
        let mut record = encode(&shop(), &release(1, State::Pending, None)).unwrap();
        record["metadata"]["annotations"] = json!({ BEAT: "5" });
        assert_eq!(decode(&record).and_then(|release| release.beat), Some(5));
    }

    #[test]
    fn who_has_begun_meanwhile_is_told_apart() {
        let now = 1_000_000;
        let before = [release(1, State::Served, Some(1)), release(2, State::Serves, Some(2))];
        let check = |change: &dyn Fn(&mut Vec<Release>), expected: Option<u32>| {
            let mut all = before.to_vec();
            all[0].beat = Some(now);
            change(&mut all);
            assert_eq!(overtakes(&before, &all, 1, now), expected, "{all:?}");
        };
        check(&|_| (), None);
        check(&|all| all[1].beat = Some(now - 1_000), Some(2));
        check(&|all| all[1].beat = Some(now - 60_000), None);
        check(&|all| all.push(Release { beat: Some(now), ..release(3, State::Pending, None) }), Some(3));
        // They have begun and ended: another one serves.
        check(&|all| all.push(release(3, State::Serves, Some(3))), Some(3));
        check(&|all| all[0].state = State::Serves, None);
    }

    #[test]
    fn ten_are_kept_beside_the_one_that_serves() {
        let mut all: Vec<_> = (1..=12).map(|number| release(number, State::Served, Some(1))).collect();
        all[0] = release(1, State::Serves, Some(9));
        assert_eq!(outlived(&all), [2]);
        assert_eq!(outlived(&all[..11]), Vec::<u32>::new());
        // The one that served last is kept, whatever its number.
        all[1].served = Some(8);
        assert_eq!(outlived(&all), [3]);
    }

    #[test]
    fn releases_that_do_not_come_up_give_up_no_way_back() {
        let mut all = vec![release(1, State::Served, Some(1)), release(2, State::Serves, Some(2))];
        all.extend((3..=13).map(|number| release(number, State::Rejected, None)));
        assert_eq!(outlived(&all), [3]);
        assert_eq!(back(&all, &shop(), None).ok().map(|one| one.number), Some(1));
    }
}
