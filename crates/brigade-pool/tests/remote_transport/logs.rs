//! What is logged of refusals: one line per peer and interval, and no secret.

use brigade_testkit::log_events::LogEvents;

use super::*;

#[test]
fn refusals_of_a_peer_are_logged_once_and_secrets_never() {
    // One thread, so that events of the listener go to this subscriber.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (events, logging) = LogEvents::listen();
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
    let lines: Vec<_> = events.take().iter().map(ToString::to_string).collect();
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
