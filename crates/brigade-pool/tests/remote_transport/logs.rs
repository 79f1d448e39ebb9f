//! What is logged of refusals: one line per peer and interval, and no secret.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

use super::*;

/// Keeps the text of all events.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut text = Text(format!("{} ", event.metadata().level()));
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn refusals_of_a_peer_are_logged_once_and_secrets_never() {
    let lines = Lines::default();
    // One thread, so that events of the listener go to this subscriber.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let logging = tracing::subscriber::set_default(lines.clone());
    runtime.block_on(async {
        let listener = TestListener::plain().await;
        let wrong = Credentials::key(OTHER_KEY).unwrap();
        for _ in 0..20 {
            connect(&listener.url, &wrong).await.unwrap_err();
        }
        let mut client = listener.connect_silently().await;
        client
            .write_all(b"GET /\x1b[31m?token=sesame HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        rest_of(&mut client).await;
        listener
            .until(|counts| counts.keys == 20 && counts.unknown_protocol == 1)
            .await;
    });
    drop(logging);
    let lines = lines.0.lock().unwrap();
    let refusals: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("refused a connection"))
        .collect();
    assert_eq!(refusals.len(), 1, "{lines:?}");
    assert!(
        refusals[0].contains("127.0.0.1") && refusals[0].starts_with("WARN"),
        "{refusals:?}"
    );
    let all = format!("{lines:?} {:?}", Credentials::key(KEY).unwrap());
    assert!(
        !all.contains("sesame")
            && !all.contains(KEY)
            && !all.contains(OTHER_KEY)
            && !all.contains('\x1b'),
        "{all}"
    );
}
