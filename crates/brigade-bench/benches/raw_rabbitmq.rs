//! Plain `lapin` as an expert writes it: it awaits only what it must, and sends acks together.
//!
//! `lapin` promises what Brigade promises: requests and answers are confirmed, and answers wait in
//! a queue that outlives its connection, acked. `lapin-durable` has them persistent besides, as
//! Brigade with `calls=durable`. `lapin-light` does as many programs do: nothing is confirmed, and
//! answers come by an exclusive queue without acks.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::sync::oneshot;

use crate::Result;
use crate::lines;

async fn connect(url: &str) -> Result<Connection> {
    let runtime = lapin::runtime::default_runtime()?;
    Ok(Connection::connect_with_runtime(
        &format!("{url}/%2f"),
        ConnectionProperties::default(),
        runtime,
    )
    .await?)
}

async fn confirming(connection: &Connection) -> Result<Channel> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

async fn declare(channel: &Channel, queue: &str) -> Result<()> {
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await?;
    Ok(())
}

/// What a peer promises.
#[derive(Clone, Copy)]
pub(crate) struct Promise {
    safe: bool,
    durable: bool,
}

impl Promise {
    pub(crate) fn of(peer: &str) -> Self {
        Self {
            safe: peer != "lapin-light",
            durable: peer == "lapin-durable",
        }
    }
}

fn persistent(is_persistent: bool) -> BasicProperties {
    let properties = BasicProperties::default().with_content_type("application/json".into());
    if is_persistent {
        properties.with_delivery_mode(2)
    } else {
        properties
    }
}

/// Serves calls that add two numbers, until standard input ends.
#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark spawns as its user would"
)]
pub(crate) async fn serve(url: &str, Promise { safe, durable }: Promise) -> Result<()> {
    let connection = connect(url).await?;
    let taking = connection.create_channel().await?;
    let answering = if safe {
        confirming(&connection).await?
    } else {
        taking.clone()
    };
    declare(&taking, "sum").await?;
    taking
        .basic_qos(u16::try_from(crate::IN_FLIGHT)?, BasicQosOptions::default())
        .await?;
    let mut requests = taking
        .basic_consume(
            "sum".into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let serving = async {
        while let Some(Ok(request)) = requests.next().await {
            let (answering, taking) = (answering.clone(), taking.clone());
            tokio::spawn(async move {
                let (a, b): (i64, i64) =
                    serde_json::from_slice(&request.data).expect("two numbers");
                let body = serde_json::to_vec(&(a + b)).expect("a number");
                let (to, id) = (
                    request.properties.reply_to().clone(),
                    request.properties.correlation_id().clone(),
                );
                let properties = persistent(durable).with_correlation_id(id.unwrap_or_default());
                let options = BasicPublishOptions {
                    mandatory: safe,
                    immediate: false,
                };
                let sent = answering
                    .basic_publish(
                        "".into(),
                        to.unwrap_or_default(),
                        options,
                        &body,
                        properties,
                    )
                    .await;
                taking
                    .basic_ack(request.delivery_tag, BasicAckOptions::default())
                    .await
                    .ok();
                if let (true, Ok(confirm)) = (safe, sent) {
                    confirm.await.ok();
                }
            });
        }
    };
    tokio::select! {
        () = serving => {}
        () = lines::end_of_input() => {}
    }
    Ok(())
}

type Open = Arc<Mutex<HashMap<i64, oneshot::Sender<i64>>>>;

pub(crate) struct Caller {
    channel: Channel,
    answers: ShortString,
    open: Open,
    next: AtomicI64,
    promise: Promise,
    _connection: Connection,
}

impl Caller {
    #[expect(
        clippy::disallowed_methods,
        reason = "a benchmark spawns as its user would"
    )]
    pub(crate) async fn connect(url: &str, promise: Promise) -> Result<Arc<Self>> {
        let safe = promise.safe;
        let connection = connect(url).await?;
        let taking = connection.create_channel().await?;
        let channel = if safe {
            confirming(&connection).await?
        } else {
            taking.clone()
        };
        declare(&channel, "sum").await?;
        let answers: ShortString = if safe {
            let mut arguments = FieldTable::default();
            arguments.insert(
                "x-expires".into(),
                lapin::types::AMQPValue::LongInt(300_000),
            );
            let options = QueueDeclareOptions {
                durable: true,
                ..QueueDeclareOptions::default()
            };
            taking
                .queue_declare(
                    format!("answers-{}", std::process::id()).into(),
                    options,
                    arguments,
                )
                .await?
                .name()
                .clone()
        } else {
            let options = QueueDeclareOptions {
                exclusive: true,
                ..QueueDeclareOptions::default()
            };
            taking
                .queue_declare("".into(), options, FieldTable::default())
                .await?
                .name()
                .clone()
        };
        let options = BasicConsumeOptions {
            no_ack: !safe,
            ..BasicConsumeOptions::default()
        };
        let consumer = taking
            .basic_consume(answers.clone(), "".into(), options, FieldTable::default())
            .await?;
        let open = Open::default();
        tokio::spawn(receive(taking.clone(), consumer, Arc::clone(&open), safe));
        Ok(Arc::new(Self {
            channel,
            answers,
            open,
            next: AtomicI64::new(0),
            promise,
            _connection: connection,
        }))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a benchmark spawns as its user would"
    )]
    pub(crate) fn call(
        self: &Arc<Self>,
        n: i64,
    ) -> Pin<Box<dyn Future<Output = std::result::Result<i64, oneshot::error::RecvError>> + Send>>
    {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, confirmed) = oneshot::channel();
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, sender);
        let caller = Arc::clone(self);
        tokio::spawn(async move {
            let body = serde_json::to_vec(&(n, 1)).expect("two numbers");
            let properties = persistent(caller.promise.durable)
                .with_correlation_id(id.to_string().into())
                .with_reply_to(caller.answers.clone());
            let options = BasicPublishOptions {
                mandatory: caller.promise.safe,
                immediate: false,
            };
            let sent = caller
                .channel
                .basic_publish("".into(), "sum".into(), options, &body, properties)
                .await;
            let confirm = sent.expect("a request is sent");
            if caller.promise.safe {
                confirm.await.expect("a request is confirmed");
            }
        });
        Box::pin(confirmed)
    }
}

