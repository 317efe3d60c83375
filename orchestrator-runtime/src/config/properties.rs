//! What is known of librdkafka's properties: how a variable names one, second names, which are secret, which are ours to
//! set. Used by the passthrough, by the rules, and by whatever shows a client's settings. Reads no environment.

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use super::types::MASK;

/// Which clients a variable speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Common,
    Consumer,
    Producer,
}

impl Family {
    /// What the family's variables begin with. `KAFKA_` alone is everybody's.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Family::Common => "KAFKA_",
            Family::Consumer => "KAFKA_CONSUMER_",
            Family::Producer => "KAFKA_PRODUCER_",
        }
    }
}

/// A property as a variable names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Property {
    pub(super) family: Family,
    /// The name that we use for it, be it given by another.
    pub(super) name: String,
}

impl Property {
    /// `KAFKA_PRODUCER_LINGER_MS` is `linger.ms` of producers; `None` if the variable is of no family.
    pub(super) fn of(variable: &str) -> Option<Self> {
        let families = [Family::Consumer, Family::Producer, Family::Common];
        let (family, rest) = families
            .into_iter()
            .find_map(|family| Some((family, variable.strip_prefix(family.prefix())?)))?;
        let given = rest.to_ascii_lowercase().replace('_', ".");
        let alias = ALIASES.iter().find(|(alias, _)| *alias == given);
        let name = alias.map_or(given, |(_, ours)| (*ours).to_owned());
        Some(Property { family, name })
    }
}

/// Properties that are ours to set, and why.
pub(super) const FORCED: &[(&str, &str)] = &[
    ("bootstrap.servers", "set ORCH_BOOTSTRAP_SERVERS"),
    ("group.id", "set ORCH_GROUP_ID"),
    ("group.instance.id", "membership follows ORCH_INSTANCE_ID"),
    (
        "transactional.id",
        "it is made of ORCH_GROUP_ID, ORCH_INSTANCE_ID and the worker",
    ),
    (
        "enable.auto.commit",
        "offsets are committed within the transaction only",
    ),
    (
        "auto.commit.interval.ms",
        "offsets are committed within the transaction only",
    ),
    (
        "enable.auto.offset.store",
        "offsets are committed within the transaction only",
    ),
    (
        "isolation.level",
        "aborted records must not be read, and offsets must be stable (KIP-447)",
    ),
    (
        "auto.offset.reset",
        "set ORCH_START_FROM and ORCH_ON_OFFSET_LOST: no position ever jumps silently",
    ),
    ("enable.partition.eof", "it tells caught up from stuck"),
    ("enable.idempotence", "a transaction needs it"),
    ("acks", "a transaction needs all"),
    (
        "delivery.report.only.error",
        "the transaction tells of success",
    ),
    ("queued.max.messages.kbytes", "set ORCH_PREFETCH_MAX_BYTES"),
    (
        "queue.buffering.max.kbytes",
        "set ORCH_PRODUCER_QUEUE_MAX_BYTES",
    ),
    (
        "log.connection.close",
        "a producer whose connection was cut is replaced, and this is how that is known",
    ),
    (
        "check.crcs",
        "librdkafka skips a batch that fails the check, and it would count as passed",
    ),
    (
        "test.mock.num.brokers",
        "a mock broker only pretends to have transactions",
    ),
];

/// librdkafka's second names, each with the one that we use. Both at once would be applied in random order.
const ALIASES: &[(&str, &str)] = &[
    ("metadata.broker.list", "bootstrap.servers"),
    ("auto.commit.enable", "enable.auto.commit"),
    ("request.required.acks", "acks"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("queue.buffering.max.ms", "linger.ms"),
    ("message.send.max.retries", "retries"),
    ("compression.codec", "compression.type"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
    ("sasl.mechanism", "sasl.mechanisms"),
    (
        "sasl.oauthbearer.client.credentials.client.id",
        "sasl.oauthbearer.client.id",
    ),
    (
        "sasl.oauthbearer.client.credentials.client.secret",
        "sasl.oauthbearer.client.secret",
    ),
];

/// Whether a property's value must never be shown: librdkafka's own list, and whatever sounds like a secret.
pub(crate) fn is_secret(property: &str) -> bool {
    const PARTS: [&str; 6] = [
        "password",
        "passphrase",
        "secret",
        "oauth",
        "private.key",
        "jaas",
    ];
    const WHOLE: [&str; 3] = ["sasl.username", "ssl.key.location", "ssl.key.pem"];
    property.ends_with(".pem")
        || WHOLE.contains(&property)
        || PARTS.iter().any(|part| property.contains(part))
}

/// A property's value, fit to be shown.
pub(crate) fn shown<'a>(property: &str, value: &'a str) -> &'a str {
    if is_secret(property) { MASK } else { value }
}

/// Why librdkafka does not take a property.
pub(super) enum Refused {
    Unknown,
    Value(String),
}

/// Asks librdkafka itself, without creating a client.
pub(super) fn probe(property: &str, value: &str) -> Result<(), Refused> {
    match ClientConfig::new()
        .set(property, value)
        .create_native_config()
    {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            Err(Refused::Unknown)
        }
        Err(KafkaError::ClientConfig(_, why, ..)) => {
            Err(Refused::Value(with_feature(property, why)))
        }
        Err(error) => Err(Refused::Value(error.to_string())),
    }
}

/// Names the build feature where its absence is the likely cause.
fn with_feature(property: &str, why: String) -> String {
    let wants_ssl = property.starts_with("ssl.") || property == "security.protocol";
    if wants_ssl && !cfg!(any(feature = "ssl", feature = "ssl-vendored")) {
        return format!("{why} (TLS needs the build feature `ssl` or `ssl-vendored`)");
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_forced_and_aliased_name_is_one_of_librdkafkas() {
        let aliases = ALIASES.iter().flat_map(|(alias, ours)| [alias, ours]);
        for name in FORCED.iter().map(|(name, _)| name).chain(aliases) {
            assert!(!matches!(probe(name, "1"), Err(Refused::Unknown)), "{name}");
        }
    }

    #[test]
    fn variables_name_properties() {
        let cases = [
            ("KAFKA_SASL_MECHANISM", Family::Common, "sasl.mechanisms"),
            (
                "KAFKA_PRODUCER_QUEUE_BUFFERING_MAX_MS",
                Family::Producer,
                "linger.ms",
            ),
            (
                "KAFKA_CONSUMER_GROUP_PROTOCOL",
                Family::Consumer,
                "group.protocol",
            ),
        ];
        for (variable, family, name) in cases {
            assert_eq!(
                Property::of(variable),
                Some(Property {
                    family,
                    name: name.to_owned()
                })
            );
        }
        assert_eq!(Property::of("WORKERS"), None);
    }

    #[test]
    fn what_sounds_like_a_secret_is_one() {
        for secret in [
            "sasl.password",
            "ssl.key.pem",
            "ssl.key.password",
            "sasl.oauthbearer.config",
            "some.client.secret",
        ] {
            assert!(is_secret(secret), "{secret}");
        }
        for open in ["security.protocol", "ssl.ca.location", "linger.ms"] {
            assert!(!is_secret(open), "{open}");
        }
    }
}
