//! Text to typed value, one pure function per shape. Called by the reader after the table has checked range or word;
//! `None` means "not allowed" - what is allowed, the table says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use orchestrator_core::dead_letter::DlqTopic;

use super::types::{Choice, RecordCoordinates, Secret};

/// The longest topic name Kafka takes.
const MAX_TOPIC: usize = 249;

/// The longest group or instance id: with both in it, a `transactional.id` and a lock file's name stay legal.
const MAX_NAME: usize = 200;

pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

pub(super) fn millis(text: &str) -> Option<Duration> {
    number(text).map(Duration::from_millis)
}

pub(super) fn choice<T: Choice>(text: &str) -> Option<T> {
    let same = |value: &&T| value.word().eq_ignore_ascii_case(text);
    T::VALUES.iter().find(same).copied()
}

pub(super) fn switch(text: &str) -> Option<bool> {
    text.to_ascii_lowercase().parse().ok()
}

pub(super) fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text))
}

/// A folder's path.
pub(super) fn folder(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

/// A group or instance id.
pub(super) fn name(text: &str) -> Option<String> {
    let legal = (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_name_byte);
    legal.then(|| text.to_owned())
}

pub(super) fn topic(text: &str) -> Option<String> {
    is_topic(text).then(|| text.to_owned())
}

pub(super) fn topics(text: &str) -> Option<Vec<String>> {
    let topics = list(text, topic)?;
    let distinct = topics
        .iter()
        .enumerate()
        .all(|(index, name)| !topics[..index].contains(name));
    distinct.then_some(topics)
}

/// A DLQ topic: legal once `{topic}` is replaced; that it is also legal for each source is a rule across keys.
pub(super) fn dlq_topic(text: &str) -> Option<DlqTopic> {
    let template = DlqTopic::new(text);
    is_topic(&template.for_source("t")).then_some(template)
}

pub(super) fn is_topic(text: &str) -> bool {
    (1..=MAX_TOPIC).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// A table's name: it is put into SQL text, so nothing that would need quoting.
pub(super) fn table(text: &str) -> Option<String> {
    let first = text.bytes().next()?;
    let legal = text.len() <= 38
        && !first.is_ascii_digit()
        && !text.starts_with("sqlite_")
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    legal.then(|| text.to_owned())
}

pub(super) fn bootstrap_servers(text: &str) -> Option<String> {
    let servers = list(text, |server| {
        let (_, address) = server.split_once("://").unwrap_or(("", server));
        let (host, port) = address.rsplit_once(':')?;
        let plain = !host.is_empty() && host.bytes().all(is_name_byte);
        let v6 = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
        ((plain || v6) && number::<u16>(port)? > 0).then(|| server.to_owned())
    })?;
    Some(servers.join(","))
}

/// An address to listen on; the inner `None` is `off`.
pub(super) fn listen(text: &str) -> Option<Option<SocketAddr>> {
    if text.eq_ignore_ascii_case("off") {
        return Some(None);
    }
    number(text).map(Some)
}

pub(super) fn coordinates(text: &str) -> Option<Vec<RecordCoordinates>> {
    list(text, |entry| {
        let mut parts = entry.split(':');
        let coordinates = RecordCoordinates {
            topic: topic(parts.next()?)?,
            partition: number(parts.next()?).filter(|partition| *partition >= 0)?,
            offset: number(parts.next()?).filter(|offset| *offset >= 0)?,
        };
        parts.next().is_none().then_some(coordinates)
    })
}

/// Every entry of a comma-separated list, blanks around it ignored; one that is not allowed refuses all.
fn list<T>(text: &str, entry: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    text.split(',').map(|part| entry(part.trim())).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn topics_are_legal_and_distinct() {
        assert_eq!(topics("a, b.c_d-E").unwrap(), ["a", "b.c_d-E"]);
        for refused in ["", "a,", "a,a", "..", "a b", "^a", "ä", &"x".repeat(250)] {
            assert_eq!(topics(refused), None, "{refused:?}");
        }
    }

    #[test]
    fn templates_are_legal_once_replaced() {
        for allowed in ["{topic}.dlq", "dlq", "dlq-{topic}"] {
            assert_eq!(dlq_topic(allowed), Some(DlqTopic::new(allowed)));
        }
        for refused in ["{source}.dlq", "{topic", "a b", ""] {
            assert_eq!(dlq_topic(refused), None, "{refused:?}");
        }
    }

    #[test]
    fn servers_need_host_and_port() {
        for allowed in [
            "localhost:9092",
            "a:1,b:2",
            "SASL_SSL://k.example.com:9093",
            "[::1]:9092",
        ] {
            assert_eq!(bootstrap_servers(allowed).as_deref(), Some(allowed));
        }
        assert_eq!(bootstrap_servers("a:1, b:2").as_deref(), Some("a:1,b:2"));
        for refused in [
            "",
            "localhost",
            "a:0",
            "a:65536",
            "a:b",
            ":9092",
            "a:1,",
            "u:p@h:1",
            "[x]:1",
        ] {
            assert_eq!(bootstrap_servers(refused), None, "{refused:?}");
        }
    }

    #[test]
    fn coordinates_name_a_record() {
        let read = coordinates("orders:0:12, a.b:3:0").unwrap();
        let shown: Vec<_> = read.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["orders:0:12", "a.b:3:0"]);
        for refused in [
            "orders",
            "orders:0",
            "orders:-1:0",
            "orders:0:-1",
            "orders:0:1:2",
            "",
        ] {
            assert_eq!(coordinates(refused), None, "{refused:?}");
        }
    }

    #[test]
    fn tables_need_no_quoting() {
        assert!(table("event_failures").is_some());
        for refused in [
            "",
            "1a",
            "A",
            "a-b",
            "a;drop",
            "a.b",
            "sqlite_x",
            &"a".repeat(39),
        ] {
            assert_eq!(table(refused), None, "{refused:?}");
        }
    }

    #[test]
    fn listen_is_an_address_or_off() {
        assert_eq!(listen("OFF"), Some(None));
        assert!(listen("0.0.0.0:0").unwrap().is_some());
        assert_eq!(listen("localhost:1"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            name(&text); topics(&text); dlq_topic(&text); table(&text); bootstrap_servers(&text);
            listen(&text); coordinates(&text); switch(&text); millis(&text);
        }
    }
}
