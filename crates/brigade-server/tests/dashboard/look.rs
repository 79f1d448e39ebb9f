//! How the pages look and behave: every width, keys, no script, a lost connection, read only.

use std::time::Duration;

use serde_json::json;

use crate::PAGES;
use crate::browser::Browser;
use crate::site::{Kind, Site};

async fn populated() -> Site {
    let site = Site::start(Kind::Sqlite).await;
    let evil = "{\"note\": \"</textarea><script>alert(1)</script><img src=x onerror=alert(1)>\"}";
    site.push("mail", evil, 5).await;
    site.push(
        "a-queue-with-a-very-long-name-that-has-no-space-in-it-at-all-x",
        "{}",
        2,
    )
    .await;
    site.push("<script>alert(2)</script>", "{}", 1).await;
    site.dead_letters("report", 3, "<i>no</i> answer after {n} s")
        .await;
    let nightly = brigade::Schedule::cron(
        "nightly",
        "0 3 * * *",
        site.broker.queue("report").job(&json!({})).unwrap(),
    );
    site.broker
        .schedule(nightly.unwrap().zone("Europe/Berlin"))
        .await
        .unwrap();
    let limits = brigade::Limits::new()
        .running(5)
        .starts(60, Duration::from_secs(60));
    site.broker.queue("mail").limit(limits).await.unwrap();
    site
}

/// Pages of what is there, too.
async fn all_pages(site: &Site) -> Vec<String> {
    let jobs = site.broker.jobs(None, None, None, 100).await.unwrap();
    let mut pages: Vec<String> = PAGES.iter().map(|page| (*page).to_owned()).collect();
    pages.push("/queues/mail".to_owned());
    pages.push("/queues/%3Cscript%3Ealert(2)%3C%2Fscript%3E".to_owned());
    pages.push("/bulk/delete?queue=report&state=dead".to_owned());
    for queue in ["mail", "report"] {
        let job = jobs.iter().find(|job| job.queue == queue).unwrap();
        pages.push(format!("/jobs/{}", job.id));
    }
    pages
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_fit_every_width_and_show_foreign_text_as_text() {
    let site = populated().await;
    let browser = Browser::start();
    for path in all_pages(&site).await {
        browser.open(&site.url(&path));
        for width in [1440, 1024, 390, 360] {
            browser.size(width, 800);
            let sizes = browser.run("return [document.documentElement.scrollWidth, innerWidth]");
            assert!(
                sizes[0].as_u64() <= sizes[1].as_u64(),
                "{path} is wider than {width} px: {sizes}"
            );
        }
        let foreign = browser.run("return document.querySelectorAll('main script, main img, main i:not(.cursor, .legend i)').length");
        assert_eq!(foreign, 0, "{path} has elements that came from a payload");
        let unnamed = browser.run(
            "return [...document.querySelectorAll('a, button, input:not([type=hidden]), select, \
                textarea')].filter(e => !(e.textContent.trim() || e.getAttribute('aria-label') || \
                e.labels?.length || e.title || e.hidden)).map(e => e.outerHTML)",
        );
        assert_eq!(unnamed, json!([]), "controls of {path} without a name");
    }
    browser.check_console();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_reaches_everything() {
    let site = populated().await;
    let browser = Browser::start();
    browser.open(&site.url("/"));
    browser.press("gq");
    browser.until("location.pathname === '/queues' && document.querySelector('tbody tr')");
    browser.press("/");
    browser.until("document.activeElement.name === 'q'");
    browser.press("mail\u{e007}");
    browser.until(
        "location.search.includes('q=mail') && document.querySelectorAll('tbody tr').length === 1",
    );
    browser.press("j");
    browser.until("document.querySelector('tr.here')");
    browser.press("\u{e007}");
    browser.until("location.pathname === '/queues/mail' && document.querySelector('[data-act=p]')");
    browser.press("p");
    browser.until_text("Paused. Its jobs wait");
    browser.press("?");
    browser.until("document.getElementById('help').open");
    browser.press("\u{e00c}");
    browser.until("!document.getElementById('help').open");
    browser.press("u");
    browser.until("document.body.classList.contains('exact')");
    browser.press("\u{e00c}");
    browser.until("location.pathname === '/queues'");
    browser.check_console();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_current_page_is_in_sight_in_the_navigation_of_a_phone() {
    let site = populated().await;
    let browser = Browser::start();
    browser.size(390, 844);
    for path in PAGES {
        browser.open(&site.url(path));
        browser.until(
            "(link => link.left >= 0 && link.right <= innerWidth - 30)(document.querySelector('nav \
                [aria-current]').getBoundingClientRect())",
        );
    }
    browser.check_console();
}

#[tokio::test(flavor = "multi_thread")]
async fn suggestions_name_the_queues_in_the_filter() {
    let site = populated().await;
    let browser = Browser::start();
    browser.open(&site.url("/jobs"));
    let names =
        "return [...document.querySelector('input[name=queue]').list.options].map(o => o.value)";
    let names = browser.run(names);
    assert!(
        names.as_array().unwrap().contains(&json!("mail")),
        "{names}"
    );
    let evil = json!("<script>alert(2)</script>");
    assert!(names.as_array().unwrap().contains(&evil), "{names}");
    let tasks = "return document.querySelector('input[name=task]').list.id";
    assert_eq!(browser.run(tasks), "tasks");
    browser.check_console();
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_change_in_place_and_new_rows_wait() {
    let site = populated().await;
    let browser = Browser::start();
    browser.open(&site.url("/jobs?queue=mail"));
    browser.run("window.first = document.querySelector('tbody tr'); window.y = first.offsetTop");
    site.push("mail", "{\"n\": 6}", 7).await;
    browser.until("document.getElementById('fresh')?.innerText === '7 new'");
    let same = browser
        .run("return window.first === document.querySelector('tbody tr') && first.offsetTop === y");
    assert_eq!(same, true);
    browser.press("n");
    browser.until("document.querySelectorAll('tbody tr').length === 12");
    browser.check_console();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_said() {
    let mut site = populated().await;
    let browser = Browser::start();
    browser.open(&site.url("/"));
    browser.until_text("Ready");
    site.stop_server().await;
    browser.until("document.body.classList.contains('lost')");
    browser.until_text("Connection lost. What you see is from");
}

/// The forms and links alone do everything: the test is the browser's server side.
#[tokio::test(flavor = "multi_thread")]
async fn pages_need_no_script_and_nothing_from_elsewhere() {
    let site = populated().await;
    for path in all_pages(&site).await {
        let (head, page) = get(&site, &path);
        assert!(
            head.contains("content-security-policy: default-src 'none'"),
            "{head}"
        );
        assert!(
            !page.contains(" style=") && !page.contains("<script>") && !page.contains(" onclick="),
            "{path}"
        );
        let foreign = page
            .match_indices("http")
            .filter(|(at, _)| !page[*at..].starts_with("http-equiv"));
        let foreign: Vec<&str> = foreign
            .map(|(at, _)| &page[at..page.len().min(at + 60)])
            .collect();
        assert!(foreign.is_empty(), "{path}: {foreign:?}");
    }
    let (_, page) = get(&site, "/queues");
    assert!(page.contains("action=\"/queues/mail/pause\""), "{page}");
}

/// One request; head in lower case, and body.
pub(crate) fn get(site: &Site, path: &str) -> (String, String) {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(site.address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        site.address
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}
