//! A planted secret appears in nothing that is shown.

use super::*;
use crate::kafka::client_config::{self, Redacted};

const PLANTED: &str = "hunter2";

#[test]
fn a_planted_secret_appears_nowhere() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("sqlite://{PLANTED}.db\n")).unwrap();
    let path = file.path().to_str().unwrap();
    let config = good(&[
        ("DB_URL_FILE", path),
        ("KAFKA_SASL_PASSWORD", PLANTED),
        ("KAFKA_CONSUMER_SASL_USERNAME", PLANTED),
        ("KAFKA_PRODUCER_SASL_PASSWORD", PLANTED),
        ("COLOR", PLANTED),
    ]);
    assert!(
        config
            .ledger
            .url
            .as_ref()
            .unwrap()
            .expose()
            .contains(PLANTED)
    );
    assert_eq!(config.kafka.common["sasl.password"], PLANTED);
    let clients = [
        client_config::consumer_named(&config, "c"),
        client_config::producer(&config, "p"),
        client_config::admin(&config),
    ];
    let shown = format!(
        "{config:#?} {} {:?}",
        config.print(),
        clients.each_ref().map(Redacted)
    );
    assert!(!shown.contains(PLANTED), "{shown}");
    assert!(config.print().contains("ORCH_DB_URL=*** (file)"));
    assert!(
        config
            .print()
            .contains("ORCH_KAFKA_SASL_PASSWORD=*** (environment)")
    );
}

#[test]
fn a_planted_secret_appears_in_no_error() {
    let cases: [&[(&str, &str)]; 7] = [
        &[("DB_URL", PLANTED)],
        &[("DB_URL", "oracle://u:hunter2@h/db")],
        &[("DB_ULR", PLANTED)],
        &[("KAFKA_SASL_PASSWRD", PLANTED)],
        &[("KAKFA_SASL_PASSWORD", PLANTED)],
        &[("KAFKA_SSL_KEY_PEM", PLANTED)],
        &[("DB_URL", PLANTED), ("DB_URL_FILE", "/nowhere")],
    ];
    for vars in cases {
        let errors = with(vars).expect_err(&format!("{vars:?}"));
        let shown = format!("{errors} {errors:?}");
        assert!(!shown.contains(PLANTED), "{shown}");
    }
    refused(
        &[("DB_URL_FILE", "/nowhere/at/all")],
        "DB_URL_FILE",
        "cannot read",
    );
}
