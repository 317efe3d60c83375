//! What the safeguard has settled in one go, for one line of the log. Pure but for that line.

use std::collections::BTreeMap;

use orchestrator_core::{Settlement, SourcePartition};

/// So many partitions are named in the line.
const MAX_NAMED: usize = 20;

type Counts = BTreeMap<&'static str, usize>;

/// Numbers of rows, by partition and what they were settled as.
#[derive(Debug, Default)]
pub(super) struct Settled {
    partitions: BTreeMap<SourcePartition, Counts>,
}

impl Settled {
    pub(super) fn add(&mut self, partition: &SourcePartition, settlement: Settlement, rows: usize) {
        if rows > 0 {
            let counts = self.partitions.entry(partition.clone()).or_default();
            *counts.entry(name(settlement)).or_default() += rows;
        }
    }

    /// Says it, if there is anything to say.
    pub(super) fn log(&self) {
        const SAID: &str = "ledger rows that had been RECEIVED for too long were settled";
        let mut counts = Counts::new();
        for (what, rows) in self.partitions.values().flatten() {
            *counts.entry(what).or_default() += rows;
        }
        let (rows, partitions) = (list(&counts), self.named());
        match counts.keys().any(|what| *what != name(Settlement::Success)) {
            true => tracing::warn!(rows, partitions, "{SAID}"),
            false if !counts.is_empty() => tracing::info!(rows, partitions, "{SAID}"),
            false => {}
        }
    }

    fn named(&self) -> String {
        let named = self.partitions.iter().take(MAX_NAMED);
        let mut named: Vec<String> = named
            .map(|(partition, counts)| format!("{partition}: {}", list(counts)))
            .collect();
        let more = self.partitions.len() - named.len();
        if more > 0 {
            named.push(format!("{more} partitions more"));
        }
        named.join("; ")
    }
}

fn list(counts: &Counts) -> String {
    let counts = counts.iter().map(|(what, rows)| format!("{rows} {what}"));
    counts.collect::<Vec<_>>().join(", ")
}

/// In metrics and logs.
pub(super) fn name(settlement: Settlement) -> &'static str {
    match settlement {
        Settlement::Success => "success",
        Settlement::Unknown => "unknown",
        Settlement::Stale => "stale",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_but_not_very_many() {
        let mut settled = Settled::default();
        let orders = |number| SourcePartition::new("orders", number);
        settled.add(&orders(1), Settlement::Unknown, 12);
        settled.add(&orders(1), Settlement::Unknown, 3);
        settled.add(&orders(0), Settlement::Stale, 4);
        settled.add(&orders(1), Settlement::Stale, 5);
        settled.add(&orders(2), Settlement::Stale, 0);
        assert_eq!(
            settled.named(),
            "orders-0: 4 stale; orders-1: 5 stale, 15 unknown"
        );
        for number in 0..25 {
            settled.add(&orders(number), Settlement::Success, 1);
        }
        assert!(
            settled
                .named()
                .ends_with("orders-19: 1 success; 5 partitions more")
        );
    }
}
