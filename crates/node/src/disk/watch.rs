//! Who fills the disk, asked only when there is less than the reserve.
//!
//! Two looks at what instances have on the disk, a moment apart, say who grows. Scratch is nobody's data: an instance that
//! grows there is stopped at once. A volume without a size holds data that somebody wants: who fills it is named, and
//! stopped only when next to nothing is left and its writes would fail anyway, and those of all others with them. A
//! database is never stopped: every app of its data would be down.

use std::path::Path;
use std::time::Duration;

use bowline_core::id::{InstanceId, ResourceName};
use bowline_core::resource::ResourceKey;

use super::{Space, usage};
use crate::layout::{self, Layout};
use crate::shim::contract::{End, ExitRecord, FORMAT, Record};
use crate::shim::outer::now_ms;

/// Between the two looks: a disk that is being filled shows it in that time.
const PAUSE: Duration = Duration::from_millis(250);
/// Files and folders of one place that are looked at: some tens of milliseconds.
const MOST_ENTRIES: usize = 20_000;
/// Of the reserve: with less, whoever grows is stopped, whatever it fills. Whoever is stopped has at least that much.
const LAST_PART: u64 = 4;

/// One place on the disk that an instance fills.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    owner: InstanceId,
    kind: Kind,
    bytes: u64,
    /// In the time of the looks.
    grown: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Scratch,
    Volume(ResourceName),
    Database(ResourceKey),
}

