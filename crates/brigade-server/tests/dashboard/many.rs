//! Very many jobs and queues: pages stay small, one job is found, groups are worked off.

use std::time::{Duration, Instant};

use brigade::{Job, JobState};
use rustix::process::Signal;

use crate::browser::Browser;
use crate::look::get;
use crate::site::{Kind, Site};

const MINUTE: Duration = Duration::from_secs(60);
/// Jobs of the tests with many.
const MANY: usize = 100_000;

async fn one_job_is_found_among_very_many(kind: Kind) {
    let began = Instant::now();
    let site = Site::start(kind).await;
    site.push("mail", "{\"to\": \"ann@example.org\"}", MANY / 2)
        .await;
    let wanted = site
        .push("mail", "{\"to\": \"needle@example.org\"}", 1)
        .await
        .remove(0);
    site.push("mail", "{\"to\": \"ben@example.org\"}", MANY / 2)
        .await;
    println!("{kind:?}: pushed after {:?}", began.elapsed());
    let browser = Browser::start();
    browser.size(390, 844);
    browser.open(&site.url("/jobs"));
    browser.type_into("input[name=text]", "needle");
    browser.click("form.filter button");
    browser.until("location.search.includes('needle') && document.querySelector('.pager')");
    // A look reads so many jobs at most, and says so.
    while browser.run("return document.querySelectorAll('tbody tr').length") == 0 {
        let before = browser.address();
        browser.click(".pager a:last-child");
        browser.until(&format!(
            "location.href !== {before:?} && document.querySelector('.pager')"
        ));
    }
    browser.click("tbody a");
    let path = format!("/jobs/{}", wanted.as_str().replace('/', "%2F"));
    browser.until(&format!("location.pathname === '{path}'"));
    browser.until_text("needle@example.org");
    println!("{kind:?}: found after {:?}", began.elapsed());
    browser.check_console();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_is_found_among_very_many_on_sqlite() {
    one_job_is_found_among_very_many(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_is_found_among_very_many_on_redis() {
    one_job_is_found_among_very_many(Kind::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_is_found_among_very_many_on_postgres() {
    one_job_is_found_among_very_many(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_dead_letters_is_retried_with_its_number_said_before() {
    let site = Site::start(Kind::Sqlite).await;
    site.dead_letters("mail", 40, "no answer after {n} s").await;
    site.dead_letters("mail", 3, "refused").await;
    let browser = Browser::start();
    browser.open(&site.url("/dead"));
    browser.until_text("no answer after # s");
    browser.click(".group a[href*=\"/bulk/retry\"]");
    browser.until_text("Retry 40 dead letters of `mail`");
    browser.click("form button");
    browser.until_text("Finished: 40 retried.");
    let dead = site
        .broker
        .jobs(Some("mail"), Some(JobState::Dead), None, 100)
        .await
        .unwrap();
    assert_eq!(dead.len(), 3);
    let (_, lines) = get(&site, "/dead/export?queue=mail&state=dead");
    assert_eq!(lines.matches("\"state\":\"dead\"").count(), 3, "{lines}");
    browser.check_console();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_without_task_or_reason_has_its_own_dead_letters_alone() {
    let site = Site::start(Kind::Sqlite).await;
    site.dead_letters("mail", 2, "refused").await;
    site.dead_letters("mail", 3, "").await;
    let mail = site.broker.queue("mail");
    for _ in 0..4 {
        let job = Job::new("mail", Some("send".into()), "[]");
        site.broker.push(job).await.unwrap();
        let lease = mail.lease(MINUTE, Duration::ZERO).await.unwrap();
        lease.unwrap().dead_letter("refused").await.unwrap();
    }
    let (_, page) = get(&site, "/dead");
    let links = page.split("/dead/export?").skip(2);
    let queries = links.map(|rest| rest.split('"').next().unwrap().replace("&#38;", "&"));
    let mut counts = Vec::new();
    for query in queries.map(|query| query.replace("&amp;", "&")) {
        let (_, lines) = get(&site, &format!("/dead/export?{query}"));
        let (_, list) = get(&site, &format!("/jobs?{query}"));
        let (_, question) = get(&site, &format!("/bulk/retry?{query}"));
        let count = lines.matches("\"state\":\"dead\"").count();
        assert_eq!(list.matches("data-key=").count(), count, "{query}");
        let words = format!("Retry {count} dead letters of `mail`");
        assert!(question.contains(&words.replace('`', "&#96;")) || question.contains(&words));
        counts.push(count);
    }
    assert_eq!(counts, [4, 3, 2], "{page}");
}

/// The sizes are checked; the times are printed, as they depend on the machine.
async fn the_first_page_is_small(kind: Kind) {
    let mut site = Site::start(kind).await;
    let of_queue = |number| Job::new(format!("queue-{number:04}"), None, "{}");
    let jobs = (0..1_000).map(of_queue).collect();
    site.broker.push_many(jobs).await.unwrap();
    let dead = brigade_testkit::count(2_000, 100_000);
    site.dead_letters("mail", dead, "no answer after {n} s")
        .await;
    for path in ["/", "/queues", "/queues/mail", "/dead", "/jobs?state=dead"] {
        site.start_again().await;
        for server in ["cold", "warm"] {
            let began = Instant::now();
            let (_, page) = get(&site, path);
            let (took, bytes) = (began.elapsed(), page.len());
            println!("{kind:?} {server} {path}: {took:?}, {bytes} bytes");
            assert!(bytes < 150 << 10, "{path}: {bytes} bytes");
            // Not yet grouped: the script asks again.
            while get(&site, path).1.contains("data-soon") {}
        }
    }
    let (_, page) = get(&site, "/");
    let mut whole = page.len();
    for name in ["brigade.css", "brigade.js"] {
        let end = page.find(name).unwrap() + name.len();
        let start = page[..end].rfind('"').unwrap() + 1;
        whole += get(&site, &page[start..end]).1.len();
    }
    println!("the first page with style and script: {whole} bytes");
    assert!(whole < 150 << 10, "{whole} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_page_is_small_with_very_many_dead_letters_and_queues_on_sqlite() {
    the_first_page_is_small(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_page_is_small_with_very_many_dead_letters_and_queues_on_redis() {
    the_first_page_is_small(Kind::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_page_is_small_with_very_many_dead_letters_and_queues_on_postgres() {
    the_first_page_is_small(Kind::Postgres).await;
}

/// The groups come from every dead letter: the page does not wait until a slow broker has read
/// them.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_dead_letters_does_not_wait_for_a_slow_broker() {
    let site = Site::start(Kind::Redis).await;
    site.dead_letters("mail", 3, "unknown address").await;
    let browser = Browser::start();
    browser.open(&site.url("/"));
    browser.until_text("Dead letters");
    let redis = site.redis.as_ref().unwrap();
    redis.signal(Signal::STOP);
    browser.open(&site.url("/dead"));
    browser.until_text("The broker reads 3 dead letters to group them by reason");
    redis.signal(Signal::CONT);
    browser.until("document.querySelectorAll('.group').length === 1");
    browser.until_text("unknown address");
    browser.check_console();
}
