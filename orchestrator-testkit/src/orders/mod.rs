//! The example app's input, made from a seed.
//!
//! Used by tests, demo and load harness. The same seed and index give the same bytes, on every
//! machine and in every version: tests and recorded results depend on it. What has to come out is
//! said by [`expected_output`], which knows nothing of how an order was made.

mod oracle;

use std::fmt::Write as _;
use std::ops::Range;

pub use oracle::expected_output;

use crate::writer::WriteRecord;

const ORDER_ID: &[u8] = br#"{"order_id":"order-"#;
const INDEX_DIGITS: usize = 10;
const CURRENCIES: [&str; 5] = ["EUR", "USD", "GBP", "JPY", "CHF"];
const NOTE_WORDS: &str = "please leave it with the neighbour on the second floor and ring twice; ";
const CUSTOMERS: u64 = 10_000;
const FIRST_PLACED_AT_MS: u64 = 1_767_225_600_000;

/// Why an order cannot be enriched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Poison {
    /// Cut off in the middle.
    NotJson,
    /// Without its items.
    MissingField,
    /// With an item of which none is wanted.
    QtyZero,
}

/// An order as it goes into the source topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its place in the sequence; `order_id` holds it too.
    pub index: u64,
    /// The customer.
    pub key: String,
    /// The JSON, or what poison left of it.
    pub value: String,
    /// None if it is sound.
    pub poison: Option<Poison>,
}

impl Order {
    /// The index of the order that a value begins with: one that was enriched, or that poison left half of.
    pub fn index_of(value: &[u8]) -> Option<u64> {
        let digits = value.strip_prefix(ORDER_ID)?.get(..INDEX_DIGITS)?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// As a record with key and value.
    pub fn into_record(self) -> WriteRecord {
        WriteRecord::new(self.value).key(self.key)
    }
}

/// An endless sequence of orders.
///
/// ```
/// use orchestrator_testkit::orders::{Orders, expected_output};
/// let orders = Orders::new(42).poison(0.01);
/// for order in orders.range(0..1_000) {
///     let output = expected_output(order.value.as_bytes());
///     assert_eq!(output.is_none(), order.poison.is_some());
/// }
/// let records = orders.records(0..1_000); // for writer::write
/// # assert_eq!(records.count(), 1_000);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Orders {
    seed: u64,
    bytes: usize,
    keys: u64,
    poison: f64,
}

