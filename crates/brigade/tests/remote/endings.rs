//! How calls end on a host: as they would in a worker of one's own.

use brigade::{AttemptOutcome, CallError, Exit, Step, TimedOut};

use crate::stage::{fleet, host, millis, soon, url_of};
use crate::tasks::*;

#[tokio::test]
async fn failures_panics_and_passes_come_back_with_what_they_say() {
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let _host = host(&[&url_of(&fleet), "name=far"]);
        let CallError::Failed(failure) = fleet.call(fail("no paper".to_owned())).await.unwrap_err()
        else {
            panic!("it failed")
        };
        assert_eq!(
            (failure.message.as_str(), failure.details()),
            ("no paper", Some(7.into()))
        );
        let CallError::Panicked(report) = fleet
            .call(panic_with("a wall".to_owned()))
            .await
            .unwrap_err()
        else {
            panic!("it panicked")
        };
        let AttemptOutcome::Panicked { message, location } = &report.ended else {
            panic!("{report}")
        };
        assert_eq!((message.as_str(), report.exit), ("a wall", None));
        assert!(location.contains("tasks.rs"), "{location}");
        assert_eq!(report.host.as_deref(), Some("far"));
        let CallError::Passed(reasons) = fleet.call(pass()).await.unwrap_err() else {
            panic!("it passed")
        };
        assert_eq!(reasons, ["not me"]);
        assert_eq!(fleet.stats().crashed, 0);
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn the_report_of_an_attempt_that_returned_comes_back_with_its_cost() {
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let _host = host(&[&url_of(&fleet), "name=far"]);
        let mut call = fleet.call(work_for(30));
        let pid = (&mut call).await.unwrap();
        let report = call.report().unwrap();
        assert_eq!(
            (report.host.as_deref(), &report.ended, report.pid),
            (Some("far"), &AttemptOutcome::Returned, pid)
        );
        assert!(report.cost.wall >= millis(30), "{report}");
        assert!(report.cost.cpu.is_some(), "{report}");
        assert!(report.cost.memory_peak > Some(1 << 20), "{report}");
        let mut call = fleet.call(fail("no paper".to_owned()));
        (&mut call).await.unwrap_err();
        let report = call.report().unwrap();
        assert_eq!(
            (report.host.as_deref(), &report.ended),
            (Some("far"), &AttemptOutcome::Failed)
        );
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_crash_ends_one_child_there_and_its_certificate_travels_back() {
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let host = host(&[&url_of(&fleet), "name=far"]);
        let handle = fleet.call(crash("the last words".to_owned()));
        let id = handle.id();
        let CallError::Crashed(report) = handle.await.unwrap_err() else {
            panic!("it crashed")
        };
        assert_eq!(
            (report.exit, &report.ended),
            (
                Some(Exit::Signal(libc::SIGABRT)),
                &AttemptOutcome::Signalled
            )
        );
        assert_eq!(
            (Some(report.call), report.attempt, report.task.as_str()),
            (id, 1, "crash")
        );
        assert!(
            report.stderr.contains("the last words"),
            "{}",
            report.stderr
        );
        assert!(
            report.cost.memory_peak > Some(0) && report.pid != host.pid(),
            "{report}"
        );
        assert!(report.to_string().contains(" on far"), "{report}");
        assert_eq!(fleet.call(add(1, 2)).await.unwrap(), 3);
        let stats = fleet.stats();
        assert_eq!(
            (stats.crashed, stats.started),
            (1, 1),
            "the host lives: {stats:?}"
        );
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_crash_is_tried_again_alone_in_a_fresh_worker_as_often_as_asked() {
    soon(async {
        let fleet = fleet()
            .retry(brigade::Retry::exponential(millis(1), millis(1)))
            .start()
            .await
            .unwrap();
        let _host = host(&[&url_of(&fleet), "workers=2", "slots=2"]);
        let error = fleet
            .call(crash(String::new()).retries(5))
            .await
            .unwrap_err();
        let CallError::Crashed(report) = &error else {
            panic!("{error}")
        };
        assert_eq!(report.attempt, 2, "the second crash is the last");
        assert_eq!(fleet.stats().crashed, 2);
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_cancel_climbs_the_ladder_there_and_brings_its_receipt() {
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let host = host(&[&url_of(&fleet), "ladder=100"]);
        let handle = fleet.call(patient());
        handle.progress().next().await.unwrap();
        let receipt = handle.cancel("not wanted").await.unwrap();
        assert_eq!(receipt.step, Step::Asked);
        let CallError::Cancelled(cancelled) = handle.await.unwrap_err() else {
            panic!("it was cancelled")
        };
        assert_eq!(cancelled.reason, "not wanted");
        let warm = fleet.call(pid()).await.unwrap();

        let handle = fleet.call(spin());
        handle.progress().next().await.unwrap();
        let receipt = handle.cancel("not wanted").await.unwrap();
        assert_eq!(receipt.step, Step::Terminated);
        let CallError::Cancelled(cancelled) = handle.await.unwrap_err() else {
            panic!("it was cancelled")
        };
        let report = cancelled.report.unwrap();
        assert_eq!(
            (report.pid, report.ended, report.step),
            (warm, AttemptOutcome::Cancelled, Some(Step::Terminated))
        );
        assert!(
            !host.descendants().contains(&warm),
            "nothing of it is left when the receipt is there"
        );
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_handle_that_is_dropped_stops_its_call_there() {
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let _host = host(&[&url_of(&fleet), "ladder=50"]);
        let handle = fleet.call(spin());
        handle.progress().next().await.unwrap();
        drop(handle);
        assert_eq!(
            fleet.call(add(1, 2)).await.unwrap(),
            3,
            "its slot is free again"
        );
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn limits_of_time_and_memory_hold_there() {
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let _host = host(&[&url_of(&fleet), "ladder=50"]);
        let CallError::TimedOut(TimedOut::Run(report)) =
            fleet.call(spin().timeout(millis(100))).await.unwrap_err()
        else {
            panic!("it ran out of time")
        };
        assert_eq!(
            (report.ended, report.step),
            (AttemptOutcome::TimedOut, Some(Step::Terminated))
        );
        let CallError::Crashed(report) = fleet.call(hoard(512).memory(64 << 20)).await.unwrap_err()
        else {
            panic!("it ran out of memory")
        };
        assert!(
            matches!(report.ended, AttemptOutcome::OutOfMemory(_)),
            "{report}"
        );
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn output_that_is_captured_travels_back() {
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let _host = host(&[&url_of(&fleet)]);
        let mut handle = fleet.call(print("to out".to_owned(), "to err".to_owned()).capture(5));
        (&mut handle).await.unwrap();
        let output = handle.output().unwrap();
        assert_eq!(
            (&*output.stdout.text, output.stdout.dropped),
            (&b"to ou"[..], 1)
        );
        assert_eq!(
            (&*output.stderr.text, output.stderr.dropped),
            (&b"to er"[..], 1)
        );
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn bad_use_results_over_the_masters_limit_and_arguments_that_do_not_fit() {
    soon(async {
        let fleet = fleet().payload_max(64 << 10).start().await.unwrap();
        let _host = host(&[&url_of(&fleet)]);
        let error = fleet.call(zeros(65 << 10)).await.unwrap_err();
        assert_eq!(
            error.rejected(),
            Some(brigade::ErrorKind::TooLarge),
            "{error}"
        );
        let error = fleet
            .call(brigade::Call::<i64>::json("add", &("one", 2)))
            .await
            .unwrap_err();
        assert_eq!(
            error.rejected(),
            Some(brigade::ErrorKind::BadArguments),
            "{error}"
        );
        assert_eq!(fleet.call(add(1, 2)).await.unwrap(), 3);
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_lets_calls_there_finish_and_a_kill_stops_them() {
    soon(async {
        let gate = crate::gate::Gate::new();
        let fleet = fleet().start().await.unwrap();
        let _host = host(&[&url_of(&fleet), "workers=2", "ladder=50"]);
        let handle = fleet.call(hold(gate.path(), 5));
        let arrival = gate.arrival().await;
        let closing = fleet.clone();
        let (shutdown, ()) = tokio::join!(closing.shutdown(), async { drop(arrival) });
        assert!(shutdown.drained);
        assert_eq!(handle.await.unwrap(), 5);

        let fleet = crate::stage::fleet().start().await.unwrap();
        let _host = host(&[&url_of(&fleet), "ladder=50"]);
        let handle = fleet.call(spin());
        handle.progress().next().await.unwrap();
        assert!(!fleet.kill().await.drained);
        assert!(matches!(handle.await.unwrap_err(), CallError::Cancelled(_)));
    })
    .await;
}
