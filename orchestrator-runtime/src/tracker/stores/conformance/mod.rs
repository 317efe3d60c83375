//! What every `FailureStore` has to do, written once: the tests of each dialect run these cases on real databases,
//! through a `Harness` of its own. Test only. Nothing here may know a dialect.
#![allow(clippy::unwrap_used)]

use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{FailureStore, LedgerIdentity, OffsetRange, SourcePosition};

use super::super::fake_store::{failed, identity, orders};

pub(super) mod content;
pub(super) mod crowd;
pub(super) mod fences;
pub(super) mod pages;
pub(super) mod props;

/// The table's usual name.
pub(super) const TABLE: &str = "event_failures";

/// A database of a dialect, empty at first.
pub(super) trait Harness: Sized {
    type Store: FailureStore;

    /// A new one for one test. It must be cheap.
    async fn new() -> Self;

    /// A store on it, as a process of its own has it; not prepared.
    fn store(&self, table: &str) -> Self::Store;

    /// All rows of a table, in any order.
    async fn stored(&self, table: &str) -> Vec<Stored>;

    /// The same by position.
    async fn rows(&self, table: &str) -> Vec<Stored> {
        let mut rows = self.stored(table).await;
        rows.sort_by_cached_key(Stored::key);
        rows
    }

    /// A new database, with a store that is ready.
    async fn ready() -> (Self, Self::Store) {
        let harness = Self::new().await;
        let store = harness.store(TABLE);
        store.prepare().await.unwrap();
        (harness, store)
    }

    /// [`Stored::summary`] of all rows.
    async fn summary(&self) -> Vec<String> {
        self.rows(TABLE).await.iter().map(Stored::summary).collect()
    }
}

/// A row as it lies in the table, column by column.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub(super) struct Stored {
    pub(super) cluster_id: String,
    pub(super) consumer_group: String,
    pub(super) source_topic: String,
    pub(super) source_partition: i32,
    pub(super) source_offset: i64,
    pub(super) record_timestamp_ms: i64,
    pub(super) target_topic: Option<String>,
    pub(super) message_key: Option<Vec<u8>>,
    pub(super) headers: Vec<u8>,
    pub(super) status: String,
    pub(super) attempts: i64,
    pub(super) dedup_key: String,
    pub(super) origin_dedup_key: Option<String>,
    pub(super) error_class: Option<String>,
    pub(super) error_message: Option<String>,
    pub(super) error_chain: Option<String>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) dead_lettered: bool,
    pub(super) fence: i64,
    pub(super) passed_at: Option<i64>,
    pub(super) resolved_at: Option<i64>,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
}

impl Stored {
    fn key(&self) -> (String, i32, i64, i64, String, String) {
        (
            self.source_topic.clone(),
            self.source_partition,
            self.source_offset,
            self.record_timestamp_ms,
            self.cluster_id.clone(),
            self.consumer_group.clone(),
        )
    }

    /// `offset status passed fence resolved`.
    pub(super) fn summary(&self) -> String {
        let passed = self
            .passed_at
            .map_or("provisional".into(), |at| format!("passed {at}"));
        let resolved = self
            .resolved_at
            .map_or(String::new(), |at| format!(" resolved {at}"));
        format!(
            "{} {} {passed} fence {}{resolved}",
            self.source_offset, self.status, self.fence
        )
    }
}

/// The tests of a dialect: every case on its harness.
macro_rules! conformance {
    ($harness:ty) => {
        $crate::tracker::stores::conformance::conformance! { $harness:
            content {
                a_failed_row_is_stored_in_full,
                a_received_row_is_stored_in_full,
                bytes_are_stored_as_they_are,
                the_largest_row_fits,
                a_batch_of_large_rows_fits,
                numbers_reach_their_limits,
                texts_of_any_script_are_kept,
                no_text_is_refused,
                two_records_may_have_had_the_same_position,
            }
            fences {
                a_repeat_changes_nothing,
                an_older_fence_never_overwrites,
                a_newer_fence_begins_anew,
                the_same_fence_keeps_what_is_known,
                what_became_of_records_changes_nothing_newer,
                a_failure_that_succeeds_later_is_resolved,
                only_what_is_open_succeeds,
                others_are_left_alone,
                names_are_told_apart_by_every_character,
            }
            pages {
                as_many_rows_as_a_statement_takes,
                nothing_to_do_is_no_error,
                the_order_within_a_batch_does_not_matter,
                ranges_end_before_their_next_offset,
                provisional_rows_come_in_pages,
                received_rows_come_in_pages,
                each_settlement_does_its_own,
                only_old_received_rows_are_settled,
                pruning_is_bounded_and_takes_successes_only,
            }
            crowd {
                preparing_again_keeps_what_is_there,
                several_processes_may_start_at_once,
                the_table_may_have_another_name_and_neighbours,
                two_processes_may_write_the_same_rows_at_once,
                several_processes_may_prune_at_once,
                a_dropped_future_does_no_harm,
            }
        }
        #[test]
        fn any_bytes_are_stored_as_they_are() {
            $crate::tracker::stores::conformance::props::any_bytes_are_stored_as_they_are::<$harness>();
        }
        #[test]
        fn it_does_as_the_store_in_memory_does() {
            $crate::tracker::stores::conformance::props::it_does_as_the_store_in_memory_does::<$harness>();
        }
    };
    ($harness:ty: $($room:ident { $($case:ident,)+ })+) => {
        $($(
            #[tokio::test]
            async fn $case() {
                $crate::tracker::stores::conformance::$room::$case::<$harness>().await;
            }
        )+)+
    };
}
pub(super) use conformance;

/// The row of a failed record of [`orders`].
pub(super) fn row(offset: i64, fence: i64) -> LedgerRow {
    LedgerRow::failed(&failed(offset, fence), true)
}

/// Rows of taken records of [`orders`].
pub(super) fn taken(offsets: impl IntoIterator<Item = i64>, fence: i64) -> Vec<LedgerRow> {
    let taken = |offset| LedgerRow::received(&failed(offset, fence).record, fence, false);
    offsets.into_iter().map(taken).collect()
}

/// Rows of failed records of [`orders`].
pub(super) fn rows(offsets: impl IntoIterator<Item = i64>, fence: i64) -> Vec<LedgerRow> {
    offsets
        .into_iter()
        .map(|offset| row(offset, fence))
        .collect()
}

/// A range of [`orders`].
pub(super) fn range(from: i64, next: i64) -> OffsetRange {
    let partition = orders();
    OffsetRange {
        partition,
        from,
        next,
    }
}

/// Positions in [`orders`].
pub(super) fn at(offsets: impl IntoIterator<Item = i64>) -> Vec<SourcePosition> {
    offsets
        .into_iter()
        .map(|offset| orders().at(offset))
        .collect()
}

/// The offsets of the provisional rows of a partition.
pub(super) async fn provisional(
    store: &impl FailureStore,
    ledger: &LedgerIdentity,
    from: SourcePosition,
    limit: usize,
) -> Vec<i64> {
    let found = store.provisional(ledger, &from, limit).await.unwrap();
    found.into_iter().map(|row| row.offset).collect()
}
