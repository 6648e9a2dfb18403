//! Attributes, and what they are said of.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;

/// Who sends.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) host: String,
    pub(super) version: String,
    /// Tells this daemon from others of the machine: the folder of its state.
    pub(super) state: String,
}

impl Origin {
    /// Bowline itself.
    pub(super) fn bowline(&self) -> Resource {
        resource([
            text("service.name", "bowline"),
            text("service.version", &self.version),
            text("service.instance.id", format!("{}:{}", self.host, self.state)),
            text("host.name", &self.host),
        ])
    }

    pub(super) fn scope(&self, name: &str) -> InstrumentationScope {
        InstrumentationScope { name: name.to_owned(), version: self.version.clone(), ..InstrumentationScope::default() }
    }
}

pub(super) fn resource(attributes: impl IntoIterator<Item = KeyValue>) -> Resource {
    Resource { attributes: attributes.into_iter().collect(), ..Resource::default() }
}

pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

pub(super) fn integer(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

pub(super) fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// Of so many bytes, from hexadecimal digits; not all zero.
pub(super) fn id<const N: usize>(digits: &str) -> Option<Vec<u8>> {
    if digits.len() != 2 * N || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok();
    let bytes: Vec<u8> = (0..N).filter_map(byte).collect();
    bytes.iter().any(|byte| *byte != 0).then_some(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::otlp) fn origin() -> Origin {
        Origin { host: "box".to_owned(), version: "1.2.3".to_owned(), state: "/var/lib/bowline".to_owned() }
    }

    /// `key=value`, each.
    pub(in crate::otlp) fn shown(attributes: &[KeyValue]) -> Vec<String> {
        let value = |one: &KeyValue| match one.value.clone().unwrap().value.unwrap() {
            Value::StringValue(text) => text,
            Value::IntValue(number) => number.to_string(),
            Value::DoubleValue(number) => number.to_string(),
            Value::BoolValue(is) => is.to_string(),
            nested @ (Value::ArrayValue(_)
            | Value::KvlistValue(_)
            | Value::BytesValue(_)
            | Value::StringValueStrindex(_)) => format!("{nested:?}"),
        };
        attributes.iter().map(|one| format!("{}={}", one.key, value(one))).collect()
    }

    #[test]
    fn an_id_has_its_length_and_is_not_nothing() {
        assert_eq!(id::<2>("0aFf"), Some(vec![10, 255]));
        for wrong in ["", "0a", "0aff0", "0000", "0ag1", "é1", "+a+b"] {
            assert_eq!(id::<2>(wrong), None, "{wrong}");
        }
    }
}
