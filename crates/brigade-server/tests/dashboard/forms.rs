//! What the server takes of a form, from whom, and what a link from elsewhere can do.

use std::io::{Read as _, Write as _};

use brigade::{JobState, Schedule};
use brigade_server::{Auth, Tokens};

use crate::site::{Kind, Site};

/// One request with this text after its first line and `Host`; head in lower case, and body.
fn send(site: &Site, line: &str, rest: &str) -> (String, String) {
    let mut stream = std::net::TcpStream::connect(site.address).unwrap();
    let host = site.address;
    let text = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{rest}");
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

fn form(body: &str) -> String {
    let length = body.len();
    format!(
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

async fn site_of(roles: &str) -> Site {
    let mut tokens = Tokens::default();
    tokens.add("someone", roles.parse().unwrap(), "let-me-in");
    Site::start_with(Kind::Sqlite, Auth::tokens(tokens)).await
}

const TOKEN: &str = "Authorization: Bearer let-me-in\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_in_another_queue_keeps_the_payload_byte_for_byte() {
    let site = Site::start(Kind::Sqlite).await;
    let payload = r#"{"z":123456789012345678901,"a":1.10,"a":[ ]}"#;
    let id = site.push("mail", payload, 1).await.remove(0);
    let mail = site.broker.queue("mail");
    let minute = std::time::Duration::from_secs(60);
    let lease = mail.lease(minute, std::time::Duration::ZERO).await.unwrap();
    lease.unwrap().dead_letter("refused").await.unwrap();
    let (_, page) = send(&site, &format!("GET /jobs/{id}"), "\r\n");
    assert!(page.contains("123456789012345678901,\n"), "{page}");
    // The field as a browser sends it.
    let field = "%7B%0D%0A++%22z%22%3A+123456789012345678901%2C%0D%0A++%22a%22%3A+1.10%2C%0D%0A++\
        %22a%22%3A+%5B%5D%0D%0A%7D";
    let sent = form(&format!("payload={field}&task=&queue=other"));
    let (head, _) = send(&site, &format!("POST /jobs/{id}/retry"), &sent);
    assert!(head.contains("did=retried"), "{head}");
    let jobs = site
        .broker
        .jobs(Some("other"), Some(JobState::Ready), None, 10);
    assert_eq!(jobs.await.unwrap()[0].payload, payload);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_over_the_limit_is_refused_with_a_page() {
    let site = Site::start(Kind::Sqlite).await;
    let body = format!("payload={}", "1".repeat((1 << 20) - 7));
    let (head, page) = send(&site, "POST /queues/mail/push", &form(&body));
    assert!(head.starts_with("http/1.1 413"), "{head}");
    assert!(page.contains("more than 1024 KiB"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_of_someone_without_the_role_is_not_read() {
    let site = site_of("push").await;
    // None of the body comes.
    let rest = format!(
        "{TOKEN}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\n"
    );
    for action in ["/queues/mail/pause", "/jobs/1/retry", "/bulk/delete"] {
        let (head, page) = send(&site, &format!("POST {action}"), &rest);
        assert!(head.starts_with("http/1.1 403"), "{action}: {head}");
        assert!(page.contains("This needs the role admin"), "{page}");
    }
    let check = format!("{TOKEN}Content-Length: 0\r\n\r\n");
    let (head, _) = send(&site, "POST /settings/check", &check);
    assert!(head.starts_with("http/1.1 403"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn someone_who_may_not_read_sees_no_numbers_and_no_queues() {
    let site = site_of("push").await;
    site.dead_letters("secret-queue", 3, "refused").await;
    for path in ["/", "/settings", "/dead"] {
        let (_, page) = send(&site, &format!("GET {path}"), &format!("{TOKEN}\r\n"));
        assert!(!page.contains("secret-queue"), "{page}");
        assert!(page.contains("data-dead=\"\""), "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_done_here_can_be_undone() {
    let site = Site::start(Kind::Sqlite).await;
    site.push("mail", "{}", 1).await;
    for query in ["did=limited&was=none", "did=resumed&undo=0123456789abcdef"] {
        let (_, page) = send(&site, &format!("GET /queues/mail?{query}"), "\r\n");
        assert!(page.contains("class=\"notice\""), "{page}");
        assert!(!page.contains("Undo"), "{page}");
    }
    let (head, _) = send(&site, "POST /queues/mail/pause", &form(""));
    let location = head
        .lines()
        .find_map(|line| line.strip_prefix("location: "));
    let (_, page) = send(&site, &format!("GET {}", location.unwrap()), "\r\n");
    assert!(page.contains("Undo"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_paused_and_the_pause_can_be_undone() {
    let site = Site::start(Kind::Sqlite).await;
    let job = site.broker.queue("reports").job(&1).unwrap();
    let hour = std::time::Duration::from_secs(3600);
    let schedule = Schedule::every("a/b", hour, job).unwrap();
    site.broker.schedule(schedule).await.unwrap();
    let is_paused = async || site.broker.schedules().await.unwrap()[0].paused;
    for (verb, undo, did) in [
        ("pause", "resume", "Paused"),
        ("resume", "pause", "Resumed"),
    ] {
        let (head, _) = send(&site, &format!("POST /schedules/a%2Fb/{verb}"), &form(""));
        let location = head
            .lines()
            .find_map(|line| line.strip_prefix("location: "));
        let (_, page) = send(&site, &format!("GET {}", location.unwrap()), "\r\n");
        assert!(page.contains(&format!("{did} a/b.")), "{page}");
        let (_, notice) = page.split_once("class=\"notice\"").unwrap();
        let (notice, _) = notice.split_once("Undo").unwrap();
        assert!(
            notice.contains(&format!("/schedules/a%2Fb/{undo}\"")),
            "{notice}"
        );
        assert_eq!(
            page.contains("pushes nothing until"),
            verb == "pause",
            "{page}"
        );
        assert_eq!(is_paused().await, verb == "pause");
    }
    let (head, _) = send(&site, "POST /schedules/other/pause", &form(""));
    assert!(head.contains("did=nothing"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_not_asked_again_by_itself() {
    let site = Site::start(Kind::Sqlite).await;
    site.dead_letters("mail", 3, "refused").await;
    let question = "GET /bulk/retry?queue=mail&state=dead";
    let (_, page) = send(&site, question, "\r\n");
    assert!(page.contains("id=\"main\" data-live=\"off\""), "{page}");
    let (_, page) = send(&site, "GET /dead", "\r\n");
    assert!(!page.contains("data-live"), "{page}");
}
