//! What the example app has to make of an order, said a second time and in another way.
//!
//! Used by tests to judge outputs. It must never share code or types with the example app, or both
//! could be wrong in the same way: it walks the JSON by hand and prints the answer as text.

use std::fmt::Write as _;

use serde_json::Value;

const PREMIUM_FROM_CENTS: u64 = 100_000;
const PLUS_FROM_CENTS: u64 = 20_000;

/// The value of the output record, to the byte; none if the order is poison.
///
/// ```
/// use orchestrator_testkit::orders::expected_output;
/// let order = r#"{"order_id":"o","customer_id":"c","currency":"eur","placed_at_ms":1,
///     "items":[{"sku":"s","qty":2,"unit_price_cents":10000}],"note":""}"#;
/// let output = expected_output(order.as_bytes()).unwrap();
/// assert!(output.contains(r#""currency":"EUR""#));
/// assert!(output.ends_with(r#""item_count":2,"total_cents":20000,"tier":"plus"}"#));
/// ```
pub fn expected_output(input: &[u8]) -> Option<String> {
    let order: Value = serde_json::from_slice(input).ok()?;
    let text = |field: &str| order.get(field)?.as_str();
    let currency = text("currency")?.to_uppercase();
    let placed_at = order.get("placed_at_ms")?.as_i64()?;

    let mut items = String::new();
    let (mut count, mut total) = (0u64, 0u64);
    for item in order.get("items")?.as_array()? {
        let sku = quoted(item.get("sku")?.as_str()?);
        let qty = item.get("qty")?.as_u64().filter(|qty| *qty > 0)?;
        let price = item.get("unit_price_cents")?.as_u64()?;
        count = count.checked_add(qty)?;
        total = total.checked_add(qty.checked_mul(price)?)?;
        let comma = if items.is_empty() { "" } else { "," };
        write!(
            items,
            r#"{comma}{{"sku":{sku},"qty":{qty},"unit_price_cents":{price}}}"#
        )
        .ok()?;
    }
    let tier = match total {
        PREMIUM_FROM_CENTS.. => "premium",
        PLUS_FROM_CENTS.. => "plus",
        _ => "standard",
    };
    Some(format!(
        concat!(
            r#"{{"order_id":{},"customer_id":{},"currency":{},"placed_at_ms":{},"items":[{}],"#,
            r#""note":{},"item_count":{},"total_cents":{},"tier":"{}"}}"#
        ),
        quoted(text("order_id")?),
        quoted(text("customer_id")?),
        quoted(&currency),
        placed_at,
        items,
        quoted(text("note")?),
        count,
        total,
        tier,
    ))
}

/// As a JSON string, with what must be escaped escaped.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(items: &str) -> String {
        format!(
            r#"{{"order_id":"a\"b","customer_id":"c","currency":"chf","placed_at_ms":5,"items":[{items}],"note":"é"}}"#
        )
    }

    #[test]
    fn tiers_change_at_their_bounds() {
        for (cents, tier) in [
            (0, "standard"),
            (19_999, "standard"),
            (20_000, "plus"),
            (99_999, "plus"),
            (100_000, "premium"),
        ] {
            let input = order(&format!(
                r#"{{"sku":"s","qty":1,"unit_price_cents":{cents}}}"#
            ));
            let expected = format!(
                r#"{{"order_id":"a\"b","customer_id":"c","currency":"CHF","placed_at_ms":5,"items":[{{"sku":"s","qty":1,"unit_price_cents":{cents}}}],"note":"é","item_count":1,"total_cents":{cents},"tier":"{tier}"}}"#
            );
            assert_eq!(expected_output(input.as_bytes()), Some(expected));
        }
    }

    #[test]
    fn poison_gives_nothing() {
        let good = order(r#"{"sku":"s","qty":1,"unit_price_cents":1}"#);
        for poison in [
            String::new(),
            good[..good.len() - 1].to_owned(),
            good.replace("\"note\"", "\"nota\""),
            good.replace("\"qty\":1", "\"qty\":0"),
            good.replace("\"qty\":1", "\"qty\":\"1\""),
            good.replace("\"qty\":1", "\"qty\":-1"),
            "[]".to_owned(),
        ] {
            assert_eq!(expected_output(poison.as_bytes()), None, "{poison}");
        }
    }
}
