//! A host that joined: its handshake, its connections, its leave.
//!
//! [`receive`] tells the story of one connection. The slot in `core` and this [`RemoteHost`] outlive it:
//! the next connection of the same session takes the place of the one before, which has ended by
//! then (`line`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::Shared;
use super::super::builder::{Config, SLOTS_MAX};
use super::super::core::{Entry, HostArrival, HostInfo};
use super::{TASK_NAME_BYTES_MAX, target_of, written};
use crate::address;
use crate::call::{Request, Target};
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::outcome::{REASON_BYTES_MAX, shorten};
use crate::registry;
use crate::remote::door::Authenticated;
use crate::remote::{Ear, End, Line, Messages, Outbox, printable};
use crate::retry::Retry;
use crate::sync::lock;
use crate::task;
use crate::wire;
use crate::wire::remote::{
    Join, MAGIC, Mark, Run, Stop, TaskLine, TurnedAway, VERSION, Welcome, ahead_max, kind,
};

/// Progress with its fraction and codec goes in one part: parts of two messages of one call and
/// kind would be taken for one message.
const _: () = assert!(crate::progress::PROGRESS_BYTES_MAX + 9 <= crate::wire::remote::PART_BYTES);

/// From the connection to the introduction.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// What stands before a payload: reports have 64 KiB of output, and an attempt may have to
/// bring more.
const META_BYTES_MAX: usize = 256 << 10;
/// Tasks of one host.
const TASKS_MAX: usize = 10_000;
const LABELS_MAX: usize = 256;
/// An answer of at least this is acknowledged at once.
const LARGE_BYTES: usize = 64 << 10;
/// Attempts that take longer than this gain nothing by it.
const AHEAD_MICROS: u32 = 2000;
/// Answers by which it is known how long attempts take.
const AHEAD_ANSWERS_MIN: u32 = 32;
/// Messages that are handed to the dispatcher in one step, and the bytes of their frames.
const BATCH_MESSAGES_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 256 << 10;
/// What is repeated to people of what a host says of itself.
const WORD_BYTES_MAX: usize = 64;
const SIGNATURE_BYTES_MAX: usize = 1024;
const IDENTITY_BYTES_MAX: usize = 256;

pub(in super::super) struct RemoteHost {
    pub(in super::super) epoch: u64,
    pub(in super::super) session: Mark,
    pub(in super::super) identity: Box<str>,
    pub(in super::super) name: Box<str>,
    pub(in super::super) pid: u32,
    pub(in super::super) slots: u32,
    labels: Vec<Box<str>>,
    functions: bool,
    tasks: HashMap<Box<str>, TaskFacts>,
    pub(in super::super) outbox: Outbox,
    /// Cancelled when its session is over.
    pub(in super::super) leave: CancellationToken,
    /// The last time there and back; 0 while none was taken.
    latency_micros: AtomicU32,
    /// How many answers came, and how long attempts took of late, the way there and back included.
    answers: AtomicU32,
    usual_micros: AtomicU32,
    /// Ends the connection that is up.
    cut: Mutex<CancellationToken>,
    /// Held by the connection that is up.
    line: tokio::sync::Mutex<()>,
}

/// What a host says of a task.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct TaskFacts {
    idempotent: bool,
    retries: Option<u32>,
    retry: Option<Retry>,
}

impl RemoteHost {
    pub(in super::super) fn new(epoch: u64, info: HostInfo) -> Self {
        let HostInfo {
            session,
            identity,
            name,
            pid,
            slots,
            labels,
            functions,
            tasks,
        } = info;
        Self {
            epoch,
            session,
            identity,
            name,
            pid,
            slots,
            labels,
            functions,
            tasks,
            outbox: Outbox::new(),
            leave: CancellationToken::new(),
            latency_micros: AtomicU32::new(0),
            answers: AtomicU32::new(0),
            usual_micros: AtomicU32::new(0),
            cut: Mutex::default(),
            line: tokio::sync::Mutex::default(),
        }
    }

