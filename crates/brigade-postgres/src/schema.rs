//! The schema `brigade`: its text and its version.
//!
//! The text is in `schema/*.sql`, one file for each concept. Words in braces are constants of
//! `brigade_core`, which are written there alone. On a change: add a step to [`steps`], never edit
//! one that was released, and describe the new column in `docs/brokers.md`.

use std::fmt::Write as _;
use std::time::Duration;

use brigade_core::Durations;
use brigade_core::clock::FAR;
use brigade_core::job_event::{EVENT_REASON_BYTES_MAX, EVENTS_KEPT};
use brigade_core::policy::{
    CANCELLED_KEPT, HISTORY_MAX, KEY_BYTES_MAX, MISSED_BYTES_MAX, MISSED_NAMED_MAX, NAME_BYTES_MAX,
    NEVER_BEGAN, NEXT_TOO_LATE, OUT_OF_TIME, PAYLOAD_BYTES_MAX,
};
use brigade_core::retry::Retry;
use brigade_core::statistics::{OTHER_TASKS, STATISTICS_KEPT, TASKS_COUNTED_MAX};

/// A consumer that has not asked for this long is none.
pub(super) const ASKED_WITHIN: Duration = Duration::from_secs(60);
/// Payloads of one hand-out, unless a single one has more.
const HAND_OUT_BYTES_MAX: usize = 32 << 20;
/// Jobs of partitions without room that a hand-out passes over before it looks at each partition.
const PASSED_OVER_MAX: usize = 1_000;
/// Rows of statistics that are kept at most, however many queues there are.
const STATISTICS_ROWS_MAX: u64 = 200_000;
/// Advisory locks, each of a part of one transaction: who adds statistics up, and who numbers
/// events.
const FOLD_LOCK: i64 = 0x6272_6967_6164_6502;
const EVENTS_LOCK: i64 = 0x6272_6967_6164_6503;
/// Of the numbers of the locks under which limited queues hand out jobs.
const LIMITS_SEED: i64 = 4712;

/// A setting of every function that is called from outside: what it calls without a schema is the
/// server's own, whatever others have made in the schemas of the session.
const SAFE_PATH: &str = "set search_path = pg_catalog, pg_temp";
/// Settings of functions that change many jobs at once: plans that were made while tables were
/// small are kept, so they go by the indexes from the start.
const BY_INDEX: &str = "set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off \
    set plan_cache_mode = force_generic_plan set jit = off";

/// Whether events are recorded now, where `wall` is the time.
const IS_RECORDING: &str = "exists (select from brigade.facts where name = 'recording' \
    and split_part(value, ' ', 1)::bigint > extract(epoch from wall) * 1000)";

/// How long a call of this library waits for a lock, which a transaction of an application may hold
/// for as long as it likes. It is shorter than `response_timeout` usually is, so that the error is
/// known for what it is, and no session of the server goes on waiting for a caller that has gone.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// The files, in an order in which each knows what it uses.
const FILES: [&str; 21] = [
    include_str!("schema/tables.sql"),
    include_str!("schema/clocks.sql"),
    include_str!("schema/note.sql"),
    include_str!("schema/keys.sql"),
    include_str!("schema/end.sql"),
    include_str!("schema/flows.sql"),
    include_str!("schema/push.sql"),
    include_str!("schema/lease.sql"),
    include_str!("schema/settle.sql"),
    include_str!("schema/chores.sql"),
    include_str!("schema/holders.sql"),
    include_str!("schema/change.sql"),
    include_str!("schema/find.sql"),
    include_str!("schema/push_function.sql"),
    include_str!("schema/schedules.sql"),
    include_str!("schema/why.sql"),
    include_str!("schema/asks.sql"),
    include_str!("schema/statistics.sql"),
    include_str!("schema/events.sql"),
    include_str!("schema/limits.sql"),
    include_str!("schema/upkeep.sql"),
];

