//! [`Leftover`]: what a client still sends after its request was answered.
//!
//! A request may be refused while its body is on its way: it is too large, or its credential is
//! wrong. If the server closed the connection then, the bytes that it has not read would make the
//! kernel reset it, and many clients would see that in place of the answer. So the rest of a body
//! is read and discarded, for a time and up to a size.

use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::EXPECT;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::app::App;

/// The most bytes that are discarded, and the longest time for it. A client that sends more, or
/// more slowly, may miss its answer.
const DISCARDED_BYTES_MAX: usize = 64 << 20;
const DISCARDED_WITHIN: Duration = Duration::from_secs(5);

/// A body whose rest is read when it is dropped.
struct Leftover {
    body: Body,
    app: App,
    /// The client waits until the body is asked for (`Expect: 100-continue`), and it was not yet.
    is_held_back: bool,
}

/// Discards what handlers leave of a body.
pub(crate) async fn discard(State(app): State<App>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let is_held_back = request.headers().contains_key(EXPECT);
    let leftover = |body| Leftover {
        body,
        app,
        is_held_back,
    };
    next.run(request.map(|body| Body::new(leftover(body))))
        .await
}

impl HttpBody for Leftover {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.is_held_back = false;
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        if self.is_held_back || self.body.is_end_stream() {
            return;
        }
        // Without a runtime there is no connection any more.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let body = mem::take(&mut self.body);
        let rest = timeout(DISCARDED_WITHIN, read(body));
        self.app.tasks.spawn_on(rest, &runtime);
    }
}

async fn read(mut body: Body) {
    let mut bytes = 0;
    while bytes <= DISCARDED_BYTES_MAX
        && let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}
