//! `cargo xtask up` and `down`: one broker that stays between commands.
//!
//! Called by `main.rs`. The state file says where it is; it must never be trusted alone: before
//! anything is signalled, the process has to prove that it is ours (`Detached::is_running`).

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, bail};
use orchestrator_testkit::kafka::{Detached, KAFKA_VERSION, Kafka, KafkaOptions};
use orchestrator_testkit::workspace;
use serde_json::{Value, json};

/// Starts a broker that stays, or says where it is if one runs already.
pub(crate) fn up() -> anyhow::Result<()> {
    let _one_at_a_time = lock()?;
    let broker = match read_state()? {
        Some(broker) if broker.is_running()? => broker,
        _ => {
            eprintln!("starting Apache Kafka {KAFKA_VERSION} ..");
            let broker = Kafka::start(KafkaOptions::new().own().full_jit())?.detach()?;
            if let Err(error) = write_state(&broker) {
                // A broker that nobody can find again must not stay.
                broker.stop()?;
                return Err(error);
            }
            broker
        }
    };
    eprintln!(
        "{} is up; stop it with: cargo xtask down",
        describe(&broker)
    );
    println!(
        "export ORCH_BOOTSTRAP_SERVERS={}",
        broker.bootstrap_servers()
    );
    Ok(())
}

/// Stops the broker that [`up`] started; content if there is none.
pub(crate) fn down() -> anyhow::Result<()> {
    let _one_at_a_time = lock()?;
    let Some(broker) = read_state()? else {
        eprintln!("no broker is up");
        return Ok(());
    };
    if broker.stop()? {
        eprintln!("{} is down", describe(&broker));
    } else {
        eprintln!("{} had ended already", describe(&broker));
    }
    let file = state_file();
    fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
}

fn describe(broker: &Detached) -> String {
    let at = broker.bootstrap_servers();
    match broker {
        Detached::Process {
            supervisor, folder, ..
        } => {
            format!(
                "Kafka at {at} (process {supervisor}, log {}/broker.log)",
                folder.display()
            )
        }
        Detached::Container { name, .. } => format!("Kafka at {at} (container {name})"),
    }
}

fn state_file() -> PathBuf {
    workspace::target_dir().join("xtask").join("broker.json")
}

/// Two `up`s at once would lose track of a broker.
fn lock() -> anyhow::Result<File> {
    let path = state_file().with_extension("lock");
    let folder = path.parent().unwrap_or(&path);
    let locked = fs::create_dir_all(folder).and_then(|()| {
        let file = File::create(&path)?;
        file.lock()?;
        Ok(file)
    });
    locked.with_context(|| format!("cannot lock {}", path.display()))
}

fn read_state() -> anyhow::Result<Option<Detached>> {
    let path = state_file();
    let text = match fs::read_to_string(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let state = serde_json::from_str(&text)
        .ok()
        .as_ref()
        .and_then(from_json);
    match state {
        Some(broker) => Ok(Some(broker)),
        None => bail!(
            "{} is not what `cargo xtask up` wrote; stop its broker by hand and remove it",
            path.display()
        ),
    }
}

fn write_state(broker: &Detached) -> anyhow::Result<()> {
    let path = state_file();
    fs::write(&path, format!("{:#}\n", to_json(broker)))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn to_json(broker: &Detached) -> Value {
    match broker {
        Detached::Process {
            supervisor,
            folder,
            bootstrap_servers,
        } => json!({
            "bootstrap_servers": bootstrap_servers,
            "supervisor": supervisor,
            "folder": folder,
        }),
        Detached::Container {
            name,
            bootstrap_servers,
        } => json!({
            "bootstrap_servers": bootstrap_servers,
            "container": name,
        }),
    }
}

fn from_json(state: &Value) -> Option<Detached> {
    let text = |key: &str| Some(state.get(key)?.as_str()?.to_owned());
    let bootstrap_servers = text("bootstrap_servers")?;
    if let Some(name) = text("container") {
        return Some(Detached::Container {
            name,
            bootstrap_servers,
        });
    }
    let supervisor = u32::try_from(state.get("supervisor")?.as_u64()?).ok()?;
    let folder = PathBuf::from(text("folder")?);
    Some(Detached::Process {
        supervisor,
        folder,
        bootstrap_servers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_survives_the_file() {
        let bootstrap_servers = "127.0.0.1:12345".to_owned();
        for broker in [
            Detached::Process {
                supervisor: 17,
                folder: "/tmp/x".into(),
                bootstrap_servers: bootstrap_servers.clone(),
            },
            Detached::Container {
                name: "k".to_owned(),
                bootstrap_servers,
            },
        ] {
            assert_eq!(from_json(&to_json(&broker)), Some(broker));
        }
    }
}