/// How deep a transaction follows a flow, each end within the one that brought it about: the server
/// bounds the depth of calls.
const FLOW_DEPTH_MAX: usize = 16;
/// Noted ends that a transaction follows so far.
const FLOW_ENDS_MAX: usize = 50;
/// Ends that a transaction takes back one behind the other.
const FLOW_STEPS_MAX: usize = 500;

/// Each step brings the schema from its index to the next version. They may run within one
/// transaction. The schema itself is there already.
pub(super) fn steps() -> Vec<String> {
    vec![with_constants(&FILES.concat())]
}

fn with_constants(text: &str) -> String {
    let bounds = Durations::BOUNDS
        .iter()
        .fold(String::new(), |mut text, bound| {
            let comma = if text.is_empty() { "" } else { "," };
            // Writing to a string does not fail.
            write!(text, "{comma}{bound}").ok();
            text
        });
    let constants = [
        ("{by_index}", BY_INDEX.to_owned()),
        ("{safe_path}", SAFE_PATH.to_owned()),
        (
            "{lock_timeout}",
            format!("set lock_timeout = {}", LOCK_TIMEOUT.as_millis()),
        ),
        ("{is_recording}", IS_RECORDING.to_owned()),
        ("{lock_timeout_ms}", LOCK_TIMEOUT.as_millis().to_string()),
        ("{bounds}", bounds),
        ("{bounds_count}", Durations::BOUNDS.len().to_string()),
        (
            "{cancelled_kept_ms}",
            CANCELLED_KEPT.as_millis().to_string(),
        ),
        ("{asked_within_ms}", ASKED_WITHIN.as_millis().to_string()),
        ("{events_kept}", EVENTS_KEPT.to_string()),
        ("{events_lock}", EVENTS_LOCK.to_string()),
        ("{fold_lock}", FOLD_LOCK.to_string()),
        ("{limits_seed}", LIMITS_SEED.to_string()),
        ("{other_tasks}", literal(OTHER_TASKS)),
        (
            "{statistics_kept_ms}",
            STATISTICS_KEPT.as_millis().to_string(),
        ),
        ("{statistics_rows_max}", STATISTICS_ROWS_MAX.to_string()),
        ("{tasks_max}", TASKS_COUNTED_MAX.to_string()),
        ("{event_reason_max}", EVENT_REASON_BYTES_MAX.to_string()),
        ("{flow_depth_max}", FLOW_DEPTH_MAX.to_string()),
        ("{flow_ends_max}", FLOW_ENDS_MAX.to_string()),
        ("{flow_steps_max}", FLOW_STEPS_MAX.to_string()),
        ("{far_seconds}", FAR.as_secs().to_string()),
        ("{hand_out_bytes_max}", HAND_OUT_BYTES_MAX.to_string()),
        ("{history_max}", HISTORY_MAX.to_string()),
        ("{key_bytes_max}", KEY_BYTES_MAX.to_string()),
        ("{missed_bytes_max}", MISSED_BYTES_MAX.to_string()),
        ("{missed_named_max}", MISSED_NAMED_MAX.to_string()),
        ("{name_bytes_max}", NAME_BYTES_MAX.to_string()),
        ("{never_began}", literal(NEVER_BEGAN)),
        ("{next_too_late}", literal(NEXT_TOO_LATE)),
        ("{out_of_time}", literal(OUT_OF_TIME)),
        ("{passed_over_max}", PASSED_OVER_MAX.to_string()),
        ("{payload_bytes_max}", PAYLOAD_BYTES_MAX.to_string()),
        (
            "{retry_base_ms}",
            Retry::default().base.as_millis().to_string(),
        ),
        (
            "{retry_cap_ms}",
            Retry::default().cap.as_millis().to_string(),
        ),
    ];
    constants
        .iter()
        .fold(text.to_owned(), |text, (name, value)| {
            text.replace(name, value)
        })
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
