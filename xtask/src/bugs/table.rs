//! The bugs, the rule that each breaks, and what must catch it.

/// A test binary of a package of the framework, by the package's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Binary {
    /// Its unit tests.
    Unit(&'static str),
    /// Its tests/it.
    It(&'static str),
}

/// A bug that can be planted.
#[derive(Debug)]
pub(super) struct Bug {
    /// What `AQUEDUCT_PLANTED` says.
    pub(super) name: &'static str,
    /// The rule, or the promise, that it breaks.
    pub(super) rule: &'static str,
    pub(super) breaks: &'static str,
    pub(super) binary: Binary,
    /// One of these must fail.
    pub(super) tests: &'static [&'static str],
}

pub(super) const fn bug(
    name: &'static str,
    rule: &'static str,
    breaks: &'static str,
    binary: Binary,
    tests: &'static [&'static str],
) -> Bug {
    Bug { name, rule, breaks, binary, tests }
}

const CORE: Binary = Binary::Unit("core");
const MEMORY: Binary = Binary::It("memory");
const EMBEDDED: Binary = Binary::It("embedded");
const SQL: Binary = Binary::It("sql");
const RUNTIME: Binary = Binary::It("runtime");
const RUNTIME_UNIT: Binary = Binary::Unit("runtime");
const APP: Binary = Binary::It("app");
const FACADE: Binary = Binary::It("aqueduct");
const SIMULATION: Binary = Binary::It("testkit");

const SEEDS: &[&str] = &["simulation::fixed_seeds_keep_every_promise"];

const AT_THE_CALL: &[&str] = &["publish::the_place_in_the_order_is_taken_at_the_call"];
const BOUNDED: &[&str] = &["publish::no_more_is_in_flight_than_the_log_is_sized_for_and_order_holds"];
const HELD: &[&str] = &["publish::what_was_published_behind_a_failed_event_of_its_key_is_held"];
const ABANDONED: &[&str] = &["publish::a_failure_that_nobody_waits_for_holds_nothing"];
const OVERSIZED: &[&str] = &["publish::an_oversized_event_is_refused_and_holds_nothing_up"];
const OVERSIZED_ALONE: &[&str] = &["contract::oversized_record_fails_alone"];
const KEY_ORDER: &[&str] = &["order::a_key_keeps_its_order_through_retries_and_others_do_not_wait"];
const WINDOW: &[&str] = &["order::one_stuck_key_never_grows_memory_past_the_window"];
const CROWDED: &[&str] = &["parking::a_waiting_key_does_not_fill_the_window"];
const OPEN: &[&str] = &["ring::tests::the_settled_offset_never_passes_an_open_delivery"];
const HOLE: &[&str] = &["ring::tests::a_hole_at_the_end_is_settled_once_all_before_it_ended"];
const HAND_OVER: &[&str] = &["drain::a_second_member_takes_partitions_over_without_repeats"];
const TWELVE: &[&str] = &[
    "progress::a_key_that_holds_the_settled_offset_is_seen_and_named",
    "progress::a_delivery_that_holds_all_makes_it_unready",
];
const CLIENT: &[&str] = &["progress::a_dead_client_is_seen_and_made_anew"];
const LETTER: &[&str] = &["failure::a_record_that_fails_for_good_is_kept_byte_for_byte_with_its_reason"];
const LETTER_STORED: &[&str] = &["failure::nothing_is_settled_past_a_dead_letter_that_was_not_stored"];
const PANIC: &[&str] = &["failure::a_panic_is_one_failed_attempt"];
const OUTAGE: &[&str] = &["parking::an_outage_shorter_than_hold_at_most_parks_nothing"];
const DUE: &[&str] = &["parking::a_long_retry_after_parks_the_key_until_it_is_due"];
const RESTART: &[&str] = &["parking::a_parked_key_is_parked_after_a_restart_and_a_release_goes_on"];
const RELEASED: &[&str] = &["parking::a_released_record_is_parked_until_it_was_handled"];
const ZOMBIE: &[&str] = &["deliveries::a_zombie_writes_nothing"];
const GROWS: &[&str] = &["deliveries::the_settled_offset_only_grows_and_takes_its_marks_along"];
const TOGETHER: &[&str] = &["deliveries::a_group_fails_together_and_the_bad_turn_then_fails_alone"];
const ONCE_IN_ORDER: &[&str] = &["relay::events_arrive_once_in_order_and_their_rows_go"];
const BETWEEN: &[&str] = &["relay::a_crash_between_log_and_table_publishes_nothing_twice"];
const STALE: &[&str] = &["contract::a_stale_generation_settles_nothing"];
const STALE_COMMIT: &[&str] = &["contract::a_stale_generation_commits_nothing"];
const NEWER_PRODUCER: &[&str] = &["contract::a_newer_producer_fences_the_older"];
const GOES_BACK: &[&str] = &["contract::a_settled_offset_never_goes_back"];
const LEAVER: &[&str] = &["contract::a_leaver_is_taken_over"];
const ACKNOWLEDGED: &[&str] = &["processes::what_was_acknowledged_survives_a_kill"];
const NO_WAL: &[&str] = &["went_back::a_deleted_write_ahead_log_is_noticed"];
const BEACON: &[&str] = &["beacon::tests::a_member_lives_by_its_lock_and_runs_by_its_heartbeat"];

