//! Secrets of an app in a cluster: each value is an object of its own, and an index says which one counts.
//!
//! Who deploys may read the index and make what is generated; who sets a value may read the salt that names it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use bowline_core::app::SecretSource;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, SecretName};
use bowline_core::secret::Secret as Value;
use bowline_kube::history::Release;
use bowline_kube::secrets::{Entry, Index, reads};
use bowline_kube::{Cluster, Id, Owner, Refusal, now_ms};
use bowline_render::{Need, Needed, Salt, role, secret_object};
use serde::Serialize;
use serde_json::{Value as Object, json};

use super::objects::Ends;
use super::{Place, Telling, owner};
use crate::args::Secret;
use crate::cmd::logs::time;
use crate::cmd::secret::{check_names, value};
use crate::ui::Ui;

/// Bytes of a salt, and of what is generated.
const BYTES: usize = 32;
const BY_BOWLINE: &str = "bowline";
const SALT: &str = "salt";

#[derive(Debug, Serialize)]
struct Listed<'a> {
    name: &'a str,
    version: u32,
    created: u64,
    by: &'a str,
    object: &'a str,
}

pub(super) async fn run(args: Secret, place: Place<'_>, ui: &Ui) -> Result<ExitCode, Fault> {
    check_names(&args)?;
    match args {
        Secret::Set { app, name, file, env } => {
            let value = Value::new(value(&app, &name, file.as_deref(), ui)?);
            let name =
                SecretName::new(&name).map_err(|error| Fault::new(FaultKind::Invalid, "no name").source(&error))?;
            set(&place.join().await?, &owner(&env, &app)?, &name, &value, ui).await?;
        }
        Secret::List { app, env } => {
            let (cluster, (_, owner)) = (place.join().await?, owner(&env, &app)?);
            let (index, _) = cluster.secrets(&owner).await.map_err(|refusal| unread(&owner, &refusal))?;
            let row = |(name, entry): (&String, &Entry)| {
                vec![name.clone(), entry.version.to_string(), time(entry.at), entry.by.clone()]
            };
            let all = index.iter().map(|(name, entry)| {
                let Entry { object, version, at, by } = entry;
                Listed { name, version: *version, created: *at, by, object }
            });
            ui.object(&json!({ "app": app, "env": env, "secrets": all.collect::<Vec<_>>() }));
            match index.is_empty() {
                true => ui.say(format!("  {owner} has no secrets in {}", cluster.target())),
                false => ui.table(&["NAME", "VERSION", "SET", "BY"], &index.iter().map(row).collect::<Vec<_>>()),
            }
        }
        Secret::Rm { app, name, env } => {
            let (cluster, (key, owner)) = (place.join().await?, owner(&env, &app)?);
            let (mut index, was) = cluster.secrets(&owner).await.map_err(|refusal| unread(&owner, &refusal))?;
            let Some(gone) = index.remove(&name) else {
                return Err(Fault::new(FaultKind::Invalid, format!("{owner} has no secret {name}")));
            };
            cluster.keep_secrets(&owner, &index, was.as_ref()).await.map_err(|refusal| unwritten(&key, &refusal))?;
            let cleaned = clean(&cluster, &owner, &index, Was::Removed(&gone.object)).await;
            cleaned.map_err(|refusal| refusal.fault("the object of the secret stays"))?;
            ui.object(&json!({ "removed": name }));
            ui.say(format!("  {name} of {owner} is removed; releases that read it keep it until they are given up"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn set(
    cluster: &Cluster,
    (key, owner): &(AppKey, Owner),
    name: &SecretName,
    value: &Value,
    ui: &Ui,
) -> Result<(), Fault> {
    let (mut index, was) = cluster.secrets(owner).await.map_err(|refusal| unread(owner, &refusal))?;
    let salt = salt(cluster, (key, owner)).await?;
    let by = cluster.user().await.map_err(|refusal| refusal.fault("the cluster does not say who you are"))?;
    let replaced = index.get(name.as_str()).map(|entry| entry.object.clone());
    let entry = made(cluster, key, name, (value, &salt), &mut index, &by).await?;
    let version = entry.version;
    cluster.keep_secrets(owner, &index, was.as_ref()).await.map_err(|refusal| unwritten(key, &refusal))?;
    let cleaned = clean(cluster, owner, &index, Was::Replaced(replaced.as_deref())).await;
    cleaned.map_err(|refusal| refusal.fault("values that nobody reads any more stay"))?;
    ui.object(&json!({ "name": name.as_str(), "version": version }));
    ui.say(format!("  {name} of {owner} is set, version {version}; the next release uses it"));
    Ok(())
}

fn unread(owner: &Owner, refusal: &Refusal) -> Fault {
    refusal.fault(format!("the secrets of {owner} cannot be listed"))
}

fn unwritten(key: &AppKey, refusal: &Refusal) -> Fault {
    let fault = refusal.fault(format!("no secret of {}/{} can be set", key.env, key.app));
    match (refusal.is_forbidden(), refusal.is_taken()) {
        (true, _) => fault.hint(format!("the role {} may: whoever keeps the namespace binds it", role(key, "admin"))),
        (_, true) => fault.hint("somebody else set one just now: run this again"),
        (false, false) => fault,
    }
}

/// The object of this value, in the index.
async fn made<'i>(
    cluster: &Cluster,
    key: &AppKey,
    name: &SecretName,
    (value, salt): (&Value, &Salt),
    index: &'i mut Index,
    by: &str,
) -> Result<&'i Entry, Fault> {
    let object = secret_object(key, name, value, salt);
    match cluster.create(&cluster.core("secrets"), &object.body).await {
        Ok(_) => {}
        // Its name says what it holds.
        Err(refusal) if refusal.is_taken() => {}
        Err(refusal) => return Err(unwritten(key, &refusal)),
    }
    enter(index, name, Entry { object: object.id.name, version: 1, at: now_ms(), by: by.to_owned() });
    Ok(&index[name.as_str()])
}

/// The same value again is the same version, set when it was set first.
fn enter(index: &mut Index, name: &SecretName, entry: Entry) {
    let version = match index.get(name.as_str()) {
        Some(known) if known.object == entry.object => return,
        Some(known) => known.version + 1,
        None => entry.version,
    };
    index.insert(name.to_string(), Entry { version, ..entry });
}

/// That of the app, made when it is first asked for.
async fn salt(cluster: &Cluster, (key, owner): (&AppKey, &Owner)) -> Result<Salt, Fault> {
    use base64::Engine;
    let name = salt_name(owner);
    let path = cluster.core(&format!("secrets/{name}"));
    let refused = |refusal: Refusal| unwritten(key, &refusal);
    let found = match cluster.find(&path).await.map_err(refused)? {
        Some(found) => found,
        None => {
            let text = base64::prelude::BASE64_STANDARD.encode(random());
            let labels: BTreeMap<&str, String> = owner.labels().into();
            let object = json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "labels": labels },
                "immutable": true, "type": "Opaque", "data": { SALT: text },
            });
            match cluster.create(&cluster.core("secrets"), &object).await {
                Err(refusal) if refusal.is_taken() => cluster.get(&path).await,
                made => made,
            }
            .map_err(refused)?
        }
    };
    salt_of(&found, owner).ok_or_else(|| no_salt(cluster, owner))
}

