//! Objects of secrets, named by what they hold without telling it.

use std::collections::BTreeMap;

use bowline_core::id::{AppKey, Digest, SecretName};
use bowline_core::secret::Secret;
use hmac::{Hmac, KeyInit, Mac};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret as SecretObject;
use sha2::Sha256;

use crate::kubernetes::{SECRET_KEY, meta};
use crate::names;
use crate::object::{Object, Wave};

/// The key of the hash in the names of secrets. It is a secret as they are: whoever has it and may list names can try values.
#[derive(Debug, Clone)]
pub struct Salt(pub Secret);

/// An immutable `APP-NAME-HASH`: another value is another object, so that a pod that is started again has the value of its release.
pub fn secret_object(key: &AppKey, name: &SecretName, value: &Secret, salt: &Salt) -> Object {
    let mut mac = Hmac::<Sha256>::new_from_slice(salt.0.expose()).expect("HMAC takes a key of any length");
    // Two secrets of one value are not to be seen to have it.
    for part in [key.env.as_str().as_bytes(), key.app.as_str().as_bytes(), name.as_str().as_bytes(), value.expose()] {
        mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        mac.update(part);
    }
    let hash = names::short(Digest(mac.finalize().into_bytes().into()).0);
    let object = SecretObject {
        metadata: meta(key, names::hashed(&[key.app.as_str(), name.as_str()], &hash), name.as_str()),
        data: Some(BTreeMap::from([(SECRET_KEY.to_owned(), ByteString(value.expose().to_vec()))])),
        immutable: Some(true),
        type_: Some("Opaque".to_owned()),
        ..SecretObject::default()
    };
    Object::new(Wave::Config, &object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_core::id::{AppName, EnvName};

    fn name_of(app: &str, secret: &str, value: &str, salt: &str) -> String {
        let key = AppKey { env: EnvName::new("production").unwrap(), app: AppName::new(app).unwrap() };
        let salt = Salt(Secret::new(salt));
        secret_object(&key, &SecretName::new(secret).unwrap(), &Secret::new(value), &salt).id.name
    }

    #[test]
    fn a_name_changes_with_all_that_it_is_made_of() {
        let first = name_of("shop", "token", "hunter2", "salt");
        assert!(first.starts_with("shop-token-") && first.len() == "shop-token-".len() + 10, "{first}");
        assert_eq!(first, name_of("shop", "token", "hunter2", "salt"), "the same again");
        let others = [
            name_of("shop", "token", "hunter3", "salt"),
            name_of("shop", "token", "hunter2", "other"),
            name_of("shop", "tokens", "hunter2", "salt"),
            name_of("shops", "token", "hunter2", "salt"),
        ];
        let hash = |name: &str| name[name.len() - 10..].to_owned();
        assert!(others.iter().all(|other| hash(other) != hash(&first)), "{first}: {others:?}");
    }

    #[test]
    fn the_value_is_in_the_data_alone() {
        let key = AppKey { env: EnvName::new("production").unwrap(), app: AppName::new("shop").unwrap() };
        let salt = Salt(Secret::new("salt"));
        let object = secret_object(&key, &SecretName::new("token").unwrap(), &Secret::new("hunter2"), &salt);
        assert_eq!(object.body["data"]["value"], "aHVudGVyMg==");
        assert_eq!(object.body["immutable"], true);
        assert!(!object.body.to_string().contains("hunter2"));
    }
}
