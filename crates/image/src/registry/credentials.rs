//! What this machine's user has logged in to, as Docker keeps it: `config.json`, and the helpers that it names.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::release::DEFAULT_REGISTRY;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use zeroize::Zeroizing;

use super::auth::{Credentials, Secret};

/// How Docker's own registry is called in its files.
const DOCKER: &str = "https://index.docker.io/v1/";
/// How long a helper may take: it may ask a keychain, but not a person.
const HELPER: Duration = Duration::from_secs(30);
/// Of what a helper says, in bytes.
const MAX_SAID: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("{path} cannot be read")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path} cannot be written")]
    Write {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{0} is not what Docker keeps there")]
    Document(String),
    #[error("the helper {helper} cannot be run")]
    Start {
        helper: String,
        #[source]
        source: io::Error,
    },
    #[error("the helper {helper} fails: {said}")]
    Helper { helper: String, said: String },
    #[error("the helper {helper} does not answer within {} s", HELPER.as_secs())]
    Late { helper: String },
}

impl From<CredentialsError> for Fault {
    fn from(error: CredentialsError) -> Self {
        Self::new(FaultKind::Failed, "who you are at the registry cannot be told")
            .source(&error)
            .hint("mend what the cause names, or log in again with `bowline image login HOST`")
    }
}

/// The file, as it was read. What is not known here stays in it.
#[derive(Debug)]
pub struct DockerConfig {
    path: PathBuf,
    document: Map<String, Value>,
}

impl DockerConfig {
    /// Where it is: in `$DOCKER_CONFIG`, else in `.docker` of the home.
    pub fn place(docker_config: Option<&Path>, home: &Path) -> PathBuf {
        docker_config.map_or_else(|| home.join(".docker"), Path::to_owned).join("config.json")
    }

    /// A file that is not there is an empty one. Blocks on the disk.
    ///
    /// # Errors
    /// It cannot be read, or is no object of JSON.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let shown = || path.display().to_string();
        let bytes = match std::fs::read(path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Zeroizing::new(b"{}".to_vec()),
            Err(source) => return Err(CredentialsError::Read { path: shown(), source }),
        };
        // What is wrong with it is not said: it might be a password.
        let document = serde_json::from_slice(&bytes).map_err(|_| CredentialsError::Document(shown()))?;
        Ok(Self { path: path.to_owned(), document })
    }

    /// Who the user is at a registry; `None`: nobody has logged in there.
    ///
    /// # Errors
    /// A helper is named for it, and does not say.
    pub async fn find(&self, registry: &str) -> Result<Option<Credentials>, CredentialsError> {
        let names = names(registry);
        let helpers = self.object("credHelpers");
        let helper = names.iter().find_map(|name| helpers?.get(name)?.as_str());
        if let Some(helper) =
            helper.or_else(|| self.document.get("credsStore")?.as_str()).filter(|name| !name.is_empty())
        {
            for name in &names {
                if let Some(found) = ask(helper, name).await? {
                    return Ok(Some(found));
                }
            }
            return Ok(None);
        }
        let Some(auths) = self.object("auths") else { return Ok(None) };
        let entry = names.iter().find_map(|name| auths.get(name)).or_else(|| {
            // Docker takes `https://HOST/v1/` for HOST, too.
            auths.iter().find(|(key, _)| host(key) == registry).map(|(_, entry)| entry)
        });
        entry.map_or(Ok(None), |entry| self.entry(entry))
    }

    /// Keeps a login: with the helper where one is named, else in the file, which is replaced whole and is the user's alone.
    ///
    /// # Errors
    /// The helper fails, or the file cannot be written.
    pub async fn keep(&mut self, registry: &str, user: &str, password: &Secret) -> Result<(), CredentialsError> {
        let name = names(registry).swap_remove(0);
        let helper = self.object("credHelpers").and_then(|all| all.get(&name)?.as_str());
        if let Some(helper) =
            helper.or_else(|| self.document.get("credsStore")?.as_str()).filter(|name| !name.is_empty())
        {
            let words = json!({ "ServerURL": name, "Username": user, "Secret": password.expose() });
            return run(helper, "store", &Zeroizing::new(words.to_string())).await.map(drop);
        }
        let pair = Zeroizing::new(format!("{user}:{}", password.expose()));
        let auths = self.document.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        let shown = self.path.display().to_string();
        let auths = auths.as_object_mut().ok_or_else(|| CredentialsError::Document(shown.clone()))?;
        auths.insert(name, json!({ "auth": STANDARD.encode(pair.as_bytes()) }));
        self.write().map_err(|source| CredentialsError::Write { path: shown, source })
    }

    fn write(&self) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        // What is made here is the user's alone, as Docker makes it.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // Whoever keeps it elsewhere and has a link here keeps both.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let folder = path.parent().unwrap_or(folder);
        let mut file = tempfile::Builder::new().prefix(".config-").tempfile_in(folder)?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
        let text = Zeroizing::new(serde_json::to_string_pretty(&self.document)?);
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        Ok(())
    }

    fn entry(&self, entry: &Value) -> Result<Option<Credentials>, CredentialsError> {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credentials::Identity(Secret::new(token))));
        }
        if let (Some(user), Some(password)) = (text("username"), text("password")) {
            return Ok(Some(Credentials::Password { user: user.to_owned(), password: Secret::new(password) }));
        }
        let Some(auth) = text("auth") else { return Ok(None) };
        let wrong = || CredentialsError::Document(self.path.display().to_string());
        let bytes = Zeroizing::new(STANDARD.decode(auth).map_err(|_| wrong())?);
        let pair = std::str::from_utf8(&bytes).map_err(|_| wrong())?;
        let (user, password) = pair.split_once(':').ok_or_else(wrong)?;
        // Docker has written zeros behind it.
        let password = Secret::new(password.trim_end_matches('\0'));
        Ok(Some(Credentials::Password { user: user.to_owned(), password }))
    }

    fn object(&self, key: &str) -> Option<&Map<String, Value>> {
        self.document.get(key)?.as_object()
    }
}

