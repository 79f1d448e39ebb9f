//! The crash tests: producers, consumers and workers are killed at random while thousands of jobs
//! go through.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use brigade::{Broker, Pool, PushOutcome, Settled, ToJob as _};
use brigade_testkit::facts;
use brigade_testkit::ledger::{self, Event};
use brigade_testkit::program::{Program, arguments};
use brigade_testkit::{count, random::Random};
use futures_util::future::join_all;
use rustix::process::Signal;

use crate::disk::Fault;
use crate::stage::{
    BOUND, LONG, Roles, Stage, block_on, millis, mount_small_disk, run_with_mounts, until,
    until_file,
};
use crate::tasks::{self, job};
use crate::verdict::{Place, verdict};

pub(crate) const ROLES: Roles = &[
    ("producer", || block_on(producer())),
    ("consumer", || block_on(consumer())),
    ("engine", || block_on(engine())),
    ("crash_on_a_small_disk", crash_on_a_small_disk),
];

#[test]
fn crash_at_random_loses_nothing_and_runs_nothing_twice_at_once() {
    for_each_seed(|seed| drop(drive(&Plan::new(seed))));
}

#[test]
fn crash_with_one_consumer_of_one_slot_holds_the_order() {
    for_each_seed(|seed| {
        let places = drive(&Plan {
            consumers: 1,
            workers: 1,
            ..Plan::new(seed)
        });
        // One whose worker was killed before it could write its first line is handed out again
        // before all others but the one that was held already.
        let allowed = |place: &Place| usize::from(place.crashed > 0);
        let late: Vec<_> = places
            .iter()
            .filter(|place| place.overtaken_by > allowed(place))
            .collect();
        assert!(
            late.is_empty(),
            "first starts are not in the order of the pushes: {late:?} seed={seed}"
        );
    });
}

#[test]
fn crash_while_the_disk_is_full_at_times() {
    let seed = Random::from_env().seed();
    // Made here, as the program cannot remove what it has mounted.
    let disk = tempfile::tempdir().unwrap();
    let (seed, at) = (seed.to_string(), disk.path().to_str().unwrap());
    run_with_mounts("crash_on_a_small_disk", &[&seed, at]);
}

/// Two engines lease by hand, from one file; both are killed again and again.
#[test]
fn d29_two_engines_on_one_file_accept_one_result_each_and_keep_the_order_but_for_kills() {
    const IN_FLIGHT: usize = 4;
    for_each_seed(|seed| {
        let plan = Plan {
            consumer: "engine",
            workers: IN_FLIGHT,
            hits_workers: false,
            ..Plan::new(seed)
        };
        let jobs = count(120, 2_000);
        let (places, kills) = drive_and_count(&Plan { jobs, ..plan });
        // Two engines hold 2 n jobs at once, so nothing else is overtaken by more; each kill sets
        // aside what its engine held.
        let late = places
            .iter()
            .filter(|place| place.overtaken_by > 2 * IN_FLIGHT)
            .count();
        println!(
            "REORDER beyond {}: {late} (<= {} after {kills} kills)",
            2 * IN_FLIGHT,
            kills * IN_FLIGHT
        );
        assert!(late <= kills * IN_FLIGHT, "seed={seed}");
    });
}

/// Each looks whether the leases in the file are of an earlier boot, and none may take another's
/// for that.
#[test]
fn d29_engines_that_open_a_new_file_at_once_leave_each_other_s_leases_alone() {
    let one = async |stage: &Stage, number: usize| {
        let broker = connect(stage).await;
        let queue = broker.queue(format!("q{number}"));
        queue.push(&number).await.unwrap();
        let lease = queue.lease(LONG, millis(0)).await.unwrap().unwrap();
        tokio::time::sleep(millis(15)).await;
        assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    };
    for _ in 0..count(20, 300) {
        let directory = tempfile::tempdir().unwrap();
        let stage = Stage::new(directory.path());
        block_on(join_all((0..8).map(|number| one(&stage, number))));
    }
}

fn for_each_seed(run: impl Fn(u64)) {
    let mut random = Random::from_env();
    if std::env::var_os("BRIGADE_SEED").is_some() {
        return run(random.seed());
    }
    for _ in 0..count(2, 20) {
        run(random.draw() >> 40);
    }
}

