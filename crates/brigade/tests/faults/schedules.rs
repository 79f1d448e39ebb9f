//! Schedules that several processes look after while they are killed and their wall clocks differ
//! (H48, H49).

#![expect(
    clippy::disallowed_methods,
    reason = "starts this program again, with the file to work on"
)]

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use brigade::{Broker, JobState, Missed, Schedule};
use brigade_testkit::facts;
use brigade_testkit::program::Program;
use brigade_testkit::random::Random;
use rustix::process::Signal;

use crate::stage::{BOUND, file, millis, scenarios, until};

scenarios! {
    h49_processes_that_are_killed_fire_each_tick_once => killed_schedulers;
    scheduler,
}

const URL_VARIABLE: &str = "BRIGADE_FAULT_BROKER";
const WALL_VARIABLE: &str = "BRIGADE_FAULT_WALL_MILLIS";
const PROCESSES: usize = 3;
const INTERVAL: Duration = Duration::from_millis(100);

/// Does the jobs that come, with a wall clock that is ahead.
async fn scheduler() {
    let broker = Broker::connect(&std::env::var(URL_VARIABLE).unwrap())
        .await
        .unwrap();
    let ahead = std::env::var(WALL_VARIABLE).unwrap().parse().unwrap();
    broker.clock().set_forward(millis(ahead));
    println!("ready");
    loop {
        if let Some(lease) = broker
            .queue("q")
            .lease(Duration::from_secs(60), Duration::from_secs(60))
            .await
            .unwrap()
        {
            lease.ack().await.unwrap();
        }
    }
}

fn start(url: &str, random: &mut Random) -> Program {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .env(URL_VARIABLE, url)
        .env(WALL_VARIABLE, random.within(0..300).to_string());
    let program = Program::start_by(command, "scheduler").unwrap();
    program
        .line("ready", BOUND)
        .unwrap_or_else(|| panic!("{}", program.log()));
    program
}

async fn killed_schedulers() {
    let mut random = Random::from_env();
    let url = format!("sqlite:{}", file("jobs.db"));
    let broker = Broker::connect(&url).await.unwrap();
    let job = broker
        .queue("q")
        .job(&1)
        .unwrap()
        .keep(Duration::from_secs(3600));
    let first = broker
        .schedule(
            Schedule::every("s", INTERVAL, job)
                .unwrap()
                .missed(Missed::All),
        )
        .await
        .unwrap()
        .next;
    let mut programs: Vec<Program> = (0..PROCESSES).map(|_| start(&url, &mut random)).collect();
    let done = async || {
        broker
            .jobs(Some("q"), Some(JobState::Done), None, usize::MAX)
            .await
            .unwrap()
            .len()
    };
    let kills = brigade_testkit::count(5, 200);
    for _ in 0..kills {
        // Some ticks later, somewhere on the way of one.
        let before = done().await;
        while done().await < before + 3 {
            tokio::time::sleep(random.time(millis(1)..millis(20))).await;
        }
        let number = usize::try_from(random.within(0..PROCESSES as u64)).unwrap();
        assert!(programs[number].signal(Signal::KILL));
        programs[number].wait(BOUND).expect("SIGKILL ends it");
        programs[number] = start(&url, &mut random);
    }
    assert!(broker.unschedule("s").await.unwrap());
    let mut left = usize::MAX;
    while left > 0 {
        tokio::time::sleep(millis(5)).await;
        left = broker
            .jobs(Some("q"), None, None, usize::MAX)
            .await
            .unwrap()
            .iter()
            .filter(|job| !job.state.is_terminal())
            .count();
    }
    drop(programs);
    until("the end of the programs", || {
        facts::children(std::process::id()).is_empty()
    })
    .await;
    let jobs = broker
        .jobs(Some("q"), None, None, usize::MAX)
        .await
        .unwrap();
    let in_millis = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_millis();
    let ticks: Vec<u128> = jobs
        .iter()
        .map(|job| in_millis(job.tick.as_ref().unwrap().at))
        .collect();
    println!("{} ticks, {kills} kills", ticks.len());
    assert!(ticks.len() >= 3 * kills);
    let expected: Vec<u128> = (0..ticks.len() as u128)
        .map(|n| in_millis(first) + n * INTERVAL.as_millis())
        .collect();
    assert_eq!(ticks, expected, "each once, in order");
}
