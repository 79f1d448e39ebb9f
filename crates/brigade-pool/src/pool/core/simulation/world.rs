//! One pool of the simulation: its dispatcher, its connections, its clock.
//!
//! A world carries out what the dispatcher asks for, as the shell of a pool does, by keeping it for
//! a later step: processes that start, stops that are under way, attempts that are prepared. What
//! the dispatcher says and sends goes to the model, in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, broadcast, oneshot};

use super::super::super::cell::Cell;
use super::super::super::config::{Config, Neighbours};
use super::super::super::ids::{CallId, WorkerId};
use super::super::super::queue::Order;
use super::super::super::stop_reason::StopReason;
use super::super::super::worker_conn::WorkerConn;
use super::super::admission::Admission;
use super::super::effects::{Effects, HealthCheck, Preparation, StopOrder};
use super::super::random::Random;
use super::super::{Core, Stage};
use super::conn::{SentLog, SimConn, serial_of};
use super::model::{Model, Rules, SimStage, SimWorker, Wishes};
use super::settings::settings;
use crate::call::Call;
use crate::event::Event;
use crate::request::Request;
use crate::retry::Retry;
use crate::sandbox::Sandbox;
use crate::sync::lock;

/// Calls that have not ended at any time, so that the checks stay cheap.
const CALLS_MAX: usize = 60;
const EVENTS_MAX: usize = 4096;
/// Steps in which all calls must have ended once no new ones are made.
const RUN_DRY_STEPS_MAX: usize = 20_000;
/// Steps in which all must have ended after a shutdown.
const SHUTDOWN_STEPS_MAX: usize = 20_000;

/// The sandboxes that calls have.
const SANDBOXES: [fn() -> Sandbox; 2] = [Sandbox::no_network, Sandbox::compute];

/// A stop that is under way.
pub(super) struct SimStop {
    pub(super) order: StopOrder,
    /// Set once its worker was closed.
    pub(super) when_alone: Option<oneshot::Receiver<()>>,
}

