//! What the database announces: new jobs of a queue, jobs that came back, cancels. One session of
//! this process listens for them and wakes what waits here.
//!
//! The session is opened with the first wait, and again when it was lost; what was announced
//! meanwhile is not known, so everything that waits looks again then. Whether announcements arrive
//! at all is found out by one to this process itself: behind a transaction pooler none does, and a
//! standby refuses to listen. Then waits end after a pause that grows ([`Announcements::pause`]).
//!
//! An announcement only says that looking may be worth it. A lost one costs time, not a job.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connect::{Connector, NotificationListener, ServerConnection, pause};
use crate::retry::jitter;
use crate::sync::lock;
use brigade_runtime::owner::own_name;

const CHANNEL: &str = "brigade";
/// Announcements that are remembered; who missed more looks at everything.
const REMEMBERED_MAX: usize = 1024;
/// For an announcement to this process itself.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Whether the session still answers, as the way to it may be gone without a word.
const CHECKED_EVERY: Duration = Duration::from_secs(15);
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Where announcements do not arrive, that may change: a standby becomes the primary.
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// A wait ends after this time in any case where announcements arrive.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// And where they do not.
const POLL_MIN: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(2);

/// One announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Announcement {
    /// A queue has new jobs.
    Pushed(Box<str>),
    /// Jobs are back in a queue, maybe before others that were handed out.
    CameBack(Box<str>),
    /// A running job of a queue is to be cancelled.
    CancelAsked(Box<str>),
    /// A schedule was stored, so something may fall due sooner.
    ScheduleStored,
}

impl Announcement {
    fn parse(payload: &str) -> Option<Self> {
        let mut characters = payload.chars();
        let kind = characters.next()?;
        let queue = characters.as_str().into();
        match kind {
            '+' => Some(Self::Pushed(queue)),
            '<' => Some(Self::CameBack(queue)),
            '!' => Some(Self::CancelAsked(queue)),
            '@' => Some(Self::ScheduleStored),
            _ => None,
        }
    }
}

/// What a wait for announcements ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Heard {
    /// Something new.
    New,
    /// Also that jobs came back, or that announcements were missed.
    CameBack,
}

/// How this process learns of new jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WakeUp {
    /// Nothing waits yet.
    Unknown,
    /// By announcements.
    Listening,
    /// By looking again and again; why.
    Polling(&'static str),
}

pub(super) struct Announcements {
    shared: Arc<Listening>,
    begun: Once,
    ends: CancellationToken,
    _ends: DropGuard,
}

struct Listening {
    remembered: Mutex<Remembered>,
    /// The number of the last announcement.
    last: watch::Sender<u64>,
    wake_up: Mutex<WakeUp>,
}

#[derive(Default)]
struct Remembered {
    /// With their numbers, which are consecutive.
    announcements: VecDeque<(u64, Announcement)>,
    /// What came before this number may be missing.
    missed_before: u64,
}

impl Default for Announcements {
    fn default() -> Self {
        let ends = CancellationToken::new();
        Self {
            shared: Arc::new(Listening {
                remembered: Mutex::default(),
                last: watch::Sender::new(0),
                wake_up: Mutex::new(WakeUp::Unknown),
            }),
            begun: Once::new(),
            _ends: ends.clone().drop_guard(),
            ends,
        }
    }
}

impl Announcements {
    /// Begins to listen, once.
    pub(super) fn begin(&self, connector: &Arc<Connector>) {
        self.begun.call_once(|| {
            let (shared, until) = (Arc::clone(&self.shared), self.ends.clone());
            let connector_of_task = Arc::clone(connector);
            connector.spawn(async move {
                until
                    .run_until_cancelled(listen(&shared, &connector_of_task))
                    .await;
            });
        });
    }

    /// The number of the last announcement: ask for it, look, and then wait for the next.
    pub(super) fn last(&self) -> u64 {
        *self.shared.last.borrow()
    }

    /// Waits for an announcement after the number `seen` that is of interest, or until some may
    /// have been missed. Cancel safe.
    pub(super) async fn next(
        &self,
        seen: u64,
        is_of_interest: impl Fn(&Announcement) -> bool,
    ) -> Heard {
        let mut changes = self.shared.last.subscribe();
        let mut seen = seen;
        loop {
            let last = *changes.borrow_and_update();
            if let Some(heard) = self.shared.heard(seen, last, &is_of_interest) {
                return heard;
            }
            seen = last;
            if changes.changed().await.is_err() {
                // The sender is here, so this never is.
                return Heard::CameBack;
            }
        }
    }

    /// For how long to wait for announcements, when looking found nothing so many times in a row.
    pub(super) fn pause(&self, looks: u32) -> Duration {
        let pause = match &*lock(&self.shared.wake_up) {
            WakeUp::Listening => LOOK_AGAIN,
            _ => POLL_MIN.saturating_mul(1 << looks.min(10)).min(POLL_MAX),
        };
        pause.mul_f64(jitter(0.2))
    }

    /// How this process learns of new jobs.
    pub(super) fn wake_up(&self) -> WakeUp {
        lock(&self.shared.wake_up).clone()
    }
}

