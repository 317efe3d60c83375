//! Rules about librdkafka's properties: the time limits that rest on one another, the group protocol, and what librdkafka
//! itself would refuse once a client is created. Called by the rules across keys; no client here can reach anybody.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::BaseConsumer;
use rdkafka::producer::BaseProducer;

use super::Rules;
use crate::config::ConfigError;
use crate::config::properties::{Family, Property};
use crate::kafka::client_config;

const TRANSACTION: &str = "transaction.timeout.ms";
const POLL: &str = "max.poll.interval.ms";
const MESSAGE: &str = "message.timeout.ms";

impl Rules<'_> {
    /// A unit of work must fail by its own deadlines before the broker gives up on its transaction, and the
    /// transaction before the group gives up on the consumer.
    pub(super) fn times(&mut self) {
        let producer = client_config::producer(self.config, "check");
        let consumer = client_config::consumer_named(self.config, "check");
        let (transaction, poll) = (millis(&producer, TRANSACTION), millis(&consumer, POLL));
        for property in [
            MESSAGE,
            "topic.metadata.propagation.max.ms",
            "socket.timeout.ms",
        ] {
            let value = millis(&producer, property);
            let never = property == MESSAGE && value == 0;
            if value >= transaction || never {
                let problem =
                    format!("{property} must be above 0 and below {TRANSACTION} ({transaction})");
                self.refuse_property(
                    Family::Producer,
                    property,
                    Some(&value.to_string()),
                    problem,
                );
            }
        }
        if transaction >= poll && self.variable(Family::Producer, TRANSACTION).is_some() {
            let problem = format!("{TRANSACTION} must be below {POLL} ({poll})");
            self.refuse_property(
                Family::Producer,
                TRANSACTION,
                Some(&transaction.to_string()),
                problem,
            );
        } else if transaction >= poll {
            let problem = format!("{POLL} must be above {TRANSACTION} ({transaction})");
            self.refuse_property(Family::Consumer, POLL, Some(&poll.to_string()), problem);
        }
    }

    /// With KIP-848 these belong to the broker.
    pub(super) fn group_protocol(&mut self) {
        let kafka = &self.config.kafka;
        if !kafka.uses_consumer_protocol() {
            return;
        }
        for property in client_config::CLASSIC_ONLY {
            if let Some(value) = kafka
                .consumer
                .get(*property)
                .or_else(|| kafka.common.get(*property))
            {
                let problem = format!(
                    "{property} is the broker's to set with group.protocol=consumer (KIP-848): unset it"
                );
                self.refuse_property(Family::Consumer, property, Some(value), problem);
            }
        }
    }

    /// librdkafka has rules of its own across its properties. They are checked when a client is created, so one of each
    /// is, without a broker to connect to, if the user has set any property at all.
    pub(super) fn librdkafka(&mut self) {
        let kafka = &self.config.kafka;
        let nothing_given =
            kafka.common.is_empty() && kafka.consumer.is_empty() && kafka.producer.is_empty();
        if nothing_given || !self.errors.is_empty() {
            return;
        }
        let consumer =
            isolated(client_config::consumer_named(self.config, "check")).create::<BaseConsumer>();
        let producer =
            isolated(client_config::producer(self.config, "check")).create::<BaseProducer>();
        for (family, error) in [
            (Family::Consumer, consumer.err()),
            (Family::Producer, producer.err()),
        ] {
            if let Some(error) = error {
                let problem = format!("librdkafka refuses these together: {error}");
                self.refuse_property(family, "*", None, problem);
            }
        }
    }

    fn refuse_property(
        &mut self,
        family: Family,
        property: &str,
        value: Option<&str>,
        problem: String,
    ) {
        let variable = self.variable(family, property);
        let variable = variable
            .unwrap_or_else(|| format!("{}{}{}", self.config.prefix, family.prefix(), property));
        self.errors.push(ConfigError::new(variable, value, problem));
    }

    /// The variable by which the user set a property, under whichever of its names, for one family or for all.
    fn variable(&self, family: Family, property: &str) -> Option<String> {
        let given = self.config.effective.iter().filter_map(|effective| {
            let name = effective.key.strip_prefix(&self.config.prefix)?;
            let given = Property::of(name)?;
            (given.name == property).then_some((given.family, &effective.key))
        });
        let given: Vec<_> = given.collect();
        let of = |family| given.iter().find(|(of, _)| *of == family);
        of(family)
            .or_else(|| of(Family::Common))
            .map(|(_, key)| (*key).clone())
    }
}

/// A client that can reach nobody: no broker, no group, no token endpoint.
fn isolated(mut client: ClientConfig) -> ClientConfig {
    let properties: Vec<String> = client.config_map().into_keys().map(str::to_owned).collect();
    for property in properties {
        if property.starts_with("sasl.")
            || ["bootstrap.servers", "group.id"].contains(&property.as_str())
        {
            client.remove(&property);
        }
    }
    let protocol = client.get("security.protocol").map(str::to_ascii_lowercase);
    match protocol.as_deref() {
        Some("sasl_ssl") => client.set("security.protocol", "ssl"),
        Some("sasl_plaintext") => client.set("security.protocol", "plaintext"),
        _ => &mut client,
    };
    client.set_log_level(RDKafkaLogLevel::Emerg);
    client
}

/// A time limit as the client gets it; what is not a number has been refused already.
fn millis(client: &ClientConfig, property: &str) -> u64 {
    client
        .get(property)
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}
