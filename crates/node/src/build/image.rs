//! What an artifact becomes in an image: the same folders, by names that say nothing of this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bowline_core::release::Artifact;

use super::SYSTEM_PATH;
use super::artifact::PARTS;

/// An artifact as an image has it: what lies at `folder/app` is `/app` there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The artifact's own, which is taken away from before every path.
    pub folder: PathBuf,
    /// Of that folder, without a slash before them: `app`, `venv`.
    pub parts: Vec<&'static str>,
    /// Where the command starts.
    pub workdir: String,
    /// Where it is looked for, in this order.
    pub path: Vec<String>,
    /// Everything else that the build adds to the environment.
    pub env: BTreeMap<String, String>,
    /// What runs it, by its name: a script may start it without saying so in its first line.
    pub interpreter: Option<&'static str>,
}

/// Of what runs; `None`: its folder is none that a build made. Looks whether there is an environment: blocks on the disk.
pub fn placed(artifact: &Artifact) -> Option<Placed> {
    let folder = artifact.root.parent()?;
    let inside = |text: &str| text.replace(folder.to_str().unwrap_or_default(), "");
    let (path, others): (Vec<_>, Vec<_>) = artifact.env.iter().partition(|(name, _)| *name == "PATH");
    // Of this machine's own folders none is in an image by this name but those that every system has.
    let own = path.iter().flat_map(|(_, value)| std::env::split_paths(value)).filter(|part| part.starts_with(folder));
    let own = own.filter_map(|part| Some(inside(part.to_str()?)));
    let path = own.chain(SYSTEM_PATH.split(':').map(str::to_owned)).collect();
    let is_node = artifact.runtime.as_deref().is_some_and(|runtime| runtime.starts_with("node "));
    Some(Placed {
        parts: PARTS.into_iter().filter(|part| folder.join(part).is_dir()).collect(),
        workdir: inside(artifact.root.to_str()?),
        path,
        env: others.into_iter().map(|(name, value)| (name.clone(), inside(value))).collect(),
        interpreter: is_node.then_some("node"),
        folder: Path::to_owned(folder),
    })
}

#[cfg(test)]
mod tests {
    use bowline_core::app::Command;
    use bowline_core::id::Digest;

    use super::*;

    #[test]
    fn nothing_of_the_machine_is_in_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let at = |below: &str| dir.path().join(below).display().to_string();
        std::fs::create_dir_all(dir.path().join("app")).unwrap();
        std::fs::create_dir_all(dir.path().join("venv")).unwrap();
        let artifact = Artifact {
            digest: Digest([7; 32]),
            root: dir.path().join("app"),
            run: Some(Command("serve".into())),
            fallback: None,
            env: [
                ("PATH".to_owned(), format!("{}:{}:/root/.nvm/bin", at("app/node_modules/.bin"), at("venv/bin"))),
                ("VIRTUAL_ENV".to_owned(), at("venv")),
                ("NODE_ENV".to_owned(), "production".to_owned()),
            ]
            .into(),
            runtime: Some("node 18.20.4".into()),
            detected: Vec::new(),
            cached: false,
        };
        let placed = placed(&artifact).unwrap();
        assert_eq!((placed.workdir.as_str(), placed.parts.as_slice()), ("/app", ["app", "venv"].as_slice()));
        assert_eq!(placed.path[..2], ["/app/node_modules/.bin", "/venv/bin"]);
        assert_eq!(placed.path[2..].join(":"), SYSTEM_PATH);
        let env = [("NODE_ENV".to_owned(), "production".to_owned()), ("VIRTUAL_ENV".to_owned(), "/venv".to_owned())];
        assert_eq!((placed.env, placed.interpreter), (env.into(), Some("node")));
    }
}
