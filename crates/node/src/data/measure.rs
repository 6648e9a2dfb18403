//! What lies on the disk, by app.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bowline_core::id::{AppKey, AppName, EnvName, ResourceName};
use bowline_core::resource::data::{DataDone, DataId, Measured};
use bowline_core::time::Timestamp;

use super::fill::READY;
use super::{APART, all_apart};

/// Bytes of a block, as `stat` counts them.
const BLOCK: u64 = 512;

pub(super) fn all(servers: &Path, volumes: &Path) -> DataDone {
    let server = |name: &str| DataId::parse(name).ok().filter(|id| matches!(id, DataId::Server(_)));
    let volume = |name: &str| ResourceName::new(name).ok().map(DataId::Volume);
    let found = below(servers, &server).into_iter().chain(below(volumes, &volume));
    DataDone::Measured(found.collect())
}

/// ROOT/ENV/APP/NAME; what has another form is not data.
fn below(root: &Path, id: &dyn Fn(&str) -> Option<DataId>) -> Vec<Measured> {
    let mut found = Vec::new();
    for (env, dir) in folders(root) {
        let Ok(env) = EnvName::new(&env) else { continue };
        for (app, dir) in folders(&dir) {
            let Ok(app) = AppName::new(&app) else { continue };
            let app = AppKey { env: env.clone(), app };
            let known = folders(&dir).into_iter().filter_map(|(name, dir)| Some((id(&name)?, dir)));
            found.extend(known.map(|(id, dir)| measured(app.clone(), id, &dir)));
        }
    }
    found
}

fn folders(dir: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}

fn measured(app: AppKey, id: DataId, dir: &Path) -> Measured {
    let made = dir.metadata().and_then(|meta| meta.created()).ok();
    let since = made.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let since = since.map(|since| Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)));
    let written = ["data/PG_VERSION", "config/version"].iter().find_map(|file| fs::read_to_string(dir.join(file)).ok());
    let version = written.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty() && text.len() < 40);
    let version = version.filter(|_| matches!(id, DataId::Server(_)));
    // What a volume with a size takes is what is reserved for it.
    let reserved = dir.with_extension("img").metadata().ok().filter(|_| matches!(id, DataId::Volume(_)));
    let bytes = reserved.map_or_else(|| bytes(dir), |meta| meta.blocks() * BLOCK);
    let beside = match id {
        DataId::Volume(_) => not_come_in(dir),
        DataId::Server(_) => Vec::new(),
    };
    Measured { app, id, bytes, since, version, beside }
}

/// Of fillings that were cut short and that the volume's own entries keep out.
fn not_come_in(volume: &Path) -> Vec<String> {
    let names = all_apart(volume).into_iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    let is_ready = |name: &String| name.split_once(APART).is_some_and(|(_, what)| what.starts_with(READY));
    let mut names: Vec<String> = names.filter(is_ready).collect();
    names.sort();
    names
}

/// What a tree takes on the disk; a file with several names counts once, and links are not followed.
fn bytes(dir: &Path) -> u64 {
    let mut seen = BTreeSet::new();
    let mut open = vec![dir.to_owned()];
    let mut total = dir.metadata().map_or(0, |meta| meta.blocks() * BLOCK);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if is_first(&meta, &mut seen) {
                total += meta.blocks() * BLOCK;
            }
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    total
}

fn is_first(meta: &Metadata, seen: &mut BTreeSet<(u64, u64)>) -> bool {
    meta.is_dir() || meta.nlink() < 2 || seen.insert((meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_are_found_by_the_form_of_their_folders() {
        let state = tempfile::tempdir().unwrap();
        let (servers, volumes) = (state.path().join("data"), state.path().join("volumes"));
        let servers_are = ["data/local/shop/postgres.db/data", "data/local/shop/postgres.db~going"];
        let volumes_are = ["files", "files~new-1", "files~ready-2", "files~ready-1", "files2~ready-3"];
        let volumes_are = volumes_are.map(|name| format!("volumes/beta/shop/{name}"));
        for dir in servers_are.into_iter().chain(volumes_are.iter().map(String::as_str)) {
            fs::create_dir_all(state.path().join(dir)).unwrap();
        }
        fs::write(servers.join("local/shop/postgres.db/data/PG_VERSION"), "15\n").unwrap();
        let file = volumes.join("beta/shop/files/a");
        fs::write(&file, vec![1; 1 << 20]).unwrap();
        fs::hard_link(&file, volumes.join("beta/shop/files/b")).unwrap();
        let DataDone::Measured(found) = all(&servers, &volumes) else { panic!("another answer") };
        let ids: Vec<String> = found.iter().map(|one| format!("{}.{}", one.app, one.id)).collect();
        assert_eq!(ids, ["local/shop.postgres.db", "beta/shop.volume.files"]);
        assert_eq!(found[0].version.as_deref(), Some("15"));
        assert_eq!(found[1].beside, ["files~ready-1", "files~ready-2"]);
        assert!((1 << 20..3 << 19).contains(&found[1].bytes), "{}", found[1].bytes);
    }
}
