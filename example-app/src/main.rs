//! Orders in, enriched orders out: the smallest useful transformer, with faults on request.
//! Configured by its environment (`ORCH_...`, and `EXAMPLE_FAULTS=true`); see the README.

mod faults;

use std::process::ExitCode;

use orchestrator_runtime::core::{Context, TransformError, json_fn};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Order {
    order_id: String,
    customer_id: String,
    currency: String,
    placed_at_ms: i64,
    items: Vec<Item>,
    note: String,
}

#[derive(Deserialize, Serialize)]
struct Item {
    sku: String,
    qty: u64,
    unit_price_cents: u64,
}

#[derive(Serialize)]
struct EnrichedOrder {
    order_id: String,
    customer_id: String,
    currency: String,
    placed_at_ms: i64,
    items: Vec<Item>,
    note: String,
    item_count: u64,
    total_cents: u64,
    tier: &'static str,
}

fn enrich(mut order: Order, cx: &Context<'_>) -> Result<EnrichedOrder, TransformError> {
    if let Some(oversized) = faults::inject(cx)? {
        order.note = oversized;
    }
    let mut item_count = 0_u64;
    let mut total_cents = 0_u64;
    for item in &order.items {
        if item.qty == 0 {
            let text = format!("item {} of order {} has qty 0", item.sku, order.order_id);
            return Err(TransformError::permanent(text));
        }
        let price = item.qty.checked_mul(item.unit_price_cents);
        let totals = item_count
            .checked_add(item.qty)
            .zip(price.and_then(|p| total_cents.checked_add(p)));
        (item_count, total_cents) =
            totals.ok_or_else(|| TransformError::permanent("the totals are out of range"))?;
    }
    Ok(EnrichedOrder {
        order_id: order.order_id,
        customer_id: order.customer_id,
        currency: order.currency.to_uppercase(),
        placed_at_ms: order.placed_at_ms,
        items: order.items,
        note: order.note,
        item_count,
        total_cents,
        tier: match total_cents {
            100_000.. => "premium",
            20_000.. => "plus",
            _ => "standard",
        },
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    orchestrator_runtime::main(json_fn(enrich)).await
}

#[cfg(test)]
mod tests;
