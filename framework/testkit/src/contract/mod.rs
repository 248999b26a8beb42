//! The contract of [`CommitLog`](aqueduct_core::log::CommitLog): one named case per promise, the same for every log.
//!
//! An adapter's tests say [`contract_tests!`](crate::contract_tests) once. A new case is added to the macro's list.

mod append;
mod bytes;
mod group;
mod hand_over;
mod read;
mod refuse;
mod shared;
mod tools;
mod transaction;

pub use append::{
    acknowledged_is_readable, appending_makes_the_topic, compaction_keeps_the_last_of_each_key,
    enqueue_order_is_offset_order, keys_choose_the_java_clients_partition, oversized_record_fails_alone,
};
pub use bytes::{bytes_come_back_as_written, timestamps_are_kept};
pub use group::{
    a_closed_consumer_says_so, a_settled_offset_never_goes_back, groups_settle_apart,
    settled_offsets_come_back, settling_beyond_the_end_is_refused,
};
pub use hand_over::{
    a_dropped_signal_wait_loses_nothing, a_leaver_is_taken_over, a_stale_generation_settles_nothing,
    members_share_partitions, what_was_lost_is_not_confirmed,
};
pub use read::{
    a_dropped_read_loses_nothing, cursors_start_where_asked, end_offsets_are_after_the_last,
    offsets_outside_the_log_are_refused, reading_takes_at_most_what_was_asked, reading_waits_and_wakes,
};
pub use refuse::{
    a_closed_log_says_so, bad_names_are_refused, missing_topics_are_named, topics_stay_what_they_are,
};
pub use shared::{
    a_closed_log_hands_over, a_leaver_elsewhere_is_taken_over, a_stale_generation_elsewhere_commits_nothing,
    a_stale_generation_elsewhere_settles_nothing, churn_gives_no_generation_twice,
    members_elsewhere_share_partitions, what_others_make_is_seen,
};
pub use transaction::{
    a_broken_transaction_writes_nothing, a_newer_producer_fences_the_older,
    a_stale_generation_commits_nothing, a_transaction_settles_what_it_wrote,
};

/// One `#[tokio::test]` per case of the contract. Needs `tokio` among the dev-dependencies.
///
/// The argument is the path of an `async fn() -> (Arc<dyn CommitLog>, T)` that makes an empty log whose default is
/// **four partitions**; `T` is kept until the case has ended (a directory, or nothing).
///
/// ```
/// use std::sync::Arc;
/// use aqueduct_core::log::CommitLog;
///
/// async fn make() -> (Arc<dyn CommitLog>, ()) {
///     # std::future::pending().await
///     // .. (Arc::new(MemoryLog::new(4)), ())
/// }
/// aqueduct_testkit::contract_tests!(make);
/// ```
#[macro_export]
macro_rules! contract_tests {
    ($make:path) => {
        $crate::contract_tests! { $make:
            acknowledged_is_readable,
            appending_makes_the_topic,
            compaction_keeps_the_last_of_each_key,
            enqueue_order_is_offset_order,
            keys_choose_the_java_clients_partition,
            oversized_record_fails_alone,
            bytes_come_back_as_written,
            timestamps_are_kept,
            a_dropped_read_loses_nothing,
            cursors_start_where_asked,
            end_offsets_are_after_the_last,
            offsets_outside_the_log_are_refused,
            reading_takes_at_most_what_was_asked,
            reading_waits_and_wakes,
            a_closed_consumer_says_so,
            a_settled_offset_never_goes_back,
            groups_settle_apart,
            settled_offsets_come_back,
            settling_beyond_the_end_is_refused,
            a_dropped_signal_wait_loses_nothing,
            a_leaver_is_taken_over,
            a_stale_generation_settles_nothing,
            members_share_partitions,
            what_was_lost_is_not_confirmed,
            a_broken_transaction_writes_nothing,
            a_newer_producer_fences_the_older,
            a_stale_generation_commits_nothing,
            a_transaction_settles_what_it_wrote,
            a_closed_log_says_so,
            bad_names_are_refused,
            missing_topics_are_named,
            topics_stay_what_they_are,
        }
    };
    ($make:path: $($case:ident),+ $(,)?) => {$(
        #[::tokio::test]
        async fn $case() {
            let (log, _kept) = $make().await;
            $crate::contract::$case(log).await;
        }
    )+};
}

/// One `#[tokio::test]` per promise about groups whose members join through different handles of one log, as different
/// processes do: for a log whose capabilities say `shared_groups`.
///
/// The argument is the path of an `async fn() -> ([Arc<dyn CommitLog>; 2], T)` that opens an empty log twice, in the
/// way in which two processes do.
#[macro_export]
macro_rules! shared_group_tests {
    ($make:path) => {
        $crate::shared_group_tests! { $make:
            a_closed_log_hands_over,
            a_leaver_elsewhere_is_taken_over,
            a_stale_generation_elsewhere_commits_nothing,
            a_stale_generation_elsewhere_settles_nothing,
            churn_gives_no_generation_twice,
            members_elsewhere_share_partitions,
            what_others_make_is_seen,
        }
    };
    ($make:path: $($case:ident),+ $(,)?) => {$(
        #[::tokio::test]
        async fn $case() {
            let (logs, _kept) = $make().await;
            $crate::contract::$case(logs).await;
        }
    )+};
}
