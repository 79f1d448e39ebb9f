use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::remote::transport::connect;

async fn echoes(url: &str) {
    let credentials = Credentials::key(super::super::generate_key().unwrap()).unwrap();
    let mut listener = Listener::bind(url, &credentials, ListenerLimits::default())
        .await
        .unwrap();
    let url = listener.url().to_owned();
    let (mut theirs, ours) = tokio::join!(listener.accept(), connect(&url, &credentials));
    let mut ours = ours.unwrap();
    ours.stream.write_all(b"hello").await.unwrap();
    ours.stream.shutdown().await.unwrap();
    let mut received = Vec::new();
    theirs.stream.read_to_end(&mut received).await.unwrap();
    assert_eq!(
        (&received[..], theirs.identity),
        (&b"hello"[..], Identity::Key)
    );
    assert_eq!(listener.refusals().get(), Refusals::default());
}

#[tokio::test]
async fn peers_with_the_key_come_in() {
    echoes("tcp://127.0.0.1:0").await;
    echoes("tcp://localhost:0").await;
    let directory = tempfile::tempdir().unwrap();
    echoes(&format!("unix://{}/socket", directory.path().display())).await;
}
