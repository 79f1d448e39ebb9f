//! Flows through a real pool, and through the end of the process that serves them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brigade::{
    Broker, CallError, Chain, Failure, Group, JobId, JobInfo, JobState, Pool, Task, task,
};
use brigade_testkit::program::Program;
use brigade_testkit::random::Random;
use rustix::process::Signal;

use super::{LONG, Setting, add};

/// No wait takes this long, however loaded the machine is.
const BOUND: Duration = Duration::from_secs(40);

#[task(queue = "texts", retries = 2)]
fn split(text: String, separator: String) -> Vec<String> {
    text.split(&separator).map(str::to_owned).collect()
}

/// Of another format than the other steps.
#[task(codec = "json")]
async fn count(words: Vec<String>) -> usize {
    words.len()
}

#[task]
fn total(parts: Vec<i64>, more: i64) -> i64 {
    parts.into_iter().sum::<i64>() + more
}

/// Takes its worker down until it is cured.
#[task]
fn poison_until(cure: String, value: i64) -> i64 {
    if !std::fs::exists(cure).unwrap() {
        std::process::abort();
    }
    value
}

#[task]
fn refuses(text: String) -> Result<String, Failure> {
    Err(Failure::new(format!("no {text}")))
}

const COUNT: Task<(Vec<String>,), usize> = Task::new("count");

