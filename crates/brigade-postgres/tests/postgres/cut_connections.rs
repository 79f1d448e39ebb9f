//! Connections that break after any number of bytes, in either direction, during a push, a take, a
//! hand-out and a settlement.
//!
//! A proxy between the library and the server cuts one connection after a random number of bytes;
//! from then on it cuts none. Each round makes a new broker, so the cut also meets logins and
//! statements that are being prepared. At the end the jobs in the database are compared with the
//! answers that the callers got.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use brigade::{Broker, Error, ErrorKind, Settled};
use brigade_testkit::postgres::Postgres;
use brigade_testkit::proxy::{BOTH, Cut, Faults, Proxy, Target, Way};
use brigade_testkit::random::Random;

use crate::stage::{BOUND, run};

const LEASE: Duration = Duration::from_secs(600);
const NOW: Duration = Duration::ZERO;

/// The answers that callers got, by the number of the job.
#[derive(Default)]
struct Ledger {
    pushed: BTreeSet<u64>,
    maybe_pushed: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    /// How often a caller learned that the job is done.
    done: BTreeMap<u64, u32>,
    /// Settlements whose answer was lost.
    maybe_done: BTreeSet<u64>,
    /// Takes whose answer was lost. Each may have ended one job.
    maybe_taken: usize,
}

/// How a lost connection is reported.
fn assert_lost(error: &Error) {
    assert!(
        matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout) && error.is_retryable(),
        "{error:?}"
    );
}

impl Ledger {
    /// A push, a hand-out with its settlement, a take.
    async fn round(&mut self, broker: &Broker, number: u64) {
        let queue = broker.queue("q");
        match queue.push(&number).await {
            Ok(_) => drop(self.pushed.insert(number)),
            Err(error) => {
                assert_lost(&error);
                let set = if error.is_uncertain() {
                    &mut self.maybe_pushed
                } else {
                    &mut self.refused
                };
                set.insert(number);
            }
        }
        self.lease_and_settle(broker).await;
        match queue.take(NOW).await {
            Ok(Some(job)) => self.note_done(job.payload().unwrap()),
            Ok(None) => {}
            Err(error) => {
                assert_lost(&error);
                self.maybe_taken += usize::from(error.is_uncertain());
            }
        }
    }

    async fn lease_and_settle(&mut self, broker: &Broker) {
        let lease = match broker.queue("q").lease(LEASE, NOW).await {
            Ok(Some(lease)) => lease,
            Ok(None) => return,
            // The job comes back when its lease has ended.
            Err(error) => return assert_lost(&error),
        };
        let number = lease.payload().unwrap();
        match lease.ack().await {
            Ok(Settled::Accepted(_)) => self.note_done(number),
            Ok(Settled::Stale) => panic!("the lease of {number} holds for minutes"),
            Err(error) => {
                assert_lost(&error);
                if error.is_uncertain() {
                    self.maybe_done.insert(number);
                }
            }
        }
    }

    fn note_done(&mut self, number: u64) {
        *self.done.entry(number).or_default() += 1;
    }

    /// `left`: the jobs that are in the database at the end, however often.
    fn check(&self, left: &[u64]) {
        let twice: Vec<_> = self.done.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "done twice: {twice:?}");
        let mut seen = BTreeSet::new();
        for number in left {
            assert!(seen.insert(number), "{number} was stored twice");
            assert!(
                !self.done.contains_key(number),
                "{number} is done and is still there"
            );
            assert!(
                !self.refused.contains(number),
                "{number} was stored though its push was refused"
            );
        }
        let is_known = |number: &&u64| {
            self.done.contains_key(*number)
                || self.maybe_done.contains(*number)
                || seen.contains(*number)
        };
        let missing = self.pushed.iter().filter(|n| !is_known(n)).count();
        println!(
            "{} acknowledged, {} uncertain, {} refused pushes; {} done, {} uncertain settlements, {} \
                uncertain takes, {missing} jobs of takes without an answer",
            self.pushed.len(),
            self.maybe_pushed.len(),
            self.refused.len(),
            self.done.len(),
            self.maybe_done.len(),
            self.maybe_taken
        );
        assert!(
            missing <= self.maybe_taken,
            "acknowledged jobs are gone, and no take was uncertain for them"
        );
        for set in [&self.maybe_pushed, &self.refused] {
            assert!(set.is_disjoint(&self.pushed));
        }
    }
}

/// Lets one connection be cut after so many bytes, and none after it.
async fn cut_once(proxy: &Proxy, way: Way, bytes: u64, how: Cut) {
    let faults = Faults {
        cut_after: Some((bytes, how)),
        ..Faults::default()
    };
    let before = proxy.traffic().cut;
    proxy.set([way], &faults);
    while proxy.traffic().cut == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    proxy.set(BOTH, &Faults::default());
}

#[test]
fn a_connection_that_breaks_at_any_byte_loses_no_job_and_does_none_twice_silently() {
    run(async {
        let mut random = Random::from_env();
        let server = Postgres::start(&[]).unwrap();
        let direct = Broker::connect(&server.url()).await.unwrap();
        let target = Target::Tcp(([127, 0, 0, 1], server.port()).into());
        let proxy = Proxy::start(target, random.draw()).unwrap();
        let url = format!(
            "postgres://postgres@{}/postgres?connections=2&connect_timeout=5s&pooler=none",
            proxy.address()
        );
        let mut ledger = Ledger::default();
        // How much one round sends and receives, with nothing cut.
        let broker = Broker::connect(&url).await.unwrap();
        ledger.round(&broker, 0).await;
        drop(broker);
        let bytes = proxy.traffic().bytes;

        let mut connected = 0;
        for number in 1..=brigade_testkit::count(80, 1000) as u64 {
            let way = *random.pick(&BOTH).unwrap();
            let how = *random.pick(&[Cut::Reset, Cut::Finish]).unwrap();
            let after = random.within(1..bytes[way as usize]);
            let round = async {
                match Broker::connect(&url).await {
                    Ok(broker) => {
                        ledger.round(&broker, number).await;
                        connected += 1;
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}"),
                }
            };
            // Not each round sends as much as the first.
            tokio::select! {
                () = round => {}
                () = async {
                    cut_once(&proxy, way, after, how).await;
                    std::future::pending::<()>().await;
                } => {}
            }
            proxy.set(BOTH, &Faults::default());
        }
        println!(
            "{connected} rounds got a connection, {} cuts",
            proxy.traffic().cut
        );

        // What was handed out to callers who never got it comes back.
        direct.clock().advance(2 * LEASE);
        let mut left = Vec::new();
        while let Some(job) = direct.queue("q").take(NOW).await.unwrap() {
            left.push(job.payload().unwrap());
        }
        assert!(direct.jobs(None, None, None, 10).await.unwrap().is_empty());
        ledger.check(&left);
        drop(direct);
        tokio::time::timeout(BOUND, async { drop(proxy) })
            .await
            .unwrap();
    });
}
