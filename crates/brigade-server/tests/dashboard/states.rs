//! The states by which the dashboard is judged, in light and dark and at three widths: nothing is
//! wider than the screen, nothing is in the console.
//!
//! With `BRIGADE_PICTURES=DIRECTORY` each is photographed; the pictures of the documentation are
//! made in this way.

use std::time::Duration;

use base64::Engine as _;
use brigade::{Chain, Group, Job, JobState, Limits, Schedule};
use serde_json::json;

use crate::PAGES;
use crate::browser::Browser;
use crate::site::{Kind, Site, endless, fragile, greet};

const WIDTHS: [(u32, u32); 3] = [(1440, 900), (1024, 768), (390, 844)];
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Looks at a page in every way.
pub(crate) fn look_at(browser: &Browser, name: &str) {
    let pictures = std::env::var_os("BRIGADE_PICTURES").map(std::path::PathBuf::from);
    for scheme in ["light", "dark"] {
        browser.scheme(scheme);
        for (width, height) in WIDTHS {
            browser.size(width, height);
            let sizes = browser.run("return [document.documentElement.scrollWidth, innerWidth]");
            assert!(
                sizes[0].as_u64() <= sizes[1].as_u64(),
                "{name} at {width}: {sizes}"
            );
            if let Some(directory) = &pictures {
                let picture = browser.picture(width, height);
                let png = base64::engine::general_purpose::STANDARD
                    .decode(picture)
                    .unwrap();
                let file = directory.join(format!("{name}-{width}-{scheme}.png"));
                std::fs::write(file, png).unwrap();
            }
        }
    }
}