impl Orders {
    /// Sound orders of 316 bytes each.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            bytes: 316,
            keys: CUSTOMERS,
            poison: 0.0,
        }
    }

    /// The size of a sound order's JSON; at least what its fields need, about 300 bytes at most.
    #[must_use]
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// How many different customers there are, 10,000 unless said; at least one.
    #[must_use]
    pub fn keys(mut self, keys: u64) -> Self {
        self.keys = keys.max(1);
        self
    }

    /// The share of poison, 0.0 to 1.0; each order is drawn for itself, so the count of many is near
    /// that share, not exactly it.
    #[must_use]
    pub fn poison(mut self, share: f64) -> Self {
        self.poison = share;
        self
    }

    /// The order at this place.
    pub fn order(&self, index: u64) -> Order {
        let mut dice = Dice::new(self.seed, index);
        let poison = self.draw_poison(&mut dice);
        let key = format!("customer-{:05}", dice.below(self.keys));
        let currency = CURRENCIES[dice.below(CURRENCIES.len() as u64) as usize];
        let currency = if dice.below(4) == 0 {
            currency.to_lowercase()
        } else {
            currency.to_owned()
        };
        let items = items(&mut dice, poison);
        let mut value = format!(
            r#"{{"order_id":"order-{index:010}","customer_id":"{key}","currency":"{currency}","placed_at_ms":{}"#,
            FIRST_PLACED_AT_MS + index * 7,
        );
        if poison != Some(Poison::MissingField) {
            value.push_str(r#","items":["#);
            value.push_str(&items);
            value.push(']');
        }
        value.push_str(r#","note":""#);
        pad(
            &mut value,
            self.bytes.saturating_sub(2),
            dice.below(NOTE_WORDS.len() as u64) as usize,
        );
        value.push_str("\"}");
        if poison == Some(Poison::NotJson) {
            value.truncate(value.len() / 2);
        }
        Order {
            index,
            key,
            value,
            poison,
        }
    }

    /// The orders at these places.
    pub fn range(&self, places: Range<u64>) -> impl Iterator<Item = Order> + Send + use<> {
        let orders = *self;
        places.map(move |index| orders.order(index))
    }

    /// The orders at these places, as records.
    pub fn records(&self, places: Range<u64>) -> impl Iterator<Item = WriteRecord> + Send + use<> {
        self.range(places).map(Order::into_record)
    }

    fn draw_poison(&self, dice: &mut Dice) -> Option<Poison> {
        let kinds = [Poison::NotJson, Poison::MissingField, Poison::QtyZero];
        let drawn = dice.fraction() < self.poison;
        let kind = kinds[dice.below(3) as usize];
        drawn.then_some(kind)
    }
}

/// One to three items; their prices reach all three tiers.
fn items(dice: &mut Dice, poison: Option<Poison>) -> String {
    let count = 1 + dice.below(3);
    let bad = (poison == Some(Poison::QtyZero)).then(|| dice.below(count));
    let mut items = String::new();
    for i in 0..count {
        let qty = if bad == Some(i) { 0 } else { 1 + dice.below(9) };
        let price = 99 + dice.below(3) * dice.below(20_000);
        let comma = if i == 0 { "" } else { "," };
        let sku = dice.below(100_000);
        // Writing to a String cannot fail.
        write!(
            items,
            r#"{comma}{{"sku":"SKU-{sku:05}","qty":{qty},"unit_price_cents":{price}}}"#
        )
        .unwrap_or_default();
    }
    items
}

/// Fills up to `bytes` with words, beginning somewhere in the text.
fn pad(value: &mut String, bytes: usize, start: usize) {
    let mut words = &NOTE_WORDS[start..];
    while value.len() < bytes {
        let end = words.len().min(bytes - value.len());
        value.push_str(&words[..end]);
        words = NOTE_WORDS;
    }
}

/// SplitMix64: written out here, because a crate's generator may change with its version.
struct Dice(u64);

impl Dice {
    fn new(seed: u64, index: u64) -> Self {
        let mut dice = Self(seed);
        let mixed = dice.next();
        Self(mixed ^ index.wrapping_mul(0xD1B5_4A32_D192_ED03))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_first_order_of_seed_42_never_changes() {
        let order = Orders::new(42).order(0);
        assert_eq!(order.value.len(), 316);
        assert_eq!(order.key, "customer-08802");
        let items = r#""items":[{"sku":"SKU-66216","qty":3,"unit_price_cents":19297}]"#;
        let start = r#"{"order_id":"order-0000000000","customer_id":"customer-08802","currency":"USD","placed_at_ms":1767225600000,"#;
        let note = r#""note":" the neighbour on the second floor and ring twice; please leave it with the neighbour on the second floor and ring twice; please leave "}"#;
        assert_eq!(order.value, format!("{start}{items},{note}"));
    }

    #[test]
    fn sizes_keys_tiers_and_currencies_are_as_said() {
        let mut tiers = BTreeMap::new();
        let (mut lower, mut keys) = (0, std::collections::BTreeSet::new());
        for order in Orders::new(7).range(0..10_000) {
            assert_eq!(order.value.len(), 316, "{}", order.value);
            assert_eq!(Order::index_of(order.value.as_bytes()), Some(order.index));
            assert_eq!(order.poison, None);
            let output = expected_output(order.value.as_bytes()).unwrap();
            let tier = output.rsplit('"').nth(1).unwrap().to_owned();
            *tiers.entry(tier).or_insert(0) += 1;
            let currency = order.value.split("\"currency\":\"").nth(1).unwrap();
            lower += i32::from(currency.starts_with(char::is_lowercase));
            keys.insert(order.key);
        }
        assert!(
            tiers["premium"] > 500 && tiers["plus"] > 500 && tiers["standard"] > 500,
            "{tiers:?}"
        );
        assert!((2_000..3_000).contains(&lower), "{lower}");
        assert!(keys.len() > 5_000);
    }

    #[test]
    fn every_kind_of_poison_comes_and_the_oracle_refuses_it() {
        let mut kinds = BTreeMap::new();
        for order in Orders::new(1).poison(0.5).range(0..2_000) {
            let output = expected_output(order.value.as_bytes());
            assert_eq!(output.is_none(), order.poison.is_some(), "{order:?}");
            assert_eq!(Order::index_of(order.value.as_bytes()), Some(order.index));
            *kinds.entry(order.poison).or_insert(0) += 1;
        }
        assert!(
            kinds.len() == 4 && kinds.values().all(|n| *n > 250),
            "{kinds:?}"
        );
    }

    #[test]
    fn sizes_can_be_chosen() {
        assert_eq!(Orders::new(1).bytes(2_000).order(5).value.len(), 2_000);
        assert!(Orders::new(1).bytes(10).order(5).value.len() < 320);
    }
}
