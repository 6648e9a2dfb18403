//! What is printed reads as what it was: by the reader here, whatever the value.

use bowline_render::yaml::{print, read};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Map, Number, Value};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9 ._:/#'\"{}*&!%@`|>\\[\\],=~?<+-]{0,10}",
        "[0-9xeobEXO_.:+-]{0,6}",
        "([a-z \\t#:-]{0,6}\n){0,4}[a-z ]{0,4}",
        "\\PC{0,8}",
        any::<String>(),
        proptest::sample::select(vec![
            "y",
            "No",
            "NULL",
            ".inf",
            "<<",
            "=",
            "---",
            "...",
            "0o17",
            "1:30",
            "2001-01-01",
            "é"
        ])
        .prop_map(str::to_owned),
    ]
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter_map("a number", |float| Number::from_f64(float).map(Value::Number)),
        text().prop_map(Value::String),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            btree_map(text(), inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_reads_as_what_it_was(value in value()) {
        let text = print(&value);
        let read = read(&text);
        prop_assert_eq!(read, Ok(vec![value]), "{}", text);
    }
}
