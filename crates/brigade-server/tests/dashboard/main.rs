//! The dashboard in a real Chromium, against SQLite and Redis, with consumers whose workers crash.
//!
//! Each test has a broker, a server and a browser of its own. A line of the browser's console that
//! is more than information fails the test: exceptions, and what the policy of the pages has
//! refused.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(
    clippy::disallowed_methods,
    reason = "a test starts tasks and programs itself"
)]

mod browser;
mod client;
mod forms;
mod look;
mod many;
mod rabbitmq;
mod site;
mod states;
mod steer;

brigade::test_workers!();

/// Every page that is there without a job.
const PAGES: [&str; 8] = [
    "/",
    "/queues",
    "/jobs",
    "/consumers",
    "/dead",
    "/schedules",
    "/limits",
    "/settings",
];
