//! Disks that are larger than a release asks for: somebody has let them grow, and none becomes smaller.

use serde_json::Value;

use crate::lack::amount;
use crate::object::Object;

/// Where it is said how large one is to be.
const SIZES: [(&str, &str, &str); 2] = [
    ("", "PersistentVolumeClaim", "/spec/resources/requests/storage"),
    ("postgresql.cnpg.io", "Cluster", "/spec/storage/size"),
];

/// What is applied instead, so that the disk keeps its size.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kept {
    pub(crate) object: Object,
    /// By the release.
    pub(crate) asked: String,
    pub(crate) has: String,
}

/// `None`: it is no disk, or no larger than it is to be.
pub(crate) fn kept(object: &Object, now: &Value) -> Option<Kept> {
    let id = object.id();
    let (_, _, size) =
        SIZES.iter().find(|(group, kind, _)| (*group, *kind) == (id.group.as_str(), id.kind.as_str()))?;
    let (asked, has) = (object.body.pointer(size)?.as_str()?, now.pointer(size)?.as_str()?);
    if amount(has)? <= amount(asked)? {
        return None;
    }
    let (asked, has) = (asked.to_owned(), has.to_owned());
    let mut object = object.clone();
    *object.body.pointer_mut(size)? = has.clone().into();
    Some(Kept { object, asked, has })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::Stage;

    fn claim(size: &str) -> Value {
        let spec = json!({ "resources": { "requests": { "storage": size } } });
        json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "shop-db" }, "spec": spec })
    }

    fn operated(size: &str) -> Value {
        let spec = json!({ "storage": { "size": size } });
        json!({ "apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": { "name": "shop-db" }, "spec": spec })
    }

    #[test]
    fn a_disk_that_has_grown_keeps_its_size() {
        let check = |asked: Value, now: Value, expected: Option<Value>| {
            let found = kept(&Object { stage: Stage::Data, body: asked }, &now);
            assert_eq!(found.map(|kept| kept.object.body), expected);
        };
        check(claim("8Gi"), claim("20Gi"), Some(claim("20Gi")));
        check(claim("8Gi"), claim("8192Mi"), None);
        check(claim("20Gi"), claim("8Gi"), None);
        check(claim("8Gi"), claim("1Pi"), Some(claim("1Pi")));
        check(operated("8Gi"), operated("9Gi"), Some(operated("9Gi")));
        let web = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "shop-web" } });
        check(web.clone(), web, None);
    }
}
