//! When a broker that was killed is back, as a client without Brigade sees it: what is waited for
//! beyond that is ours to answer for.

use std::time::{Duration, Instant};

use brigade_testkit::rabbitmq::RabbitMq;
use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use tokio::time::{sleep, timeout};

use crate::stage::BOUND;

/// A step that hangs is begun again after this time.
const STEP: Duration = Duration::from_secs(2);
/// Between steps that failed.
const AGAIN: Duration = Duration::from_millis(20);
/// A try that was given up may hold one until the server hears of it.
const STOCK: usize = 60;
const KINDS: [&str; 2] = ["classic", "quorum"];

/// When each was possible for the first time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Back {
    /// To open a connection: the vhost is up.
    pub(crate) open: Instant,
    /// To consume: a message came from a classic queue.
    pub(crate) classic: Instant,
    /// The same with a quorum queue: it has its leader.
    pub(crate) quorum: Instant,
}

async fn connect(url: &str) -> Option<Connection> {
    let url = format!("{url}/%2f");
    let connecting = Connection::connect(&url, ConnectionProperties::default());
    timeout(STEP, connecting).await.ok()?.ok()
}

/// Makes its queues, with messages that it never acks: one for each try.
pub(crate) async fn prepare(server: &RabbitMq) {
    let connection = connect(&server.url()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    for kind in KINDS {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        channel
            .queue_declare(kind.into(), QueueDeclareOptions::durable(), arguments)
            .await
            .unwrap();
        let properties = BasicProperties::default().with_delivery_mode(2);
        for _ in 0..STOCK {
            let publishing = channel.basic_publish(
                "".into(),
                kind.into(),
                BasicPublishOptions::default(),
                b"1",
                properties.clone(),
            );
            publishing.await.unwrap().await.unwrap();
        }
    }
}

/// Tries until all of it was possible.
pub(crate) async fn watch(url: String) -> Back {
    let connecting = async {
        loop {
            match connect(&url).await {
                Some(connection) => break connection,
                None => sleep(AGAIN).await,
            }
        }
    };
    let connection = timeout(BOUND, connecting)
        .await
        .expect("a plain client can connect again");
    let open = Instant::now();
    let [classic, quorum] = KINDS.map(|kind| timeout(BOUND, consumed(&connection, kind)));
    let (classic, quorum) = tokio::join!(classic, quorum);
    Back {
        open,
        classic: classic.expect("it is sent messages of a classic queue"),
        quorum: quorum.expect("and of a quorum queue"),
    }
}

async fn consumed(connection: &Connection, queue: &str) -> Instant {
    loop {
        let consuming = async {
            let channel = connection.create_channel().await.ok()?;
            channel
                .basic_qos(1, BasicQosOptions::default())
                .await
                .ok()?;
            let consuming = channel.basic_consume(
                queue.into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            );
            consuming.await.ok()?.next().await?.ok()
        };
        if let Ok(Some(_)) = timeout(STEP, consuming).await {
            return Instant::now();
        }
        sleep(AGAIN).await;
    }
}
