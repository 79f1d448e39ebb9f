//! The pages of a broker that lists no jobs and keeps no statistics: each says what it cannot show,
//! and none shows a zero that is not known.

use crate::PAGES;
use crate::browser::Browser;
use crate::site::{Kind, Site, patient};
use crate::states::look_at;

#[tokio::test(flavor = "multi_thread")]
async fn every_page_of_a_broker_without_lists_says_what_it_cannot_show() {
    let site = Site::start(Kind::RabbitMq).await;
    let consuming = site.consume(&["endless"], 2).await;
    let browser = Browser::start();
    let says = [
        "1 consumer alive, 0 running; this broker does not list its queues and jobs",
        "Queues that the consumers serve",
        "This broker does not list its jobs",
        "0 of 2 slots run",
        "This broker does not list its dead letters",
        "This broker keeps no schedules",
        "This broker does not limit queues",
        "jobs survive the end of every process",
    ];
    for (path, text) in PAGES.into_iter().zip(says) {
        browser.open(&site.url(path));
        browser.until_text(text);
        let name = path.trim_start_matches('/');
        look_at(&browser, &format!("rabbitmq-{name}"));
        let zeros =
            "return [...document.querySelectorAll('main h1 + .muted')].map(e => e.innerText)";
        assert_ne!(browser.run(zeros), serde_json::json!(["0"]), "{path}");
    }
    browser.check_console();
    browser.open(&site.url("/jobs/1"));
    browser.until_text("so a job has no page");
    consuming.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_without_a_list_of_jobs_is_found_by_name_and_pushed_to() {
    let site = Site::start(Kind::RabbitMq).await;
    let browser = Browser::start();
    browser.open(&site.url("/queues"));
    browser.until_text("type its name above");
    browser.type_into("input[name=q]", "mail");
    browser.click("form.filter button");
    browser.until_text("Open the queue mail");
    browser.click("main a[href$='/queues/mail']");
    browser.until_text("This broker does not list jobs");
    assert_eq!(
        browser.run("return document.querySelectorAll('.tile').length"),
        0
    );
    look_at(&browser, "rabbitmq-queue");
    browser.run("document.querySelector('form[action$=\"/push\"]').closest('details').open = true");
    browser.type_into(
        "form[action$=\"/push\"] textarea",
        "{\"to\": \"ann@example.org\"}",
    );
    browser.click("form[action$=\"/push\"] button");
    browser.until_text("Pushed.");
    assert!(browser.address().contains("/queues/mail"));
    let mail = site.broker.queue("mail");
    let taken = mail.take(std::time::Duration::from_secs(60)).await.unwrap();
    let payload: serde_json::Value = taken.unwrap().payload().unwrap();
    assert_eq!(payload["to"], "ann@example.org");
    browser.check_console();
}

/// What runs is known from the consumers.
#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_shown_without_a_list_of_jobs() {
    let site = Site::start(Kind::RabbitMq).await;
    let consuming = site.consume(&["patient"], 2).await;
    let end = site.directory.path().join("end");
    let job = patient(end.to_str().unwrap().to_owned());
    site.broker.push(job).await.unwrap();
    let browser = Browser::start();
    browser.open(&site.url("/"));
    browser.until_text("1 consumer alive, 1 running");
    browser.click(".answer .button");
    browser.until_text("40 % waiting for the file");
    browser.check_console();
    std::fs::write(end, "").unwrap();
    consuming.stop().await;
}