struct Plan {
    seed: u64,
    jobs: usize,
    producers: usize,
    consumers: usize,
    /// Per consumer.
    workers: usize,
    consumer: &'static str,
    hits_workers: bool,
    /// Time between faults.
    pause: Range<Duration>,
    /// Where the job file is, if not on the stage; it is full at times.
    small_disk: Option<PathBuf>,
}

impl Plan {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            jobs: count(200, 4_000),
            producers: 2,
            consumers: 2,
            workers: 2,
            consumer: "consumer",
            hits_workers: true,
            pause: millis(20)..millis(150),
            small_disk: None,
        }
    }
}

fn crash_on_a_small_disk() {
    let arguments = arguments();
    let mut random = Random::new(arguments[0].parse().unwrap());
    for _ in 0..count(1, 20) {
        let at = Path::new(&arguments[1]).join(random.draw().to_string());
        mount_small_disk(&at, 12 << 20);
        drive(&Plan {
            small_disk: Some(at),
            ..Plan::new(random.draw() >> 40)
        });
    }
}

fn drive(plan: &Plan) -> Vec<Place> {
    drive_and_count(plan).0
}

/// Runs a plan to its end and checks the ledger. Returns the place of each job, and how many
/// consumers were killed.
fn drive_and_count(plan: &Plan) -> (Vec<Place>, usize) {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::new(directory.path());
    if let Some(disk) = &plan.small_disk {
        std::os::unix::fs::symlink(disk.join("jobs.db"), stage.file()).unwrap();
    }
    let mut cast = Cast {
        plan,
        stage: stage.clone(),
        random: Random::new(plan.seed),
        incarnations: 0,
        dead: Vec::new(),
        kills: Vec::new(),
        faults: 0,
    };
    let mut producers: Vec<Program> = (0..plan.producers).map(|_| cast.producer()).collect();
    let mut consumers: Vec<Program> = (0..plan.consumers).map(|_| cast.consumer()).collect();
    let ballast = Ballast::of(plan);
    while enqueued(&stage) < plan.jobs || cast.faults < count(4, 20) {
        facts::wait_until(cast.random.time(plan.pause.clone()), || false);
        match cast.random.within(0..4) {
            0 => cast.replace_producer(&mut producers),
            1 => cast.replace_consumer(&mut consumers),
            2 if plan.small_disk.is_some() => ballast.fill(),
            _ if plan.hits_workers => cast.hit_worker(&consumers),
            _ => {}
        }
        if cast.random.within(0..2) == 0 {
            ballast.remove();
        }
    }
    ballast.remove();
    stage.tell("stop");
    end(producers, &stage);
    // Consumers go on dying, though less often, until they have done it all.
    let file = stage.look();
    let open = || -> i64 {
        file.query_row(
            "SELECT count(*) FROM brigade_jobs WHERE state < 5",
            [],
            |row| row.get(0),
        )
        .unwrap()
    };
    let began = Instant::now();
    while open() > 0 && began.elapsed() < BOUND {
        if facts::wait_until(8 * cast.random.time(plan.pause.clone()), || open() == 0).is_none() {
            cast.replace_consumer(&mut consumers);
        }
    }
    until("everything has ended", || open() == 0);
    stage.tell("halt");
    end(consumers, &stage);
    for program in &cast.dead {
        let gone = facts::wait_until(Duration::from_secs(2), || program.descendants().is_empty());
        assert!(
            gone.is_some(),
            "these outlived their pool: {:?}",
            program.descendants()
        );
    }
    let (verdict, places) = verdict(&stage, &cast.kills);
    let kills = cast.kills.len();
    verdict.check(&format!("seed={} kills={kills}", plan.seed));
    (places, kills)
}

fn end(programs: Vec<Program>, stage: &Stage) {
    for mut program in programs {
        let status = program.wait(BOUND);
        // A program that was armed may have died by its own failpoint.
        let ended = status.is_some_and(|status| status.success() || was_armed(&program));
        assert!(ended, "{status:?} on {}:\n{}", stage.text(), program.log());
    }
}