    pub(in super::super) fn can_run(&self, request: &Request) -> bool {
        let known = match &request.target {
            Target::Task { name } => self.tasks.contains_key(&**name),
            Target::Function { name, .. } => {
                self.functions && registry::function_number(name).is_some()
            }
        };
        known
            && request
                .options()
                .labels
                .iter()
                .all(|label| self.labels.contains(label))
    }

    /// What its registration there says of retries, of what a call does not say. The host says the
    /// rest itself.
    pub(in super::super) fn fill(&self, request: &mut Request) {
        let Target::Task { name } = &request.target else {
            return;
        };
        let Some(task) = self.tasks.get(&**name).filter(|task| {
            request.queue.is_none() && (task.retries.is_some() || task.retry.is_some())
        }) else {
            return;
        };
        let options = request.options.get_or_insert_default();
        options.retries = options.retries.or(task.retries);
        options.retry = options.retry.or(task.retry);
    }

    /// Whether the task may run twice, as the host knows it.
    pub(in super::super) fn is_idempotent(&self, task: &str) -> bool {
        self.tasks.get(task).is_some_and(|task| task.idempotent)
    }

    pub(in super::super) fn latency(&self) -> Option<Duration> {
        let micros = self.latency_micros.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros.into()))
    }

    /// Notes how long an attempt took. With the dispatcher locked.
    pub(in super::super) fn took(&self, wall: Duration) {
        let (micros, usual) = (
            u32::try_from(wall.as_micros()).unwrap_or(u32::MAX),
            self.usual_micros.load(Ordering::Relaxed),
        );
        let answers = self.answers.load(Ordering::Relaxed).saturating_add(1);
        self.answers.store(answers, Ordering::Relaxed);
        self.usual_micros
            .store(usual - usual / 8 + micros / 8, Ordering::Relaxed);
    }

    /// A call that went ahead of its turn came back.
    pub(in super::super) fn turned_back(&self) {
        self.answers.store(0, Ordering::Relaxed);
    }

    /// How many calls it may be sent beyond its slots, so that it has the next ones when some end.
    /// Only where attempts are so short that the way there and back counts, and the host gives back
    /// what it cannot begin soon. The longer they take, and the longer what was sent ahead waits
    /// there, the fewer.
    pub(in super::super) fn ahead(&self) -> u32 {
        if self.answers.load(Ordering::Relaxed) < AHEAD_ANSWERS_MIN {
            return 0;
        }
        let latency = self.latency_micros.load(Ordering::Relaxed);
        let usual = self
            .usual_micros
            .load(Ordering::Relaxed)
            .saturating_sub(latency);
        let most = AHEAD_MICROS.max(latency.saturating_mul(2));
        let share = u64::from(most.saturating_sub(usual)) * u64::from(ahead_max(self.slots))
            / u64::from(most);
        u32::try_from(share).expect("a part of a small number")
    }

    /// At least 1; one more for each doubling of the time there and back.
    pub(in super::super) fn distance(&self) -> u8 {
        let doublings =
            u32::BITS - (self.latency_micros.load(Ordering::Relaxed) / 64).leading_zeros();
        u8::try_from(1 + doublings).unwrap_or(u8::MAX)
    }

    /// Appends a call to what it is sent.
    pub(super) fn give(&self, call: u64, entry: &Entry, ahead: bool) {
        let options = entry.request.options();
        let run = Run {
            target: listed(&entry.request),
            number: call >> 32,
            attempt: entry.attempt,
            codec: entry.request.codec,
            timeout: options.timeout,
            memory: options.memory,
            capture: options.capture_bytes.map(|bytes| bytes as u64),
            alone: entry.alone,
            fresh: entry.fresh,
            ahead,
            tick: options.tick,
            job: options.job.as_deref().map(Cow::Borrowed),
        };
        let mut space = [0; TASK_NAME_BYTES_MAX + 128];
        let run = written(&run, options, &mut space);
        let payload = entry
            .request
            .payload
            .as_ref()
            .expect("a call that could not be encoded is not admitted");
        self.outbox.append(kind::RUN, call, &run, payload);
    }

    /// Has it stop an attempt.
    pub(in super::super) fn stop(&self, call: u64, reason: &str, hurry: bool) {
        let stop = Stop {
            reason: shorten(reason, REASON_BYTES_MAX).into(),
            hurry,
        };
        if let Ok(body) = Codec::Postcard.encode(&stop) {
            self.outbox.append(kind::STOP, call, &body, &Bytes::new());
            self.outbox.kick();
        }
    }

    /// The first that is said on a connection.
    pub(in super::super) fn welcome(
        &self,
        number: u32,
        config: &Config,
        resumed: bool,
        drop: Vec<u64>,
    ) {
        let welcome = Welcome {
            magic: MAGIC,
            version: VERSION,
            brigade: env!("CARGO_PKG_VERSION").to_owned(),
            build: address::build_id(),
            pool: config.hosts.mark,
            worker: number,
            resumed,
            drop,
            payload_bytes_max: config.payload_bytes_max as u64,
            beat: config.hosts.beat,
            keep: config.hosts.keep,
        };
        if let Ok(body) = Codec::Postcard.encode(&welcome) {
            self.outbox.open(kind::WELCOME, &body);
        }
    }
}

