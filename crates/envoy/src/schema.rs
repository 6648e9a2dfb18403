//! Envoy's API as a descriptor set: what is written as JSON is held to it and encoded by it. `scripts/envoy-schema` makes the file.

use std::io::Read;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;
use sha2::{Digest, Sha256};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    let packed = include_bytes!("schema.bin.gz");
    GzDecoder::new(&packed[..]).read_to_end(&mut bytes).expect("the file is built in and whole");
    DescriptorPool::decode(&bytes[..]).expect("the file is a descriptor set")
});

/// A resource that is not what Envoy's API says.
#[derive(Debug, thiserror::Error)]
#[error("it is no {kind} of Envoy's API")]
pub(crate) struct SchemaError {
    kind: String,
    #[source]
    source: serde_json::Error,
}

/// The wire form of a message, `envoy.config.cluster.v3.Cluster`, written in the canonical JSON of its kind.
pub(crate) fn encode(kind: &str, message: &Value) -> Result<Vec<u8>, SchemaError> {
    let descriptor = POOL.get_message_by_name(kind).expect("the kinds that are sent are in the descriptor set");
    let message = DynamicMessage::deserialize(descriptor, message)
        .map_err(|source| SchemaError { kind: kind.to_owned(), source })?;
    Ok(message.encode_to_vec())
}

/// The same for the same message: what is written has its fields in order, which the wire form of a map has not.
pub(crate) fn version(message: &Value) -> String {
    let digest = Sha256::digest(message.to_string());
    digest[..12].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";

    #[test]
    fn a_message_is_encoded_and_an_unknown_field_is_refused() {
        let encoded = encode(CLUSTER, &json!({ "name": "a", "connect_timeout": "1.5s" })).unwrap();
        // `name` is field 1, `connect_timeout` field 4: seconds, then nanoseconds.
        assert_eq!(encoded, [0x0a, 1, b'a', 0x22, 8, 0x08, 1, 0x10, 0x80, 0xca, 0xb5, 0xee, 0x01]);
        let error = encode(CLUSTER, &json!({ "nmae": "a" })).unwrap_err();
        assert_eq!(error.to_string(), "it is no envoy.config.cluster.v3.Cluster of Envoy's API");
    }

    #[test]
    fn what_lies_in_any_is_held_to_the_api_too() {
        let with = |inner: Value| json!({ "name": "a", "transport_socket": { "name": "b", "typed_config": inner } });
        let kind = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
        assert!(encode(CLUSTER, &with(json!({ "@type": kind, "suppress_envoy_headers": true }))).is_ok());
        assert!(encode(CLUSTER, &with(json!({ "@type": kind, "suppress": true }))).is_err());
    }
}
