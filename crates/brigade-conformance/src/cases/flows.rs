//! Chains and groups, step by step.
//!
//! A step of a chain gets the result of the one before; the last job of a group gets all results in
//! the order of its members. When a job ends without a result, the jobs that wait for it are dead
//! letters that were not run, and a retry of the first brings all of them on. The functions here
//! that are not cases push a flow, run one job of it, and read the states of all.

use std::time::Duration;

use brigade::{Broker, Call, Chain, Group, Job, JobId, JobInfo, JobState, Lease, ToFlow};
use serde_json::{Value, json};

use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(a_chain_hands_each_result_to_the_next_step: flows, listing, results),
    case!(a_dead_step_ends_the_chain_and_its_retry_brings_all_of_it_on: flows, listing, results),
    case!(a_group_collects_results_in_the_order_of_its_members: flows, listing),
    case!(then_leaves_the_payload_as_it_is: flows, listing),
    case!(finally_runs_however_the_members_ended: flows, listing, cancels),
    case!(a_group_by_itself_is_awaited_and_run_by_nobody: flows, listing, clock, results),
    case!(call_flow_gives_the_last_result_and_its_drop_cancels_all: flows, listing),
    case!(
        cancelling_the_last_job_cancels_the_flow_and_cancelling_a_member_ends_it:
        flows, listing, cancels
    ),
    case!(what_is_removed_is_missed_and_what_is_taken_is_done: flows, listing),
];

pub(super) const LONG: Duration = Duration::from_secs(30);
pub(super) const NOW: Duration = Duration::ZERO;

pub(super) fn job(broker: &Broker, arguments: &Value) -> Job {
    broker.queue("q").job(arguments).unwrap()
}

pub(super) async fn push(broker: &Broker, flow: impl ToFlow) -> Vec<JobId> {
    broker.push_flow(flow).await.unwrap().jobs
}

pub(super) async fn info(broker: &Broker, id: &JobId) -> JobInfo {
    broker.job(id).await.unwrap().unwrap()
}

pub(super) async fn states(broker: &Broker, ids: &[JobId]) -> Vec<Option<JobState>> {
    let mut states = Vec::new();
    for id in ids {
        states.push(broker.job(id).await.unwrap().map(|job| job.state));
    }
    states
}

pub(super) async fn lease(broker: &Broker) -> Lease {
    broker.queue("q").lease(LONG, NOW).await.unwrap().unwrap()
}

pub(super) async fn nothing_is_ready(broker: &Broker) -> bool {
    broker.queue("q").lease(LONG, NOW).await.unwrap().is_none()
}

/// Leases the next job, which should be given this payload, and acks it with this result.
pub(super) async fn run(broker: &Broker, payload: &Value, result: &Value) {
    let lease = lease(broker).await;
    assert_eq!(lease.payload::<Value>().unwrap(), *payload);
    lease.ack_with(result).await.unwrap();
}

use JobState::{Blocked, Cancelled, Dead, Done, Ready};