/// What a request asks for, as another host is told it: a function only by its place in the list,
/// which `can_run` found there.
fn listed(request: &Request) -> wire::Target<'_> {
    match &request.target {
        Target::Function { name, .. } => {
            wire::Target::Listed(registry::function_number(name).unwrap_or(u32::MAX))
        }
        Target::Task { .. } => target_of(request),
    }
}

/// One connection of a host: introduction, slot, service, end.
pub(in super::super) async fn receive(shared: Arc<Shared>, peer: Authenticated) {
    let (from, identity) = (
        peer.peer.to_string(),
        printable(&peer.identity.to_string(), IDENTITY_BYTES_MAX),
    );
    let mut line = Line::new(peer.stream);
    let joined = match timeout(JOIN_TIMEOUT, introduce(&mut line, &from, &identity)).await {
        // It said nothing in time.
        Err(_) => return,
        Ok(joined) => joined,
    };
    let found = joined.and_then(|(info, arrival)| {
        let mut seated = Err(String::new());
        shared.step(|core, effects| seated = core.receive(info, effects));
        let (number, host) = seated.map_err(|text| Error::new(ErrorKind::Refused, text))?;
        Ok((host, HostArrival { number, ..arrival }))
    });
    let (host, arrival) = match found {
        Ok(found) => found,
        Err(error) => return turn_away(&shared, line, &from, &error).await,
    };
    // What is left of the connection before this one ends first, so that nothing is written to it
    // any more.
    let cut = CancellationToken::new();
    std::mem::replace(&mut *lock(&host.cut), cut.clone()).cancel();
    let _up = host.line.lock().await;
    let mut is_up = false;
    shared.step(|core, effects| is_up = core.on_host_up(&arrival, &host, effects));
    if is_up {
        serve(&shared, arrival.number, &host, line, &cut).await;
    }
}

/// Carries a connection until it ends, and tells the dispatcher how.
async fn serve(
    shared: &Arc<Shared>,
    number: u32,
    host: &Arc<RemoteHost>,
    mut line: Line,
    cut: &CancellationToken,
) {
    line.admit(
        shared.config.payload_bytes_max + META_BYTES_MAX,
        &shared.partial,
    );
    let connection = HostConnection {
        shared,
        number,
        host,
    };
    let until = async {
        tokio::select! {
            () = host.leave.cancelled() => {}
            () = shared.killed.cancelled() => {}
            // A newer one has nothing to say on this one.
            () = cut.cancelled() => return,
        }
        host.outbox.urgent(kind::BYE, 0, b"the pool has let it go");
    };
    let end = line
        .run(&host.outbox, shared.config.hosts.beat, &connection, until)
        .await;
    let unseen = host.outbox.close(kind::RUN);
    shared.step(|core, effects| match end {
        End::Nonsense(error) => core.part_with(number, host.epoch, &error.to_string(), effects),
        End::Told if shared.killed.is_cancelled() => {
            core.part_with(number, host.epoch, "the pool was dropped", effects)
        }
        End::Told => core.on_host_down(number, host, "it connected anew", &unseen, effects),
        End::Cut(how) => core.on_host_down(number, host, &how, &unseen, effects),
    });
}

