//! librdkafka properties given by the user: read, named as librdkafka names them, refused where a promise rests on ours.
//! Called once by the Kafka section. What the clients finally get is put together in `kafka/client_config.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Deref;

use super::properties::{FORCED, Family, Property, Refused, is_secret, probe, shown};
use super::reader::Reader;

/// librdkafka properties by name. `Debug` masks the secret ones.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Passthrough(BTreeMap<String, String>);

impl Deref for Passthrough {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl fmt::Debug for Passthrough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self
            .iter()
            .map(|(property, value)| (property, shown(property, value)));
        f.debug_map().entries(shown).finish()
    }
}

/// What was given to all clients, and to each kind of them.
#[derive(Default)]
pub(super) struct Families {
    pub(super) common: Passthrough,
    pub(super) consumer: Passthrough,
    pub(super) producer: Passthrough,
}

pub(super) fn read(reader: &mut Reader) -> Families {
    let mut families = Families::default();
    let twins = reader.vars.keys().map(|name| without_file(name).to_owned());
    for variable in twins.collect::<BTreeSet<String>>() {
        if let Some(property) = Property::of(&variable) {
            add(
                reader,
                families.of(property.family),
                &variable,
                &property.name,
            );
        }
    }
    families
}

impl Families {
    fn of(&mut self, family: Family) -> &mut Passthrough {
        match family {
            Family::Common => &mut self.common,
            Family::Consumer => &mut self.consumer,
            Family::Producer => &mut self.producer,
        }
    }
}

fn add(reader: &mut Reader, family: &mut Passthrough, name: &str, property: &str) {
    let secret = is_secret(property);
    let Some(given) = reader.take(name, secret) else {
        return;
    };
    let shown = shown(property, &given.text);
    if let Some((_, reason)) = FORCED.iter().find(|(forced, _)| *forced == property) {
        return reader.refuse(
            name,
            Some(shown),
            format!("{property} cannot be set: {reason}"),
        );
    }
    if family.contains_key(property) {
        return reader.refuse(
            name,
            Some(shown),
            format!("{property} is set twice, under two names: set one of them"),
        );
    }
    match probe(property, &given.text) {
        Ok(()) => {
            reader.note(name, Some(shown), given.source);
            family.0.insert(property.to_owned(), given.text);
        }
        // What librdkafka does not know may be a misspelt secret: its value is not shown, nor is librdkafka's text.
        Err(Refused::Unknown) => {
            reader.refuse(name, None, format!("librdkafka has no property {property}"))
        }
        Err(Refused::Value(_)) if secret => {
            reader.refuse(name, Some(shown), "librdkafka refuses this value")
        }
        Err(Refused::Value(why)) => reader.refuse(
            name,
            Some(shown),
            format!("librdkafka refuses this value: {why}"),
        ),
    }
}

/// The variable that a `_FILE` twin stands for; a few properties of librdkafka end with `.file` themselves.
fn without_file(variable: &str) -> &str {
    let twin_of = || {
        let plain = variable.strip_suffix("_FILE")?;
        let (whole, base) = (Property::of(variable)?, Property::of(plain)?);
        let unknown = matches!(probe(&whole.name, ""), Err(Refused::Unknown));
        (unknown && is_secret(&base.name)).then_some(plain)
    };
    twin_of().unwrap_or(variable)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read_all(vars: &[(&str, &str)]) -> (Families, Reader) {
        let vars = vars
            .iter()
            .map(|(key, value)| (format!("ORCH_KAFKA_{key}"), value.to_string()));
        let mut reader = Reader::new("ORCH_", vars);
        (read(&mut reader), reader)
    }

    #[test]
    fn families_and_aliases() {
        let (families, reader) = read_all(&[
            ("CLIENT_RACK", "a"),
            ("CONSUMER_MAX_PARTITION_FETCH_BYTES", "1000"),
            ("PRODUCER_QUEUE_BUFFERING_MAX_MS", "7"),
        ]);
        assert_eq!(reader.errors, []);
        assert_eq!(families.common["client.rack"], "a");
        assert_eq!(families.consumer["fetch.message.max.bytes"], "1000");
        assert_eq!(families.producer["linger.ms"], "7");
    }

    #[test]
    fn forced_properties_are_refused_with_the_reason() {
        for (property, reason) in FORCED {
            let key = property.to_uppercase().replace('.', "_");
            for family in ["", "CONSUMER_", "PRODUCER_"] {
                let (_, reader) = read_all(&[(&format!("{family}{key}"), "1")]);
                assert_eq!(reader.errors.len(), 1, "{family}{key}");
                assert!(
                    reader.errors[0].problem.contains(reason),
                    "{:?}",
                    reader.errors
                );
            }
        }
        let (_, reader) = read_all(&[("METADATA_BROKER_LIST", "a:1")]);
        assert!(reader.errors[0].problem.contains("ORCH_BOOTSTRAP_SERVERS"));
    }

    #[test]
    fn librdkafka_is_asked() {
        let (_, reader) = read_all(&[("PRODUCER_LINGER_MS", "never"), ("SASL_PASSWRD", "hunter2")]);
        let text: Vec<String> = reader.errors.iter().map(ToString::to_string).collect();
        assert!(
            text[0].contains("ORCH_KAFKA_PRODUCER_LINGER_MS") && text[0].contains("never"),
            "{text:?}"
        );
        assert!(
            text[1].contains("sasl.passwrd") && !text[1].contains("hunter2"),
            "{text:?}"
        );
    }

    #[test]
    fn one_property_under_two_names_is_refused() {
        let (_, reader) = read_all(&[
            ("PRODUCER_LINGER_MS", "1"),
            ("PRODUCER_QUEUE_BUFFERING_MAX_MS", "2"),
        ]);
        assert!(reader.errors[0].problem.contains("linger.ms is set twice"));
    }

    #[test]
    fn secrets_come_from_files_and_are_masked() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let (families, reader) = read_all(&[("SASL_PASSWORD_FILE", file.path().to_str().unwrap())]);
        assert_eq!(reader.errors, []);
        assert_eq!(families.common["sasl.password"], "hunter2");
        assert!(!format!("{:?} {:?}", families.common, reader.effective).contains("hunter2"));
        let own = "KAFKA_SASL_OAUTHBEARER_ASSERTION_FILE";
        assert_eq!(without_file(own), own, "librdkafka reads that file itself");
    }
}
