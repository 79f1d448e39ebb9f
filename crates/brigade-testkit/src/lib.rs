//! What the fault tests count and break with. Unpublished.
//!
//! [`ledger`] counts what happened to each job and says whether that is allowed; [`facts`] reads
//! what the kernel knows of processes; [`log_events`] keeps what is logged; [`random`] draws fault
//! times from a seed that is printed; [`program`] runs this very test binary again as a program of
//! its own, bounded in time, so that it can be killed and looked at from outside; [`redis`],
//! [`rabbitmq`], [`postgres`] and [`http_server`] start servers; `certificates` makes certificates;
//! [`proxy`] stands between two sockets and breaks what goes through; [`mutate`] damages bytes for
//! decoders.
//!
//! Nothing here knows the library: a test kit that shared its types would share its mistakes.

#[cfg(feature = "certificates")]
pub mod certificates;
pub mod facts;
pub mod http_server;
pub mod ledger;
pub mod log_events;
pub mod mutate;
pub mod places;
pub mod postgres;
pub mod program;
pub mod proxy;
pub mod rabbitmq;
pub mod random;
pub mod redis;
pub mod wall_clock;

/// Whether the full counts are wanted (`BRIGADE_FULL=1`) or those that take a few seconds.
pub fn full() -> bool {
    std::env::var_os("BRIGADE_FULL").is_some_and(|value| value == "1")
}

/// The count for a quick run, or the full one.
pub fn count(quick: usize, whole: usize) -> usize {
    if full() { whole } else { quick }
}