async fn turn_away(shared: &Shared, mut line: Line, from: &str, error: &Error) {
    let reason = error.to_string();
    tracing::warn!(peer = from, reason, "a host was turned away");
    shared.emit(|| Event::HostRefused {
        peer: from.into(),
        reason: reason.as_str().into(),
    });
    let told = TurnedAway {
        magic: MAGIC,
        version: VERSION,
        brigade: env!("CARGO_PKG_VERSION").to_owned(),
        reason,
    };
    timeout(JOIN_TIMEOUT, line.say(kind::TURNED_AWAY, &told))
        .await
        .ok();
    line.close().await;
}

/// Reads how a host introduces itself, and checks what can be checked of that.
async fn introduce(
    line: &mut Line,
    from: &str,
    identity: &str,
) -> Result<(HostInfo, HostArrival), Error> {
    let refuse = |text: String| Err(Error::new(ErrorKind::Refused, text));
    let frame = line.listen().await?;
    // What both versions have in common comes first.
    let Ok(((magic, version, brigade), _)) =
        postcard::take_from_bytes::<([u8; 4], u16, String)>(&frame.body)
    else {
        return refuse("it does not introduce itself".to_owned());
    };
    if frame.kind != kind::JOIN || magic != MAGIC {
        return refuse("it does not introduce itself".to_owned());
    }
    if version != VERSION {
        let (own, brigade) = (
            env!("CARGO_PKG_VERSION"),
            printable(&brigade, WORD_BYTES_MAX),
        );
        return refuse(format!(
            "it speaks version {version} of the protocol (brigade {brigade}), this pool {VERSION} \
                (brigade {own})"
        ));
    }
    let join: Join = Codec::Postcard.decode(&frame.body)?;
    if join.slots == 0 || join.slots > SLOTS_MAX {
        return refuse(format!(
            "it offers {} slots: there are 1 to {SLOTS_MAX}",
            join.slots
        ));
    }
    if join.tasks.len() > TASKS_MAX
        || join.labels.len() > LABELS_MAX
        || join.held.len() > 4 * SLOTS_MAX as usize
    {
        return refuse("it names too many tasks, labels or calls".to_owned());
    }
    if let Some((task, own)) = join.tasks.iter().find_map(other_signature) {
        let theirs = printable(&task.signature, SIGNATURE_BYTES_MAX);
        let text = format!(
            "its task {:?} is {theirs}, this pool's is {own}: build both from the same source",
            task.name
        );
        return refuse(text);
    }
    let info = HostInfo {
        session: join.session,
        identity: identity.into(),
        name: printable(&join.name, TASK_NAME_BYTES_MAX).into(),
        pid: join.pid,
        slots: join.slots,
        labels: join.labels.into_iter().map(Into::into).collect(),
        functions: join.functions && join.build == address::build_id(),
        tasks: join
            .tasks
            .into_iter()
            .map(|task| {
                (
                    task.name.into(),
                    TaskFacts {
                        idempotent: task.idempotent,
                        retries: task.retries,
                        retry: task.retry.map(Retry::from),
                    },
                )
            })
            .collect(),
    };
    Ok((
        info,
        HostArrival {
            number: 0,
            peer: from.into(),
            held: join.held,
            leaving: join.leaving,
        },
    ))
}

/// A task that this program has too, and whose types are others here: calls of this program would
/// not fit there.
fn other_signature(task: &TaskLine) -> Option<(&TaskLine, &'static str)> {
    let own = (registry::find(&task.name)?.signature)();
    (!task::fits(own, &task.signature)).then_some((task, own))
}

