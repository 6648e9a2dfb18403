//! The schema that editors use, held to the parser.

#![expect(clippy::unwrap_used, reason = "the helpers of tests, too, may fail them")]

mod draft;
mod generated;

use bowline_core::id::EnvName;
use bowline_spec::{Defaults, canonical, parse, schema, server};
use proptest::prelude::*;
use serde_json::Value;

/// TOML as the JSON that an editor validates.
fn json(value: &toml::de::DeValue<'_>) -> Value {
    use toml::de::DeValue;
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => number.as_str().parse::<i64>().unwrap().into(),
        DeValue::Float(number) => number.as_str().parse::<f64>().unwrap().into(),
        DeValue::Boolean(value) => (*value).into(),
        DeValue::Datetime(date) => date.to_string().into(),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(table) => object(table),
    }
}

fn object(table: &toml::de::DeTable<'_>) -> Value {
    table.iter().map(|(key, value)| (key.get_ref().to_string(), json(value.get_ref()))).collect()
}

fn document(text: &str) -> Value {
    object(toml::de::DeTable::parse(text).unwrap().get_ref())
}

#[test]
fn what_the_parser_takes_the_schema_takes() {
    assert_eq!(draft::errors(&schema(), &document(include_str!("files/whole.toml"))), [""; 0]);
    assert_eq!(draft::errors(&server::schema(), &document(include_str!("files/server.toml"))), [""; 0]);
}

#[test]
fn what_the_schema_refuses_the_parser_refuses() {
    let schema = schema();
    let defaults = Defaults { folder_name: "app".to_owned(), ..Default::default() };
    let local = EnvName::new("local").unwrap();
    for text in [
        "sevice = 1",
        "app = \"Uploads\"",
        "[service.Web]",
        "[service.web]\ndrian = \"1s\"",
        "[service.web]\ndrain = \"1\"",
        "[service.web]\nport = 0",
        "[service.web]\nscale = { min = \"1\" }",
        "[service.web]\nimage = \"a\"\nbuild = \"b\"",
        "[service.web]\nalive = {}",
        "[service.web]\nhealth = \"udp\"",
        "[job.x]",
        "[env]\nA = { from = \"nothing\" }",
        "[env]\nA = 1.5",
        "[rollout]\nstrategy = \"rolling\"\nsteps = [\"5% for 1m\"]",
        "[rollout]\nstrategy = \"canary\"\nsteps = [\"5%\"]",
        "[route.main]\nto = \"web\"\ndeny = true",
        "[route.main]\nauth = { header = \"X-A\" }",
        "[postgres.db]\nca = { secret = \"a\" }",
        "[environment.beta]\nservice.web.drian = \"1s\"",
        "[environment.beta]\nserver = \"prod\"",
    ] {
        assert!(!draft::errors(&schema, &document(text)).is_empty(), "the schema takes {text:?}");
        assert!(parse(text, "x", &local, &defaults).is_err(), "the parser takes {text:?}");
    }
}

#[test]
fn an_override_need_not_be_whole() {
    let text = "[job.x]\nrun = \"a\"\n[environment.beta]\njob.x.timeout = \"5m\"\n";
    assert_eq!(draft::errors(&schema(), &document(text)), [""; 0]);
}

#[test]
fn editors_are_told_what_a_key_means() {
    let schema = schema();
    let drain = &schema["$defs"]["service"]["properties"]["drain"];
    assert_eq!(drain["default"], "30s");
    assert_eq!(
        drain["description"],
        "How long outstanding requests may take before TERM. WebSockets are told at once (close 1001)."
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_stored_app_is_valid(app in generated::app()) {
        let stored: Value = serde_json::from_str(&canonical::to_json(&app)).unwrap();
        prop_assert_eq!(draft::errors(&schema(), &stored["app"]), [""; 0]);
    }
}