fn was_armed(program: &Program) -> bool {
    program.log().contains("armed")
}

fn enqueued(stage: &Stage) -> usize {
    let lines = ledger::read(stage.path("ledger")).unwrap_or_default();
    lines
        .iter()
        .filter(|line| line.event == Event::Enqueued)
        .count()
}

/// A file that takes all the room of a small disk, at times.
struct Ballast(Option<PathBuf>);

impl Ballast {
    fn of(plan: &Plan) -> Self {
        Self(plan.small_disk.as_ref().map(|disk| disk.join("ballast")))
    }

    fn fill(&self) {
        use std::io::Write as _;
        if let Some(path) = &self.0 {
            let mut file = fs::File::create(path).unwrap();
            while file.write_all(&[1; 4096]).is_ok() {}
        }
    }

    fn remove(&self) {
        if let Some(path) = &self.0 {
            fs::remove_file(path).ok();
        }
    }
}

struct Cast<'a> {
    plan: &'a Plan,
    stage: Stage,
    random: Random,
    incarnations: u64,
    /// Killed programs; kept, so that what outlives them is seen.
    dead: Vec<Program>,
    /// When consumers were killed.
    kills: Vec<SystemTime>,
    /// All that was killed.
    faults: usize,
}

impl Cast<'_> {
    fn producer(&mut self) -> Program {
        self.incarnations += 1;
        // Every other one dies within a commit of its own, if it is not killed before.
        let fault = match self.random.within(0..4) {
            0 => Fault::KillBefore(self.random.within(5..60)).arguments(),
            1 => Fault::KillAfter(self.random.within(5..60)).arguments(),
            _ => [String::new(), "0".to_owned()],
        };
        let base = (self.incarnations << 24).to_string();
        Program::start_with(
            "producer",
            &[
                self.stage.text(),
                &base,
                &self.random.draw().to_string(),
                &fault[0],
                &fault[1],
            ],
        )
        .unwrap()
    }

    fn consumer(&mut self) -> Program {
        Program::start_with(
            self.plan.consumer,
            &[self.stage.text(), &self.plan.workers.to_string()],
        )
        .unwrap()
    }

    fn replace_producer(&mut self, producers: &mut [Program]) {
        let at = usize::try_from(self.random.within(0..producers.len() as u64)).unwrap();
        let mut old = std::mem::replace(&mut producers[at], self.producer());
        old.signal(Signal::KILL);
        old.wait(BOUND);
        self.dead.push(old);
        self.faults += 1;
        // Those that died within a commit are replaced too.
        for program in producers {
            if program.wait(Duration::ZERO).is_some() {
                let old = std::mem::replace(program, self.producer());
                self.dead.push(old);
            }
        }
    }

    fn replace_consumer(&mut self, consumers: &mut [Program]) {
        let at = usize::try_from(self.random.within(0..consumers.len() as u64)).unwrap();
        let old = &mut consumers[at];
        let ended = old.wait(Duration::ZERO);
        assert!(ended.is_none(), "{ended:?} by itself:\n{}", old.log());
        // Stopped first, so that it starts no worker that is not in the ledger.
        old.signal(Signal::STOP);
        until("it stands still", || facts::is_stopped(old.pid()));
        let ledger = self.stage.ledger();
        ledger.fault(old.pid()).unwrap();
        facts::children(old.pid())
            .iter()
            .for_each(|child| ledger.fault(child.pid).unwrap());
        self.kills.push(SystemTime::now());
        old.signal(Signal::KILL);
        old.wait(BOUND);
        let old = std::mem::replace(old, self.consumer());
        self.dead.push(old);
        self.faults += 1;
    }

    fn hit_worker(&mut self, consumers: &[Program]) {
        let Some(consumer) = self.random.pick(consumers) else {
            return;
        };
        let workers: Vec<u32> = facts::children(consumer.pid())
            .iter()
            .map(|child| child.pid)
            .collect();
        if let Some(worker) = self.random.pick(&workers)
            && facts::signal_child(consumer.pid(), *worker, Signal::KILL)
        {
            self.stage.ledger().fault(*worker).unwrap();
            self.faults += 1;
        }
    }
}