/// A connection, as the pool hears it.
struct HostConnection<'a> {
    shared: &'a Arc<Shared>,
    number: u32,
    host: &'a RemoteHost,
}

/// What is handed to the dispatcher in one step. It is decoded before the dispatcher is locked, and
/// bounded, since decoding makes more of it.
struct Batch {
    messages: Vec<(u64, HostMessage)>,
    end: BatchEnd,
}

enum BatchEnd {
    Full,
    NothingMore,
    /// What came before it counts.
    Nonsense(Error),
}

impl Batch {
    fn read(messages: &mut Messages<'_>) -> Self {
        let (mut batch, mut bytes) = (
            Self {
                messages: Vec::new(),
                end: BatchEnd::Full,
            },
            0,
        );
        while batch.messages.len() < BATCH_MESSAGES_MAX && bytes < BATCH_BYTES_MAX {
            let frame = match messages.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    return Self {
                        end: BatchEnd::NothingMore,
                        ..batch
                    };
                }
                Err(error) => {
                    return Self {
                        end: BatchEnd::Nonsense(error),
                        ..batch
                    };
                }
            };
            bytes += frame.body.len();
            match HostMessage::read(&frame) {
                Ok(message) => batch.messages.push((frame.id, message)),
                Err(error) => {
                    return Self {
                        end: BatchEnd::Nonsense(error),
                        ..batch
                    };
                }
            }
        }
        batch
    }
}

impl HostConnection<'_> {
    fn take(&self, heard: Vec<(u64, HostMessage)>) -> Result<(), Error> {
        let was_large = heard
            .iter()
            .any(|(_, message)| message.result_bytes() > LARGE_BYTES);
        let (mut answered, mut problem) = (Vec::new(), None);
        self.shared.step(|core, effects| {
            let now = Instant::now();
            for (call, message) in heard {
                match core.on_word((self.number, self.host.epoch), call, message, now, effects) {
                    Ok(is_answer) => answered.extend(is_answer.then_some(call)),
                    Err(error) => {
                        problem = Some(error);
                        break;
                    }
                }
            }
            // Before calls are handed out: one that came back may go there again, and what is
            // acknowledged must be the answer before that.
            if !answered.is_empty() {
                let ids: Vec<u8> = answered
                    .iter()
                    .flat_map(|id: &u64| id.to_le_bytes())
                    .collect();
                self.host.outbox.append(kind::ACK, 0, &ids, &Bytes::new());
            }
            core.on_frames_over(effects);
        });
        // The next call takes it along; only what keeps much memory occupied there is told at once.
        if was_large {
            self.host.outbox.kick();
        }
        problem.map_or(Ok(()), Err)
    }
}

impl Ear for HostConnection<'_> {
    fn hear(&self, messages: &mut Messages<'_>) -> Result<(), Error> {
        loop {
            let batch = Batch::read(messages);
            if !batch.messages.is_empty() {
                self.take(batch.messages)?;
            }
            match batch.end {
                BatchEnd::Full => {}
                BatchEnd::NothingMore => return Ok(()),
                BatchEnd::Nonsense(error) => return Err(error),
            }
        }
    }

    /// Only of calls that run there.
    fn expects(&self, kind: u8, call: u64) -> bool {
        kind == kind::ANSWER
            && self
                .shared
                .peek(|core| core.runs_at(call, self.number, self.host.epoch))
    }

    fn relieved(&self) {
        self.shared
            .step(|core, effects| core.on_relieved(self.number, self.host.epoch, effects));
    }

    fn echoed(&self, after: Duration) {
        let micros = u32::try_from(after.as_micros()).unwrap_or(u32::MAX).max(1);
        let before = self.host.distance();
        self.host.latency_micros.store(micros, Ordering::Relaxed);
        if self.host.distance() != before {
            self.relieved();
        }
    }
}

mod message;
#[cfg(test)]
mod tests;

pub(in super::super) use message::HostMessage;
#[cfg(any(test, fuzzing))]
pub(crate) use message::read_host_message;