#[tokio::test]
async fn a_chain_of_tasks_hands_typed_results_on() {
    let setting = Setting::new(2).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = {
        let (broker, pool) = (setting.broker.clone(), setting.pool.clone());
        tokio::spawn(async move {
            broker
                .consumer()
                .on(&pool)
                .run_until(stopped)
                .await
                .unwrap()
        })
    };
    let broker = &setting.broker;
    let text = || super::join("a".to_owned(), "b c".to_owned());
    let words: Vec<String> = broker
        .call_flow(Chain::new(text()).then_with(split, (" ".to_owned(),)))
        .await
        .unwrap();
    assert_eq!(words, ["ab", "c"]);
    let words = || Chain::new(text()).then_with(split, ("b".to_owned(),));
    assert_eq!(broker.call_flow(words().then(count)).await.unwrap(), 2);
    assert_eq!(broker.call_flow(words().then(COUNT)).await.unwrap(), 2);
    assert_eq!(
        broker
            .call_flow(Group::new([words().then(count), words().then(COUNT)]))
            .await
            .unwrap(),
        [2, 2]
    );

    // What the attribute says holds for a step as for a call.
    let flow = broker.push_flow(words()).await.unwrap();
    let failed = broker
        .call_flow(Chain::new(refuses("way".to_owned())).then(refuses))
        .await
        .unwrap_err();
    assert!(
        matches!(&failed, CallError::Failed(failure) if failure.message.ends_with("is dead: no way")),
        "{failed}"
    );
    broker.wait(flow.last()).await.unwrap();
    stop.send(()).unwrap();
    serving.await.unwrap();
    let paused = broker.push_flow(words()).await.unwrap();
    assert_eq!(
        broker.job(paused.last()).await.unwrap().unwrap().queue,
        "texts"
    );
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn one_poison_member_of_a_hundred_is_cured_and_one_retry_ends_the_flow() {
    let setting = Setting::new(2).await;
    let cure = setting.path("cure");
    let members = (0..100).map(|n| {
        if n == 40 {
            poison_until(cure.clone(), n)
        } else {
            add(n, 0)
        }
    });
    let flow = setting
        .broker
        .push_flow(Group::new(members).collect_with(total, (1000,)).keep(LONG))
        .await
        .unwrap();
    assert_eq!(setting.serve().await.done, 99);
    let last = setting.broker.job(flow.last()).await.unwrap().unwrap();
    let poison = &flow.jobs[40];
    assert_eq!(last.state, JobState::Dead);
    assert!(
        last.reason
            .as_ref()
            .unwrap()
            .starts_with(&format!("not run: job {poison} before it is dead: ")),
        "{:?}",
        last.reason
    );
    let parents = last.parents.unwrap();
    assert_eq!(
        (parents.total, parents.settled, parents.missed),
        (100, 100, 1)
    );

    std::fs::write(&cure, "").unwrap();
    assert!(setting.broker.retry(poison).await.unwrap());
    assert_eq!(setting.serve().await.done, 2);
    let last = setting.broker.job(flow.last()).await.unwrap().unwrap();
    assert_eq!(
        (last.state, last.result.as_deref()),
        (JobState::Done, Some("5950"))
    );
    setting.pool.shutdown().await;
}

// -- the end of the process that serves

/// One line per start of a job, in one write that outlives its writer.
fn note(log: &str, name: &str) {
    let line = format!("{name}\n");
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    file.write_all(line.as_bytes()).unwrap();
}

fn starts(log: &Path) -> BTreeMap<String, usize> {
    let mut starts = BTreeMap::new();
    for name in std::fs::read_to_string(log).unwrap_or_default().lines() {
        *starts.entry(name.to_owned()).or_default() += 1;
    }
    starts
}

#[task]
fn begin(log: String, number: u64) -> (String, u64) {
    note(&log, &format!("begin {number}"));
    std::thread::sleep(Duration::from_millis(number % 7));
    (log, number)
}

#[task]
fn double((log, number): (String, u64)) -> u64 {
    note(&log, &format!("double {number}"));
    number * 2
}

#[task]
fn gather(parts: Vec<u64>, log: String) -> Vec<u64> {
    note(&log, "gather");
    parts
}

/// Waits for the file next to its log.
#[task]
fn gate((log, number): (String, u64)) -> u64 {
    note(&log, "gate");
    let open = Path::new(&log).with_file_name("open");
    while !open.exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    number
}

async fn served_broker(directory: &Path) -> Broker {
    Broker::connect(&format!("sqlite:{}", directory.join("flows.db").display()))
        .await
        .unwrap()
}

/// Serves the flows of a directory until it is killed.
async fn serve_until_killed() {
    let directory = PathBuf::from(std::env::var("FLOWS_DIRECTORY").unwrap());
    let broker = served_broker(&directory).await;
    let pool = Pool::builder().workers(2).start().await.unwrap();
    println!("serves");
    broker
        .consumer()
        .on(&pool)
        .prefetch(4)
        .run_until(std::future::pending::<()>())
        .await
        .unwrap();
}

const ROLE: &str = "serve_flows_until_killed";

pub(crate) const ROLES: &[(&str, fn())] = &[(ROLE, || {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(serve_until_killed());
})];

fn serve(directory: &Path) -> Program {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.env("FLOWS_DIRECTORY", directory);
    let program = Program::start_by(command, ROLE).unwrap();
    program
        .line("serves", BOUND)
        .unwrap_or_else(|| panic!("{}", program.log()));
    program
}

fn kill(mut program: Program) {
    assert!(program.signal(Signal::KILL));
    program.wait(BOUND).expect("SIGKILL ends it");
}

async fn ended(broker: &Broker, id: &JobId) -> JobInfo {
    tokio::time::timeout(BOUND, broker.wait(id))
        .await
        .expect("the flow comes to its end")
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn a_process_killed_between_two_steps_loses_no_result() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log").to_str().unwrap().to_owned();
    let broker = served_broker(directory.path()).await;
    let flow = broker
        .push_flow(Chain::new(begin(log.clone(), 21)).then(gate).keep(LONG))
        .await
        .unwrap();
    let program = serve(directory.path());
    let at_the_gate = async {
        while !starts(Path::new(&log)).contains_key("gate") {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(BOUND, at_the_gate)
        .await
        .expect("the first step is done");
    kill(program);
    let step = broker.job(flow.last()).await.unwrap().unwrap();
    assert!(
        step.payload.contains("21"),
        "it has the result: {}",
        step.payload
    );
    std::fs::write(directory.path().join("open"), "").unwrap();
    let program = serve(directory.path());
    let last = ended(&broker, flow.last()).await;
    assert_eq!(
        (last.result.as_deref(), last.failed, last.crashed),
        (Some("21"), 0, 0)
    );
    assert_eq!(
        starts(Path::new(&log)),
        [("begin 21".to_owned(), 1), ("gate".to_owned(), 2)].into()
    );
    drop(program);
}

#[tokio::test]
async fn flows_come_to_their_end_however_often_the_serving_process_is_killed() {
    let mut random = Random::from_env();
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log").to_str().unwrap().to_owned();
    let (broker, members) = (
        served_broker(directory.path()).await,
        brigade_testkit::count(60, 600) as u64,
    );
    let chains = (0..members).map(|number| Chain::new(begin(log.clone(), number)).then(double));
    let flow = broker
        .push_flow(
            Group::new(chains)
                .collect_with(gather, (log.clone(),))
                .keep(LONG * 10),
        )
        .await
        .unwrap();
    let kills = brigade_testkit::count(4, 20);
    for _ in 0..kills {
        let program = serve(directory.path());
        tokio::time::sleep(random.time(Duration::from_millis(1)..Duration::from_millis(150))).await;
        kill(program);
    }
    let program = serve(directory.path());
    let last = ended(&broker, flow.last()).await;
    let expected: Vec<u64> = (0..members).map(|number| number * 2).collect();
    assert_eq!(
        serde_json::from_str::<Vec<u64>>(last.result.as_deref().unwrap()).unwrap(),
        expected
    );
    assert_eq!(
        broker.jobs(None, None, None, 10).await.unwrap().len(),
        1,
        "each other job was done and is gone"
    );
    let starts = starts(Path::new(&log));
    assert_eq!(starts.len() as u64, 2 * members + 1);
    // Each kill interrupts no more than the process had.
    let again: usize = starts.values().map(|count| count - 1).sum();
    assert!(
        again <= kills * 4,
        "{again} starts beyond the first, {kills} kills"
    );
    drop(program);
}
