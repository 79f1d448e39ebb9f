//! The user's side of brokers: [`Broker`], [`Queue`], [`Lease`], calls, schedules.
//!
//! Everything here works on any [`JobStore`](crate::store::JobStore). Only `connect` names the
//! stores: `sqlite`, `redis`, `rabbitmq`.

mod announcement;
mod api;
mod broker_call;
mod called;
mod cancels;
mod connect;
mod hand_out;
mod lease;
mod manager;
mod queue;
mod reload_lock;
mod schedule_set;
mod schedules;
mod stopped;

use crate::to_job::ToJob;
pub use api::Broker;
pub(crate) use cancels::Cancels;
pub use lease::{Lease, TakenJob};
pub use manager::Manager;
pub use queue::Queue;
pub use schedule_set::ScheduleChanges;
pub use stopped::Stopped;
