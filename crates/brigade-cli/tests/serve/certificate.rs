//! The certificate of a server, and what becomes of it while the server runs.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use brigade_testkit::facts::wait_until;
use rustix::process::Signal;
use tempfile::TempDir;

use super::client::{Desk, desk_with};

/// A certificate and its key, where the server reads them, and others to put in their place.
struct Certificates {
    directory: TempDir,
}

impl Certificates {
    fn new() -> Self {
        let this = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        this.make("current");
        this
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Makes a certificate of its own authority, `name.pem`, and its key, `name.key`.
    fn make(&self, name: &str) {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost"])
            .args(["-out", &self.path(&format!("{name}.pem"))])
            .args(["-keyout", &self.path(&format!("{name}.key"))])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    fn copy(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
    }

    /// A server with the current ones.
    fn serve(&self) -> Desk {
        let (certificate, key) = (self.path("current.pem"), self.path("current.key"));
        desk_with(&[
            "--auth",
            "none",
            "--tls-cert",
            &certificate,
            "--tls-key",
            &key,
        ])
    }

    /// What a new connection gets that trusts this certificate alone.
    fn ask(&self, desk: &Desk, trusted: &str) -> Output {
        Command::new("curl")
            .args(["--silent", "--show-error", "--cacert", &self.path(trusted)])
            .arg(format!("https://localhost:{}/v1/queues", port(desk)))
            .output()
            .unwrap()
    }
}

fn port(desk: &Desk) -> &str {
    desk.client.base.strip_prefix("https://127.0.0.1:").unwrap()
}

#[track_caller]
fn until(desk: &Desk, what: impl FnMut() -> bool) {
    let waited = wait_until(Duration::from_secs(60), what);
    assert!(
        waited.is_some(),
        "it did not happen within a minute: {}",
        desk.server.log()
    );
}

/// A connection that stays open.
struct OpenConnection {
    client: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl OpenConnection {
    fn new(desk: &Desk) -> Self {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-verify_quiet", "-connect"])
            .arg(format!("127.0.0.1:{}", port(desk)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            requests: client.stdin.take().unwrap(),
            answers: BufReader::new(client.stdout.take().unwrap()),
            client,
        }
    }

    /// The body of the answer to a request.
    fn ask(&mut self) -> String {
        self.requests
            .write_all(b"GET /v1/queues HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let mut bytes = 0;
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "it ended");
            if let Some(length) = line.to_lowercase().strip_prefix("content-length:") {
                bytes = length.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; bytes];
        self.answers.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.client.kill().ok();
        self.client.wait().ok();
    }
}

#[test]
fn tls_is_spoken_with_a_certificate() {
    let certificates = Certificates::new();
    let desk = certificates.serve();
    let output = certificates.ask(&desk, "current.pem");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"[]");
}

#[test]
fn a_new_certificate_is_for_new_connections_and_open_ones_continue() {
    let certificates = Certificates::new();
    certificates.copy("current.pem", "old.pem");
    certificates.make("new");
    let desk = certificates.serve();
    let mut open = OpenConnection::new(&desk);
    assert_eq!(open.ask(), "[]");
    certificates.copy("new.key", "current.key");
    certificates.copy("new.pem", "current.pem");
    assert!(desk.server.signal(Signal::HUP));
    until(&desk, || {
        certificates.ask(&desk, "new.pem").status.success()
    });
    assert!(!certificates.ask(&desk, "old.pem").status.success());
    assert_eq!(open.ask(), "[]");
    // Without a signal it takes a moment longer. As `certbot` does it: the paths are links.
    certificates.make("newer");
    for kind in ["pem", "key"] {
        let (link, current) = (format!("link.{kind}"), format!("current.{kind}"));
        std::os::unix::fs::symlink(
            certificates.path(&format!("newer.{kind}")),
            certificates.path(&link),
        )
        .unwrap();
        fs::rename(certificates.path(&link), certificates.path(&current)).unwrap();
    }
    until(&desk, || {
        certificates.ask(&desk, "newer.pem").status.success()
    });
    assert_eq!(open.ask(), "[]");
}

#[test]
fn a_certificate_that_is_none_or_not_of_the_key_is_refused_and_the_old_one_stays() {
    let certificates = Certificates::new();
    certificates.copy("current.pem", "old.pem");
    certificates.make("other");
    let desk = certificates.serve();
    fs::write(certificates.path("broken.pem"), "no certificate").unwrap();
    for (broken, reason) in [
        ("broken.pem", "has no certificate in PEM form"),
        ("other.pem", "is not of the certificate"),
    ] {
        certificates.copy(broken, "current.pem");
        until(&desk, || {
            let log = desk.server.log();
            log.contains("the certificate stays as it was") && log.contains(reason)
        });
        let output = certificates.ask(&desk, "old.pem");
        assert!(output.status.success(), "{broken}: {output:?}");
    }
    certificates.copy("other.key", "current.key");
    until(&desk, || {
        certificates.ask(&desk, "other.pem").status.success()
    });
}

#[test]
fn a_hangup_without_a_file_to_read_again_does_not_end_the_server() {
    let desk = desk_with(&["--auth", "none"]);
    assert!(desk.server.signal(Signal::HUP));
    assert_eq!(desk.client.get("/v1/queues").status, 200);
}
