//! [`ServerOptions`]: the settings of a router.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::auth::Auth;

/// Settings of [`router`](crate::router).
#[derive(Clone, Debug)]
#[must_use = "options do nothing until a router has them"]
pub struct ServerOptions {
    pub(crate) auth: Auth,
    pub(crate) stop: CancellationToken,
    pub(crate) body_bytes_max: usize,
    pub(crate) body_time: Duration,
    pub(crate) wait_max: Duration,
    pub(crate) hosts: Option<Vec<String>>,
    pub(crate) is_secure: bool,
    pub(crate) trace_link: Option<String>,
    pub(crate) healthy_wait: Duration,
    pub(crate) healthy_dead: u64,
}

impl ServerOptions {
    /// The defaults, with this decision about credentials.
    pub fn new(auth: Auth) -> Self {
        Self {
            auth,
            stop: CancellationToken::new(),
            body_bytes_max: 16 << 20,
            body_time: Duration::from_secs(30),
            wait_max: Duration::from_secs(300),
            hosts: None,
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

    /// Answers only requests for these names, for addresses and for `localhost`, so that a page of
    /// another site cannot reach the server under its own name (DNS rebinding). Without port.
    /// Default: any name.
    pub fn hosts(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.hosts = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Whether browsers reach the server by TLS only: the cookie of a session is then never sent
    /// without. Default: no.
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

    /// `/health` is not well when more jobs of a queue than this became dead letters within an hour.
    /// Default: 100.
    pub fn healthy_dead(mut self, jobs: u64) -> Self {
        self.healthy_dead = jobs;
        self
    }
}
