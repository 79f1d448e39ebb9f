//! Answers to calls.

use std::sync::Arc;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::RabbitMqCore;
use super::message::new_id;
use super::publish::Message;
use super::settle::Ends;
use crate::broker::{Answer, Ending};
use crate::error::Error;

impl RabbitMqCore {
    /// Ends a lease of a call: what its caller is told is sent, then its delivery is acked.
    pub(super) async fn end_call(self: &Arc<Self>, (token, held, ending, answer): Ends) -> Result<(), Error> {
        let text = match &ending {
            Ending::Ack(result) => Ok(result.as_deref().unwrap_or("null").to_owned()),
            Ending::GiveBack { .. } | Ending::Extend(_) => {
                let Some(parcel) = self.afterlife(&held.envelope, &ending)? else { return Ok(()) };
                if let Some(Err(error)) = self.store(vec![parcel]).await.pop().map(|one| one.into_result("settle")) {
                    self.hold_again(token, held);
                    return Err(error);
                }
                // Two messages are there if this fails, and one of them is dropped.
                self.ack(&held).await.ok();
                return Ok(());
            }
            Ending::Fail { reason, .. } | Ending::DeadLetter(reason) | Ending::Cancelled { reason, .. } => {
                Err(answer.map_or_else(|| Answer::rejected(crate::error::ErrorKind::Unsupported, reason.clone()), |answer| *answer))
            }
        };
        if let Some(message) = message_of(&held.envelope.properties, &text) {
            // A caller that is gone wants no answer.
            self.publisher.publish(vec![message]).await;
        }
        self.ack(&held).await.map_err(|fault| fault.into_error("settle").uncertain())
    }
}

fn message_of(asked: &BasicProperties, text: &Result<String, Answer>) -> Option<Message> {
    let queue = asked.reply_to().clone()?;
    let mut properties = BasicProperties::default().with_content_type("application/json".into()).with_message_id(new_id().as_str().into());
    if let Some(id) = asked.correlation_id() {
        properties = properties.with_correlation_id(id.clone());
    }
    let body = match text {
        Ok(result) => result.clone().into_bytes(),
        Err(answer) => {
            let mut headers = FieldTable::default();
            headers.insert("brigade-error".into(), AMQPValue::LongString(answer.kind.as_str().into()));
            properties = properties.with_headers(headers);
            serde_json::to_vec(answer).ok()?
        }
    };
    Some(Message { queue, body: Bytes::from(body), properties })
}