fn salt_name(owner: &Owner) -> String {
    format!("bowline.{}.{}.salt", owner.env, owner.app)
}

/// With one that is short, or that somebody may change, names of objects would tell what they hold.
fn salt_of(secret: &Object, owner: &Owner) -> Option<Salt> {
    use base64::Engine;
    let bytes = base64::prelude::BASE64_STANDARD.decode(secret["data"][SALT].as_str()?).ok()?;
    let is_one = bytes.len() == BYTES && secret["immutable"] == true && owner.has(secret);
    is_one.then(|| Salt(Value::new(bytes)))
}

fn no_salt(cluster: &Cluster, owner: &Owner) -> Fault {
    let name = salt_name(owner);
    Fault::new(FaultKind::Refused, format!("the secret {name} is not the salt of {owner}: no value is named by it"))
        .caused_by(format!("Bowline makes it with {BYTES} random bytes, immutable, and labelled as the app's"))
        .hint(format!(
            "find out who has made it; without it another one is made, and values that are set again get another name: {}",
            cluster.kubectl(&format!("delete secret {name}"))
        ))
}

fn random() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

/// Safe in a URL and in a line.
fn generated() -> Value {
    Value::new(random().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// The object that the index has named until just now.
#[derive(Debug, Clone, Copy)]
enum Was<'a> {
    /// Somebody wants it gone.
    Removed(&'a str),
    /// Whoever has read the index before brings out a release that reads it. `None`: nobody had set one.
    Replaced(Option<&'a str>),
}

/// Whether an object goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goes {
    Now,
    WhenOld,
    Never,
}

fn goes(name: &str, index: &Index, releases: &[Release], was: Was<'_>) -> Goes {
    let is_named = index.values().any(|entry| entry.object == name)
        || releases.iter().any(|release| reads(&release.objects, name));
    match was {
        _ if is_named => Goes::Never,
        Was::Replaced(Some(replaced)) if replaced == name => Goes::Never,
        Was::Removed(removed) if removed == name => Goes::Now,
        Was::Removed(_) | Was::Replaced(_) => Goes::WhenOld,
    }
}

/// Values that neither the index nor any kept release names go.
async fn clean(cluster: &Cluster, owner: &Owner, index: &Index, was: Was<'_>) -> Result<(), Refusal> {
    let releases = cluster.releases(owner).await?;
    let query = format!("&labelSelector={}", owner.selector());
    for secret in cluster.list(&cluster.core("secrets"), &query).await? {
        let name = secret["metadata"]["name"].as_str().unwrap_or_default();
        let goes = match goes(name, index, &releases, was) {
            Goes::Now => true,
            Goes::WhenOld => is_old(&secret, now_ms()),
            Goes::Never => false,
        };
        if goes && is_value(&secret) {
            let path = cluster.core(&format!("secrets/{name}"));
            // Whatever has become of it meanwhile is another object.
            let options = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": { "uid": secret["metadata"]["uid"] } });
            match cluster.ask(http::Method::DELETE, &path, "application/json", Some(&options)).await {
                Err(refusal) if !refusal.is_absent() && !refusal.is_taken() => return Err(refusal),
                Ok(_) | Err(_) => {}
            }
        }
    }
    Ok(())
}

/// Passwords of databases are not immutable, and the salt is no value.
fn is_value(secret: &Object) -> bool {
    secret["immutable"] == true && secret["data"]["value"].is_string()
}

/// Whoever makes one names it afterwards: in the index, or in the release that it is made for.
fn is_old(secret: &Object, now: u64) -> bool {
    const NAMED: u64 = 3_600_000;
    let made = secret["metadata"]["creationTimestamp"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    let made = made.and_then(|made| u64::try_from(made.as_millisecond()).ok());
    made.is_some_and(|made| now.saturating_sub(made) > NAMED)
}

/// Whether secrets are made for these.
pub(super) fn makes_some(needs: &[Need]) -> bool {
    needs.iter().any(|need| match &need.what {
        Needed::Secret { source, .. } => match source {
            Some(SecretSource::Store { generate }) => *generate,
            Some(SecretSource::File(_)) => true,
            Some(SecretSource::Aws(_) | SecretSource::Vault(_)) | None => false,
        },
        Needed::Password { .. } => true,
        Needed::Bearer { .. } | Needed::Users { .. } | Needed::Login { .. } | Needed::Certificate { .. } => false,
    })
}

/// Whether all is there that nobody makes here. It is told before anything is built for it.
pub(super) async fn fit(
    cluster: &Cluster,
    owner: &Owner,
    (key, dir): (&AppKey, &Path),
    needs: &[Need],
    telling: &mut Telling<'_>,
) -> Result<(), Fault> {
    let (index, _) = cluster.secrets(owner).await.map_err(|refusal| unread(owner, &refusal))?;
    let (mut unset, mut missing) = (Vec::new(), Vec::new());
    for need in needs {
        match &need.what {
            Needed::Secret { name, source } => {
                let asked = Asked { cluster, owner, key, dir, name, source: source.as_ref(), object: &need.object };
                if !asked.is_there(&index, telling).await? {
                    unset.push(name.clone());
                }
            }
            Needed::Password { .. } => {}
            Needed::Bearer { .. } | Needed::Users { .. } | Needed::Login { .. } | Needed::Certificate { .. } => {
                let said = need.said(cluster.kubectl("").trim_end());
                match is_there(cluster, &need.object).await? {
                    There::Yes => {}
                    There::Unseen => telling.note(format!("you may not look whether it is there: {said}")),
                    There::No => missing.push(said),
                }
            }
        }
    }
    there((owner, cluster), &unset, missing)
}

/// What the objects of a release's secrets are called.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) objects: BTreeMap<SecretName, String>,
    /// Those that are made here, once, where nobody has set one.
    made: BTreeSet<SecretName>,
}

impl Held {
    /// Of these.
    pub(super) fn of(&self, names: &BTreeMap<SecretName, String>) -> BTreeMap<SecretName, String> {
        let those = self.objects.iter().filter(|(name, _)| names.contains_key(*name));
        those.map(|(name, object)| (name.clone(), object.clone())).collect()
    }

    /// What a plan is held to: that of one that is made is nobody's choice, and known to nobody before it is.
    pub(super) fn said(&self) -> BTreeMap<SecretName, String> {
        let said = self.objects.iter().filter(|(name, _)| !self.made.contains(*name));
        said.map(|(name, object)| (name.clone(), object.clone())).collect()
    }
}

/// What the objects of the release's secrets are called; what nobody has set and may be made is made, for a deploy.
pub(super) async fn held(
    cluster: &Cluster,
    owner: &Owner,
    (key, dir): (&AppKey, &Path),
    (needs, ends): (&[Need], Ends),
    telling: &mut Telling<'_>,
) -> Result<Held, Fault> {
    let (mut index, was) = cluster.secrets(owner).await.map_err(|refusal| unread(owner, &refusal))?;
    let before = index.clone();
    let mut held = Held::default();
    for need in needs {
        match &need.what {
            Needed::Secret { name, source } => {
                let asked = Asked { cluster, owner, key, dir, name, source: source.as_ref(), object: &need.object };
                let found = match ends {
                    Ends::Deployed => Some(asked.held(&mut index, telling).await?),
                    Ends::Foreseen => asked.foreseen(&index, telling).await?,
                };
                held.objects.extend(found.map(|object| (name.clone(), object)));
                if asked.is_made(&index) {
                    held.made.insert(name.clone());
                }
            }
            Needed::Password { of, .. } if ends == Ends::Foreseen => match is_there(cluster, &need.object).await? {
                There::Yes | There::Unseen => {}
                There::No => telling.note(format!("the password of {of} is to be made")),
            },
            Needed::Password { of: _, user } => password(cluster, owner, need, user.as_deref()).await?,
            Needed::Bearer { .. } | Needed::Users { .. } | Needed::Login { .. } | Needed::Certificate { .. } => {}
        }
    }
    if index != before {
        cluster.keep_secrets(owner, &index, was.as_ref()).await.map_err(|refusal| unwritten(key, &refusal))?;
    }
    Ok(held)
}

/// A secret of the file that the release reads.
struct Asked<'a> {
    cluster: &'a Cluster,
    owner: &'a Owner,
    key: &'a AppKey,
    dir: &'a Path,
    name: &'a SecretName,
    source: Option<&'a SecretSource>,
    /// What it is called where somebody else makes it.
    object: &'a str,
}

impl Asked<'_> {
    /// Whether somebody has set it, as far as it is to be set. Somebody else may have made it under the name by which manifests ask for it.
    async fn is_there(&self, index: &Index, telling: &mut Telling<'_>) -> Result<bool, Fault> {
        let Self { cluster, owner, name, object, .. } = *self;
        // One whose file is missing is told now, whatever was made of it before.
        if self.of_its_file()?.is_some() || index.contains_key(name.as_str()) || self.is_generated() {
            return Ok(true);
        }
        match is_there(cluster, object).await? {
            There::Yes => {}
            There::Unseen => {
                let set = set_by((owner, cluster), name);
                telling.note(format!(
                    "{name} is not set there, unless somebody has made the secret {object}, which you may not look at: {set}"
                ));
            }
            There::No => return Ok(false),
        }
        Ok(true)
    }

    /// Which object holds it.
    async fn held(&self, index: &mut Index, telling: &mut Telling<'_>) -> Result<String, Fault> {
        let Self { cluster, owner, key, name, .. } = *self;
        if let Some(value) = self.of_its_file()? {
            let salt = salt(cluster, (key, owner)).await?;
            made(cluster, key, name, (&value, &salt), index, BY_BOWLINE).await?;
        } else if !index.contains_key(name.as_str()) && self.is_generated() {
            // Who may make it may not read the salt; nobody sets the same value again.
            let salt = Salt(Value::new(random().to_vec()));
            made(cluster, key, name, (&generated(), &salt), index, BY_BOWLINE).await?;
            telling.note(format!("secret {name} is made"));
        }
        Ok(self.known(index))
    }

    /// The same, and nothing is made. `None`: it is called by what it will hold.
    async fn foreseen(&self, index: &Index, telling: &mut Telling<'_>) -> Result<Option<String>, Fault> {
        let Self { cluster, owner, key, name, .. } = *self;
        let known = index.get(name.as_str()).map(|entry| entry.object.clone());
        if let Some(value) = self.of_its_file()? {
            let path = cluster.core(&format!("secrets/{}", salt_name(owner)));
            let found = cluster.find(&path).await.map_err(|refusal| unwritten(key, &refusal))?;
            let salt = found.map(|found| salt_of(&found, owner).ok_or_else(|| no_salt(cluster, owner))).transpose()?;
            let object = salt.map(|salt| secret_object(key, name, &value, &salt).id.name);
            if object.is_none() || object != known {
                telling.note(format!("secret {name} is to be what is in its file"));
            }
            return Ok(object);
        }
        if known.is_none() && self.is_generated() {
            telling.note(format!("secret {name} is to be made"));
            return Ok(None);
        }
        Ok(Some(self.known(index)))
    }

    /// By the index, else as somebody else has made it.
    fn known(&self, index: &Index) -> String {
        index.get(self.name.as_str()).map_or_else(|| self.object.to_owned(), |entry| entry.object.clone())
    }

    /// Whether it is, or is to be, the one that was made here, which nobody has set since.
    fn is_made(&self, index: &Index) -> bool {
        let is_first = |entry: &Entry| entry.by == BY_BOWLINE && entry.version == 1;
        self.is_generated() && index.get(self.name.as_str()).is_none_or(is_first)
    }

    fn is_generated(&self) -> bool {
        match self.source {
            Some(SecretSource::Store { generate }) => *generate,
            Some(SecretSource::File(_) | SecretSource::Aws(_) | SecretSource::Vault(_)) | None => false,
        }
    }

    fn of_its_file(&self) -> Result<Option<Value>, Fault> {
        let path = match self.source {
            Some(SecretSource::File(path)) => self.dir.join(path),
            Some(SecretSource::Store { .. } | SecretSource::Aws(_) | SecretSource::Vault(_)) | None => return Ok(None),
        };
        let app = self.key.app.to_string();
        Ok(Some(Value::new(value(&app, self.name.as_str(), Some(path.as_path()), &Ui::new(true))?)))
    }
}