/// Every bug that the source can plant.
#[rustfmt::skip]
pub(super) const BUGS: &[Bug] = &[
    bug("gate-sends-after-the-call", "R1", "a publish is sent when its future runs, not at the call", RUNTIME, AT_THE_CALL),
    bug("gate-last-in-first-out", "R1", "what waits at the gate is sent last first", RUNTIME, BOUNDED),
    bug("gate-without-bound", "R1", "the gate admits more than the log is sized for", RUNTIME, BOUNDED),
    bug("gate-holds-nothing", "R1", "a key goes on before its caller saw the failure", RUNTIME, HELD),
    bug("gate-holds-for-nobody", "R1", "a failure whose caller went away holds its key for ever", RUNTIME, ABANDONED),
    bug("gate-answers-backwards", "R1", "callers of one batch get each other's receipts", SIMULATION, SEEDS),
    bug("oversized-takes-a-place", "R1", "an oversized event is sent, and holds its key up", RUNTIME, OVERSIZED),
    bug("memory-holds-nothing", "R1", "a record overtakes a failed one of its key", MEMORY, OVERSIZED_ALONE),
    bug("embedded-holds-nothing", "R1", "a record overtakes a failed one of its key", EMBEDDED, OVERSIZED_ALONE),
    bug("embedded-receipts-swapped", "R1", "publishers get each other's receipts", EMBEDDED, ACKNOWLEDGED),

    bug("lane-last-in-first-out", "R2", "a lane goes on with its newest record", RUNTIME, KEY_ORDER),
    bug("key-in-parallel", "R2", "a second record of a key begins beside the first", SIMULATION, SEEDS),
    bug("ring-passes-open-delivery", "R2", "the settled offset passes a delivery that has not ended", RUNTIME_UNIT, OPEN),
    bug("ring-counts-offsets", "R2", "the next offset is the last one + 1, not one that was read", RUNTIME_UNIT, OPEN),
    bug("ring-forgets-pass", "R2", "a hole at the end looks like lag for ever", RUNTIME_UNIT, HOLE),
    bug("window-without-bound", "R2", "one stuck key grows memory", RUNTIME, WINDOW),
    bug("crowded-key-not-parked", "R2", "a waiting key fills the window", RUNTIME, CROWDED),
    bug("retry-after-ignored", "R2", "a handler's RetryAfter is not waited for", RUNTIME, DUE),
    bug("due-time-ignored", "R2", "a key that was parked until a time stays parked", RUNTIME, DUE),
    bug("drain-begins-deliveries", "R2", "a drain begins what waited for its place", RUNTIME,
        &["drain::what_has_not_begun_does_not_begin_while_draining"]),
    bug("drain-settles-unfinished", "R2", "what did not end within the deadline is settled", RUNTIME,
        &["drain::what_does_not_end_within_the_deadline_is_reported_and_not_settled"]),
    bug("writes-end-with-handlers", "R8", "what handlers returned is repeated by the next owner", RUNTIME,
        &["exactly_once::what_was_returned_is_stored_before_its_partition_is_given_back"]),
    bug("unstored-not-reported", "R8", "what was returned and not stored is not reported", RUNTIME,
        &["exactly_once::what_was_returned_and_is_not_stored_is_reported"]),
    bug("replay-publishes-what-is-muted", "P7", "a replay publishes what live handlers had published", RUNTIME,
        &["replay::history_is_handled_again_and_nothing_else_moves"]),
    bug("replay-past-its-end", "P7", "a replay goes on into what is published meanwhile", RUNTIME,
        &["replay::a_range_of_time_is_replayed"]),
    bug("replay-forgets-its-checkpoint", "P7", "a replay that was ended begins anew", RUNTIME,
        &["replay::a_failure_ends_it_and_it_goes_on_from_its_checkpoint"]),
    bug("names-joined-by-dots", "R3", "two groups fence each other without end", RUNTIME_UNIT,
        &["aside::tests::the_producers_of_two_groups_have_two_names"]),
    bug("unknown-topic-taken-for-none", "R3", "all parked keys are overtaken after a broker's start", RUNTIME,
        &["parking::a_log_that_does_not_know_what_is_parked_is_waited_for"]),
    bug("lost-partition-runs-on", "R2", "handlers of a lost partition are not cancelled", RUNTIME,
        &["drain::a_lost_partition_is_not_settled_by_its_old_assignment"]),
    bug("revoke-answered-before-drain", "R2", "a partition has two owners at work", RUNTIME, HAND_OVER),
    bug("hand-over-without-settle", "R2", "the next owner repeats what has ended", RUNTIME, HAND_OVER),
    bug("last-settle-once", "R2", "what ended is repeated where its last settle met a transaction", RUNTIME,
        &["drain::a_last_settle_is_tried_until_it_is_stored"]),
    bug("fenced-owner-waits", "R4", "a partition that a sleeper took in the database stands", FACADE,
        &["positions::who_was_fenced_by_a_sleeper_takes_its_partition_again"]),
    bug("taken-without-asking", "R7", "a woken process has the newest claim, and writes", FACADE,
        &["positions::a_sleeper_that_takes_what_it_has_lost_writes_nothing"]),
    bug("gone-taken-again", "R4", "a process that lost a partition takes it from its owner, again and again", FACADE,
        &["positions::who_has_lost_a_partition_and_is_told_so_by_the_database_leaves_it_alone"]),
    bug("unopened-ends-the-client", "P10", "a partition that cannot be read yet ends the membership of all", RUNTIME,
        &["taking::a_partition_that_cannot_be_read_yet_keeps_nobody_up"]),
    bug("taking-not-given-back", "P9", "a partition that waits to be read is never given back", RUNTIME,
        &["taking::what_is_being_taken_up_is_given_back_at_once"]),
    bug("take-of-another-generation", "P10", "a partition that was given anew stands still", RUNTIME,
        &["taking::two_generations_are_taken_up_at_once"]),
    bug("writes-on-after-a-refusal", "R8", "what was refused is settled past, and lost", RUNTIME,
        &["exactly_once::what_is_refused_for_good_is_not_settled_past"]),
    bug("growth-not-waited", "R2", "a key that moved to an added partition overtakes what it left", RUNTIME,
        &["growth::an_added_partition_waits_for_what_a_key_left_in_an_older_one"]),
    bug("topic-made-anew-goes-on", "R2", "an offset of a deleted topic is taken for one of the next", RUNTIME,
        &["growth::a_topic_that_was_made_anew_stops_with_its_reason"]),
    bug("returned-beside-the-transaction", "R8", "what a handler returned is repeated after a crash", SIMULATION, SEEDS),
    bug("returned-before-its-turn", "R8", "a transaction settles past a delivery that has not ended", RUNTIME,
        &["exactly_once::what_handlers_return_goes_with_the_settled_offset_and_in_order"]),
    bug("settled-before-what-was-returned", "R8", "what was returned is lost in a crash", RUNTIME,
        &["exactly_once::an_outage_of_the_other_topic_is_waited_for_and_named"]),
    bug("unknown-outcome-written-again", "R8", "what was returned is there twice after a lost answer", RUNTIME,
        &["exactly_once::a_transaction_whose_answer_is_lost_is_not_written_again"]),
    bug("released-overtakes-what-was-returned", "R8", "a released record's event stands before its predecessor's",
        RUNTIME, &["exactly_once::a_released_record_returns_once_and_behind_those_before_it"]),
    bug("start-not-kept", "R2", "a kill before the first settle skips records", RUNTIME,
        &["drain::where_a_new_group_starts_is_kept_before_its_first_delivery"]),
    bug("failed-settle-taken-as-stored", "R2", "a refused settle is never tried again", RUNTIME,
        &["drain::a_refused_settle_is_tried_again"]),
    bug("stall-not-judged", "P10", "a partition without progress is called well", RUNTIME, TWELVE),
    bug("stalled-is-ready", "P10", "readiness passes over stalls", RUNTIME, TWELVE),
    bug("stopped-is-ready", "P10", "readiness passes over stopped partitions", RUNTIME,
        &["drain::a_stopped_partition_says_so_at_once_and_drains"]),
    bug("silent-client-not-seen", "P10", "a client that gives nothing is trusted for ever", RUNTIME, CLIENT),
    bug("dead-client-not-made-anew", "P10", "a dead client ends the subscription", RUNTIME, CLIENT),
    bug("ready-while-draining", "P9", "an app that drains calls itself ready", APP,
        &["readiness::it_is_unready_while_it_drains"]),

    bug("retries-hold-neighbours", "R3", "other keys wait for a back-off", RUNTIME, KEY_ORDER),
    bug("panic-ends-the-partition", "R3", "a panic is more than one failed attempt", RUNTIME, PANIC),
    bug("attempts-not-counted", "R3", "a failing record is tried for ever", RUNTIME, PANIC),
    bug("terminal-is-retried", "R3", "what fails for good is tried again", RUNTIME, LETTER),
    bug("outage-counts-attempts", "R3", "the log's outage spends a record's attempts", RUNTIME,
        &["failure::an_outage_while_publishing_counts_no_attempt"]),
    bug("outage-is-poison", "R3", "a record is parked although nobody's succeeds", RUNTIME, OUTAGE),
    bug("parked-key-not-consulted", "R3", "a successor overtakes its parked key", RUNTIME,
        &["parking::a_successor_does_not_overtake_its_parked_key"]),
    bug("nothing-rebuilt", "R3", "the next owner does not know what is parked", RUNTIME, RESTART),
    bug("released-backwards", "R3", "parked records are released last first", RUNTIME, RESTART),
    bug("live-while-copies-in-flight", "R3", "a key goes live while a copy of it is on its way", RUNTIME_UNIT,
        &["parking::index::tests::a_key_goes_live_only_when_nothing_of_it_is_on_its_way"]),
    bug("failure-goes-on-releasing", "R3", "a failure does not end the release", RUNTIME_UNIT,
        &["parking::index::tests::a_failure_ends_the_release"]),
    bug("end-mark-before-handled", "R3", "a kill loses the released record under way", RUNTIME, RELEASED),
    bug("copy-not-fenced", "R3", "an evicted member parks records", RUNTIME,
        &["parking::a_woken_member_parks_nothing"]),
    bug("copy-settled-before-stored", "R3", "a parked record is settled before its copy is stored", RUNTIME,
        &["parking::nothing_is_settled_past_a_copy_that_was_not_stored"]),
    bug("letter-settled-before-stored", "R3", "a record is settled before its dead letter is stored", RUNTIME, LETTER_STORED),
    bug("letter-drops-headers", "R3", "a dead letter is not the record's bytes", RUNTIME, LETTER),

    bug("settled-in-the-log-alone", "R4", "the database never learns the settled offset", FACADE,
        &["positions::the_settled_offset_is_stored_in_the_database_and_takes_its_marks_along"]),
    bug("log-decides-where-reading-starts", "R4", "a restored database skips what it has not handled", FACADE,
        &["positions::the_database_decides_where_reading_starts"]),
    bug("unknown-commit-taken-as-done", "R4", "a commit with an unknown outcome is not looked up", SIMULATION, SEEDS),
    bug("events-beside-the-transaction", "R4", "events are published although their transaction rolled back", FACADE,
        &["positions::what_a_handler_returns_is_published_only_if_its_transaction_commits"]),
    bug("take-does-not-raise", "R4", "the older owner goes on writing", SQL, ZOMBIE),
    bug("begin-ignores-generation", "R4", "a zombie writes effects", SQL, ZOMBIE),
    bug("raise-ignores-generation", "R4", "a zombie moves the settled offset", SQL, ZOMBIE),
    bug("position-mark-ignored", "R4", "a delivery takes effect twice", SQL, &["deliveries::a_delivery_takes_effect_once"]),
    bug("event-mark-skipped", "R4", "an event at a second position takes effect twice", SQL,
        &["deliveries::the_same_event_at_another_position_has_ended"]),
    bug("released-judged-by-settled-offset", "R4", "a released record is taken for ended", SQL,
        &["deliveries::a_released_record_is_judged_by_its_marks"]),
    bug("settled-goes-back", "R4", "the settled offset is lowered", SQL, GROWS),
    bug("marks-go-early", "R4", "marks above the settled offset are deleted", SQL, GROWS),
    bug("ended-before-its-commit", "R4", "ended is said before the mark is committed", SQL, TOGETHER),
    bug("done-before-the-commit", "R4", "a delivery is done before its transaction is", SQL, TOGETHER),
    bug("dropped-turn-stays", "R4", "what a cancelled handler wrote is committed", SQL,
        &["deliveries::a_dropped_transaction_leaves_no_trace"]),
    bug("failed-sync-taken-as-rolled-back", "R4", "after a failed sync the database goes on", SQL,
        &["crash::after_a_failed_sync_nothing_is_said_to_be_committed"]),
    bug("turns-out-of-order", "R4", "the write connection is not first come, first served", SQL,
        &["deliveries::turns_come_first_in_first_out"]),

    bug("relay-skips-a-row", "R5", "a staged event is never published", SQL, ONCE_IN_ORDER),
    bug("relay-repeats", "R5", "a crash between log and table publishes twice", SQL, BETWEEN),
    bug("relay-cursor-apart", "R5", "the log's cursor does not commit with its events", SQL, BETWEEN),
    bug("fork-not-noticed", "R5", "a restored database's new events are taken for published", SQL,
        &["relay::a_restored_database_drops_nothing"]),
    bug("deposed-relay-goes-on", "R5", "the term is not compared", SQL, &["relay::a_relay_deposed_by_term_ends"]),
    bug("fenced-relay-goes-on", "R5", "a fenced relay fences the newer one", SQL, &["relay::a_fenced_relay_writes_nothing_more"]),
    bug("held-lease-taken", "R5", "two relays lead", SQL, &["relay::a_second_relay_waits_and_then_goes_on"]),

    bug("given-before-its-owner-answered", "R7", "a partition is given while its owner is at work", CORE,
        &["group::tests::a_partition_is_given_only_after_its_owner_answered"]),
    bug("memory-settles-for-anybody", "R7", "a stale generation settles", MEMORY, STALE),
    bug("memory-commits-for-anybody", "R7", "a stale generation commits", MEMORY, STALE_COMMIT),
    bug("memory-generation-not-raised", "R7", "two owners have one generation", MEMORY, LEAVER),
    bug("memory-settled-goes-back", "R7", "a late settlement lowers the settled offset", MEMORY, GOES_BACK),
    bug("memory-old-producer-goes-on", "R7", "a fenced producer commits", MEMORY, NEWER_PRODUCER),
    bug("embedded-settles-for-anybody", "R7", "a stale generation settles", EMBEDDED, STALE),
    bug("embedded-commits-for-anybody", "R7", "a stale generation commits", EMBEDDED, STALE_COMMIT),
    bug("embedded-generation-not-raised", "R7", "two owners have one generation", EMBEDDED, LEAVER),
    bug("embedded-settled-goes-back", "R7", "a late settlement lowers the settled offset", EMBEDDED, GOES_BACK),
    bug("embedded-old-producer-goes-on", "R7", "a fenced producer commits", EMBEDDED, NEWER_PRODUCER),
    bug("embedded-kill-not-seen", "R7", "a killed member keeps its partitions", Binary::Unit("embedded"), BEACON),
    bug("embedded-pause-not-seen", "R7", "a paused member keeps its partitions", Binary::Unit("embedded"), BEACON),
    bug("embedded-late-answer-waited-for", "R7", "a partition that was asked for is waited for without end", EMBEDDED,
        &["groups::a_partition_that_is_not_given_back_is_taken"]),
    bug("embedded-removed-member-stays-owner", "R7", "a member that was removed still settles", EMBEDDED,
        &["groups::a_removed_member_owns_nothing_where_nobody_follows_either"]),
    bug("embedded-receipt-before-commit", "R7", "Ok is said before the commit", EMBEDDED, ACKNOWLEDGED),
    bug("embedded-failed-sync-forgotten", "R7", "Ok is said after a failed sync", EMBEDDED,
        &["processes::after_a_failed_write_nothing_is_acknowledged"]),
    bug("embedded-no-high-water", "R7", "a file that went back is not noticed", EMBEDDED, NO_WAL),
    bug("embedded-offsets-reused", "R7", "offsets are given again", EMBEDDED, NO_WAL),
    bug("embedded-checksum-not-compared", "R7", "flipped bytes are read as data", EMBEDDED, &["went_back::a_flipped_byte_is_named"]),
    bug("embedded-group-of-one", "R7", "each append pays for a sync of its own", EMBEDDED,
        &["append::what_queues_during_a_sync_shares_the_next_one"]),
];
