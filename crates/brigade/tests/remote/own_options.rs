//! What a call does not say is said by the registration of the host that runs it, not by the
//! master's.

use std::time::Duration;

use brigade::__private::{Invocation, Returned, TASKS, TaskEntry, linkme, signature};
use brigade::{Call, CallError, Codec, Failure, Retry, TimedOut};
use brigade_testkit::program::ROLE_VARIABLE;
use linkme::distributed_slice;
use serde_json::json;

use crate::stage::{fleet, host, soon, url_of};

/// Hangs or fails. Only hosts say something of its calls, so what holds is theirs.
#[distributed_slice(TASKS)]
#[linkme(crate = linkme)]
static HANGS_OR_FAILS: TaskEntry = TaskEntry {
    name: "hangs_or_fails",
    aliases: &[],
    path: || "",
    queue: "",
    place: "",
    codec: Codec::Json,
    idempotent: false,
    signature: signature::<(String,), i64>,
    body: || "",
    options: |call| {
        if std::env::var_os(ROLE_VARIABLE).is_none() {
            return call;
        }
        let pause = Duration::from_millis(1);
        call.timeout(Duration::from_millis(200))
            .retries(1)
            .retry(Retry::exponential(pause, pause))
    },
    invoke: |cx, codec, payload| {
        Invocation::now(codec, payload, move |(how,): (String,)| {
            if how == "hangs" {
                loop {
                    std::thread::park();
                }
            }
            Returned::of_result(
                codec,
                Err::<i64, _>(Failure::new(format!("attempt {}", cx.attempt()))),
            )
        })
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_call_by_name_has_the_timeout_and_the_retries_of_the_host_s_own_registration() {
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let _host = host(&[&url_of(&fleet)]);
        fleet.ready(1).await.unwrap();
        let call = |how| fleet.call(Call::<i64>::json("hangs_or_fails", &json!([how])));
        let error = call("hangs").await.unwrap_err();
        assert!(
            matches!(error, CallError::TimedOut(TimedOut::Run(_))),
            "{error}"
        );
        let error = call("fails").await.unwrap_err();
        assert!(
            matches!(&error, CallError::Failed(failure) if failure.message == "attempt 2"),
            "{error}"
        );
        let once = fleet
            .call(Call::<i64>::json("hangs_or_fails", &json!(["fails"])).retries(0))
            .await
            .unwrap_err();
        assert!(
            matches!(&once, CallError::Failed(failure) if failure.message == "attempt 1"),
            "what the call says wins: {once}"
        );
        fleet.shutdown().await;
    })
    .await;
}
