//! The user's side of brokers: [`Broker`], [`Queue`], [`Lease`], calls, schedules.
//!
//! Everything here works on any [`JobStore`](crate::store::JobStore). Only `connect` names the
//! stores: `sqlite`, `redis`, `rabbitmq`.

#[cfg(any(feature = "redis", feature = "rabbitmq"))]
mod address;
mod api;
mod broker_call;
mod called;
mod cancels;
mod connect;
#[cfg(feature = "redis")]
mod convoy;
#[cfg(feature = "rabbitmq")]
mod foreign;
mod lease;
mod manager;
mod percent;
mod queue;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
mod redact;
#[cfg(feature = "redis")]
mod redis;
mod reload_lock;
mod schedule_set;
mod schedules;
#[cfg(feature = "sqlite")]
mod sqlite;
mod stopped;
#[cfg(any(feature = "redis-tls", feature = "rabbitmq-tls"))]
mod tls;
#[cfg(all(
    any(feature = "redis", feature = "rabbitmq"),
    not(any(feature = "redis-tls", feature = "rabbitmq-tls"))
))]
#[path = "broker/no_tls.rs"]
mod tls;

use crate::to_job::ToJob;
pub use api::Broker;
pub use broker_call::{BrokerCall, CallProgress};
pub(crate) use cancels::Cancels;
#[cfg(feature = "redis")]
pub(crate) use convoy::Convoy;
pub use lease::{Lease, TakenJob};
pub use manager::Manager;
pub use queue::Queue;
pub use schedule_set::ScheduleChanges;
#[cfg(feature = "sqlite")]
pub use sqlite::{PushIn, SqlTransaction, SqlValue};
pub use stopped::Stopped;