impl Listening {
    fn add(&self, announcement: Announcement) {
        let mut remembered = lock(&self.remembered);
        let number = *self.last.borrow() + 1;
        remembered.announcements.push_back((number, announcement));
        if remembered.announcements.len() > REMEMBERED_MAX
            && let Some((oldest, _)) = remembered.announcements.pop_front()
        {
            remembered.missed_before = oldest;
        }
        self.last.send_replace(number);
    }

    /// Some may have been missed: everything that waits looks again.
    fn miss(&self) {
        let mut remembered = lock(&self.remembered);
        let number = *self.last.borrow() + 1;
        remembered.announcements.clear();
        remembered.missed_before = number;
        self.last.send_replace(number);
    }

    /// What was announced after the number `seen`.
    fn heard(
        &self,
        seen: u64,
        last: u64,
        is_of_interest: impl Fn(&Announcement) -> bool,
    ) -> Option<Heard> {
        if last <= seen {
            return None;
        }
        let remembered = lock(&self.remembered);
        if remembered.missed_before > seen {
            return Some(Heard::CameBack);
        }
        let newer = remembered.announcements.iter().rev();
        newer
            .take_while(|(number, _)| *number > seen)
            .filter(|(_, announcement)| is_of_interest(announcement))
            .map(|(_, announcement)| match announcement {
                Announcement::CameBack(_) => Heard::CameBack,
                _ => Heard::New,
            })
            .max()
    }
}

/// Listens, again and again.
async fn listen(shared: &Arc<Listening>, connector: &Connector) {
    let mut failed = 0;
    loop {
        let opened = open(shared, connector).await;
        let wake_up = match &opened {
            Ok(_) => WakeUp::Listening,
            Err(NoSession::Unreachable) => WakeUp::Polling("the server cannot be reached"),
            Err(NoSession::Deaf(why)) => WakeUp::Polling(why),
        };
        *lock(&shared.wake_up) = wake_up;
        shared.miss();
        match opened {
            Ok(session) => {
                failed = 0;
                session.stay().await;
                *lock(&shared.wake_up) = WakeUp::Polling("the session that listened was lost");
                shared.miss();
            }
            Err(NoSession::Unreachable) => {
                pause(failed).await;
                failed += 1;
            }
            Err(NoSession::Deaf(_)) => sleep(TRIED_AGAIN_AFTER.mul_f64(jitter(0.2))).await,
        }
    }
}

/// A session that hears announcements.
struct ListeningSession(ServerConnection);

enum NoSession {
    Unreachable,
    /// Why announcements do not arrive.
    Deaf(&'static str),
}

/// How this process would learn of new jobs, for a look at the server.
pub(super) async fn probe(connector: &Connector) -> WakeUp {
    match open(&Announcements::default().shared, connector).await {
        Ok(_) => WakeUp::Listening,
        Err(NoSession::Unreachable) => WakeUp::Unknown,
        Err(NoSession::Deaf(why)) => WakeUp::Polling(why),
    }
}

/// Opens a session, and finds out by a second one whether it hears.
async fn open(
    shared: &Arc<Listening>,
    connector: &Connector,
) -> Result<ListeningSession, NoSession> {
    static PROBES: AtomicU64 = AtomicU64::new(0);
    let number = PROBES.fetch_add(1, Ordering::Relaxed);
    let probe = format!("?{} {number}", own_name());
    let heard = Arc::new(Notify::new());
    let (to_wake, own, hears) = (Arc::clone(shared), probe.clone(), Arc::clone(&heard));
    let listener: NotificationListener = Arc::new(move |notification| {
        if notification.payload() == own {
            hears.notify_one();
        } else if let Some(announcement) = Announcement::parse(notification.payload()) {
            to_wake.add(announcement);
        }
    });
    let session = connector.open(Some(&listener)).await;
    let session = session.map_err(|_| NoSession::Unreachable)?;
    let listening = session
        .client
        .batch_execute(&format!("listen {CHANNEL}"))
        .await;
    if let Err(error) = listening {
        return Err(if error.code().is_some_and(|code| code.code() == "25006") {
            NoSession::Deaf("a standby announces nothing")
        } else {
            NoSession::Unreachable
        });
    }
    let other = connector
        .open(None)
        .await
        .map_err(|_| NoSession::Unreachable)?;
    let notify = format!(
        "select pg_notify('{CHANNEL}', '{}')",
        probe.replace('\'', "''")
    );
    let sent = other.client.batch_execute(&notify).await;
    sent.map_err(|_| NoSession::Unreachable)?;
    match timeout(PROBE_TIMEOUT, heard.notified()).await {
        Ok(()) => Ok(ListeningSession(session)),
        Err(_) => Err(NoSession::Deaf(
            "a pooler in front of the server keeps no session for a connection",
        )),
    }
}

impl ListeningSession {
    /// Returns when the session is lost.
    async fn stay(self) {
        let over = self.0.over.clone();
        over.run_until_cancelled(async {
            loop {
                sleep(CHECKED_EVERY).await;
                let answered = self.0.client.batch_execute("");
                if !matches!(timeout(CHECK_TIMEOUT, answered).await, Ok(Ok(()))) {
                    return;
                }
            }
        })
        .await;
    }
}
