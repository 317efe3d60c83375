//! Who this process is within its group: the name that its transactional ids are made of. Resolved once at start, renewed
//! after a derived name was fenced. Touches only lock files in the temp folder.

use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use crate::config::Config;

/// The most processes of one group on one host that find a stable name.
const MAX_SLOTS: usize = 256;

/// A process's name within its group. Keeps its slot on this host for as long as it or a clone lives.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    group: String,
    /// The name itself.
    pub(crate) instance: String,
    /// Whether the user chose it. Only then is being fenced proof of a twin.
    pub(crate) explicit: bool,
    /// Whether a restart has the same name, and so ends at once what its predecessor left open.
    pub(crate) stable: bool,
    /// Never read: the lock lasts as long as the file is open.
    _slot: Option<Arc<File>>,
}

impl Identity {
    /// The name from the configuration; else host name and first free slot; else host name and a random suffix.
    pub(crate) fn resolve(config: &Config) -> Self {
        Self::resolve_in(&std::env::temp_dir(), &host_name(), config)
    }

    fn resolve_in(locks: &Path, host: &str, config: &Config) -> Self {
        let group = config.kafka.group_id.clone();
        if let Some(instance) = config.kafka.instance_id.clone() {
            return Identity {
                group,
                instance,
                explicit: true,
                stable: true,
                _slot: None,
            };
        }
        match (0..MAX_SLOTS).find_map(|slot| Some((slot, lock(locks, &group, slot)?))) {
            Some((slot, file)) => {
                let instance = format!("{host}-{slot}");
                Identity {
                    group,
                    instance,
                    explicit: false,
                    stable: true,
                    _slot: Some(Arc::new(file)),
                }
            }
            None => {
                let instance = format!("{host}-{}", random_suffix());
                tracing::warn!(
                    instance,
                    folder = %locks.display(),
                    "no lock file to be had, so this process has a random name: after a crash, readers wait for the \
                     transaction time-out; set {}INSTANCE_ID to a name of its own",
                    config.prefix
                );
                Identity {
                    group,
                    instance,
                    explicit: false,
                    stable: false,
                    _slot: None,
                }
            }
        }
    }

    /// A number for this name within its group, the same after a restart.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.group, &self.instance).hash(&mut hasher);
        hasher.finish()
    }

    /// The `transactional.id` of one worker: group, instance, worker.
    pub(crate) fn transactional_id(&self, worker: usize) -> String {
        format!("{}-{}-{worker}", self.group, self.instance)
    }

    /// Another name after this one was fenced; `None` if the user chose it, because then there is a twin to be named.
    pub(crate) fn renewed(&self) -> Option<Self> {
        if self.explicit {
            return None;
        }
        let instance = format!("{}-{}", self.base(), random_suffix());
        Some(Identity {
            instance,
            stable: false,
            ..self.clone()
        })
    }

    /// The name without the suffix of an earlier renewal, so that it does not grow.
    fn base(&self) -> &str {
        if self.stable {
            return &self.instance;
        }
        self.instance
            .rsplit_once('-')
            .map_or(self.instance.as_str(), |(base, _)| base)
    }
}

/// The slot's lock file, if this process can have it. The system lets go of it when the process ends, however it ends.
fn lock(folder: &Path, group: &str, slot: usize) -> Option<File> {
    let path = folder.join(format!("orchestrator-{group}-{slot}.lock"));
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .ok()?;
    file.try_lock().ok().map(|()| file)
}

fn random_suffix() -> String {
    format!("{:08x}", fastrand::u32(..))
}

/// The host's name, with what is not allowed in a name replaced.
fn host_name() -> String {
    let name = gethostname::gethostname().to_string_lossy().into_owned();
    let legal = |letter: char| {
        if letter.is_ascii_alphanumeric() || ".-_".contains(letter) {
            letter
        } else {
            '-'
        }
    };
    let name: String = name.chars().map(legal).collect();
    if name.is_empty() {
        "host".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config(instance: &str) -> Config {
        let vars = [
            ("BOOTSTRAP_SERVERS", "localhost:9092"),
            ("SOURCE_TOPICS", "orders"),
            ("GROUP_ID", "g"),
            ("INSTANCE_ID", instance),
        ];
        Config::from_map(vars.map(|(key, value)| (format!("ORCH_{key}"), value.to_owned())))
            .unwrap()
    }

    #[test]
    fn a_chosen_name_is_kept_and_never_renewed() {
        let identity = Identity::resolve(&config("blue"));
        assert_eq!(identity.transactional_id(1), "g-blue-1");
        assert!(identity.explicit && identity.stable);
        assert!(identity.renewed().is_none());
    }

    #[test]
    fn slots_are_taken_in_turn_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let resolve = || Identity::resolve_in(folder.path(), "host", &config(""));
        let (first, second) = (resolve(), resolve());
        assert_eq!(first.transactional_id(0), "g-host-0-0");
        assert_eq!(second.transactional_id(0), "g-host-1-0");
        assert!(first.stable && !first.explicit);
        let clone = first.clone();
        drop(first);
        assert_eq!(resolve().instance, "host-2", "a clone keeps the slot");
        drop(clone);
        assert_eq!(resolve().instance, "host-0", "a restart has the same name");
    }

    #[test]
    fn without_a_lock_the_name_is_random() {
        let folder = tempfile::tempdir().unwrap();
        let resolve = || Identity::resolve_in(&folder.path().join("missing"), "host", &config(""));
        let (first, second) = (resolve(), resolve());
        assert!(!first.stable && !first.explicit);
        assert_ne!(first.instance, second.instance);
    }

    #[test]
    fn renewing_replaces_the_suffix_and_keeps_the_slot() {
        let folder = tempfile::tempdir().unwrap();
        let resolve = || Identity::resolve_in(folder.path(), "host", &config(""));
        let first = resolve().renewed().unwrap();
        let second = first.renewed().unwrap();
        assert_ne!(first.instance, second.instance);
        assert_eq!(first.instance.len(), second.instance.len());
        assert!(second.instance.starts_with("host-0-") && !second.stable);
        drop(first);
        assert_eq!(resolve().instance, "host-1");
    }

    #[test]
    fn the_host_name_is_legal_in_a_transactional_id() {
        let name = host_name();
        assert!(
            name.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        );
        assert!(!name.is_empty());
    }
}
