//! Several clients of one server, in a model: its wall clock is set, and their own clocks stand
//! still.
//!
//! A look of a client reads what the server has stored and its time, and then changes the
//! correction if [`judge`] says so, as the client itself does it. Whatever happens, all clients end
//! with one correction, and do not go on to change it.

use std::time::Duration;

use super::*;

const SECOND: i64 = 1000;
const HOUR: i64 = 3600 * SECOND;

/// Clients of one server, whose wall clock and whose own clocks can be set.
struct World {
    begin: BootTime,
    passed: Duration,
    /// By how much the server's wall clock was set.
    set: i64,
    stored: Correction,
    clients: Vec<Client>,
}

struct Client {
    /// For how long its own clock stood still.
    lost: Duration,
    known: Option<KnownTime>,
}

impl World {
    fn new(clients: usize) -> Self {
        let client = |_| Client {
            lost: Duration::ZERO,
            known: None,
        };
        let mut world = Self {
            begin: BootTime::now(),
            passed: Duration::ZERO,
            set: 0,
            stored: Correction::default(),
            clients: (0..clients).map(client).collect(),
        };
        (0..clients).for_each(|client| world.look(client));
        world
    }

    fn pass(&mut self, time: Duration) {
        self.passed += time;
    }

    fn stop_clock_of(&mut self, client: usize, time: Duration) {
        self.passed += time;
        self.clients[client].lost += time;
    }

    fn look(&mut self, client: usize) {
        let client = &mut self.clients[client];
        let reading = TimeReading {
            wall_millis: 1_800_000_000_000 + millis(self.passed) + self.set,
            at: self.begin.later(self.passed - client.lost),
            uncertainty: Duration::from_millis(5),
        };
        let mut next = KnownTime {
            reading,
            correction: self.stored,
            changed: client.known.and_then(|known| known.changed),
        };
        match client
            .known
            .map(|known| judge(&known, self.stored, &reading))
        {
            Some(Judgement::Change { version, by }) => {
                assert_eq!(version, self.stored.version);
                self.stored.version += 1;
                self.stored.millis += by;
                next.correction = self.stored;
                next.changed = Some(reading.at);
            }
            Some(Judgement::Accept { unchecked: true }) => next.changed = Some(reading.at),
            _ => {}
        }
        client.known = Some(next);
    }

    /// Each client looks a few times, as they do every two seconds.
    fn settle(&mut self) {
        for _ in 0..5 {
            for client in 0..self.clients.len() {
                self.pass(Duration::from_millis(700));
                self.look(client);
            }
        }
    }

    #[track_caller]
    fn assert_corrected_by(&self, by: i64) {
        assert!(
            (self.stored.millis - by).abs() < SECOND,
            "{:?}",
            self.stored
        );
        for client in &self.clients {
            assert_eq!(client.known.unwrap().correction, self.stored);
        }
    }
}

#[test]
fn a_step_that_all_clients_see_is_counted_once() {
    let mut world = World::new(3);
    for (step, sum) in [(HOUR, HOUR), (-3 * HOUR, -2 * HOUR), (2 * HOUR, 0)] {
        world.settle();
        world.set += step;
        world.settle();
        world.assert_corrected_by(-sum);
    }
    assert_eq!(world.stored.version, 3);
}

#[test]
fn two_steps_between_two_looks_are_counted_once_each() {
    let mut world = World::new(2);
    world.set += HOUR;
    world.look(0);
    world.set -= 3 * HOUR;
    // The second client sees the sum of both, and a correction for the first.
    world.look(1);
    world.settle();
    world.assert_corrected_by(2 * HOUR);
}

#[test]
fn a_client_whose_clock_stood_still_is_contradicted_by_the_next_one_and_accepts_that() {
    let mut world = World::new(3);
    world.settle();
    world.stop_clock_of(1, Duration::from_secs(600));
    world.look(1);
    assert_eq!(world.stored.millis, -600 * SECOND);
    world.settle();
    world.assert_corrected_by(0);
    assert_eq!(world.stored.version, 2, "they do not go on to disagree");
}

#[test]
fn clients_that_disagree_by_one_each_end_with_the_same_correction() {
    let mut world = World::new(2);
    world.settle();
    world.stop_clock_of(0, Duration::from_secs(60));
    world.stop_clock_of(1, Duration::from_secs(90));
    world.set += HOUR;
    world.settle();
    let version = world.stored.version;
    world.settle();
    assert_eq!(world.stored.version, version);
    assert_eq!(
        world.clients[0].known.unwrap().correction,
        world.clients[1].known.unwrap().correction
    );
}

#[test]
fn a_clock_that_runs_apart_is_no_step_nor_is_a_slow_answer() {
    let known = KnownTime {
        reading: TimeReading {
            wall_millis: 0,
            at: BootTime::now(),
            uncertainty: Duration::ZERO,
        },
        correction: Correction::default(),
        changed: None,
    };
    let day = Duration::from_secs(86_400);
    let judged = |after: Duration, wall_millis: i64, uncertainty: Duration| {
        let reading = TimeReading {
            wall_millis,
            at: known.reading.at.later(after),
            uncertainty,
        };
        judge(&known, Correction::default(), &reading)
    };
    let accepted = Judgement::Accept { unchecked: false };
    assert_eq!(
        judged(day, millis(day) + 43 * SECOND, Duration::ZERO),
        accepted
    );
    assert_eq!(
        judged(Duration::from_secs(2), 9 * SECOND, Duration::from_secs(8)),
        accepted
    );
    assert_eq!(
        judged(Duration::from_secs(2), 4 * SECOND, Duration::ZERO),
        Judgement::Change {
            version: 0,
            by: -2 * SECOND
        }
    );
}
