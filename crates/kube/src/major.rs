//! Which server a database has: no older one reads what a newer one has written.

use std::fmt;

use serde_json::Value;

use crate::history::Release;
use crate::judge::There;
use crate::look::component;
use crate::object::{Id, Object};
use crate::prune::{is_data, is_volume};

/// The server of a database, and how it is called.
struct Server {
    /// Where its image is.
    at: &'static str,
    /// Between which versions what is written changes.
    by: By,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// PostgreSQL.
    Major,
    /// MariaDB and Redis.
    Minor,
}

/// A database that keeps the server that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) id: Id,
    /// The image of that.
    has: String,
}

impl Kept {
    pub(crate) fn hint(&self) -> String {
        match of_image(&self.has) {
            Some(_) => format!("say the version of {} in the file, as {} has it", self.has, self.id),
            None => format!("say it again: --image with {}, as {} has it", self.has, self.id),
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, has } = self;
        write!(f, "{id} keeps its server, {has}: its data may be of that version, which an older server does not read")
    }
}

/// Whether it is kept by an operator, with its data.
pub(crate) fn is_operated(id: &Id) -> bool {
    is_data(id) && !is_volume(id)
}

fn server(object: &Object) -> Option<Server> {
    let id = object.id();
    if is_operated(&id) {
        return Some(Server { at: "/spec/imageName", by: By::Major });
    }
    let component = component(&object.body);
    let (kind, _) =
        component.split_once('-').filter(|_| (id.group.as_str(), id.kind.as_str()) == ("apps", "StatefulSet"))?;
    let by = match kind {
        "postgres" => By::Major,
        "mariadb" | "redis" => By::Minor,
        _ => return None,
    };
    // A cache in memory begins anew with each server.
    let volumes = object.body.pointer("/spec/template/spec/volumes").and_then(Value::as_array)?;
    let is_kept = volumes.iter().any(|volume| volume["persistentVolumeClaim"].is_object());
    is_kept.then_some(Server { at: "/spec/template/spec/containers/0/image", by })
}

/// These, each as [`kept`] has it, and which of them keep their servers.
pub(crate) fn all_kept(objects: Vec<Object>, there: &There, releases: &[Release]) -> (Vec<Object>, Vec<Kept>) {
    let mut all_kept = Vec::new();
    let all = objects.into_iter().map(|object| {
        let id = object.id();
        let now = there.iter().find(|(known, _)| *known == id);
        let Some((object, has)) = now.and_then(|(_, now)| kept(&object, now, releases)) else { return object };
        all_kept.push(Kept { id, has });
        object
    });
    (all.collect(), all_kept)
}

/// A database that is to be as it was, with the server that it has `now` where the one that it had may be older than its data, and the image
/// of that. `None`: it may have the one that it had.
fn kept(object: &Object, now: &Value, releases: &[Release]) -> Option<(Object, String)> {
    let Server { at, by } = server(object)?;
    let (was, has) = (object.body.pointer(at)?.as_str()?, now.pointer(at)?.as_str()?);
    let is_read = match is_operated(&object.id()) {
        true => match (of_image(was), of_image(has)) {
            (Some((was, _)), Some((has, _))) => has <= was && of_data(now).is_none_or(|data| data <= was),
            (Some(_), None) | (None, Some(_) | None) => false,
        },
        // One that has never come up has written nothing that counts: it may be because it does not read what is there.
        false => match of_image(was).zip(of_image(has)) {
            Some((was, version)) => {
                let has_written = || has_come_up(now) || has_served(&object.id(), at, has, releases);
                !is_older(was, version, by) || !has_written()
            }
            // Which one is newer is not known: one that served long ago may not read what has been written since.
            None => !has_come_up(now),
        },
    };
    if was == has || is_read {
        return None;
    }
    let (mut object, has) = (object.clone(), has.to_owned());
    *object.body.pointer_mut(at)? = has.as_str().into();
    Some((object, has))
}

/// Whether a database would certainly be given a server that is older than its data: the image that it has.
pub(crate) fn is_too_old(object: &Object, now: &Value, releases: &[Release]) -> Option<String> {
    let Server { at, by } = server(object)?;
    let (wanted, has) = (object.body.pointer(at)?.as_str()?, now.pointer(at)?.as_str()?);
    let (of_wanted, of_has) = (of_image(wanted)?, of_image(has)?);
    let is_older = match is_operated(&object.id()) {
        true => of_wanted.0 < of_data(now).unwrap_or(of_has.0),
        false => is_older(of_wanted, of_has, by) && (has_come_up(now) || has_served(&object.id(), at, has, releases)),
    };
    is_older.then(|| has.to_owned())
}

/// As CloudNativePG says it. While data are made those of another version, it has not said so yet.
fn of_data(now: &Value) -> Option<u64> {
    now.pointer("/status/pgDataImageInfo/majorVersion").and_then(Value::as_u64)
}