/// How a registry may be called in the file: the first is how it is written.
fn names(registry: &str) -> Vec<String> {
    match registry {
        DEFAULT_REGISTRY => vec![DOCKER.to_owned(), DEFAULT_REGISTRY.to_owned()],
        other => vec![other.to_owned(), format!("https://{other}")],
    }
}

fn host(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    key.split('/').next().unwrap_or(key)
}

async fn ask(helper: &str, name: &str) -> Result<Option<Credentials>, CredentialsError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Said {
        username: String,
        secret: String,
    }
    let Some(bytes) = run(helper, "get", name).await? else { return Ok(None) };
    let said: Said = serde_json::from_slice(&bytes).map_err(|_| CredentialsError::Helper {
        helper: helper.to_owned(),
        said: "what it says cannot be understood".to_owned(),
    })?;
    let secret = Secret::new(said.secret);
    Ok(Some(match said.username.as_str() {
        "<token>" => Credentials::Identity(secret),
        _ => Credentials::Password { user: said.username, password: secret },
    }))
}

/// Runs `docker-credential-HELPER VERB`; `None`: it knows nothing of this registry, which it says in these words.
async fn run(helper: &str, verb: &str, input: &str) -> Result<Option<Zeroizing<Vec<u8>>>, CredentialsError> {
    const UNKNOWN: &str = "credentials not found";
    let name = format!("docker-credential-{helper}");
    // A name, not a path: the file must not say what is run from where.
    if helper.contains('/') {
        return Err(CredentialsError::Helper { helper: name, said: "its name is a path".to_owned() });
    }
    let mut command = Command::new(&name);
    command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let started = command.spawn();
    let mut child = started.map_err(|source| CredentialsError::Start { helper: name.clone(), source })?;
    let talk = async {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        // One that does not read it says why by its end.
        if let Some(mut stdin) = stdin {
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let (mut out, mut words) = (Zeroizing::new(Vec::new()), Vec::new());
        let read = async { stdout.expect("it is piped").take(MAX_SAID).read_to_end(&mut out).await };
        let hear = async { stderr.expect("it is piped").take(MAX_SAID).read_to_end(&mut words).await };
        let (read, heard) = tokio::join!(read, hear);
        read?;
        heard?;
        Ok::<_, io::Error>((child.wait().await?, out, words))
    };
    let talked =
        tokio::time::timeout(HELPER, talk).await.map_err(|_| CredentialsError::Late { helper: name.clone() })?;
    let (status, out, words) = talked.map_err(|source| CredentialsError::Start { helper: name.clone(), source })?;
    if status.success() {
        return Ok(Some(out));
    }
    // They say why on their output.
    let said = if words.is_empty() { String::from_utf8_lossy(&out) } else { String::from_utf8_lossy(&words) };
    let said = said.trim();
    if said.contains(UNKNOWN) {
        return Ok(None);
    }
    let said = said.lines().next().map_or_else(|| status.to_string(), |line| line.chars().take(300).collect());
    Err(CredentialsError::Helper { helper: name, said })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { user: user.to_owned(), password: Secret::new(password) })
    }

    async fn found(text: &str, registry: &str) -> Result<Option<Credentials>, CredentialsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, text).unwrap();
        DockerConfig::read(&path)?.find(registry).await
    }

    #[tokio::test]
    async fn a_login_is_found_by_every_name_that_docker_gives_it() {
        let pair = STANDARD.encode("ann:se:same\0\0");
        let with = |key: &str| format!(r#"{{"auths":{{"{key}":{{"auth":"{pair}"}}}}}}"#);
        for key in ["shop.example:5000", "https://shop.example:5000", "http://shop.example:5000/v1/"] {
            assert_eq!(found(&with(key), "shop.example:5000").await.unwrap(), password("ann", "se:same"), "{key}");
        }
        for key in [DOCKER, "docker.io"] {
            assert_eq!(found(&with(key), "docker.io").await.unwrap(), password("ann", "se:same"), "{key}");
        }
        assert_eq!(found(&with("shop.example"), "shop.example:5000").await.unwrap(), None);
        assert_eq!(found("{}", "shop.example").await.unwrap(), None);
        let plain = r#"{"auths":{"a.example":{"username":"u","password":"p"},"b.example":{"identitytoken":"t"},"c.example":{}}}"#;
        assert_eq!(found(plain, "a.example").await.unwrap(), password("u", "p"));
        assert_eq!(found(plain, "b.example").await.unwrap(), Some(Credentials::Identity(Secret::new("t"))));
        assert_eq!(found(plain, "c.example").await.unwrap(), None);
        for wrong in
            ["[]", "{", r#"{"auths":{"a.example":{"auth":"%"}}}"#, r#"{"auths":{"a.example":{"auth":"YQ=="}}}"#]
        {
            assert!(matches!(found(wrong, "a.example").await, Err(CredentialsError::Document(_))), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_login_is_kept_beside_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = DockerConfig::place(None, dir.path());
        let mut config = DockerConfig::read(&path).unwrap();
        config.keep("shop.example", "ann", &Secret::new("sesame")).await.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let mut document: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        document["proxies"] = json!({"default": {}});
        fs::write(&path, document.to_string()).unwrap();
        let mut config = DockerConfig::read(&path).unwrap();
        config.keep("docker.io", "bob", &Secret::new("x")).await.unwrap();
        let config = DockerConfig::read(&path).unwrap();
        assert!(config.document.contains_key("proxies"));
        assert_eq!(config.find("shop.example").await.unwrap(), password("ann", "sesame"));
        assert_eq!(config.find("docker.io").await.unwrap(), password("bob", "x"));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_helper_is_a_program_of_the_path_alone() {
        let there = r#"{"credsStore":"../../tmp/x"}"#;
        assert!(matches!(found(there, "a.example").await, Err(CredentialsError::Helper { .. })));
        let none = r#"{"credHelpers":{"a.example":"no-such-helper-anywhere"},"auths":{"b.example":{"username":"u","password":"p"}}}"#;
        assert!(matches!(found(none, "a.example").await, Err(CredentialsError::Start { .. })));
        assert_eq!(found(none, "b.example").await.unwrap(), password("u", "p"));
    }
}