impl Place {
    fn describe(&self) -> String {
        match &self.kind {
            Kind::Scratch => format!("temporary files of {}", self.owner),
            Kind::Volume(name) => format!("volume {name} of {}", self.owner.slot.key),
            Kind::Database(key) => format!("{} of {}", key.id, key.app),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// Nobody here is to blame.
    Nobody,
    /// It grows, and is let go on.
    Named(Place),
    Stop(Place),
}

/// What came of a look.
#[derive(Debug)]
pub(crate) struct Looked {
    pub space: Space,
    /// Who grows and is let go on.
    pub growing: Option<String>,
    /// Who must be killed; its exit record says why already.
    pub stop: Option<InstanceId>,
}

/// Blocks for some hundred milliseconds. Looks at no more than [`MOST_ENTRIES`] of each place.
pub(crate) fn look(layout: &Layout, live: &[(InstanceId, Record)]) -> Option<Looked> {
    let places = || live.iter().flat_map(|(id, record)| places(layout, id, record));
    let before: Vec<Place> = places().collect();
    std::thread::sleep(PAUSE);
    let mut after: Vec<Place> = places().collect();
    for place in &mut after {
        let earlier = before.iter().find(|b| b.owner == place.owner && b.kind == place.kind);
        place.grown = earlier.map_or(0, |earlier| place.bytes.saturating_sub(earlier.bytes));
    }
    let space = Space::of(&layout.state).ok()?;
    match verdict(space, &after) {
        Verdict::Nobody => Some(Looked { space, growing: None, stop: None }),
        Verdict::Named(place) => {
            let growing = place.describe();
            tracing::warn!(free = space.free, growing, "the disk is almost full");
            Some(Looked { space, growing: Some(growing), stop: None })
        }
        Verdict::Stop(place) => {
            tracing::warn!(free = space.free, instance = %place.owner, bytes = place.bytes, "it fills the disk and is stopped");
            record_end(&layout.instance(&place.owner), &place);
            Some(Looked { space, growing: None, stop: Some(place.owner) })
        }
    }
}

/// Before it is killed: its shim will have no time to write anything, and this process may die, too.
fn record_end(folder: &Path, place: &Place) {
    let volume = match &place.kind {
        Kind::Volume(name) => Some(name.to_string()),
        Kind::Scratch | Kind::Database(_) => None,
    };
    let end = End::FilledDisk { bytes: place.bytes, volume };
    if let Err(error) = (ExitRecord { format: FORMAT, at_ms: now_ms(), end }).write(folder) {
        tracing::warn!(instance = %place.owner, %error, "why it ends cannot be recorded");
    }
}

fn verdict(space: Space, places: &[Place]) -> Verdict {
    let (reserve, last) = (space.reserve(), space.reserve() / LAST_PART);
    if space.free >= reserve {
        return Verdict::Nobody;
    }
    let is_last = space.free < last;
    let large = |place: &&Place| place.bytes >= last;
    let fastest = places.iter().filter(large).filter(|place| place.grown > 0).max_by_key(|place| place.grown);
    match fastest {
        Some(place) => match &place.kind {
            Kind::Scratch => Verdict::Stop(place.clone()),
            Kind::Volume(_) if is_last => Verdict::Stop(place.clone()),
            Kind::Volume(_) | Kind::Database(_) => Verdict::Named(place.clone()),
        },
        None if is_last => {
            let largest = |places: &mut dyn Iterator<Item = &Place>| places.max_by_key(|place| place.bytes).cloned();
            let mut scratch = places.iter().filter(large).filter(|place| place.kind == Kind::Scratch);
            // Ending who holds data would give nothing back.
            let others = || largest(&mut places.iter().filter(large)).map_or(Verdict::Nobody, Verdict::Named);
            largest(&mut scratch).map_or_else(others, Verdict::Stop)
        }
        None => Verdict::Nobody,
    }
}

fn places(layout: &Layout, id: &InstanceId, record: &Record) -> Vec<Place> {
    let place = |kind, bytes| Place { owner: id.clone(), kind, bytes, grown: 0 };
    let database = ResourceKey::of_slot(&id.slot);
    let mut found = Vec::new();
    if database.is_none() {
        found.push(place(Kind::Scratch, scratch(&layout.instance(id))));
    }
    for folder in &record.volumes {
        let bytes = || usage(folder, MOST_ENTRIES);
        match (&database, volume_name(layout, folder)) {
            (Some(key), _) if folder.starts_with(&layout.state) => {
                found.push(place(Kind::Database(key.clone()), bytes()));
            }
            // One with a size takes nothing that was not reserved for it.
            (None, Some(name)) if !folder.with_extension("img").exists() => {
                found.push(place(Kind::Volume(name), bytes()));
            }
            (Some(_) | None, _) => {}
        }
    }
    found
}

/// What its temporary folder and its layer take from the disk.
fn scratch(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    match std::fs::metadata(folder.join(layout::SCRATCH)) {
        Ok(image) => image.blocks() * 512,
        Err(_) => {
            ["tmp", "overlay/upper", layout::WRITABLE].iter().map(|name| usage(&folder.join(name), MOST_ENTRIES)).sum()
        }
    }
}

fn volume_name(layout: &Layout, folder: &Path) -> Option<ResourceName> {
    let below = folder.strip_prefix(layout.volumes()).ok()?;
    ResourceName::new(below.file_name()?.to_str()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn place(owner: &str, kind: Kind, bytes: u64, grown: u64) -> Place {
        Place { owner: owner.parse().unwrap(), kind, bytes, grown }
    }

    fn volume() -> Kind {
        Kind::Volume(ResourceName::new("files").unwrap())
    }

    /// Of a disk of 20 GiB, whose reserve is 1 GiB.
    fn check(free: u64, places: &[Place], expected: &Verdict) {
        assert_eq!(verdict(Space { total: 20 * GIB, free }, places), *expected);
    }

    #[test]
    fn nobody_is_asked_while_there_is_room() {
        check(GIB, &[place("local/a.web.r1.0.1", Kind::Scratch, 9 * GIB, GIB)], &Verdict::Nobody);
    }

    #[test]
    fn whoever_grows_fastest_in_its_scratch_is_stopped() {
        let (slow, fast) = ("local/a.web.r1.0.1", "local/b.web.r1.0.1");
        let (slow, fast) = (place(slow, Kind::Scratch, 9 * GIB, 1), place(fast, Kind::Scratch, GIB, 2));
        check(GIB - 1, &[slow, fast.clone()], &Verdict::Stop(fast));
    }

    #[test]
    fn whoever_has_little_is_no_cause() {
        check(GIB / 8, &[place("local/a.web.r1.0.1", Kind::Scratch, GIB / 8, 1)], &Verdict::Nobody);
    }

    #[test]
    fn a_volume_is_named_first_and_stopped_last() {
        let volume = place("local/a.web.r1.0.1", volume(), 9 * GIB, 9);
        check(GIB / 2, std::slice::from_ref(&volume), &Verdict::Named(volume.clone()));
        check(GIB / 8, std::slice::from_ref(&volume), &Verdict::Stop(volume.clone()));
        assert_eq!(volume.describe(), "volume files of local/a");
    }

    #[test]
    fn when_nobody_grows_the_largest_scratch_gives_room_at_last() {
        let (small, large) = ("local/a.web.r1.0.1", "local/b.web.r1.0.1");
        let small = place(small, Kind::Scratch, GIB, 0);
        let large = place(large, Kind::Scratch, 2 * GIB, 0);
        let volume = place("local/c.web.r1.0.1", volume(), 9 * GIB, 0);
        check(GIB / 2, &[small.clone(), large.clone()], &Verdict::Nobody);
        check(GIB / 8, &[small, large.clone(), volume.clone()], &Verdict::Stop(large));
        check(GIB / 8, std::slice::from_ref(&volume), &Verdict::Named(volume.clone()));
    }
}
