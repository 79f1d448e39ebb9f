//! `Broker::check`: what it finds on a server where something is wrong.
//!
//! Each test sets up one kind of fault with `rabbitmqctl` or with a plain AMQP connection: a
//! missing right, a policy that limits queues, a queue with other arguments, a short delivery
//! limit. It then looks for the finding, with its level and the names in it.

use brigade::Broker;
use brigade_testkit::places::free_port;
use brigade_testkit::rabbitmq::RabbitMq;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};

use crate::stage::{NOW, ctl, plain, until};

/// A server with the management API, and the port of that.
fn start_with_management() -> (RabbitMq, u16) {
    let port = free_port();
    let lines = [
        format!("management.tcp.port = {port}"),
        "management.tcp.ip = 127.0.0.1".to_owned(),
        "collect_statistics_interval = 1000".to_owned(),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let server =
        tokio::task::block_in_place(|| RabbitMq::start_with(&["rabbitmq_management"], &lines));
    (server.unwrap(), port)
}

/// What a check by this URL finds.
async fn findings(url: &str) -> Vec<String> {
    let found = Broker::connect(url).await.unwrap().check().await.unwrap();
    found.iter().map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_names_policies_that_lose_jobs_and_rights_that_lack() {
    let (server, port) = start_with_management();
    let url = format!(
        "{}?ns=shop&management=http://127.0.0.1:{port}",
        server.url()
    );
    let broker = Broker::connect(&url).await.unwrap();
    for queue in ["safe", "short", "full"] {
        broker.queue(queue).push(&1).await.unwrap();
    }
    let quiet = findings(&url).await;
    assert!(
        quiet.iter().all(|text| text.starts_with("note: ")),
        "{quiet:#?}"
    );

    set_policies(&server).await;
    // The server looks every second; by default, every five.
    until("the policies are in force", async || {
        findings(&url)
            .await
            .iter()
            .filter(|text| text.contains("policy "))
            .count()
            >= 3
    })
    .await;
    let found = findings(&url).await;
    let has = |words: &[&str]| {
        found
            .iter()
            .any(|text| words.iter().all(|word| text.contains(word)))
    };
    let short = "queue shop.short";
    for problem in [
        &["problem: policy hasty: message-ttl 60000 ", short][..],
        &["problem: policy hasty: expires 3600000 ", short],
        &["problem: operator policy narrow: max-length 10 drops jobs of queue shop.full"],
    ] {
        assert!(has(problem), "{problem:?} in {found:#?}");
    }
    assert!(!has(&["others"]) && !has(&["shop.safe"]), "{found:#?}");
    assert!(
        found
            .first()
            .is_some_and(|text| text.starts_with("problem: ")),
        "the worst first"
    );
    a_clerk_learns_what_it_may_not(&server, &url).await;
}

/// Policies that lose jobs of this namespace, and one of another.
async fn set_policies(server: &RabbitMq) {
    let limits = r#"{"message-ttl": 60000, "expires": 3600000}"#;
    let narrow = r#"{"max-length": 10}"#;
    for policy in [
        ["set_policy", "hasty", "^shop\\.short", limits],
        ["set_policy", "others", "^other\\.", r#"{"max-length": 1}"#],
        ["set_operator_policy", "narrow", "^shop\\.full$", narrow],
    ] {
        ctl(server, &policy).await;
    }
}

/// A user who may read and write some queues only, and not ask the management API.
async fn a_clerk_learns_what_it_may_not(server: &RabbitMq, url: &str) {
    ctl(server, &["add_user", "clerk", "secret"]).await;
    ctl(
        server,
        &[
            "set_permissions",
            "clerk",
            "^(shop|amq|brigade)\\.",
            "^(shop|amq|brigade)\\.",
            "^(shop|amq|brigade)\\.",
        ],
    )
    .await;
    let clerk = url.replace("amqp://", "amqp://clerk:secret@");
    let found = findings(&clerk).await;
    let has = |words: &[&str]| {
        found
            .iter()
            .any(|text| words.iter().all(|word| text.contains(word)))
    };
    assert!(
        has(&["warning: the management API", "the tag management"]),
        "{found:#?}"
    );
    assert!(!has(&["has not the right"]), "{found:#?}");
    ctl(
        server,
        &[
            "set_permissions",
            "clerk",
            "^(shop|amq|brigade)\\.",
            "^(amq\\.(default|gen)|brigade)",
            "^(amq|brigade)\\.",
        ],
    )
    .await;
    let found = findings(&clerk).await;
    let has = |words: &[&str]| {
        found
            .iter()
            .any(|text| words.iter().all(|word| text.contains(word)))
    };
    assert!(
        has(&["problem: this user has not the right to read queues like shop."]),
        "{found:#?}"
    );
    let nowhere = findings(&format!(
        "{}?management=http://127.0.0.1:{}",
        server.url(),
        free_port()
    ))
    .await;
    assert!(
        nowhere
            .iter()
            .any(|text| text.starts_with("warning: the management API")),
        "{nowhere:#?}"
    );
}

/// A server gives up what it has handed out too often, run or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_names_queues_that_give_up_jobs_after_few_deliveries() {
    let (server, port) = start_with_management();
    let url = format!("{}?ns=shop&queues=quorum", server.url());
    let broker = Broker::connect(&url).await.unwrap();
    broker.queue("ours").push(&1).await.unwrap();
    let channel = plain(&server.url()).await;
    for (queue, keeps) in [("loses", false), ("keeps", true)] {
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(5));
        if keeps {
            arguments.insert(
                "x-dead-letter-exchange".into(),
                AMQPValue::LongString("".into()),
            );
        }
        let name = format!("shop.{queue}");
        let options = QueueDeclareOptions::durable();
        let declaring = channel.queue_declare(name.as_str().into(), options, arguments);
        declaring.await.unwrap();
    }
    let with_management = format!("{url}&management=http://127.0.0.1:{port}");
    let findings = async || {
        let checked = Broker::connect(&with_management).await.unwrap();
        let found = checked.check().await.unwrap();
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    until("the management API lists the queues", async || {
        let found = findings().await;
        found
            .iter()
            .filter(|one| one.contains("x-delivery-limit"))
            .count()
            >= 2
    })
    .await;
    let found = findings().await;
    let has = |text: &str| found.iter().any(|one| one.starts_with(text));
    assert!(
        has("problem: a job of queue shop.loses is lost"),
        "{found:#?}"
    );
    assert!(
        has("warning: a job of queue shop.keeps becomes a dead letter"),
        "{found:#?}"
    );
    assert!(
        !found.iter().any(|one| one.contains("shop.ours")),
        "{found:#?}"
    );
    // Without that API, the server says how a queue that is served differs.
    assert!(broker.queue("keeps").take(NOW).await.unwrap().is_none());
    let found: Vec<String> = broker
        .check()
        .await
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    let differs = |one: &String| one.contains("shop.keeps") && one.contains("inequivalent arg");
    assert!(found.iter().any(differs), "{found:#?}");
}
