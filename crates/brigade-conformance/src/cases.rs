//! The cases, one file for each concept. Each file lists its own in `CASES`; a case that is not
//! listed is dead code, which the compiler reports.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "a test spawns as its user would")]

mod agree;
mod any_json;
mod cancel;
mod consumers;
mod contract;
mod declared;
mod edits;
mod event_log;
mod events;
mod far;
mod filters;
mod flow_keys;
mod flow_model;
mod flow_options;
mod flow_sizes;
mod flow_tree;
mod flows;
pub(crate) mod handlers;
mod handles;
mod keys;
mod leases;
mod limits;
mod real_time;
mod retry;
mod schedule_clocks;
mod schedule_pauses;
mod schedules;
mod served;
mod statistics;
mod together;
mod traces;
mod views;
mod waiting;

use crate::case::Case;

/// Every case.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    let files = [
        any_json::CASES,
        cancel::CASES,
        consumers::CASES,
        contract::CASES,
        declared::CASES,
        edits::CASES,
        event_log::CASES,
        events::CASES,
        far::CASES,
        filters::CASES,
        flow_keys::CASES,
        flow_model::CASES,
        flow_options::CASES,
        flow_sizes::CASES,
        flows::CASES,
        handlers::CASES,
        handles::CASES,
        keys::CASES,
        leases::CASES,
        limits::CASES,
        real_time::CASES,
        retry::CASES,
        schedule_clocks::CASES,
        schedule_pauses::CASES,
        schedules::CASES,
        served::CASES,
        statistics::CASES,
        together::CASES,
        traces::CASES,
        views::CASES,
        waiting::CASES,
    ];
    files.into_iter().flatten()
}
