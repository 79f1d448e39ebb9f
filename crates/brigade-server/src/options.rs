//! [`ServerOptions`]: the settings of a router.

use tokio_util::sync::CancellationToken;

use crate::auth::Auth;

/// Settings of [`router`](crate::router).
#[derive(Clone, Debug)]
#[must_use = "options do nothing until a router has them"]
pub struct ServerOptions {
    pub(crate) auth: Auth,
    pub(crate) stop: CancellationToken,
}

impl ServerOptions {
    /// The defaults, with this decision about credentials.
    pub fn new(auth: Auth) -> Self {
        Self {
            auth,
            stop: CancellationToken::new(),
        }
    }

    /// Once this token is cancelled, requests that wait (long polls, calls, streams of events) are
    /// answered at once, so that a server can drain its connections. Default: never.
    pub fn stop(mut self, stop: CancellationToken) -> Self {
        self.stop = stop;
        self
    }
}
