//! Any map of variables is read without a panic.

use std::collections::BTreeMap;

use proptest::prelude::{Strategy as Generate, any, prop_assert, prop_oneof, proptest};
use proptest::sample::select;

use super::*;

fn any_name() -> impl Generate<Value = &'static str> {
    let rows: Vec<&str> = keys::all().map(|key| key.name).collect();
    let others = [
        "KAFKA_LINGER_MS",
        "KAFKA_CONSUMER_GROUP_PROTOCOL",
        "KAFKA_GROUP_ID",
        "KAFKA_",
        "DB_URL_FILE",
        "X",
        "",
    ];
    prop_oneof![8 => select(rows), 1 => select(others.to_vec())]
}

fn any_value() -> impl Generate<Value = String> {
    let words = [
        "0",
        "1",
        "64",
        "10000",
        "ATOMIC",
        "DLQ",
        "true",
        "orders",
        "a,b",
        "{topic}.dlq",
        "a:0:0",
        "h:1",
        "off",
        "consumer",
    ];
    prop_oneof![3 => select(words.to_vec()).prop_map(str::to_owned), 1 => ".{0,12}"]
}

proptest! {
    #[test]
    fn any_map_is_read_without_panic_and_every_error_names_its_key(
        vars in proptest::collection::btree_map(any_name(), any_value(), 0..12),
        base in any::<bool>(),
    ) {
        let base = if base { &MINIMAL[..] } else { &[] };
        let base = base.iter().map(|(key, value)| (*key, value.to_string()));
        let all: BTreeMap<&str, String> = base.chain(vars).collect();
        let given: Vec<String> = all.keys().map(|key| format!("ORCH_{key}")).collect();
        let pairs = all.iter().map(|(key, value)| (format!("ORCH_{key}"), value.clone()));
        match Config::from_map(pairs) {
            Ok(config) => prop_assert!(!config.kafka.source_topics.is_empty() && !config.kafka.group_id.is_empty()),
            Err(errors) => for error in errors.iter() {
                let required = keys::all().any(|key| {
                    matches!(key.default, IfUnset::Required) && error.key == format!("ORCH_{}", key.name)
                });
                let family = error.key.ends_with("_*");
                // A rule across keys may blame the one that has its default, but then says which other it is about.
                    let named = given.iter().any(|key| error.to_string().contains(key));
                    prop_assert!(named || required || family, "{}", error);
                prop_assert!(!error.problem.is_empty());
            },
        }
    }
}
