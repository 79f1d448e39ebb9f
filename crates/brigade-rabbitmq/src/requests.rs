//! Requests to the broker on a channel, each with its answer.

use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, ChannelFlowOptions,
    QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Consumer, Queue};

use super::fault::AmqpFault;
use super::link::LiveConnection;

impl LiveConnection {
    /// Declares a queue.
    pub(super) async fn declare(
        &self,
        channel: &Channel,
        queue: &ShortString,
        options: QueueDeclareOptions,
        arguments: FieldTable,
    ) -> Result<Queue, AmqpFault> {
        self.answer(channel.queue_declare(queue.clone(), options, arguments))
            .await
    }

    /// How many consumers a queue has, of all processes.
    pub(super) async fn consumer_count(
        &self,
        channel: &Channel,
        queue: &ShortString,
    ) -> Result<u32, AmqpFault> {
        let options = QueueDeclareOptions::default().passive();
        self.declare(channel, queue, options, FieldTable::default())
            .await
            .map(|queue| queue.consumer_count())
    }

    /// Begins to consume from a queue. Deliveries are to be acked.
    pub(super) async fn consume(
        &self,
        channel: &Channel,
        queue: &ShortString,
        arguments: FieldTable,
    ) -> Result<Consumer, AmqpFault> {
        let options = BasicConsumeOptions::default();
        self.answer(channel.basic_consume(queue.clone(), "".into(), options, arguments))
            .await
    }

    /// Ends a consumer. Deliveries that came before the answer have been read by then, or are read
    /// at once.
    pub(super) async fn cancel(
        &self,
        channel: &Channel,
        tag: ShortString,
    ) -> Result<(), AmqpFault> {
        self.answer(channel.basic_cancel(tag, BasicCancelOptions { nowait: false }))
            .await
    }

    /// Puts a note of ours into a queue, by a channel with confirms.
    pub(super) async fn publish_note(
        &self,
        channel: &Channel,
        queue: &ShortString,
        body: &[u8],
    ) -> Result<Confirmation, AmqpFault> {
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default();
        let publishing = channel.basic_publish("".into(), queue.clone(), options, body, properties);
        self.answer(async { publishing.await?.await }).await
    }

    /// Returns when the broker has read all that was sent by this channel before, and this side
    /// all that the broker had sent by it. The request changes nothing: the broker only answers.
    pub(super) async fn round_trip(&self, channel: &Channel) -> Result<(), AmqpFault> {
        self.answer(channel.channel_flow(ChannelFlowOptions { active: true }))
            .await
            .map(drop)
    }
}
