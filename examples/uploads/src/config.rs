//! What can be set, all of it by environment variables.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// Those asked for, and those that fit beside them.
const EXTENSIONS: &str = "txt,pdf,png,jpg,jpeg,gif,webp,csv,md,json,docx,xlsx,zip";

const PORT: u16 = 5000;

const MAX_BYTES: u64 = 100 << 20;

/// How the service is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `PORT`, default 5000; 0: any free one.
    pub port: u16,
    /// `UPLOADS_DIR`, else the volume that Bowline gives (`BOWLINE_VOLUME_FILES`), else `data`.
    pub folder: PathBuf,
    /// `UPLOADS_EXTENSIONS`: lower case, without the dot, separated by commas.
    pub extensions: BTreeSet<String>,
    /// `UPLOADS_MAX_BYTES`: the largest file. Default 100 MiB.
    pub max_bytes: u64,
}

impl Config {
    /// Reads the variables through `get`. An empty one is as good as none.
    ///
    /// # Errors
    /// A variable that cannot be understood, named.
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let port = match get("PORT") {
            Some(text) => text.parse().map_err(|_| format!("PORT: {text:?} is no port"))?,
            None => PORT,
        };
        let max_bytes = match get("UPLOADS_MAX_BYTES") {
            Some(text) => text.parse().map_err(|_| format!("UPLOADS_MAX_BYTES: {text:?} is no number of bytes"))?,
            None => MAX_BYTES,
        };
        let folder = get("UPLOADS_DIR").or_else(|| get("BOWLINE_VOLUME_FILES")).unwrap_or_else(|| "data".to_owned());
        let extensions = extensions(&get("UPLOADS_EXTENSIONS").unwrap_or_else(|| EXTENSIONS.to_owned()))?;
        Ok(Self { port, folder: folder.into(), extensions, max_bytes })
    }
}

fn extensions(text: &str) -> Result<BTreeSet<String>, String> {
    let parse = |part: &str| {
        let extension = part.trim().trim_start_matches('.').to_ascii_lowercase();
        match !extension.is_empty() && extension.bytes().all(|b| b.is_ascii_alphanumeric()) {
            true => Ok(extension),
            false => Err(format!("UPLOADS_EXTENSIONS: {part:?} is no extension")),
        }
    };
    text.split(',').map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Config, String> {
        let set: Vec<(String, String)> = set.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Config::from_environment(|name| set.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()))
    }

    #[test]
    fn nothing_has_to_be_set() {
        let config = read(&[("PORT", "")]).unwrap();
        assert_eq!((config.port, config.folder, config.max_bytes), (5000, "data".into(), 104_857_600));
        assert!(["txt", "pdf", "png", "jpg", "jpeg", "gif"].iter().all(|e| config.extensions.contains(*e)));
        assert!(!config.extensions.contains("html"));
    }

    #[test]
    fn the_volume_is_used_unless_a_folder_is_named() {
        let check =
            |set: &[(&str, &str)], expected: &str| assert_eq!(read(set).unwrap().folder, PathBuf::from(expected));
        check(&[("BOWLINE_VOLUME_FILES", "/volume")], "/volume");
        check(&[("BOWLINE_VOLUME_FILES", "/volume"), ("UPLOADS_DIR", "/mine")], "/mine");
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        let check = |name: &str, value: &str| {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains(value), "{error}");
        };
        check("PORT", "http");
        check("PORT", "70000");
        check("UPLOADS_MAX_BYTES", "20MB");
        check("UPLOADS_EXTENSIONS", "t/t");
    }

    #[test]
    fn extensions_are_plain_and_in_lower_case() {
        let config = read(&[("UPLOADS_EXTENSIONS", "TXT, .Log")]).unwrap();
        assert_eq!(config.extensions, BTreeSet::from(["txt".to_owned(), "log".to_owned()]));
    }
}
