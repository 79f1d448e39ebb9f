//! What a consumer does to itself and what jobs do to it: its own pool, being dropped, jobs that
//! kill it.

use std::process::Command;

use brigade::{JobState, task};
use brigade_testkit::program::Program;

use crate::*;

pub(crate) const ROLES: [(&str, fn()); 1] = [("in process", || {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(in_process());
})];

const FILE: &str = "BRIGADE_FATE_FILE";
const BOUND: Duration = Duration::from_secs(50);

/// A consumer that its jobs can kill.
async fn in_process() {
    let broker = Broker::connect(&format!("sqlite:{}", std::env::var(FILE).unwrap()))
        .await
        .unwrap();
    broker
        .consumer()
        .queue("dangerous")
        .in_process()
        .prefetch(4)
        .run_until_empty()
        .await
        .unwrap();
}

#[task(queue = "dangerous")]
fn kills_its_consumer() {
    std::process::abort();
}

/// Waits in this process for what never comes; ended by the test, so that no thread of it stays.
#[task]
fn never_ends_here(started: String, over: String) {
    fs::write(started, "").unwrap();
    await_file(&over);
}

#[tokio::test]
async fn a_job_that_kills_its_consumers_is_set_aside_and_takes_no_other_along() {
    let setting = Setting::new(1).await;
    let poison = setting.push(kills_its_consumer()).await;
    let jobs = (0..6)
        .map(|n| {
            setting
                .broker
                .queue("dangerous")
                .job(&(n, 1))
                .unwrap()
                .task("add")
                .keep(BOUND)
        })
        .collect();
    let innocent = setting.broker.push_many(jobs).await.unwrap();
    let mut kills = 0;
    loop {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(FILE, setting.path("jobs.db"));
        let mut program = Program::start_by(command, "in process").unwrap();
        let status = program.wait(BOUND).expect("it ends");
        if status.success() {
            break;
        }
        kills += 1;
        assert!(kills < 10, "it comes again for ever\n{}", program.log());
    }
    assert_eq!(kills, 5, "as often as the documentation says");
    let dead = setting.broker.job(&poison).await.unwrap().unwrap();
    assert_eq!(
        (dead.state, dead.lost, dead.failed, dead.crashed),
        (JobState::Dead, 5, 0, 0)
    );
    assert!(
        dead.reason
            .as_deref()
            .unwrap()
            .contains("5 times without a word of its holder"),
        "{:?}",
        dead.reason
    );
    for pushed in innocent {
        let job = setting.broker.job(pushed.id()).await.unwrap().unwrap();
        assert_eq!(job.state, JobState::Done, "{job:?}");
        assert!(job.lost <= 2, "from then on the other ran alone: {job:?}");
    }
    // A person gives it another chance.
    assert!(setting.broker.retry(&poison).await.unwrap());
    assert_eq!(setting.broker.job(&poison).await.unwrap().unwrap().lost, 0);
    setting.pool.shutdown().await;
}

/// All views tell of the death, not only what asks for jobs.
#[tokio::test]
async fn after_a_kill_all_views_tell_the_same() {
    let setting = Setting::new(1).await;
    let (started, over) = (setting.path("started"), setting.path("over"));
    let job = setting
        .broker
        .queue("dangerous")
        .job(&(started, over))
        .unwrap()
        .task("never_ends_here");
    let jobs = vec![
        job,
        setting
            .broker
            .queue("dangerous")
            .job(&(1, 2))
            .unwrap()
            .task("add")
            .delay(100 * LONG),
    ];
    let ids: Vec<JobId> = setting
        .broker
        .push_many(jobs)
        .await
        .unwrap()
        .iter()
        .map(|pushed| pushed.id().clone())
        .collect();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(FILE, setting.path("jobs.db"));
    let mut program = Program::start_by(command, "in process").unwrap();
    setting.made("started").await;
    let scheduled = Some(JobState::Scheduled);
    assert_eq!(
        agree::agree(&setting.broker, &ids, "it runs").await,
        [Some(JobState::Leased), scheduled]
    );
    assert!(program.signal(rustix::process::Signal::KILL));
    program.wait(BOUND).expect("it ends");
    assert_eq!(
        agree::agree(&setting.broker, &ids, "its process was killed").await,
        [Some(JobState::Ready), scheduled]
    );
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn a_worker_without_a_pool_starts_one_of_its_own_and_ends_it() {
    let broker = Broker::connect("sqlite::memory:").await.unwrap();
    let id = broker
        .push(own_pid().keep(LONG))
        .await
        .unwrap()
        .id()
        .clone();
    assert_eq!(
        broker
            .consumer()
            .task(own_pid)
            .run_until_empty()
            .await
            .unwrap()
            .done,
        1
    );
    let pid: u32 = broker
        .job(&id)
        .await
        .unwrap()
        .unwrap()
        .result
        .unwrap()
        .parse()
        .unwrap();
    assert_ne!(pid, std::process::id());
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "it ended with the worker"
    );
}