// -- the programs

/// Connects, however long the disk is full or the file held.
async fn connect(stage: &Stage) -> Broker {
    loop {
        match Broker::connect(&stage.url()).await {
            Ok(broker) => return broker,
            Err(error) => println!("could not connect: {error:?}"),
        }
        tokio::time::sleep(millis(20)).await;
    }
}

async fn producer() {
    let arguments = arguments();
    let (stage, base) = (
        Stage::new(&arguments[0]),
        arguments[1].parse::<u64>().unwrap(),
    );
    let mut random = Random::new(arguments[2].parse().unwrap());
    let broker = connect(&stage).await;
    if let Some(fault) = Fault::read(&arguments[3], &arguments[4]) {
        println!("armed with {fault:?}");
        fault.arm();
    }
    let (ledger, mut next) = (stage.ledger(), base);
    while !stage.path("stop").exists() {
        let numbers: Vec<u64> = (next..next + random.within(1..9)).collect();
        next += numbers.len() as u64;
        let jobs = numbers
            .iter()
            .map(|number| job(stage.text().to_owned(), *number, random.within(0..3_000)));
        let jobs: Vec<brigade::Job> = jobs.map(|call| call.to_job().unwrap().keep(LONG)).collect();
        // Until there is an answer, that is not known.
        numbers
            .iter()
            .for_each(|number| ledger.job(*number, &Event::Refused).unwrap());
        let pushed: Vec<bool> = if random.within(0..2) == 0 {
            vec![broker.push_many(jobs).await.inspect_err(print).is_ok(); numbers.len()]
        } else {
            let pushes = jobs.into_iter().map(|job| broker.push(job));
            join_all(pushes)
                .await
                .into_iter()
                .map(|pushed| matches!(pushed.inspect_err(print), Ok(PushOutcome::New(_))))
                .collect()
        };
        for (number, _) in numbers.iter().zip(&pushed).filter(|(_, pushed)| **pushed) {
            ledger.job(*number, &Event::Enqueued).unwrap();
        }
        tokio::time::sleep(random.time(millis(1)..millis(10))).await;
    }
}

fn print(error: &brigade::Error) {
    println!("{error:?}");
}

async fn consumer() {
    let arguments = arguments();
    let stage = Stage::new(&arguments[0]);
    let pool = Pool::builder()
        .workers(arguments[1].parse::<usize>().unwrap())
        .start()
        .await
        .unwrap();
    let broker = connect(&stage).await;
    let halt = stage.path("halt");
    let served = broker
        .consumer()
        .queue("job")
        .on(&pool)
        .run_until(until_file(&halt))
        .await
        .unwrap();
    println!("{served:?}");
    pool.shutdown().await;
}

/// Leases by hand, so that it knows of each completion whether it was accepted.
async fn engine() {
    let arguments = arguments();
    let stage = Stage::new(&arguments[0]);
    let broker = connect(&stage).await;
    let hands = (0..arguments[1].parse().unwrap()).map(|_| hand(&stage, &broker));
    join_all(hands).await;
}

async fn hand(stage: &Stage, broker: &Broker) {
    let queue = broker.queue("job");
    while !stage.path("halt").exists() {
        let lease = match queue.lease(LONG, millis(50)).await {
            Ok(Some(lease)) => lease,
            Ok(None) => continue,
            Err(error) => panic!("{error:?}"),
        };
        let (_, number, micros): (String, u64, u64) = lease.payload().unwrap();
        let (here, attempt) = (stage.clone(), lease.attempt());
        #[expect(
            clippy::disallowed_methods,
            reason = "an attempt blocks as users' code does"
        )]
        let ran = tokio::task::spawn_blocking(move || {
            tasks::attempt(&here, number, attempt, 0, |_| {
                std::thread::sleep(Duration::from_micros(micros))
            })
        });
        let token = ran.await.unwrap();
        match lease.ack_with(&token).await {
            Ok(Settled::Accepted(_)) => stage
                .ledger()
                .job(number, &Event::Outcome("done".to_owned()))
                .unwrap(),
            other => panic!("no other engine has this job: {other:?}"),
        }
    }
}