/// Whether the server that a StatefulSet has now has ever been ready: its controller makes the new revision the current one then. Of the first
/// one it is that from the beginning.
fn has_come_up(now: &Value) -> bool {
    let (metadata, status) = (&now["metadata"], &now["status"]);
    let is_current =
        status["observedGeneration"] == metadata["generation"] && status["currentRevision"] == status["updateRevision"];
    let is_first = metadata["generation"].as_u64().is_none_or(|generation| generation <= 1);
    is_current && (!is_first || status["readyReplicas"].as_u64().is_some_and(|ready| ready > 0))
}

/// Whether a release has served with this image of it.
fn has_served(id: &Id, at: &str, image: &str, releases: &[Release]) -> bool {
    let served = releases.iter().filter(|release| release.served.is_some()).flat_map(|release| &release.objects);
    let mut own = served.filter(|object| object.id().is_same(id));
    own.any(|object| object.body.pointer(at).and_then(Value::as_str) == Some(image))
}

/// These, as they are to be said of a release whose databases have kept their servers.
pub(crate) fn with_servers(mut objects: Vec<Object>, kept: &[Kept]) -> Vec<Object> {
    for object in &mut objects {
        let id = object.id();
        let (Some(kept), Some(Server { at, .. })) = (kept.iter().find(|kept| kept.id == id), server(object)) else {
            continue;
        };
        if let Some(image) = object.body.pointer_mut(at) {
            *image = kept.has.as_str().into();
        }
    }
    objects
}

type Version = (u64, Option<u64>);

fn is_older(one: Version, other: Version, by: By) -> bool {
    let is_minor = || by == By::Minor && one.0 == other.0 && one.1.zip(other.1).is_some_and(|(one, other)| one < other);
    one.0 < other.0 || is_minor()
}

