//! [`ServerOptions`]: the settings of a router.
//!
//! Only the decision about credentials has no default. Limits have defaults that suit a server of
//! its own. The hosts that a router answers for follow from the credentials unless they are given:
//! without any, a page of another site must not reach it by a name that resolves to this machine
//! (DNS rebinding), so it knows addresses and `localhost` only.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Auth, AuthKind};

/// Settings of [`router`](crate::router).
#[derive(Clone, Debug)]
#[must_use = "options do nothing until a router has them"]
pub struct ServerOptions {
    pub(crate) auth: Auth,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) body_bytes_max: usize,
    pub(crate) body_time: Duration,
    pub(crate) wait_max: Duration,
    pub(crate) waits_max: usize,
    pub(crate) ended: CancellationToken,
    hosts: KnownHosts,
    pub(crate) is_secure: bool,
    pub(crate) trace_link: Option<String>,
    pub(crate) healthy_wait: Duration,
    pub(crate) healthy_dead: u64,
}

/// For which hosts a router answers.
#[derive(Clone, Debug)]
enum KnownHosts {
    /// For all if it wants credentials, for none but this machine's if not.
    ByAuth,
    Any,
    These(Vec<String>),
}

impl ServerOptions {
    /// The defaults, with this decision about credentials.
    pub fn new(auth: Auth) -> Self {
        Self {
            auth,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            body_bytes_max: 16 << 20,
            body_time: Duration::from_secs(30),
            wait_max: Duration::from_secs(300),
            waits_max: 500,
            ended: CancellationToken::new(),
            hosts: KnownHosts::ByAuth,
            is_secure: false,
            trace_link: None,
            healthy_wait: Duration::from_secs(300),
            healthy_dead: 100,
        }
    }

    /// Once this token is cancelled, requests that wait (long polls, calls, streams of events) are
    /// answered at once, so that a server can drain its connections. Default: never.
    pub fn stop(mut self, stop: CancellationToken) -> Self {
        self.stop = stop;
        self
    }

    /// Has the tasks that outlive their request, to give back a job whose client is gone. Close it
    /// and wait for it before the runtime ends, after the connections; [`Server`](crate::Server)
    /// does if it has the same tracker. Default: one that no stop waits for.
    pub fn tasks(mut self, tasks: TaskTracker) -> Self {
        self.tasks = tasks;
        self
    }

    /// The most bytes of a request's body, which is in memory as a whole. Default: 16 MiB.
    pub fn body_bytes_max(mut self, bytes: usize) -> Self {
        self.body_bytes_max = bytes;
        self
    }

    /// The longest time in which a body may arrive. Default: 30 s.
    pub fn body_time(mut self, time: Duration) -> Self {
        self.body_time = time;
        self
    }

    /// The longest wait that a request may ask for. Default: 5 min.
    pub fn wait_max(mut self, time: Duration) -> Self {
        self.wait_max = time;
        self
    }

    /// The most requests that wait at once (long polls, calls, streams of events); further ones are
    /// answered with 503. Each holds a connection, so this has to be less than those that the
    /// server accepts, or its probes are not answered. Default: 500.
    pub fn waits_max(mut self, requests: usize) -> Self {
        self.waits_max = requests.min(Semaphore::MAX_PERMITS);
        self
    }

    /// Cancelled at the first answer of the broker that its connection has ended for good
    /// ([`Closed`](brigade::ErrorKind::Closed)), as when the file of the jobs was replaced: nothing
    /// works any more, and the program has to connect again. `/livez` fails from then on. Default:
    /// a token that nothing else has.
    pub fn ended(mut self, ended: CancellationToken) -> Self {
        self.ended = ended;
        self
    }

    /// Answers only requests for these names, for addresses and for `localhost`, so that a page of
    /// another site cannot reach the server under its own name (DNS rebinding). Without port.
    /// Default: no further names with [`Auth::none`], any name with credentials, which a page of
    /// another site does not have.
    pub fn hosts(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.hosts = KnownHosts::These(names.into_iter().map(Into::into).collect());
        self
    }

    /// Answers requests for any name. With [`Auth::none`], only behind a layer of yours that checks
    /// requests: a page of any site can have its name resolve to this machine.
    pub fn any_host(mut self) -> Self {
        self.hosts = KnownHosts::Any;
        self
    }

    /// The names besides addresses and `localhost`; `None` if any will do.
    pub(crate) fn known_hosts(&self) -> Option<&[String]> {
        match (&self.hosts, &self.auth.0) {
            (KnownHosts::These(names), _) => Some(names),
            (KnownHosts::ByAuth, AuthKind::None) => Some(&[]),
            (KnownHosts::ByAuth, AuthKind::Tokens(_)) | (KnownHosts::Any, _) => None,
        }
    }

    /// Whether browsers reach the server by TLS only, its own or that of a proxy: the cookie of a
    /// session is then never sent without, and no other program of the host can set it if the
    /// router is mounted at the root. Default: no.
    pub fn secure(mut self, secure: bool) -> Self {
        self.is_secure = secure;
        self
    }

    /// Where the traces of jobs can be seen: an address with `{trace_id}` in it, for links on the
    /// dashboard. Default: none, the trace is shown as text.
    pub fn trace_link(mut self, template: impl Into<String>) -> Self {
        self.trace_link = Some(template.into());
        self
    }

    /// `/health` is not well when a job has been ready for longer than this, unless its queue is
    /// paused. Default: 5 min.
    pub fn healthy_wait(mut self, time: Duration) -> Self {
        self.healthy_wait = time;
        self
    }

    /// `/health` is not well when more jobs of a queue than this became dead letters within an
    /// hour. Default: 100.
    pub fn healthy_dead(mut self, jobs: u64) -> Self {
        self.healthy_dead = jobs;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_credentials_only_this_machine_is_known() {
        let open = ServerOptions::new(Auth::none());
        assert!(open.known_hosts().is_some_and(|names| names.is_empty()));
        let named = open.clone().hosts(["jobs.example"]);
        assert_eq!(named.known_hosts(), Some(&["jobs.example".to_owned()][..]));
        assert_eq!(open.any_host().known_hosts(), None);
    }
}