async fn receive(channel: Channel, mut answers: lapin::Consumer, open: Open, safe: bool) {
    while let Some(answer) = answers.next().await {
        let mut last = answer.expect("the connection holds");
        loop {
            let id = last
                .properties
                .correlation_id()
                .as_ref()
                .and_then(|id| id.as_str().parse().ok())
                .expect("one of ours");
            let sender = open
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&id);
            if let Some(sender) = sender {
                sender
                    .send(serde_json::from_slice(&last.data).expect("a number"))
                    .ok();
            }
            match answers.next().now_or_never() {
                Some(Some(answer)) => last = answer.expect("the connection holds"),
                _ => break,
            }
        }
        if safe {
            drop(
                channel
                    .basic_ack(last.delivery_tag, BasicAckOptions { multiple: true })
                    .now_or_never(),
            );
        }
    }
}

/// Confirmed pushes per second, with so many under way.
pub(crate) async fn push(url: &str, window: usize, time: Duration) -> Result<f64> {
    let connection = connect(url).await?;
    let channel = confirming(&connection).await?;
    declare(&channel, "pushed").await?;
    Ok(lines::rate(window, time, move |n| {
        let channel = channel.clone();
        async move {
            let options = BasicPublishOptions {
                mandatory: true,
                immediate: false,
            };
            let sent = channel
                .basic_publish(
                    "".into(),
                    "pushed".into(),
                    options,
                    n.to_string().as_bytes(),
                    persistent(true),
                )
                .await;
            sent.expect("it is sent").await.expect("it is confirmed");
        }
    })
    .await)
}

/// Puts so many numbers into a queue.
pub(crate) async fn fill(url: &str, queue: &str, count: u64) -> Result<()> {
    let connection = connect(url).await?;
    let channel = confirming(&connection).await?;
    declare(&channel, queue).await?;
    let mut confirms = Vec::new();
    for n in 0..count {
        let body = n.to_string();
        confirms.push(
            channel
                .basic_publish(
                    "".into(),
                    queue.into(),
                    BasicPublishOptions::default(),
                    body.as_bytes(),
                    persistent(true),
                )
                .await?,
        );
        if confirms.len() == 1000 {
            for confirm in confirms.drain(..) {
                confirm.await?;
            }
        }
    }
    for confirm in confirms {
        confirm.await?;
    }
    connection.close(200, "".into()).await?;
    Ok(())
}

/// Jobs taken and acked per second, with an ack for each, as a consumer that runs jobs concurrently
/// does.
#[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
pub(crate) async fn consume(url: &str, queue: &str, prefetch: usize, count: u64) -> Result<f64> {
    let connection = connect(url).await?;
    let channel = connection.create_channel().await?;
    channel
        .basic_qos(u16::try_from(prefetch)?, BasicQosOptions::default())
        .await?;
    let began = Instant::now();
    let mut jobs = channel
        .basic_consume(
            queue.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let mut acks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let Some(job) = jobs.next().await else { break };
        let job = job?;
        let _: i64 = serde_json::from_slice(&job.data)?;
        let channel = channel.clone();
        acks.spawn(async move {
            channel
                .basic_ack(job.delivery_tag, BasicAckOptions::default())
                .await
        });
        while acks.try_join_next().is_some() {}
    }
    while acks.join_next().await.is_some() {}
    Ok(count as f64 / began.elapsed().as_secs_f64())
}