/// All that must be there and is not, at once.
fn there((owner, cluster): (&Owner, &Cluster), unset: &[SecretName], missing: Vec<String>) -> Result<(), Fault> {
    if unset.is_empty() && missing.is_empty() {
        return Ok(());
    }
    let fault = Fault::new(FaultKind::Invalid, format!("secrets of {owner} are not there; nothing was applied"));
    let fault = unset.iter().fold(fault, |fault, name| fault.caused_by(format!("{name} is not set")));
    let fault = missing.into_iter().fold(fault, Fault::caused_by);
    Err(match unset.first() {
        Some(name) => fault.hint(format!("set it: {}", set_by((owner, cluster), name))),
        None => fault.hint("make them as it is said above, in the namespace of the app"),
    })
}

fn set_by((owner, cluster): (&Owner, &Cluster), name: &SecretName) -> String {
    format!("bowline secret set {} {name} --env {} --to {} < FILE", owner.app, owner.env, cluster.target())
}

/// Whether a secret is there.
enum There {
    Yes,
    No,
    /// Who may not look goes on: its pods say if it is not.
    Unseen,
}

async fn is_there(cluster: &Cluster, object: &str) -> Result<There, Fault> {
    match cluster.find(&cluster.core(&format!("secrets/{object}"))).await {
        Ok(Some(_)) => Ok(There::Yes),
        Ok(None) => Ok(There::No),
        Err(refusal) if refusal.is_forbidden() => Ok(There::Unseen),
        Err(refusal) => Err(refusal.fault(format!("the secret {object} cannot be looked for"))),
    }
}

