//! [`Events`]: the feed of a pool.

use futures_util::Stream;
use tokio::sync::broadcast;

use crate::event::Event;

/// What happens in a pool, see [`Pool::events`](crate::Pool::events).
#[derive(Debug)]
pub struct Events(pub(super) broadcast::Receiver<Event>);

impl Events {
    /// The next event; `None` when the pool is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Event::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// As a stream.
    pub fn into_stream(self) -> impl Stream<Item = Event> {
        futures_util::stream::unfold(self, |mut events| async move {
            Some((events.next().await?, events))
        })
    }
}
