//! Which users a state gives to its apps: each state of a machine has a block of its own, so that an app of one is never
//! the user of another's.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bowline_control::store::Users;
use bowline_core::fault::{Fault, FaultKind};

/// Root's alone. States claim their blocks here, whichever daemon is the first to run.
const REGISTRY: &str = "/var/lib/bowline-uids";

/// The states by the number of their block.
type Blocks = BTreeMap<u32, PathBuf>;

/// The users of a state. What is not root gives out none, and claims nothing.
///
/// # Errors
/// The registry cannot be used, or every block is some state's.
pub(crate) fn claim(state: &Path) -> Result<Users, Fault> {
    match nix::unistd::geteuid().is_root() {
        true => claim_in(Path::new(REGISTRY), state),
        false => Ok(Users::default()),
    }
}

fn claim_in(registry: &Path, state: &Path) -> Result<Users, Fault> {
    let number = number_of(registry, state).map_err(|error| {
        Fault::new(FaultKind::Failed, "no users can be claimed for the apps of this state")
            .caused_by(format!("{}: {error}", registry.display()))
            .hint("each state has its own block of user ids; mend that folder, or move it away: apps keep the users that they have")
    })?;
    number.and_then(Users::block).ok_or_else(|| {
        Fault::new(FaultKind::Failed, "no users are left for the apps of this state")
            .caused_by(format!("every block of user ids in {} belongs to a state", registry.display()))
            .hint("remove states that are not needed any more")
    })
}

fn number_of(registry: &Path, state: &Path) -> io::Result<Option<u32>> {
    std::fs::create_dir_all(registry)?;
    std::fs::set_permissions(registry, Permissions::from_mode(0o700))?;
    let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(registry.join("lock"))?;
    lock.lock()?;
    let (path, state) = (registry.join("blocks.json"), std::fs::canonicalize(state)?);
    let mut blocks = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Blocks>(&bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Blocks::new(),
        Err(error) => return Err(error),
    };
    let gone = |path: &Path| std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    let Some(number) = choose(&blocks, &state, gone) else { return Ok(None) };
    if blocks.insert(number, state.clone()).as_ref() != Some(&state) {
        let new = registry.join("blocks.json.new");
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(&blocks)?)?;
        file.sync_all()?;
        std::fs::rename(new, path)?;
    }
    Ok(Some(number))
}

/// The block that the state has; else one that none ever had, so that files of a state that is gone stay nobody's; else
/// that of a state that is gone. Block 0 is nobody's: states gave out its users before they claimed any.
fn choose(blocks: &Blocks, state: &Path, gone: impl Fn(&Path) -> bool) -> Option<u32> {
    let own = blocks.iter().find(|(_, of)| *of == state).map(|(number, _)| *number);
    let fresh = || (1..Users::BLOCKS).find(|number| !blocks.contains_key(number));
    let left = || blocks.iter().find(|(_, of)| gone(of)).map(|(number, _)| *number);
    own.or_else(fresh).or_else(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_a_block_of_its_own_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let (registry, a, b) = (dir.path().join("registry"), dir.path().join("a"), dir.path().join("b"));
        [&a, &b].into_iter().for_each(|state| std::fs::create_dir(state).unwrap());
        let claimed = [&a, &b, &a].map(|state| claim_in(&registry, state).unwrap());
        assert_eq!(claimed[0], claimed[2]);
        assert!(claimed[0].last() < claimed[1].first() && Users::default().last() < claimed[0].first());
        assert_eq!(std::fs::metadata(&registry).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(registry.join("blocks.json"), "{").unwrap();
        assert!(claim_in(&registry, &a).unwrap_err().hint.is_some());
    }

    #[test]
    fn a_block_is_used_again_only_when_none_is_left_and_its_state_is_gone() {
        let state = |number: u32| PathBuf::from(format!("/states/{number}"));
        let mut blocks: Blocks = (1..Users::BLOCKS - 1).map(|number| (number, state(number))).collect();
        let gone = |path: &Path| path == state(7);
        assert_eq!(choose(&blocks, Path::new("/new"), gone), Some(Users::BLOCKS - 1));
        blocks.insert(Users::BLOCKS - 1, state(0));
        assert_eq!(choose(&blocks, Path::new("/new"), gone), Some(7));
        assert_eq!(choose(&blocks, Path::new("/new"), |_| false), None);
        assert_eq!(choose(&blocks, &state(3), gone), Some(3));
    }
}
