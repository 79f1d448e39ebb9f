//! [`RequestWait`]: how long a request waits, and its room among those that do.
//!
//! A request that waits holds its connection. So only a part of the connections may wait, and
//! probes and short requests find one.

use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::OwnedSemaphorePermit;

use crate::app::App;
use crate::problem::Problem;
use crate::values::Seconds;

/// For how long a request waits. It has to live for as long.
#[derive(Debug)]
pub(crate) struct RequestWait {
    pub(crate) time: Duration,
    _room: Option<OwnedSemaphorePermit>,
}

impl App {
    /// How long a request asks to wait, within the limit of the server. One that does not wait
    /// needs no room.
    pub(crate) fn wait(&self, asked: Option<Seconds>) -> Result<RequestWait, Problem> {
        let time = asked.map_or(Duration::ZERO, |wait| wait.0);
        let most = self.options.wait_max;
        if time > most {
            let text = format!("`wait` is {time:?}, and this server waits for {most:?} at most");
            return Err(Problem::bad_request(text));
        }
        let room = match time {
            Duration::ZERO => None,
            _ => Some(self.room_to_wait()?),
        };
        Ok(RequestWait { time, _room: room })
    }

    /// Room for a request that waits without a limit of its own.
    pub(crate) fn room_to_wait(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let room = std::sync::Arc::clone(&self.waits).try_acquire_owned();
        room.map_err(|_| {
            let most = self.options.waits_max;
            let detail = format!(
                "{most} requests wait, as many as this server lets; ask without `wait`, or later"
            );
            let (kind, title) = ("busy", "the server is busy");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, kind, title, detail)
        })
    }
}