pub(super) struct World {
    pub(super) core: Core,
    pub(super) model: Model,
    pub(super) config: Arc<Config>,
    /// Whether calls have sandboxes of their own.
    has_sandboxes: bool,
    pub(super) random: Random,
    pub(super) now: Instant,
    pub(super) room: Arc<Semaphore>,
    events: broadcast::Receiver<Event>,
    log: SentLog,
    serials: usize,
    /// Workers by the serial of their connection.
    pub(super) conns: BTreeMap<usize, WorkerId>,
    /// Processes that are being started.
    pub(super) starting: Vec<WorkerId>,
    /// Processes that were let go or broken off: they end before long.
    pub(super) leaving: Vec<WorkerId>,
    pub(super) stops: Vec<SimStop>,
    pub(super) preparations: Vec<Preparation>,
    cells: BTreeMap<usize, CallId>,
    /// By number, for what events say.
    numbers: BTreeMap<u64, CallId>,
    /// Workers that were there once.
    pub(super) past: Vec<WorkerId>,
    /// When hosts that are away are given up.
    pub(super) lost_at: BTreeMap<WorkerId, Instant>,
    /// Hosts that have joined.
    #[cfg(feature = "remote")]
    pub(super) sessions: u8,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let config = Arc::new(settings(&mut random));
        let (sender, events) = broadcast::channel(EVENTS_MAX);
        let room = Arc::new(Semaphore::new(config.queue_max));
        let now = Instant::now();
        let has_sandboxes = config.sandbox.is_some() || random.next().is_multiple_of(2);
        let rules = Rules {
            has_slots: config.slots > 1,
            has_hosts: config.may_have_remote_hosts(),
            has_spares: config.spares > 0,
            is_fifo: config.order == Order::Fifo,
            memory_budget: config.memory_budget,
            workers_max: config.workers_max,
            has_sandboxes,
        };
        let (for_core, for_room) = (Arc::clone(&config), Arc::clone(&room));
        let mut world = Self {
            has_sandboxes,
            core: Core::new(for_core, sender, for_room, random.next(), now),
            model: Model::new(rules),
            config,
            random,
            now,
            room,
            events,
            log: SentLog::default(),
            serials: 0,
            conns: BTreeMap::new(),
            starting: Vec::new(),
            leaving: Vec::new(),
            stops: Vec::new(),
            preparations: Vec::new(),
            cells: BTreeMap::new(),
            numbers: BTreeMap::new(),
            past: Vec::new(),
            lost_at: BTreeMap::new(),
            #[cfg(feature = "remote")]
            sessions: 0,
        };
        world.event(|core, effects| core.advance(Stage::Open, effects));
        world
    }

    // -- randomness

    pub(super) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).expect("a small number");
        usize::try_from(self.random.next() % bound).expect("a small number")
    }

    /// Whether something happens that does so in this many of a hundred cases.
    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn any<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let index = self.below(of.len());
        of.get(index).copied()
    }

    // -- one event

    /// Has the dispatcher take an event, and the model what came of it.
    pub(super) fn event(&mut self, event: impl FnOnce(&mut Core, &mut Effects)) {
        let mut effects = Effects::default();
        event(self.core.at(self.now), &mut effects);
        let check = self.absorb(effects);
        self.core.check_invariants();
        self.model.check();
        if let Some(check) = check {
            self.look_at_workers(check);
        }
    }

    fn absorb(&mut self, effects: Effects) -> Option<HealthCheck> {
        while let Ok(event) = self.events.try_recv() {
            self.read(event);
        }
        // A worker that starts may have the number of one that left in this step.
        for worker in effects.starts {
            self.add_worker(
                worker,
                SimStage::Starting,
                false,
                self.config.slots as usize,
            );
            self.starting.push(worker);
        }
        let sent = std::mem::take(&mut *lock(&self.log));
        for (serial, call) in sent {
            self.model.on_sent(call, self.conns[&serial]);
        }
        for order in effects.stops {
            if matches!(order.reason, StopReason::Budget | StopReason::BudgetAlone) {
                self.model.on_stopped_for_budget(order.call, &order.reason);
            }
            self.model.call(order.call).stop = Some(order.reason.clone());
            self.stops.push(SimStop {
                order,
                when_alone: None,
            });
        }
        self.preparations.extend(effects.preparations);
        for end in effects.ends {
            let cell = Arc::as_ptr(&end.cell).addr();
            let call = self.cells.remove(&cell).expect("a cell of one call");
            let outcome = end
                .outcome
                .as_ref()
                .map_or_else(|e| e.outcome(), |_| "done");
            self.model.on_ended(call, outcome);
            self.numbers.remove(&call.number());
            end.finish();
        }
        for conn in effects.let_go {
            self.on_let_go(serial_of(&*conn));
        }
        for (conn, _) in effects.breaks {
            let worker = self.conns[&serial_of(&*conn)];
            self.model.worker(worker).is_closing = true;
            self.leaving.push(worker);
        }
        self.room.add_permits(effects.room);
        effects.health_check
    }

    /// A worker has nothing more to do.
    fn on_let_go(&mut self, serial: usize) {
        let worker = self.conns[&serial];
        let Some(slot) = self.model.workers.get_mut(&worker) else {
            return;
        };
        assert!(
            slot.running.is_empty(),
            "{worker:?} is let go while it runs"
        );
        if slot.is_host {
            self.model.workers.remove(&worker);
            self.lost_at.remove(&worker);
            self.past.push(worker);
        } else if !self.leaving.contains(&worker) {
            slot.is_closing = true;
            self.leaving.push(worker);
        }
    }

    /// Takes what the dispatcher says that it did.
    fn read(&mut self, event: Event) {
        match event {
            Event::CallQueued { call, .. } => {
                if let Some(call) = self.numbers.get(&call) {
                    self.model.on_queued(*call);
                }
            }
            Event::CallWaitsForMemory { call, .. } => {
                if let Some(call) = self.numbers.get(&call) {
                    self.model.on_waits_for_memory(*call);
                }
            }
            Event::CallEnded { call, .. } => {
                if let Some(call) = self.numbers.get(&call) {
                    self.model.on_dequeued(*call);
                }
            }
            Event::CallStarted {
                call,
                worker,
                attempt,
                ..
            } => {
                if let (Some(call), Some(worker)) =
                    (self.numbers.get(&call).copied(), self.newest(worker))
                {
                    self.model.on_started(call, worker, attempt);
                }
            }
            Event::WorkerRetiring { worker, .. } => {
                if let Some(worker) = self.newest(worker) {
                    self.model.worker(worker).is_closing = true;
                }
            }
            Event::Missed(missed) => panic!("{missed} events were missed"),
            _ => {}
        }
    }

    /// The worker that has this number now.
    fn newest(&self, number: u32) -> Option<WorkerId> {
        let workers = self.model.workers.keys();
        workers
            .filter(|worker| worker.number == number)
            .max_by_key(|worker| worker.epoch)
            .copied()
    }

    pub(super) fn add_worker(
        &mut self,
        worker: WorkerId,
        stage: SimStage,
        is_host: bool,
        capacity: usize,
    ) {
        let slot = SimWorker {
            stage,
            is_host,
            sandbox: None,
            is_closing: false,
            capacity,
            running: Vec::new(),
            served: 0,
        };
        let before = self.model.workers.insert(worker, slot);
        assert!(before.is_none(), "two workers have the id {worker:?}");
    }

    /// A connection for the next worker, and its serial.
    pub(super) fn connect(&mut self) -> (Arc<dyn WorkerConn>, usize) {
        self.serials += 1;
        let conn = SimConn::connect(self.serials, Arc::clone(&self.log));
        (conn, self.serials)
    }

    // -- calls

    pub(super) fn admit(&mut self) {
        if self.model.calls.len() >= CALLS_MAX {
            return;
        }
        let wishes = Wishes {
            retries: u32::try_from(self.below(4)).expect("a small number"),
            priority: i32::try_from(self.below(3)).expect("a small number"),
            twice: self.chance(50),
            only_hosts: self.model.rules.has_hosts && self.chance(15),
            queue_timeout: self.chance(20),
            captures: self.chance(10),
            memory: self.declared_memory(),
            sandbox: self.sandbox(),
        };
        let (request, alone) = self.request(wishes);
        let has_place = self.chance(10)
            && self.room.try_acquire().is_ok_and(|place| {
                place.forget();
                true
            });
        let cell = Arc::new(Cell::default());
        let mut effects = Effects::default();
        let core = self.core.at(self.now);
        match core.admit(request, &cell, has_place, &mut effects) {
            Admission::Admitted(call) => {
                self.model.admit(call, wishes, alone);
                self.cells.insert(Arc::as_ptr(&cell).addr(), call);
                self.numbers.insert(call.number(), call);
            }
            Admission::Refused(_) if has_place => self.room.add_permits(1),
            Admission::Refused(_) => {}
            Admission::Full(_) => assert_eq!(self.room.available_permits(), 0, "it is full"),
        }
        self.absorb(effects);
        self.core.check_invariants();
        self.model.check();
    }

    fn declared_memory(&mut self) -> Option<u64> {
        let budget = self.config.memory_budget?;
        let part = 1 + self.below(10) as u64;
        self.chance(60).then_some(budget / 10 * part)
    }

    /// The sandbox that the next call runs in: one of its own, or the pool's.
    fn sandbox(&mut self) -> Option<usize> {
        let own = if self.has_sandboxes && self.chance(50) {
            Some(self.below(SANDBOXES.len()))
        } else {
            None
        };
        own.or_else(|| {
            let of_pool = self.config.sandbox.as_ref()?;
            SANDBOXES.iter().position(|sandbox| sandbox() == *of_pool)
        })
    }

    /// A request, and whether it must run alone.
    fn request(&mut self, wishes: Wishes) -> (Request, bool) {
        let name = if wishes.twice { "twice" } else { "once" };
        let mut request = Call::<()>::json(name, &[(); 0]).request;
        let (timeout, delay) = (self.chance(20), self.chance(10));
        let wants_alone = self.chance(10);
        let options = request.options.get_or_insert_default();
        options.retries = Some(wishes.retries);
        options.priority = Some(wishes.priority);
        options.retry = Some(Retry::exponential(Duration::ZERO, Duration::ZERO));
        options.timeout = timeout.then_some(Duration::from_millis(50));
        options.queue_timeout = wishes.queue_timeout.then_some(Duration::from_millis(80));
        options.delay = delay.then_some(Duration::from_millis(20));
        options.capture_bytes = wishes.captures.then_some(1024);
        options.alone = wants_alone;
        options.memory = wishes.memory;
        let own = wishes.sandbox.map(|sandbox| SANDBOXES[sandbox]());
        options.sandbox = own.filter(|own| self.config.sandbox.as_ref() != Some(own));
        if wishes.only_hosts {
            options.labels = vec!["far".into()];
        }
        let hurts = timeout && self.config.neighbours == Neighbours::Spare;
        let alone = self.model.rules.has_slots && (wants_alone || wishes.captures || hurts);
        (request, alone)
    }

    // -- time

    /// Lets some time pass, often until something falls due.
    pub(super) fn pass_time(&mut self) {
        let millis = u64::try_from(self.below(30)).expect("a small number");
        let mut now = self.now + Duration::from_millis(millis);
        if self.chance(50)
            && let Some(next) = self.core.next_deadline()
        {
            now = next;
        }
        self.now = self.now.max(now);
        let waiting: Vec<CallId> = self
            .model
            .calls
            .iter()
            .filter(|(_, call)| call.wishes.queue_timeout)
            .map(|(id, _)| *id)
            .collect();
        for call in waiting {
            self.model.may_end(call, "timed out");
        }
        #[cfg(feature = "remote")]
        self.lose_hosts();
        self.event(Core::on_time);
    }

    // -- the end

    /// Makes no more calls, and has every attempt answered and every process start: all calls must
    /// end then that do not need a host.
    pub(super) fn run_dry(&mut self) {
        for _ in 0..RUN_DRY_STEPS_MAX {
            if self.model.calls.values().all(|call| call.wishes.only_hosts) {
                return;
            }
            self.go_on();
        }
        panic!(
            "calls starve: {:?}, {:?}",
            self.model.calls, self.model.workers
        );
    }

    /// Shuts the pool down; everything must end, and nothing be left.
    pub(super) fn shut_down(&mut self) {
        self.model.is_open = false;
        self.event(|core, effects| core.advance(Stage::Draining, effects));
        for _ in 0..self.below(200) {
            self.step();
        }
        self.stop_all();
        for _ in 0..SHUTDOWN_STEPS_MAX {
            if self.core.is_empty() {
                break;
            }
            self.step();
        }
        assert!(self.core.is_empty(), "left: {:?}", self.model.calls);
        self.event(|core, effects| {
            core.advance(Stage::Closed, effects);
            core.retire_all(effects);
        });
        for _ in 0..SHUTDOWN_STEPS_MAX {
            if self.model.workers.is_empty() {
                break;
            }
            self.step();
        }
        assert!(
            self.model.workers.is_empty(),
            "left: {:?}",
            self.model.workers
        );
        self.core.check_end();
        assert_eq!(
            self.room.available_permits(),
            self.config.queue_max,
            "all places of the queue are free"
        );
    }
}
