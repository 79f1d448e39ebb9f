//! Flows that are refused, large, nested, or that a restart interrupts.
//!
//! A flow is stored whole or not at all. What a job collects from its parents is bounded like a
//! payload: beyond that the job is a dead letter with the reason. Long chains, wide and nested
//! groups work, and everything that was collected survives the end of the process.

use brigade::{Chain, ErrorKind, Group, Job, JobState};
use serde_json::{Value, json};

use super::flows::{info, job, lease, push, run, states};
use crate::case::{Case, case};
use crate::subject::Subject;

use JobState::{Cancelled, Dead, Ready};

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(a_flow_is_stored_whole_or_not_at_all: flows, listing, unique),
    case!(results_over_the_limit_make_a_dead_letter_with_the_reason: flows, listing),
    case!(groups_nest_and_empty_ones_are_done_at_once: flows, listing),
    case!(a_long_chain_and_a_wide_group_are_no_matter: flows, listing, cancels),
    case!(flows_and_what_was_gathered_survive_a_restart: flows, durable, listing),
];

async fn a_flow_is_stored_whole_or_not_at_all(Subject { broker, .. }: Subject) {
    let step = |n: i32| job(&broker, &json!([n]));
    let first = broker.push(step(0).unique("once")).await.unwrap();
    let error = broker
        .push_flow(
            Chain::new(step(1))
                .then_job(step(2))
                .with(|job| job.unique("once")),
        )
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate);
    assert!(
        error
            .to_string()
            .contains(&format!("job {} has the unique key", first.id())),
        "{error}"
    );
    let too_large = "x".repeat(broker.capabilities().payload_bytes_max);
    let error = broker
        .push_flow(Chain::new(step(1)).then_job(job(&broker, &json!([too_large]))))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let error = broker
        .push_flow(Chain::new(step(1)).then_job(job(&broker, &json!({"no": "array"}))))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadArguments);
    let error = broker
        .push_flow(Chain::new(step(1)).then_job(broker.queue("").job(&json!([])).unwrap()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadOption);
    assert_eq!(broker.jobs(None, None, None, 10).await.unwrap().len(), 1);
}

async fn results_over_the_limit_make_a_dead_letter_with_the_reason(
    Subject { broker, .. }: Subject,
) {
    let max = broker.capabilities().payload_bytes_max;
    let step = || job(&broker, &json!([]));
    // `["xx"]` and `[]` are what is put together.
    for (bytes, fits) in [(max - 8, true), (max, false)] {
        let ids = push(
            &broker,
            Chain::new(step()).then_job(step()).then_job(step()),
        )
        .await;
        run(&broker, &json!([]), &json!("x".repeat(bytes))).await;
        let second = info(&broker, &ids[1]).await;
        assert_eq!(second.state == Ready, fits, "{:?}", second.reason);
        if !fits {
            assert!(second.reason.unwrap().contains("are allowed"));
            assert_eq!(info(&broker, &ids[2]).await.state, Dead);
            // It does not run without what it waited for.
            assert!(broker.retry(&ids[1]).await.unwrap());
            assert_eq!(states(&broker, &ids).await, [None, Some(Dead), Some(Dead)]);
        }
        broker.queue("q").purge().await.unwrap();
    }
}

async fn groups_nest_and_empty_ones_are_done_at_once(Subject { broker, .. }: Subject) {
    let step = |n: i32| job(&broker, &json!([n]));
    let pair = |n: i32| Group::new([step(n), step(n + 1)]);
    let ids = push(
        &broker,
        Group::new([pair(0), pair(2)])
            .and(Group::<Value>::new(Vec::<Job>::new()))
            .collect_job(step(9)),
    )
    .await;
    for n in 0..4 {
        run(&broker, &json!([n]), &json!(n)).await;
    }
    run(&broker, &json!([[[0, 1], [2, 3], []], 9]), &json!(null)).await;
    assert_eq!(ids.len(), 8);
    let ids = push(&broker, Group::<Value>::new(Vec::<Job>::new())).await;
    assert_eq!(info(&broker, &ids[0]).await.result.as_deref(), Some("[]"));
    push(
        &broker,
        Group::<Value>::new(Vec::<Job>::new()).then(step(7)),
    )
    .await;
    run(&broker, &json!([7]), &json!(null)).await;
}

async fn a_long_chain_and_a_wide_group_are_no_matter(Subject { broker, .. }: Subject) {
    let step = || job(&broker, &json!([]));
    let ids = push(
        &broker,
        (0..3000).fold(Chain::new(step()), |chain, _| chain.then_job(step())),
    )
    .await;
    lease(&broker).await.dead_letter("odd").await.unwrap();
    let reason = info(&broker, ids.last().unwrap()).await.reason.unwrap();
    assert_eq!(
        reason,
        format!("not run: job {} before it is dead: odd", ids[0])
    );
    assert!(broker.retry(&ids[0]).await.unwrap());
    assert_ne!(
        broker.cancel(ids.last().unwrap(), "enough").await.unwrap(),
        brigade::CancelOutcome::Nothing
    );
    assert_eq!(
        broker
            .jobs(None, Some(Cancelled), None, 10_000)
            .await
            .unwrap()
            .len(),
        ids.len()
    );

    let ids = push(
        &broker,
        Group::new((0..500).map(|_| step())).collect_job(step()),
    )
    .await;
    let parents = info(&broker, &ids[500]).await.parents.unwrap();
    assert_eq!(
        (parents.total, parents.unsettled.as_slice()),
        (500, &ids[..20])
    );
}

async fn flows_and_what_was_gathered_survive_a_restart(Subject { broker, place }: Subject) {
    let members = (0..3).map(|n| job(&broker, &json!([n])));
    let ids = push(
        &broker,
        Group::new(members)
            .collect_job(job(&broker, &json!([])))
            .then_job(job(&broker, &json!([]))),
    )
    .await;
    run(&broker, &json!([0]), &json!("a")).await;
    lease(&broker).await.dead_letter("odd").await.unwrap();
    drop(broker);

    let broker = place.connect().await;
    run(&broker, &json!([2]), &json!("c")).await;
    assert_eq!(states(&broker, &ids[3..]).await, [Some(Dead), Some(Dead)]);
    drop(broker);

    let broker = place.connect().await;
    assert!(broker.retry(&ids[1]).await.unwrap());
    drop(broker);

    let broker = place.connect().await;
    run(&broker, &json!([1]), &json!("b")).await;
    drop(broker);

    let broker = place.connect().await;
    run(&broker, &json!([["a", "b", "c"]]), &json!("all")).await;
    run(&broker, &json!(["all"]), &json!(null)).await;
    assert!(broker.jobs(None, None, None, 10).await.unwrap().is_empty());
}
