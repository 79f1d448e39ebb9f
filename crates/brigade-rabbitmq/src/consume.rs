//! The start of a consumer, which may be given up before the broker has answered.

use futures_util::FutureExt as _;
use lapin::options::BasicConsumeOptions;
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};

/// Begins to consume from a queue, with this consumer tag.
///
/// A dropped future ends the channel. lapin would keep the consumer and its channel until the
/// connection ends, with all that the broker sends by it.
pub(super) async fn begin_consuming(
    channel: &Channel,
    queue: &ShortString,
    tag: ShortString,
    options: BasicConsumeOptions,
    arguments: FieldTable,
) -> lapin::Result<Consumer> {
    let mut unanswered = UnansweredConsume(Some(channel));
    let consumer = channel.basic_consume(queue.clone(), tag, options, arguments);
    let consumer = consumer.await;
    unanswered.0 = None;
    consumer
}

/// Closes the channel when it is dropped before the answer.
struct UnansweredConsume<'a>(Option<&'a Channel>);

impl Drop for UnansweredConsume<'_> {
    fn drop(&mut self) {
        if let Some(channel) = self.0 {
            // The frame is on its way then; its answer need not be waited for.
            drop(channel.close(200, "over".into()).now_or_never());
        }
    }
}