/// That of a database, which never changes: one that is there stays.
async fn password(cluster: &Cluster, owner: &Owner, need: &Need, user: Option<&str>) -> Result<(), Fault> {
    let id =
        Id { group: String::new(), version: "v1".to_owned(), kind: "Secret".to_owned(), name: need.object.clone() };
    let kind = if user.is_some() { "kubernetes.io/basic-auth" } else { "Opaque" };
    let value = generated();
    let text = String::from_utf8_lossy(value.expose()).into_owned();
    let mut data = BTreeMap::from([(need.key, text)]);
    data.extend(user.map(|user| ("username", user.to_owned())));
    let labels: BTreeMap<&str, String> = owner.labels().into();
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": id.name, "labels": labels }, "type": kind, "stringData": data,
    });
    match cluster.create(&cluster.core("secrets"), &object).await {
        Ok(_) => Ok(()),
        Err(refusal) if refusal.is_taken() => Ok(()),
        Err(refusal) => Err(refusal.fault(format!("the password {id} cannot be made"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_was_just_made_is_not_cleaned_away() {
        let made = |at: &str| json!({ "metadata": { "creationTimestamp": at } });
        let now = 1_767_225_600_000; // 2026-01-01T00:00:00Z
        let check = |secret: Object, expected: bool| assert_eq!(is_old(&secret, now), expected, "{secret}");
        check(made("2025-12-31T22:59:59Z"), true);
        check(made("2025-12-31T23:00:01Z"), false);
        // The clock of the cluster goes before.
        check(made("2026-01-01T00:00:05Z"), false);
        check(json!({}), false);
    }

    #[test]
    fn a_value_that_is_replaced_stays_for_whoever_deploys_just_now() {
        let entry = Entry { object: "shop-token-2".to_owned(), version: 2, at: 9, by: "ada".to_owned() };
        let index = Index::from([("token".to_owned(), entry)]);
        let check = |name: &str, was: Was<'_>, expected: Goes| assert_eq!(goes(name, &index, &[], was), expected);
        check("shop-token-1", Was::Replaced(Some("shop-token-1")), Goes::Never);
        check("shop-token-1", Was::Replaced(Some("shop-token-2")), Goes::WhenOld);
        check("shop-token-1", Was::Replaced(None), Goes::WhenOld);
        check("shop-token-1", Was::Removed("shop-token-1"), Goes::Now);
        check("shop-token-0", Was::Removed("shop-token-1"), Goes::WhenOld);
        // Two names may have one value.
        check("shop-token-2", Was::Removed("shop-token-2"), Goes::Never);
    }

    #[test]
    fn the_same_value_changes_nothing_of_the_index() {
        let name = SecretName::new("token").unwrap();
        let entry = |object: &str, at: u64| Entry { object: object.to_owned(), version: 1, at, by: "ada".to_owned() };
        let mut index = Index::new();
        enter(&mut index, &name, entry("shop-token-1", 5));
        let before = index.clone();
        enter(&mut index, &name, entry("shop-token-1", 9));
        assert_eq!(index, before);
        enter(&mut index, &name, entry("shop-token-2", 9));
        assert_eq!((index["token"].version, index["token"].at), (2, 9));
    }

    #[test]
    fn what_is_made_here_is_no_part_of_what_a_plan_is_held_to() {
        let name = |text: &str| SecretName::new(text).unwrap();
        let objects =
            [("set", "shop-set-1"), ("made", "shop-made-1")].map(|(name_, object)| (name(name_), object.to_owned()));
        let held = Held { objects: objects.into(), made: [name("made"), name("to-be-made")].into() };
        assert_eq!(held.said(), BTreeMap::from([(name("set"), "shop-set-1".to_owned())]));
    }

    #[test]
    fn a_salt_that_is_none_names_nothing() {
        let (_, owner) = owner("production", "shop").unwrap();
        let labels: BTreeMap<&str, String> = owner.labels().into();
        let salt =
            |bytes: &str| json!({ "metadata": { "labels": labels }, "immutable": true, "data": { SALT: bytes } });
        let whole = salt("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
        assert!(salt_of(&whole, &owner).is_some());
        let mut mutable = whole.clone();
        mutable["immutable"] = false.into();
        let mut of_nobody = whole;
        of_nobody["metadata"]["labels"] = json!({});
        for wrong in [salt("AAEC"), salt("?"), json!({}), mutable, of_nobody] {
            assert!(salt_of(&wrong, &owner).is_none(), "{wrong}");
        }
    }

    #[test]
    fn what_is_made_beside_a_release_is_known_before() {
        let need = |what: Needed| Need { object: "shop-token".to_owned(), key: "value", what };
        let secret =
            |source: Option<SecretSource>| need(Needed::Secret { name: SecretName::new("token").unwrap(), source });
        assert!(makes_some(&[secret(None), secret(Some(SecretSource::Store { generate: true }))]));
        assert!(!makes_some(&[secret(None), secret(Some(SecretSource::Store { generate: false }))]));
    }
}
