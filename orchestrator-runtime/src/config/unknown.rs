//! Variables with our prefix that nobody read: a slip of the pen near a real key is an error, others are named in a
//! warning, what Kubernetes adds by itself is ignored. Never shows a value: a misspelt secret is still a secret.

use super::keys;
use super::reader::Reader;

/// Reports everything that is left in the reader.
pub(super) fn report(reader: &mut Reader) {
    for name in std::mem::take(&mut reader.vars).into_keys() {
        match meant(&name) {
            Some(meant) => {
                let problem = format!("no such key; {} is meant?", reader.full(&meant));
                reader.refuse(&name, None, problem);
            }
            None => {
                let warning = format!(
                    "{} is not a key of this program and has no effect",
                    reader.full(&name)
                );
                reader.warnings.push(warning);
            }
        }
    }
}

/// The key that was probably meant.
fn meant(name: &str) -> Option<String> {
    // A whole key behind another word is no slip but another pipeline's prefix: ORCH_B_GROUP_ID.
    if keys::all().any(|key| {
        name.strip_suffix(key.name)
            .is_some_and(|prefix| prefix.ends_with('_'))
    }) {
        return None;
    }
    let candidates = keys::all().flat_map(|key| {
        let file = key.secret.then(|| format!("{}_FILE", key.name));
        std::iter::once(key.name.to_owned()).chain(file)
    });
    let near = |candidate: String| {
        let distance = if without_unit(&candidate) == without_unit(name) {
            1
        } else {
            distance(&candidate, name)
        };
        let allowed = if name.len() < 6 { 1 } else { 2 };
        (distance <= allowed).then_some((distance, candidate))
    };
    let key = candidates.filter_map(near).min().map(|(_, key)| key);
    key.or_else(|| {
        // A family, not a row: the slip is in its first word.
        let (family, rest) = name.split_once('_')?;
        let near = family != "KAFKA" && distance(family, "KAFKA") <= 2 && family.len() >= 4;
        near.then(|| format!("KAFKA_{rest}"))
    })
    .or_else(|| {
        // Only secrets are read from files.
        let plain = name.strip_suffix("_FILE")?;
        keys::all()
            .find(|key| key.name == plain)
            .map(|key| key.name.to_owned())
    })
}

/// Forgetting or mistaking the unit is the likeliest slip.
fn without_unit(name: &str) -> &str {
    let units = [
        "_MS", "_MILLIS", "_SECONDS", "_SECS", "_SEC", "_S", "_BYTES", "_KB", "_MB",
    ];
    units
        .iter()
        .find_map(|unit| name.strip_suffix(unit))
        .unwrap_or(name)
}

/// Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substituted = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = substituted.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before_last[j - 2] + 1);
            }
            row.push(least);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// Whether Kubernetes made this variable for a service whose name begins like our prefix (`orch-db`, `orch-kafka`).
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    let ends = |suffix: &str| name == suffix || name.ends_with(&format!("_{suffix}"));
    let holds = |part: &str| name.starts_with(part) || name.contains(&format!("_{part}"));
    let is_url = PROTOCOLS
        .iter()
        .any(|protocol| value.starts_with(&format!("{}://", protocol.to_lowercase())));
    let names_port = || {
        let words: Vec<&str> = name.split('_').collect();
        words.windows(3).any(|three| {
            three[0] == "PORT" && three[1].parse::<u16>().is_ok() && PROTOCOLS.contains(&three[2])
        })
    };
    ends("SERVICE_HOST")
        || ends("SERVICE_PORT")
        || holds("SERVICE_PORT_")
        || (ends("PORT") && is_url)
        || names_port()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slips_are_named() {
        let cases = [
            ("WORKER", "WORKERS"),
            ("GORUP_ID", "GROUP_ID"),
            ("SOURCE_TOPIC", "SOURCE_TOPICS"),
            ("DRAIN_TIMEOUT", "DRAIN_TIMEOUT_MS"),
            ("RETRY_BACKOFF_SECONDS", "RETRY_BACKOFF_MS"),
            ("DB_ULR", "DB_URL"),
            ("DB_ULR_FILE", "DB_URL_FILE"),
            ("GROUP_ID_FILE", "GROUP_ID"),
            ("KAKFA_SASL_PASSWORD", "KAFKA_SASL_PASSWORD"),
        ];
        for (slip, key) in cases {
            assert_eq!(meant(slip).as_deref(), Some(key), "{slip}");
        }
        for stranger in [
            "COLOR",
            "LOG_LEVEL",
            "HTTP_PORT",
            "DB_USER",
            "X",
            "TOPIC",
            "B_GROUP_ID",
        ] {
            assert_eq!(meant(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn service_links_are_told_apart() {
        let links = [
            ("SERVICE_HOST", "10.0.0.1"),
            ("DB_SERVICE_HOST", "10.0.0.1"),
            ("DB_SERVICE_PORT", "5432"),
            ("DB_SERVICE_PORT_HTTP", "80"),
            ("KAFKA_PORT", "tcp://10.0.0.1:9092"),
            ("KAFKA_PORT_9092_TCP", "tcp://10.0.0.1:9092"),
            ("KAFKA_PORT_9092_TCP_ADDR", "10.0.0.1"),
            ("DNS_PORT_53_UDP_PROTO", "udp"),
        ];
        for (name, value) in links {
            assert!(is_service_link(name, value), "{name}");
        }
        for (name, value) in [
            ("HTTP_PORT", "80"),
            ("KAFKA_SASL_KERBEROS_SERVICE_NAME", "kafka"),
            ("SUPPORT", "tcp://x"),
        ] {
            assert!(!is_service_link(name, value), "{name}");
        }
    }

    proptest! {
        #[test]
        fn distance_is_symmetric_and_bounded(a in "[A-D_]{0,8}", b in "[A-D_]{0,8}") {
            let there = distance(&a, &b);
            prop_assert_eq!(there, distance(&b, &a));
            prop_assert_eq!(there == 0, a == b);
            prop_assert!(there <= a.len().max(b.len()));
        }
    }
}