/// A lease that would be renewed for ever keeps the job from all others.
#[tokio::test]
async fn dropping_a_worker_stops_what_runs_and_gives_it_back() {
    let setting = Setting::new(1).await;
    let id = setting.push(never_ends(setting.path("started"))).await;
    let worker = setting.consumer();
    let handle = worker.handle();
    let serving = tokio::spawn(worker.run_until(std::future::pending::<()>()));
    setting.made("started").await;
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    soon(async {
        loop {
            let job = setting.broker.job(&id).await.unwrap().unwrap();
            if job.state == JobState::Ready {
                assert_eq!(
                    (job.interrupted, job.lost, job.failed, job.crashed),
                    (1, 0, 0, 0),
                    "no job is charged"
                );
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    until("nothing is held", || handle.stats().held == 0).await;
    assert_eq!(
        setting.pool.call(add(1, 2)).await.unwrap(),
        3,
        "the pool is the program's"
    );
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn what_hangs_in_process_is_left_alone_when_its_worker_ends_and_its_lease_runs_out() {
    let setting = Setting::new(1).await;
    let (started, over) = (setting.path("started"), setting.path("over"));
    let id = setting.push(never_ends_here(started, over.clone())).await;
    let worker = setting
        .broker
        .consumer()
        .task(never_ends_here)
        .in_process()
        .lease(Duration::from_secs(1));
    let (handle, serving) = start(worker.drain_timeout(Duration::from_millis(10)));
    setting.made("started").await;
    // It is kept for longer than a lease: no other consumer has it.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(
        setting
            .broker
            .queue("never_ends_here")
            .lease(LONG, Duration::ZERO)
            .await
            .unwrap()
            .is_none()
    );
    handle.drain();
    let served = soon(serving).await.unwrap();
    assert_eq!((served.stale, served.done), (1, 0), "{served:?}");
    let again = soon(setting.broker.queue("never_ends_here").lease(LONG, LONG))
        .await
        .unwrap()
        .expect("it comes again");
    assert_eq!(again.id(), &id);
    fs::write(over, "").unwrap();
    again.ack().await.unwrap();
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn in_process_a_task_is_asked_to_stop_by_a_cancel_and_by_its_timeout() {
    let setting = Setting::new(1).await;
    let id = setting
        .push(waits_for_cancel(setting.path("cancelled")))
        .await;
    let (handle, serving) = start(
        setting
            .broker
            .consumer()
            .task(waits_for_cancel)
            .in_process(),
    );
    setting.made("cancelled").await;
    let stopped = soon(setting.broker.stop(&id, "not needed"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stopped.state, Some(JobState::Cancelled));
    // What it returns when asked to does not count: it may have left half of its work.
    setting
        .push(waits_for_cancel(setting.path("too long")).timeout(Duration::from_millis(50)))
        .await;
    until("it ends by its timeout", || {
        handle.stats().served.failed == 1
    })
    .await;
    handle.drain();
    soon(serving).await.unwrap();
    setting.pool.shutdown().await;
}
