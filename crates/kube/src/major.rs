//! Which PostgreSQL a database of CloudNativePG has: no older one reads what a newer one has written.

use serde_json::Value;

use crate::judge::There;
use crate::object::{Id, Object};
use crate::prune::{is_data, is_volume};

/// Whether it is kept by an operator, with its data.
pub(crate) fn is_operated(id: &Id) -> bool {
    is_data(id) && !is_volume(id)
}

/// These, each as [`kept`] has it, and which of them keep their servers.
pub(crate) fn all_kept(objects: Vec<Object>, there: &There) -> (Vec<Object>, Vec<Id>) {
    let mut keep = Vec::new();
    let all = objects.into_iter().map(|object| {
        let id = object.id();
        let now = there.iter().find(|(known, _)| *known == id);
        let Some(kept) = now.and_then(|(_, now)| kept(&object, now)) else { return object };
        keep.push(id);
        kept
    });
    (all.collect(), keep)
}

/// A database that is to be as it was, with the server that it has `now` where the one that it had may be older than its data. `None`: it
/// may have the one that it had.
fn kept(object: &Object, now: &Value) -> Option<Object> {
    const IMAGE: &str = "/spec/imageName";
    if !is_operated(&object.id()) {
        return None;
    }
    let (was, has) = (object.body.pointer(IMAGE)?.as_str()?, now.pointer(IMAGE)?.as_str()?);
    // While they are made those of another version, the operator has not said so yet.
    let of_data = now.pointer("/status/pgDataImageInfo/majorVersion").and_then(Value::as_u64);
    let is_read = match (of_image(was), of_image(has)) {
        (Some(was), Some(has)) => has <= was && of_data.is_none_or(|data| data <= was),
        (Some(_), None) | (None, Some(_) | None) => false,
    };
    if was == has || is_read {
        return None;
    }
    let mut object = object.clone();
    *object.body.pointer_mut(IMAGE)? = has.into();
    Some(object)
}

/// `17` of `ghcr.io/cloudnative-pg/postgresql:17.5-bookworm@sha256:…`.
fn of_image(image: &str) -> Option<u64> {
    let name = image.split('@').next()?;
    let (_, tag) = name.rsplit('/').next()?.split_once(':')?;
    let end = tag.find(|c: char| !c.is_ascii_digit()).unwrap_or(tag.len());
    tag[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::Stage;

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
            let kept = kept(&object, &now);
            assert_eq!(kept.is_some(), stays, "{was} {has} {of_data:?}");
            assert!(kept.is_none_or(|kept| kept.body["spec"] == json!({ "instances": 1, "imageName": has })));
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

    #[test]
    fn what_is_no_database_is_as_it_was() {
        let body = json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "x" }, "spec": { "imageName": "a:1" } });
        let object = Object { stage: Stage::Data, body };
        assert!(kept(&object, &json!({ "spec": { "imageName": "a:2" } })).is_none());
    }
}
