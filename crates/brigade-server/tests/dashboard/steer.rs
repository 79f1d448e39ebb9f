//! What an operator does: watch a job crash, read its report, retry it; pause a queue; push,
//! cancel.

use std::time::Duration;

use brigade::JobState;
use brigade_server::{Auth, Tokens};

use crate::browser::Browser;
use crate::site::{Kind, Site, endless, fragile};

async fn a_crash_is_watched_read_and_mended(kind: Kind) {
    let site = Site::start(kind).await;
    let repaired = site.directory.path().join("repaired");
    let consuming = site.consume(&["fragile"], 2).await;
    let payload = repaired.to_str().unwrap().to_owned();
    let job = fragile(payload)
        .keep(Duration::from_secs(3600))
        .label("<b>import</b>");
    let id = site.broker.push(job).await.unwrap().id().clone();
    let browser = Browser::start();
    browser.open(&site.job_url(&id));
    // Live: the page is not loaded again.
    browser.until("document.querySelector('.headline .state').innerText === 'dead'");
    browser.until_text("Attempt 2 crashed");
    browser.until_text("SIGABRT");
    browser.until("document.querySelector('pre.term .f1').textContent === 'broken'");
    browser.until_text("<img src=x onerror=alert(1)>");
    assert_eq!(
        browser.run("return document.querySelectorAll('main img, main b').length"),
        0
    );
    assert!(browser.text("#command").contains("--label '<b>import</b>'"));
    std::fs::write(&repaired, "").unwrap();
    browser.click("button[data-act=r]");
    browser.until("document.querySelector('.headline .state').innerText === 'done'");
    browser.until_text("it works now");
    browser.check_console();
    consuming.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_watched_read_and_mended_on_sqlite() {
    a_crash_is_watched_read_and_mended(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_watched_read_and_mended_on_redis() {
    a_crash_is_watched_read_and_mended(Kind::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_watched_read_and_mended_on_postgres() {
    a_crash_is_watched_read_and_mended(Kind::Postgres).await;
}

async fn a_queue_is_paused_and_the_pause_undone(kind: Kind) {
    let site = Site::start(kind).await;
    site.push("mail", "{\"to\": \"ann@example.org\"}", 3).await;
    let is_paused = async || {
        let queues = site.broker.queues().await.unwrap();
        queues
            .iter()
            .any(|queue| queue.queue == "mail" && queue.paused)
    };
    let browser = Browser::start();
    browser.size(390, 844);
    browser.open(&site.url("/queues"));
    browser.click("tr[data-key=mail] button");
    browser.until_text("Paused mail.");
    assert!(is_paused().await);
    browser.open(&site.url("/"));
    browser.until_text("is paused, with 3 ready jobs");
    browser.click(".answer form[action$=\"/queues/mail/resume\"] button, .also form[action$=\"/queues/mail/resume\"] button");
    browser.until_text("Resumed.");
    assert!(!is_paused().await);
    browser.click(".notice button");
    browser.until_text("Paused. Its jobs wait");
    assert!(is_paused().await);
    browser.check_console();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_paused_and_the_pause_undone_on_a_phone_with_sqlite() {
    a_queue_is_paused_and_the_pause_undone(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_paused_and_the_pause_undone_on_a_phone_with_redis() {
    a_queue_is_paused_and_the_pause_undone(Kind::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_paused_and_the_pause_undone_on_a_phone_with_postgres() {
    a_queue_is_paused_and_the_pause_undone(Kind::Postgres).await;
}

/// Push from the page, and cancel with a receipt.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_pushed_and_stopped_from_its_page() {
    let site = Site::start(Kind::Sqlite).await;
    let consuming = site.consume(&["endless"], 1).await;
    let browser = Browser::start();
    browser.open(&site.url("/queues/endless"));
    browser.run("document.querySelector('form[action$=\"/push\"]').closest('details').open = true");
    browser.type_into("form[action$=\"/push\"] textarea", "[\"counting\"]");
    browser.click("form[action$=\"/push\"] button");
    browser.until("document.querySelector('.headline .state').innerText === 'running'");
    browser.run("document.querySelector('#cancel details').open = true");
    browser.type_into("#cancel input", "a test ends it");
    browser.click("#cancel button");
    browser.until("document.querySelector('.headline .state').innerText === 'cancelled'");
    browser.until_text("stopped by SIG");
    browser.check_console();
    consuming.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_and_the_change_undone() {
    let site = Site::start(Kind::Sqlite).await;
    site.push("mail", "{}", 1).await;
    let running = async || {
        let queues = site.broker.queues().await.unwrap();
        queues[0].limits.and_then(|limits| limits.running)
    };
    let browser = Browser::start();
    browser.open(&site.url("/queues/mail"));
    browser.click("#limits summary");
    browser.type_into("input[name=running]", "5");
    browser.click("#limits form button");
    browser.until_text("The limits are changed.");
    assert_eq!(running().await, Some(5));
    browser.until_text("0 of 5 running");
    browser.click(".notice button");
    browser.until_text("without a limit");
    assert_eq!(running().await, None);
    browser.check_console();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_changed_and_retried() {
    let site = Site::start(Kind::Sqlite).await;
    site.dead_letters("mail", 1, "unknown address").await;
    let browser = Browser::start();
    browser.open(&site.url("/dead"));
    browser.click(".group p a");
    browser.until_text("Edit and retry");
    browser.run("document.querySelector('textarea').closest('details').open = true");
    browser.type_into("textarea", "{\"to\": }");
    browser.click("textarea ~ button, form.stack .fields button");
    browser.until_text("The payload is not JSON");
    browser.forget_console();
    browser.run("history.back()");
    browser.until("document.querySelector('textarea')");
    browser.run("document.querySelector('textarea').closest('details').open = true");
    browser.type_into("textarea", "{\"to\": \"ben@example.org\"}");
    browser.click("form.stack .fields button");
    browser.until_text("Given back to its queue");
    let jobs = site
        .broker
        .jobs(Some("mail"), Some(JobState::Ready), None, 10)
        .await
        .unwrap();
    assert!(jobs[0].payload.contains("ben@example.org"), "{jobs:?}");
    browser.check_console();
}

/// What the consumers page shows of a job that runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_shown_with_what_it_runs() {
    let site = Site::start(Kind::Sqlite).await;
    let consuming = site.consume(&["endless"], 3).await;
    let id = site
        .broker
        .push(endless("counting".to_owned()))
        .await
        .unwrap()
        .id()
        .clone();
    let browser = Browser::start();
    browser.open(&site.url("/consumers"));
    browser.until_text("1.4.2");
    browser.until("document.querySelector('tbody').innerText.includes('endless')");
    browser.until_text("40 % counting");
    browser.click("td a[href^='/jobs/']");
    browser.until_text("40 % counting");
    let pid = std::process::id();
    browser.until(&format!(
        "/Process {pid} on .+ has it/.test(document.body.innerText)"
    ));
    browser.check_console();
    site.broker.cancel(&id, "the test is over").await.unwrap();
    site.until_state(&id, JobState::Cancelled).await;
    consuming.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_everything_and_changes_nothing() {
    let mut tokens = Tokens::default();
    tokens.add("watcher", "read".parse().unwrap(), "let-me-look");
    let site = Site::start_with(Kind::Sqlite, Auth::tokens(tokens)).await;
    site.push("mail", "{}", 1).await;
    let browser = Browser::start();
    browser.open(&site.url("/queues/mail"));
    browser.until("location.pathname === '/login'");
    browser.type_into("input[name=token]", "let-me-look");
    browser.click("button");
    browser.until("location.pathname === '/queues/mail' && document.querySelector('.tiles')");
    browser.until_text("read-only");
    let forms = "return document.querySelectorAll('main form[method=post]').length";
    assert_eq!(browser.run(forms), 0);
    browser.check_console();
    // A form made by hand is refused.
    browser.run(
        "const form = document.createElement('form'); form.method = 'post'; form.action = \
            '/queues/mail/pause'; document.body.append(form); form.submit()",
    );
    browser.until_text("This needs the role admin");
    let queues = site.broker.queues().await.unwrap();
    assert!(!queues[0].paused);
}

/// The page of a refused form has no address that could be asked for again.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_refused_form_is_not_asked_for_again() {
    let site = Site::start(Kind::Sqlite).await;
    let browser = Browser::start();
    // How often the script asks when it would ask now.
    let asks = "let asks = 0; const ask = window.fetch; window.fetch = (...all) => { asks += 1; \
        return ask(...all); }; document.dispatchEvent(new Event('visibilitychange')); \
        window.fetch = ask; return asks";
    browser.open(&site.url("/jobs/unknown"));
    browser.until_text("Not found");
    assert_eq!(browser.run(asks), 1);
    browser.open(&site.url("/queues/mail"));
    browser.run("document.querySelector('form[action$=\"/push\"]').closest('details').open = true");
    browser.type_into("form[action$=\"/push\"] textarea", "{\"to\": }");
    browser.click("form[action$=\"/push\"] button");
    browser.until_text("The payload is not JSON");
    assert_eq!(browser.run(asks), 0);
}
