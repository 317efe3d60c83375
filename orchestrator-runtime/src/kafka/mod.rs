//! What touches Kafka: the only rooms that know librdkafka.

pub(crate) mod client_config;
