//! The bugs of rules that only Kafka has, or that the log on it has to keep by itself.

use super::table::{Binary, Bug, bug};

const KAFKA: Binary = Binary::It("kafka");

const MARKERS: &[&str] = &["reading::the_position_passes_the_marker_of_a_transaction"];
const PUT_OUT: &[&str] = &["answers::a_member_that_was_put_out_loses_all_and_comes_back"];

/// Every bug that the source of the Kafka log can plant.
#[rustfmt::skip]
pub(super) const KAFKA_BUGS: &[Bug] = &[
    bug("kafka-holds-nothing", "R1", "a record overtakes a refused one of its key", KAFKA,
        &["contract::oversized_record_fails_alone"]),
    bug("kafka-keys-go-elsewhere", "R1", "keys are not where other clients put them", KAFKA,
        &["contract::keys_choose_the_java_clients_partition"]),
    bug("kafka-failed-producer-stays", "R1", "a client that failed for good is not replaced", KAFKA,
        &["answers::a_producer_that_failed_for_good_is_made_anew"]),

    bug("kafka-headers-lost", "R2", "a record whose headers do not parse has none", KAFKA,
        &["unreadable::a_record_whose_headers_do_not_parse_is_told_alone"]),
    bug("kafka-reads-past-an-error", "R2", "what cannot be read is passed silently", KAFKA,
        &["unreadable::a_batch_with_a_wrong_checksum_is_told_with_its_offsets_and_passed_by_asking"]),
    bug("kafka-markers-not-passed", "R2", "a transaction's marker looks like lag for ever", KAFKA, MARKERS),
    bug("kafka-offset-outside-not-told", "R2", "an offset that is not there is waited for without a word", KAFKA,
        &["hostile::an_offset_that_no_longer_exists_is_said_with_what_there_is"]),
    bug("kafka-settles-past-the-end", "R2", "an offset is settled that nobody has read", KAFKA,
        &["contract::settling_beyond_the_end_is_refused"]),
    bug("kafka-one-turn-for-all", "R2", "a transaction that waits holds up all partitions", KAFKA,
        &["answers::a_transaction_that_waits_holds_its_own_partition_alone"]),
    bug("kafka-revoke-answered-at-once", "R2", "a partition is given while its owner is at work", KAFKA,
        &["coordinated::what_is_revoked_in_the_classic_protocol_is_nobody_elses_before_the_answer"]),
    bug("kafka-loss-not-told", "R2", "handlers of a lost partition go on", KAFKA, PUT_OUT),
    bug("kafka-unheard-proves-an-owner", "R2", "a rebalance without an end stops a partition for good", KAFKA,
        &["answers::a_rebalance_that_nobody_heard_the_end_of_proves_no_other_owner"]),
    bug("kafka-asks-once", "R2", "a group that moved to another broker is an error", KAFKA,
        &["answers::a_group_that_moved_is_asked_for_where_it_is"]),

    bug("kafka-transaction-not-rolled-back", "R3", "a refused transaction stays open", KAFKA, MARKERS),
    bug("kafka-unmoved-proves-nothing", "R3", "a zombie's records go with a settlement that moves nothing", KAFKA,
        &["answers::a_zombie_that_has_heard_of_nothing_settles_and_commits_nothing"]),
    bug("kafka-producer-fences-nobody", "R5", "an older producer of the same id goes on", KAFKA,
        &["contract::a_newer_producer_fences_the_older"]),
    bug("kafka-settled-goes-back", "R7", "a late settlement lowers the settled offset", KAFKA,
        &["contract::a_settled_offset_never_goes_back"]),
    bug("kafka-settles-for-anybody", "R7", "a stale generation settles", KAFKA,
        &["contract::a_stale_generation_settles_nothing"]),
    bug("kafka-given-without-proof", "R7", "a woken process takes partitions up that it has lost", KAFKA,
        &["answers::partitions_are_given_with_a_proof_of_membership"]),
    bug("kafka-signals-wait-in-line", "P9", "a member and its group wait for each other for ever", KAFKA,
        &["answers::what_was_not_told_yet_is_given_back"]),
    bug("kafka-proves-nothing", "R8", "a zombie's transaction settles", KAFKA,
        &["answers::a_zombie_that_has_heard_of_nothing_settles_and_commits_nothing"]),
    bug("kafka-reads-what-was-rolled-back", "R8", "records of a transaction that was rolled back are given", KAFKA, MARKERS),

    bug("kafka-plaintext-anywhere", "P11", "a password goes over the network in the clear, unasked", KAFKA,
        &["properties::what_weakens_a_connection_needs_insecure"]),
    bug("kafka-promise-undone", "P11", "a property that undoes a promise is taken", KAFKA,
        &["properties::a_property_that_would_undo_a_promise_is_refused_with_the_reason"]),
];