/// An hour of work: each minute some jobs, of which a few fail.
async fn an_hour_of_work(site: &Site) {
    let consuming = site
        .consume(&["greet", "fragile", "resize", "invoice"], 8)
        .await;
    for minute in 0..60_usize {
        let mut ids = Vec::new();
        for number in 0..3 + (minute * 7) % 5 {
            let job = greet(format!("guest {minute}.{number}")).keep(HOUR);
            ids.push(site.broker.push(job).await.unwrap().id().clone());
        }
        for id in ids {
            site.until_state(&id, JobState::Done).await;
        }
        site.broker.clock().advance(MINUTE);
    }
    consuming.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_well() {
    let site = Site::start(Kind::Sqlite).await;
    an_hour_of_work(&site).await;
    let consuming = site.consume(&["greet", "invoice"], 8).await;
    let id = site
        .push("invoice", "{\"number\": 4711}", 1)
        .await
        .remove(0);
    site.push("greet", "[\"the last guest\"]", 1).await;
    let browser = Browser::start();
    browser.open(&site.url("/"));
    browser.until_text("All well");
    look_at(&browser, "well");
    browser.check_console();
    site.broker.cancel(&id, "the test is over").await.unwrap();
    consuming.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_stuck_by_its_limit() {
    let site = Site::start(Kind::Sqlite).await;
    an_hour_of_work(&site).await;
    let mail = site.broker.queue("mail");
    mail.limit(Limits::new().running(5)).await.unwrap();
    site.push(
        "mail",
        "{\"to\": \"ann@example.org\", \"template\": \"welcome\"}",
        42,
    )
    .await;
    site.push("resize", "{\"image\": 17}", 3).await;
    let mut leases = Vec::new();
    for _ in 0..5 {
        leases.push(mail.lease(HOUR, Duration::ZERO).await.unwrap().unwrap());
    }
    site.broker.clock().advance(14 * MINUTE);
    assert!(mail.take(Duration::ZERO).await.unwrap().is_none());
    site.broker
        .queue("resize")
        .take(Duration::ZERO)
        .await
        .unwrap();
    let browser = Browser::start();
    browser.open(&site.url("/"));
    browser.until_text("Queue mail waits 14 min: its limit of 5 running is used up");
    look_at(&browser, "stuck");
    browser.click(".answer .button");
    browser.until("location.pathname === '/queues/mail' && location.hash === '#limits'");
    look_at(&browser, "stuck-queue");
    browser.check_console();
    for lease in leases {
        lease.ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_with_its_report() {
    let site = Site::start(Kind::Sqlite).await;
    let consuming = site.consume(&["fragile"], 2).await;
    let job = fragile("/nonexistent/customers.csv".to_owned())
        .label("nightly import")
        .keep(HOUR);
    let id = site.broker.push(job).await.unwrap().id().clone();
    site.until_state(&id, JobState::Dead).await;
    let browser = Browser::start();
    browser.open(&site.url(&format!("/jobs/{id}")));
    browser.until_text("SIGABRT");
    look_at(&browser, "crash");
    browser.check_console();
    consuming.stop().await;
}

fn step(task: &str, payload: serde_json::Value) -> Job {
    Job::new("video", Some(task.into()), payload.to_string()).keep(HOUR)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_of_twelve_is_half_done() {
    let site = Site::start(Kind::Sqlite).await;
    let parts = (1..=5).map(|part| {
        let download = step("download", json!([{"part": part}]));
        Chain::new(download).then_job(step("transcode", json!([{"part": part}])))
    });
    let flow = Group::new(parts)
        .then(step("join", json!([{"video": 42}])))
        .then_job(step("publish", json!([{"video": 42}])));
    let flow = site.broker.push_flow(flow).await.unwrap();
    let video = site.broker.queue("video");
    for _ in 0..6 {
        let lease = video.lease(HOUR, Duration::ZERO).await.unwrap().unwrap();
        lease.ack().await.unwrap();
    }
    let running = video.lease(HOUR, Duration::ZERO).await.unwrap().unwrap();
    let failed = video.lease(HOUR, Duration::ZERO).await.unwrap().unwrap();
    failed
        .dead_letter("the codec of part 3 is not known")
        .await
        .unwrap();
    let browser = Browser::start();
    browser.open(&site.url(&format!("/jobs/{}", flow.last())));
    browser.until("document.querySelectorAll('.flow .node').length === 12");
    look_at(&browser, "flow");
    browser.check_console();
    running.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_dead_letters() {
    let site = Site::start(Kind::Sqlite).await;
    let many = brigade_testkit::count(2_000, 100_000);
    site.dead_letters(
        "mail",
        many / 2,
        "no answer after {n} ms from smtp.example.org",
    )
    .await;
    site.dead_letters("mail", many / 4, "550 unknown mailbox")
        .await;
    site.dead_letters("invoice", many / 4, "the total of order {n} is negative")
        .await;
    let browser = Browser::start();
    browser.open(&site.url("/dead"));
    browser.until_text("no answer after # ms");
    look_at(&browser, "dead");
    browser.check_console();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_data_and_then_no_connection() {
    let mut site = Site::start(Kind::Sqlite).await;
    let browser = Browser::start();
    browser.open(&site.url("/"));
    browser.until_text("Three commands to begin with");
    look_at(&browser, "empty");
    browser.check_console();
    site.push("mail", "{\"to\": \"ann@example.org\"}", 3).await;
    browser.until_text("Queues that wait longest");
    site.stop_server().await;
    browser.until("document.body.classList.contains('lost')");
    look_at(&browser, "lost");
}

/// A broker in use: an hour of work, 100 queues of which no consumer serves most, limits,
/// schedules, dead letters.
async fn a_broker_in_use() -> Site {
    let site = Site::start(Kind::Sqlite).await;
    an_hour_of_work(&site).await;
    let areas = ["billing", "media", "reports", "search", "crm"];
    let works = ["import", "export", "sync", "notify", "tidy"];
    for number in 0..100 {
        let (area, work) = (areas[number % 5], works[number / 5 % 5]);
        let queue = format!("{area}.{work}-{}", number / 25);
        let payload = json!({"customer": 4000 + number, "dry_run": false}).to_string();
        site.push(&queue, &payload, 1 + number % 9).await;
    }
    let limits = [("billing.import-0", 1), ("crm.sync-1", 10)];
    for (queue, running) in limits {
        let limits = Limits::new().running(running).starts(60, MINUTE);
        site.broker.queue(queue).limit(limits).await.unwrap();
    }
    for (name, plan) in [("nightly report", "0 3 * * *"), ("tidy", "*/15 * * * *")] {
        let queue = site.broker.queue("reports.export-0");
        let job = queue.job(&json!({"day": "yesterday"})).unwrap();
        let schedule = Schedule::cron(name, plan, job).unwrap();
        let scheduled = site.broker.schedule(schedule.zone("Europe/Berlin"));
        scheduled.await.unwrap();
    }
    let reason = "no answer after {n} ms from crm.example.org";
    site.dead_letters("crm.notify-2", 40, reason).await;
    site.dead_letters("media.sync-0", 3, "the codec av2 is not known")
        .await;
    site.broker.clock().advance(4 * MINUTE);
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_of_a_broker_in_use_fits_every_width() {
    let site = a_broker_in_use().await;
    let held = site.broker.queue("billing.import-0");
    let lease = held.lease(HOUR, Duration::ZERO).await.unwrap().unwrap();
    let consuming = site.consume(&["fragile", "endless", "greet"], 8).await;
    let crash = fragile("/nonexistent/customers.csv".to_owned()).keep(HOUR);
    let id = site.broker.push(crash).await.unwrap().id().clone();
    site.until_state(&id, JobState::Dead).await;
    let slow = endless("importing customers.csv".to_owned()).label("customers");
    let slow = site.broker.push(slow).await.unwrap().id().clone();
    site.until_state(&slow, JobState::Leased).await;
    let browser = Browser::start();
    browser.open(&site.url("/"));
    browser.until_text("more queues wait long, up to 4 min");
    browser.open(&site.url("/settings"));
    browser.until_text("brigade check lists all of them");
    let more = [
        format!("/jobs/{id}"),
        format!("/jobs/{slow}"),
        "/queues/billing.import-0".to_owned(),
        "/bulk/retry?queue=crm.notify-2&state=dead".to_owned(),
    ];
    let pages = PAGES.map(str::to_owned).into_iter().chain(more);
    for (place, path) in pages.enumerate() {
        browser.open(&site.url(&path));
        look_at(&browser, &format!("busy-{place:02}"));
    }
    browser.check_console();
    site.broker.cancel(&slow, "the test is over").await.unwrap();
    consuming.stop().await;
    lease.ack().await.unwrap();
}
