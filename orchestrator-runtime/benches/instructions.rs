//! Passes as many records as its argument says along the hot path and ends. `cargo xtask instructions` counts, under
//! callgrind, what a record costs.
#![allow(missing_docs, clippy::unwrap_used)]

mod hot_path;

fn main() {
    // `cargo bench` passes --bench.
    let records = std::env::args().skip(1).find_map(|it| it.parse().ok());
    let records: usize = records.unwrap_or(16_000);
    assert_eq!(hot_path::pass(records), records as u64);
}