async fn a_chain_hands_each_result_to_the_next_step(Subject { broker, .. }: Subject) {
    let chain = Chain::new(job(&broker, &json!(["a"])))
        .then_job(job(&broker, &json!([])))
        .then_job(job(&broker, &json!(["c", 1])));
    let ids = push(&broker, chain.keep(LONG)).await;
    assert_eq!(
        states(&broker, &ids).await,
        [Some(Ready), Some(Blocked), Some(Blocked)]
    );
    let second = info(&broker, &ids[1]).await;
    let parents = second.parents.unwrap();
    assert_eq!(
        (
            parents.total,
            parents.settled,
            parents.missed,
            parents.unsettled
        ),
        (1, 0, 0, vec![ids[0].clone()])
    );
    assert_eq!(second.dependent.as_ref(), Some(&ids[2]));

    run(&broker, &json!(["a"]), &json!({"n": 1})).await;
    assert_eq!(
        states(&broker, &ids).await,
        [None, Some(Ready), Some(Blocked)]
    );
    // A lease that ends otherwise than for good changes nothing for those behind.
    lease(&broker).await.pass("reloading").await.unwrap();
    run(&broker, &json!([{"n": 1}]), &json!([1, 2])).await;
    run(&broker, &json!([[1, 2], "c", 1]), &json!("end")).await;
    let last = broker.wait(&ids[2]).await.unwrap().unwrap();
    assert_eq!(
        (last.state, last.result.as_deref()),
        (Done, Some(r#""end""#))
    );
    assert_eq!(last.parents.unwrap().settled, 1);
}

async fn a_dead_step_ends_the_chain_and_its_retry_brings_all_of_it_on(
    Subject { broker, .. }: Subject,
) {
    let step = || job(&broker, &json!([]));
    let ids = push(
        &broker,
        Chain::new(step())
            .then_job(step())
            .then_job(step())
            .then_job(step())
            .keep(LONG),
    )
    .await;
    run(&broker, &json!([]), &json!(1)).await;
    lease(&broker)
        .await
        .dead_letter("no such page")
        .await
        .unwrap();
    assert_eq!(
        states(&broker, &ids).await,
        [None, Some(Dead), Some(Dead), Some(Dead)]
    );
    for not_run in &ids[2..] {
        let reason = info(&broker, not_run).await.reason.unwrap();
        assert_eq!(
            reason,
            format!("not run: job {} before it is dead: no such page", ids[1])
        );
        assert!(
            !broker.retry(not_run).await.unwrap(),
            "its member is missing"
        );
    }
    // Twice, as it may be at fault twice.
    assert!(broker.retry(&ids[1]).await.unwrap());
    assert_eq!(
        states(&broker, &ids).await,
        [None, Some(Ready), Some(Blocked), Some(Blocked)]
    );
    assert_eq!(info(&broker, &ids[3]).await.reason, None);
    lease(&broker).await.dead_letter("still").await.unwrap();
    assert!(
        info(&broker, &ids[3])
            .await
            .reason
            .unwrap()
            .ends_with("is dead: still")
    );
    assert!(broker.retry(&ids[1]).await.unwrap());
    run(&broker, &json!([1]), &json!(2)).await;
    run(&broker, &json!([2]), &json!(3)).await;
    run(&broker, &json!([3]), &json!(4)).await;
    assert_eq!(info(&broker, &ids[3]).await.result.as_deref(), Some("4"));
}

async fn a_group_collects_results_in_the_order_of_its_members(Subject { broker, .. }: Subject) {
    let members = (0..3).map(|n| job(&broker, &json!([n])));
    let ids = push(
        &broker,
        Group::new(members).collect_job(job(&broker, &json!(["rest"]))),
    )
    .await;
    let leases = [
        lease(&broker).await,
        lease(&broker).await,
        lease(&broker).await,
    ];
    assert!(nothing_is_ready(&broker).await);
    for lease in leases.into_iter().rev() {
        let parents = info(&broker, &ids[3]).await.parents.unwrap();
        assert!(
            parents.settled < 3 && parents.unsettled.contains(lease.id()),
            "{parents:?}"
        );
        let [n] = lease.payload::<[i32; 1]>().unwrap();
        // One has no result to give.
        if n == 1 {
            lease.ack().await.unwrap()
        } else {
            lease.ack_with(&(n * 10)).await.unwrap()
        };
    }
    run(&broker, &json!([[0, null, 20], "rest"]), &json!(null)).await;
    assert!(broker.jobs(None, None, None, 10).await.unwrap().is_empty());
}

async fn then_leaves_the_payload_as_it_is(Subject { broker, .. }: Subject) {
    let group = || Group::new([job(&broker, &json!(1)), job(&broker, &json!(2))]);
    let ids = push(
        &broker,
        group().then(job(&broker, &json!({"any": "thing"}))),
    )
    .await;
    run(&broker, &json!(1), &json!("x")).await;
    lease(&broker).await.dead_letter("odd").await.unwrap();
    assert_eq!(states(&broker, &ids).await, [None, Some(Dead), Some(Dead)]);
    assert!(broker.retry(&ids[1]).await.unwrap());
    run(&broker, &json!(2), &json!("y")).await;
    run(&broker, &json!({"any": "thing"}), &json!(null)).await;
}

async fn finally_runs_however_the_members_ended(Subject { broker, .. }: Subject) {
    let members = (0..3).map(|n| job(&broker, &json!(n)));
    let ids = push(
        &broker,
        Group::new(members).finally(job(&broker, &json!("clean up"))),
    )
    .await;
    lease(&broker).await.dead_letter("odd").await.unwrap();
    run(&broker, &json!(1), &json!(null)).await;
    assert_ne!(
        broker.cancel(&ids[2], "not needed").await.unwrap(),
        brigade::CancelOutcome::Nothing
    );
    assert_eq!(
        states(&broker, &ids).await,
        [Some(Dead), None, Some(Cancelled), Some(Ready)]
    );
    assert_eq!(info(&broker, &ids[3]).await.parents.unwrap().missed, 2);
    // A retry after it went on is a job by itself.
    assert!(broker.retry(&ids[0]).await.unwrap());
    run(&broker, &json!(0), &json!(null)).await;
    lease(&broker)
        .await
        .dead_letter("its own fault")
        .await
        .unwrap();
    assert!(broker.retry(&ids[3]).await.unwrap());
    run(&broker, &json!("clean up"), &json!(null)).await;
}

async fn a_group_by_itself_is_awaited_and_run_by_nobody(Subject { broker, .. }: Subject) {
    let members = || (0..2).map(|n| job(&broker, &json!(n)));
    let ids = push(&broker, Group::new(members()).keep(LONG)).await;
    let working = async {
        run(&broker, &json!(0), &json!("a")).await;
        run(&broker, &json!(1), &json!("b")).await;
        assert!(nothing_is_ready(&broker).await);
    };
    let (ended, ()) = tokio::join!(broker.wait(&ids[2]), working);
    let ended = ended.unwrap().unwrap();
    assert_eq!(
        (ended.state, ended.result.as_deref()),
        (Done, Some(r#"["a","b"]"#))
    );
    broker.clock().advance(LONG + LONG);
    assert!(nothing_is_ready(&broker).await);
    assert_eq!(states(&broker, &ids).await, [None, None, None]);

    let ids = push(&broker, Group::new(members())).await;
    lease(&broker).await.dead_letter("one").await.unwrap();
    lease(&broker).await.dead_letter("two").await.unwrap();
    let reason = info(&broker, &ids[2]).await.reason.unwrap();
    assert_eq!(
        reason,
        format!(
            "not run: job {} before it is dead: one; job {} before it is dead: two",
            ids[0], ids[1]
        )
    );
    for id in &ids[..2] {
        assert!(broker.retry(id).await.unwrap());
    }
    run(&broker, &json!(0), &json!(1)).await;
    run(&broker, &json!(1), &json!(2)).await;
    assert_eq!(
        info(&broker, &ids[2]).await.result.as_deref(),
        Some("[1,2]")
    );
}

async fn call_flow_gives_the_last_result_and_its_drop_cancels_all(Subject { broker, .. }: Subject) {
    let call = |n: i32| Call::<i32>::json("q", &[n]);
    let working = async {
        for n in 0..3 {
            let lease = broker.queue("q").lease(LONG, LONG).await.unwrap().unwrap();
            let [argument] = lease.payload::<[i32; 1]>().unwrap();
            assert_eq!(argument, n);
            lease.ack_with(&(n * 2)).await.unwrap();
        }
    };
    let (all, ()) = tokio::join!(broker.call_flow(Group::new((0..3).map(call))), working);
    assert_eq!(all.unwrap(), [0, 2, 4]);

    {
        let calling =
            broker.call_flow(Chain::new(call(1)).then_job(Call::<i32>::json("q", &json!([]))));
        let seen = async {
            while broker
                .jobs(None, Some(Blocked), None, 10)
                .await
                .unwrap()
                .is_empty()
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = calling => panic!("nobody works"),
            () = seen => {}
        }
    }
    let cancelled = async {
        while broker
            .jobs(None, Some(Cancelled), None, 10)
            .await
            .unwrap()
            .len()
            < 2
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, cancelled)
        .await
        .expect("the flow is cancelled");
    assert!(nothing_is_ready(&broker).await);
}

async fn cancelling_the_last_job_cancels_the_flow_and_cancelling_a_member_ends_it(
    Subject { broker, .. }: Subject,
) {
    let step = |n: i32| job(&broker, &json!([n]));
    let flow = || {
        Group::new([Chain::new(step(0)).then_job(step(1)), Chain::new(step(2))])
            .collect_job(step(3))
            .then_job(step(4))
    };
    let ids = push(&broker, flow()).await;
    let running = lease(&broker).await;
    assert_ne!(
        broker.cancel(&ids[4], "enough").await.unwrap(),
        brigade::CancelOutcome::Nothing
    );
    let expected = [
        Some(JobState::Leased),
        Some(Cancelled),
        Some(Cancelled),
        Some(Cancelled),
        Some(Cancelled),
    ];
    assert_eq!(states(&broker, &ids).await, expected);
    // Who has one hears of it, and what comes out of it changes nothing.
    assert_eq!(
        running.extend(LONG).await.unwrap(),
        brigade::Settled::Accepted(Some("enough".to_owned()))
    );
    running.ack().await.unwrap();
    assert_eq!(states(&broker, &ids).await[1..], expected[1..]);

    let ids = push(&broker, flow()).await;
    assert_ne!(
        broker.cancel(&ids[2], "not this one").await.unwrap(),
        brigade::CancelOutcome::Nothing
    );
    run(&broker, &json!([0]), &json!(0)).await;
    run(&broker, &json!([0, 1]), &json!(1)).await;
    assert_eq!(
        states(&broker, &ids).await,
        [None, None, Some(Cancelled), Some(Dead), Some(Dead)]
    );
    let reason = info(&broker, &ids[4]).await.reason.unwrap();
    assert_eq!(
        reason,
        format!(
            "not run: job {} before it was cancelled: not this one",
            ids[2]
        )
    );
    assert!(!broker.retry(&ids[3]).await.unwrap() && !broker.retry(&ids[4]).await.unwrap());
}

async fn what_is_removed_is_missed_and_what_is_taken_is_done(Subject { broker, .. }: Subject) {
    let step = || job(&broker, &json!([]));
    let elsewhere = || broker.queue("elsewhere").job(&json!([])).unwrap();
    let ids = push(&broker, Chain::new(step()).then_job(step())).await;
    assert!(broker.delete(&ids[0]).await.unwrap());
    assert_eq!(
        info(&broker, &ids[1]).await.reason.unwrap(),
        format!("not run: job {} before it was removed", ids[0])
    );

    let ids = push(
        &broker,
        Group::new([step(), step(), step(), step(), step()]).then(elsewhere()),
    )
    .await;
    broker.queue("q").purge().await.unwrap();
    let reason = info(&broker, &ids[5]).await.reason.unwrap();
    assert!(
        reason.contains(ids[2].as_str()) && reason.ends_with("; and 2 more"),
        "{reason}"
    );

    let ids = push(&broker, Chain::new(step()).then_job(step())).await;
    broker.queue("q").take(NOW).await.unwrap().unwrap();
    assert_eq!(info(&broker, &ids[1]).await.payload, "[null]");
    broker.queue("q").purge().await.unwrap();

    // The waiting job is removed: its member still runs.
    let ids = push(&broker, Chain::new(step()).then_job(elsewhere())).await;
    assert_eq!(broker.queue("elsewhere").purge().await.unwrap(), 1);
    run(&broker, &json!([]), &json!(1)).await;
    assert_eq!(states(&broker, &ids).await, [None, None]);
}
