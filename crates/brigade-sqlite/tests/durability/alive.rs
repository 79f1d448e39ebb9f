//! The list of live consumers when one of their programs is killed.

use brigade::LiveConsumer;
use brigade_testkit::program::{Program, arguments};
use rustix::process::Signal;

use crate::stage::{BOUND, Roles, Stage, block_on, millis};

pub(crate) const ROLES: Roles = &[("is_alive", || block_on(is_alive()))];

#[test]
fn a_consumer_whose_program_is_killed_is_listed_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::new(directory.path());
    let mut program = Program::start_with("is_alive", &[stage.text()]).unwrap();
    block_on(async {
        let broker = stage.broker().await;
        let listed = async {
            loop {
                match broker.consumers().await.unwrap().pop() {
                    Some(consumer) => break consumer,
                    None => tokio::time::sleep(millis(5)).await,
                }
            }
        };
        let listed: LiveConsumer = tokio::time::timeout(BOUND, listed).await.unwrap();
        assert_eq!((listed.pid, listed.queues_served), (Some(program.pid()), 1));
        assert!(program.signal(Signal::KILL));
        program.wait(BOUND).unwrap();
        assert_eq!(broker.consumers().await.unwrap(), []);
    });
}

async fn is_alive() {
    let broker = Stage::new(&arguments()[0]).broker().await;
    let consumer = broker.consumer().queue("q").in_process();
    consumer
        .run_until(std::future::pending::<()>())
        .await
        .unwrap();
}
