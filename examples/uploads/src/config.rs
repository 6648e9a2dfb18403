//! What can be set, all of it by environment variables.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use url::Url;

/// Those asked for, and those that fit beside them.
const EXTENSIONS: &str = "txt,pdf,png,jpg,jpeg,gif,webp,csv,md,json,docx,xlsx,zip";

const PORT: u16 = 5000;

const MAX_BYTES: u64 = 100 << 20;

/// How the service is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `PORT`, default 5000; 0: any free one.
    pub port: u16,
    /// `UPLOADS_BUCKET`; else `UPLOADS_DIR`, the volume that Bowline gives (`BOWLINE_VOLUME_FILES`), or `data`.
    pub place: Place,
    /// `UPLOADS_EXTENSIONS`: lower case, without the dot, separated by commas.
    pub extensions: BTreeSet<String>,
    /// `UPLOADS_MAX_BYTES`: the largest file. Default 100 MiB.
    pub max_bytes: u64,
}

/// Where files are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Folder(PathBuf),
    Bucket(BucketUrl),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Bucket(url) => url.fmt(f),
        }
    }
}

/// A bucket of S3 and the keys to it, which are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct BucketUrl {
    pub endpoint: String,
    pub name: String,
    pub region: String,
    pub key: String,
    pub secret: String,
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.endpoint, self.name)
    }
}

impl fmt::Debug for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BucketUrl({self})")
    }
}

impl BucketUrl {
    /// `https://KEY:SECRET@HOST[:PORT]/BUCKET[?region=REGION]`
    fn parse(text: &str) -> Option<Self> {
        let mut url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        let decoded = |text: &str| Some(percent_encoding::percent_decode_str(text).decode_utf8().ok()?.into_owned());
        let (key, secret) = (decoded(url.username())?, decoded(url.password()?)?);
        let name = decoded(url.path().trim_matches('/')).filter(|name| !name.is_empty() && !name.contains('/'))?;
        let region = url.query_pairs().find(|(name, value)| name == "region" && !value.is_empty());
        let region = region.map_or_else(|| "us-east-1".to_owned(), |(_, value)| value.into_owned());
        url.set_username("").and_then(|()| url.set_password(None)).ok()?;
        let endpoint = url.origin().ascii_serialization();
        Some(Self { endpoint, name, region, key, secret }).filter(|url| !url.key.is_empty())
    }
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
        let place = match get("UPLOADS_BUCKET") {
            // The value holds keys: it is not shown.
            Some(text) => Place::Bucket(
                BucketUrl::parse(&text).ok_or("UPLOADS_BUCKET: it is not https://KEY:SECRET@HOST/BUCKET")?,
            ),
            None => {
                let folder = get("UPLOADS_DIR").or_else(|| get("BOWLINE_VOLUME_FILES"));
                Place::Folder(folder.unwrap_or_else(|| "data".to_owned()).into())
            }
        };
        let extensions = extensions(&get("UPLOADS_EXTENSIONS").unwrap_or_else(|| EXTENSIONS.to_owned()))?;
        Ok(Self { port, place, extensions, max_bytes })
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
        assert_eq!((config.port, config.place, config.max_bytes), (5000, Place::Folder("data".into()), 104_857_600));
        assert!(["txt", "pdf", "png", "jpg", "jpeg", "gif"].iter().all(|e| config.extensions.contains(*e)));
        assert!(!config.extensions.contains("html"));
    }

    #[test]
    fn the_volume_is_used_unless_a_folder_is_named() {
        let check =
            |set: &[(&str, &str)], expected: &str| assert_eq!(read(set).unwrap().place, Place::Folder(expected.into()));
        check(&[("BOWLINE_VOLUME_FILES", "/volume")], "/volume");
        check(&[("BOWLINE_VOLUME_FILES", "/volume"), ("UPLOADS_DIR", "/mine")], "/mine");
    }

    #[test]
    fn a_bucket_is_used_where_one_is_named_and_its_keys_are_never_shown() {
        let check = |url: &str, expected: Option<[&str; 5]>| match (read(&[("UPLOADS_BUCKET", url)]), expected) {
            (Ok(Config { place: Place::Bucket(got), .. }), Some(expected)) => {
                let BucketUrl { endpoint, name, region, key, secret } = &got;
                assert_eq!([endpoint, name, region, key, secret], expected);
                assert!(!format!("{got} {got:?}").contains(secret.as_str()));
            }
            (Err(error), None) => assert!(error.contains("UPLOADS_BUCKET") && !error.contains("s3cr3t"), "{error}"),
            (got, expected) => panic!("{got:?}, not {expected:?}"),
        };
        let aws = "https://AKIA:a%2Fb%2Bc@s3.eu-central-1.amazonaws.com/files?region=eu-central-1";
        check(aws, Some(["https://s3.eu-central-1.amazonaws.com", "files", "eu-central-1", "AKIA", "a/b+c"]));
        check(
            "http://k:s3cr3t@127.0.0.1:9000/files/",
            Some(["http://127.0.0.1:9000", "files", "us-east-1", "k", "s3cr3t"]),
        );
        for url in ["https://s3cr3t@h/b", "https://k:s3cr3t@h", "https://k:s3cr3t@h/b/c", "ftp://k:s3cr3t@h/b", "files"]
        {
            check(url, None);
        }
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
