//! TLS to the database, by the parameters of its URL alone: on a real PostgreSQL, with certificates made for the test
//! by `openssl`, which PostgreSQL's packages need too. Test only.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use orchestrator_core::FailureStore;
use orchestrator_testkit::postgres::{Postgres, PostgresOptions};
use orchestrator_testkit::wait;
use tempfile::TempDir;

use super::PostgresStore;
use super::conformance::TABLE;

const TIMEOUT: Duration = Duration::from_secs(9);

/// Certificates and their keys, in a folder.
struct Certificates(TempDir);

impl Certificates {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn openssl(&self, name: &str, more: &[&str]) {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
        let made = Command::new("openssl")
            .current_dir(self.0.path())
            .args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-subj", &format!("/CN={name}")])
            .args(["-keyout", &key, "-out", &certificate])
            .args(more)
            .output();
        let made = made.expect("openssl (apt-get install -y openssl)");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
    }

    fn signed(&self, name: &str, names: &str) {
        let leaf = ["-CA", "ca.pem", "-CAkey", "ca.key"];
        let names = format!("subjectAltName={names}");
        let leaf = [&leaf[..], &["-addext", "basicConstraints=CA:FALSE"]].concat();
        self.openssl(name, &[&leaf[..], &["-addext", &names]].concat());
    }
}

/// Puts a file into the server's folder, as the server's own.
fn put(server: &Postgres, name: &str, text: &str) {
    let program = format!("umask 077; cat > {name}");
    let lines = format!("SELECT unnest(string_to_array($pem${text}$pem$, E'\\n'))");
    let copy = format!("COPY ({lines}) TO PROGRAM '{program}'");
    server.sql("postgres", &copy).unwrap();
}

async fn prepare(url: &str, parameters: &str) -> Result<PostgresStore, String> {
    let url = format!("{url}?{parameters}");
    let store = PostgresStore::new(&url, TABLE, TIMEOUT).map_err(|error| error.message)?;
    let prepared = store.prepare().await;
    prepared.map_err(|error| error.message).map(|()| store)
}

async fn refused(url: &str, parameters: &str) {
    let error = prepare(url, parameters).await.unwrap_err();
    assert!(error.contains("PostgreSQL"), "{parameters}: {error}");
}

fn named(parameter: &str, path: &Path) -> String {
    format!("{parameter}={}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_as_the_url_says() {
    let made = Certificates(tempfile::tempdir().unwrap());
    made.openssl("ca", &[]);
    made.openssl("stranger", &[]);
    made.signed("server", "IP:127.0.0.1");
    made.signed("elsewhere", "DNS:elsewhere.example");
    made.signed("client", "DNS:client.example");
    let server = Postgres::start(PostgresOptions::new().own()).unwrap();
    let url = server.create_database("tls").unwrap();
    let set = |key: &str, value: &str| {
        let set = format!("ALTER SYSTEM SET {key} = '{value}'");
        server.sql("postgres", &set).unwrap();
    };
    put(&server, "server.pem", &made.text("server.pem"));
    put(&server, "server.key", &made.text("server.key"));
    put(&server, "elsewhere.pem", &made.text("elsewhere.pem"));
    put(&server, "elsewhere.key", &made.text("elsewhere.key"));
    put(&server, "ca.pem", &made.text("ca.pem"));
    refused(&url, "sslmode=require").await;

    set("ssl_cert_file", "server.pem");
    set("ssl_key_file", "server.key");
    set("ssl_ca_file", "ca.pem");
    set("ssl", "on");
    server.restart().unwrap();
    let ca = named("sslrootcert", &made.path("ca.pem"));
    let stranger = named("sslrootcert", &made.path("stranger.pem"));
    let ways = [
        ("sslmode=disable", "f"),
        ("sslmode=prefer", "t"),
        ("sslmode=require", "t"),
        // It says so, and does not look.
        (&format!("sslmode=require&{stranger}"), "t"),
        (&format!("sslmode=verify-ca&{ca}"), "t"),
        (&format!("sslmode=verify-full&{ca}"), "t"),
    ];
    for (number, (parameters, encrypted)) in ways.into_iter().enumerate() {
        let name = format!("way{number}");
        let named = format!("{parameters}&application_name={name}");
        let _open = prepare(&url, &named).await.unwrap();
        let ssl = format!(
            "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = '{name}'"
        );
        let ssl = server.sql("postgres", &ssl).unwrap();
        assert_eq!(ssl, encrypted, "{parameters}");
    }
    refused(&url, "sslmode=verify-full").await;
    refused(&url, &format!("sslmode=verify-ca&{stranger}")).await;
    refused(&url, "sslmode=verify-ca&sslrootcert=/nowhere.pem").await;

    // The certificate is another host's.
    set("ssl_cert_file", "elsewhere.pem");
    set("ssl_key_file", "elsewhere.key");
    server.restart().unwrap();
    prepare(&url, &format!("sslmode=verify-ca&{ca}"))
        .await
        .unwrap();
    refused(&url, &format!("sslmode=verify-full&{ca}")).await;

    // The server asks for ours.
    let hba = "hostnossl all all 127.0.0.1/32 reject\n\
               hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca";
    put(&server, "pg_hba.conf", hba);
    server.sql("postgres", "SELECT pg_reload_conf()").unwrap();
    let (certificate, key) = (made.path("client.pem"), made.path("client.key"));
    let (certificate, key) = (named("sslcert", &certificate), named("sslkey", &key));
    let with_ours = format!("sslmode=verify-ca&{ca}&{certificate}&{key}");
    let without = format!("sslmode=verify-ca&{ca}");
    let is_asked = async || prepare(&url, &without).await.is_err();
    wait::until("the server asks", TIMEOUT, is_asked)
        .await
        .unwrap();
    prepare(&url, &with_ours).await.unwrap();
    refused(&url, &without).await;
}
