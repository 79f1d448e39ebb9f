//! TLS to the server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;

use brigade::{Broker, ErrorKind};
use brigade_testkit::certificates::Certificates;
use brigade_testkit::postgres::{Postgres, Setup};

/// A server that speaks TLS.
fn server(files: &Certificates, access: &[&str]) -> Postgres {
    let paths = ["server.pem", "server.key", "ca.pem"].map(|name| PathBuf::from(files.file(name)));
    let setup = Setup {
        settings: &[
            "ssl = on",
            "ssl_cert_file = 'server.pem'",
            "ssl_key_file = 'server.key'",
            "ssl_ca_file = 'ca.pem'",
        ],
        access,
        files: &paths,
    };
    Postgres::start_with(&setup).unwrap()
}

async fn refused(url: &str) -> (ErrorKind, String) {
    match Broker::connect(url).await {
        Ok(_) => panic!("{url} was taken"),
        Err(error) => (error.kind(), format!("{error:?}")),
    }
}

async fn works(url: &str) {
    let broker = Broker::connect(url).await.unwrap();
    broker.queue("q").push(&7).await.unwrap();
}

#[tokio::test]
async fn the_server_is_verified() {
    let (ours, theirs) = (Certificates::new().unwrap(), Certificates::new().unwrap());
    let server = server(
        &ours,
        &[
            "hostssl all all 127.0.0.1/32 trust",
            "host all all 127.0.0.1/32 reject",
        ],
    );
    let (ca, other, port) = (ours.file("ca.pem"), theirs.file("ca.pem"), server.port());
    let url = |host: &str| format!("postgres://postgres@{host}:{port}/postgres");
    let named = format!(
        "{}?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={ca}",
        url("localhost")
    );
    works(&named).await;
    works(&format!(
        "{}?sslmode=require&ca={ca}&server_name=localhost",
        url("127.0.0.1")
    ))
    .await;
    works(&format!("{}?sslmode=require&insecure", url("127.0.0.1"))).await;

    let strange = format!(
        "{}?hostaddr=127.0.0.1&sslmode=require&ca={other}",
        url("localhost")
    );
    let (kind, said) = refused(&strange).await;
    assert!(
        kind == ErrorKind::Refused && said.contains("?ca="),
        "{said}"
    );
    let (kind, said) = refused(&format!("{}?sslmode=require&ca={ca}", url("127.0.0.1"))).await;
    assert!(
        kind == ErrorKind::Refused && said.contains("another name"),
        "{said}"
    );
    let (kind, said) = refused(&url("127.0.0.1")).await;
    assert!(
        kind == ErrorKind::Refused && said.contains("sslmode=require"),
        "{said}"
    );
}

#[tokio::test]
async fn the_server_may_want_a_certificate_of_this_side() {
    let files = Certificates::new().unwrap();
    let access = [
        "hostssl all all 127.0.0.1/32 trust clientcert=verify-ca",
        "host all all 127.0.0.1/32 reject",
    ];
    let server = server(&files, &access);
    let url = format!(
        "postgres://postgres@localhost:{}/postgres?hostaddr=127.0.0.1&sslmode=require&ca={}",
        server.port(),
        files.file("ca.pem")
    );
    let (client, key) = (files.file("client.pem"), files.file("client.key"));
    works(&format!("{url}&sslcert={client}&sslkey={key}")).await;
    let (kind, said) = refused(&url).await;
    assert_eq!(kind, ErrorKind::Refused, "{said}");
}

#[tokio::test]
async fn a_server_without_tls_is_found_out() {
    let server = Postgres::start(&[]).unwrap();
    let (kind, said) = refused(&format!("{}?sslmode=require&insecure", server.url())).await;
    assert!(
        kind == ErrorKind::BadOption && said.contains("does not speak TLS"),
        "{said}"
    );
}