/// `17` and `5` of `ghcr.io/cloudnative-pg/postgresql:17.5-bookworm@sha256:…`.
fn of_image(image: &str) -> Option<Version> {
    let name = image.split('@').next()?;
    let (_, tag) = name.rsplit('/').next()?.split_once(':')?;
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        Some((text[..end].parse().ok()?, end))
    };
    let (major, end) = number(tag)?;
    let minor = tag[end..].strip_prefix('.').and_then(number).map(|(minor, _)| minor);
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::State;
    use crate::object::Stage;

    fn release(state: State, objects: Vec<Object>) -> Release {
        Release { state, served: Some(1), ..Release::begun(1, 0, objects) }
    }

    #[test]
    fn a_database_goes_back_to_no_server_that_may_be_older_than_its_data() {
        let check = |was: &str, has: &str, of_data: Option<u64>, stays: bool| {
            let body = json!({
                "apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": { "name": "shop-postgres-db" },
                "spec": { "instances": 1, "imageName": was },
            });
            let object = Object { stage: Stage::Data, body };
            let now =
                json!({ "spec": { "imageName": has }, "status": { "pgDataImageInfo": { "majorVersion": of_data } } });
            let kept = kept(&object, &now, &[]);
            assert_eq!(kept.is_some(), stays, "{was} {has} {of_data:?}");
            assert!(kept.is_none_or(|(kept, image)| {
                kept.body["spec"] == json!({ "instances": 1, "imageName": has }) && image == has
            }));
        };
        let image = |tag: &str| format!("registry.example.com:5000/postgresql:{tag}");
        check(&image("17.4"), &image("17.5-bookworm"), Some(17), false);
        check(&image("17"), &image("16"), Some(16), false);
        check(&image("16"), &image("16@sha256:ab"), Some(16), false);
        // One that is being made newer, and one that is.
        check(&image("16"), &image("17"), Some(16), true);
        check(&image("16"), &image("17"), Some(17), true);
        check(&image("16"), &image("16.1"), Some(17), true);
        // Nobody knows.
        check("registry.example.com/own@sha256:ab", &image("17"), Some(17), true);
        check(&image("17"), "registry.example.com/own@sha256:ab", None, true);
        check("registry.example.com/own", "registry.example.com/own", Some(17), false);
    }

    fn set(component: &str, image: &str) -> Object {
        let labels = json!({ "app.kubernetes.io/component": component });
        let container = json!({ "name": "server", "image": image });
        let volume = json!({ "name": "data", "persistentVolumeClaim": { "claimName": "shop-db" } });
        let body = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "shop-db", "labels": labels },
            "spec": { "template": { "spec": { "containers": [container], "volumes": [volume] } } },
        });
        Object { stage: Stage::Data, body }
    }

    fn running(image: &str, is_up: bool) -> Value {
        let mut now = set("", image).body;
        now["metadata"]["generation"] = 2.into();
        let current = if is_up { "two" } else { "one" };
        now["status"] =
            json!({ "observedGeneration": 2, "currentRevision": current, "updateRevision": "two", "readyReplicas": 1 });
        now
    }

    #[test]
    fn a_server_of_ours_goes_back_unless_the_newer_one_has_come_up_on_its_data() {
        let check = |component: &str, was: &str, has: &str, [up, not_up]: [bool; 2], too_old: bool| {
            for (is_up, stays) in [(true, up), (false, not_up)] {
                let kept = kept(&set(component, was), &running(has, is_up), &[]);
                assert_eq!(kept.is_some(), stays, "{component} {was} {has} {is_up}");
                assert!(kept.is_none_or(|(kept, _)| kept == set(component, has)));
                let found = is_too_old(&set(component, was), &running(has, is_up), &[]);
                assert_eq!(found, (is_up && too_old).then(|| has.to_owned()), "{component} {was} {has} {is_up}");
            }
        };
        check("mariadb-db", "mariadb:10.11", "mariadb:11.4", [true, false], true);
        check("mariadb-db", "mariadb:10.6", "mariadb:10.11", [true, false], true);
        check("mariadb-db", "mariadb:11.4", "mariadb:10.11", [false, false], false);
        check("mariadb-db", "mariadb:11", "mariadb:11.4", [false, false], false);
        check("redis-cache", "redis:7.2", "redis:7.4", [true, false], true);
        check("postgres-db", "postgres:16", "postgres:17", [true, false], true);
        check("postgres-db", "postgres:17.4", "postgres:17.5", [false, false], false);
        // Nobody knows.
        check("redis-cache", "example.com/own@sha256:ab", "redis:7", [true, false], false);
        check("web", "web:1", "web:2", [false, false], false);
    }

    #[test]
    fn a_server_that_is_down_just_now_has_written_what_it_has_written() {
        let (older, mut now) = (set("mariadb-db", "mariadb:10.11"), running("mariadb:11.4", true));
        now["status"]["readyReplicas"] = 0.into();
        let check = |now: &Value, releases: &[Release], expected: bool| {
            assert_eq!(kept(&older, now, releases).is_some(), expected, "{now}");
            assert_eq!(is_too_old(&older, now, releases).is_some(), expected, "{now}");
        };
        check(&now, &[], true);
        // Of the first one nobody knows whether it was ever up, unless a release has served with it.
        now["metadata"]["generation"] = 1.into();
        now["status"]["observedGeneration"] = 1.into();
        check(&now, &[], false);
        check(&now, &[release(State::Served, vec![set("mariadb-db", "mariadb:11.4")])], true);
    }

    #[test]
    fn a_server_that_served_long_ago_and_does_not_come_up_is_not_kept_for_that() {
        let served = release(State::Served, vec![set("mariadb-db", "mariadb@sha256:x")]);
        let (was, now) = (set("mariadb-db", "mariadb@sha256:y"), |is_up: bool| running("mariadb@sha256:x", is_up));
        assert!(kept(&was, &now(false), std::slice::from_ref(&served)).is_none());
        assert!(kept(&was, &now(true), &[served]).is_some(), "nobody knows which one is newer");
    }

    #[test]
    fn a_cache_without_a_disk_is_given_any_server() {
        let mut cache = set("redis-cache", "redis:7");
        cache.body["spec"]["template"]["spec"]["volumes"][0] = json!({ "name": "data", "emptyDir": {} });
        let now = running("redis:8", true);
        assert!(kept(&cache, &now, &[]).is_none() && is_too_old(&cache, &now, &[]).is_none());
    }

    #[test]
    fn what_a_release_is_said_to_be_has_the_servers_that_were_kept() {
        let (older, other) = (set("mariadb-db", "mariadb:10.11"), set("web", "web:1"));
        let (_, servers) = all_kept(vec![older.clone()], &[(older.id(), running("mariadb:11.4", true))], &[]);
        assert!(servers[0].hint().contains("mariadb:11.4 in the file"));
        assert_eq!(with_servers(vec![older], &servers), [set("mariadb-db", "mariadb:11.4")]);
        assert_eq!(with_servers(vec![other.clone()], &[]), [other]);
    }

    #[test]
    fn an_operators_database_is_given_no_server_that_is_older_than_its_data() {
        let check = |wanted: &str, has: &str, of_data: Option<u64>, too_old: bool| {
            let body = |image: &str| json!({ "apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": { "name": "db" }, "spec": { "imageName": image } });
            let mut now = body(has);
            now["status"]["pgDataImageInfo"]["majorVersion"] = of_data.into();
            let object = Object { stage: Stage::Data, body: body(wanted) };
            assert_eq!(is_too_old(&object, &now, &[]), too_old.then(|| has.to_owned()), "{wanted} {has} {of_data:?}");
        };
        check("pg:16", "pg:17", Some(17), true);
        check("pg:16", "pg:17", None, true);
        // The newer one has not come to its data.
        check("pg:16", "pg:17", Some(16), false);
        check("pg:17", "pg:16", Some(16), false);
        check("own@sha256:ab", "pg:17", Some(17), false);
    }

    #[test]
    fn what_is_no_database_is_as_it_was() {
        let body = json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "x" }, "spec": { "imageName": "a:1" } });
        let object = Object { stage: Stage::Data, body };
        assert!(kept(&object, &json!({ "spec": { "imageName": "a:2" } }), &[]).is_none());
    }
}
