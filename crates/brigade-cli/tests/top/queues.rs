//! What it shows, and what it does to a broker.

use brigade_testkit::rabbitmq::{RabbitMq, namespace};
use brigade_testkit::redis::Redis;
use serde_json::Value;

use crate::terminal::Terminal;

fn queue(terminal: &Terminal, name: &str) -> Value {
    let queues = terminal.run(&["queues", "--json"]);
    let queues = queues
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let found = queues
        .into_iter()
        .find(|queue: &Value| queue["queue"] == name);
    found.unwrap()
}

/// Shows queues, filters them and pauses one after a question.
fn shows_filters_and_pauses(terminal: &Terminal) {
    for _ in 0..3 {
        terminal.run(&["push", "emails", "1"]);
    }
    terminal.run(&["push", "images", "1"]);
    terminal.start_top("");
    terminal.wait_until("both queues", |screen| {
        screen.contains("emails") && screen.contains("images") && screen.contains("4 waiting")
    });
    terminal.type_text("/IMA");
    terminal.wait_until("the filter", |screen| {
        screen.contains("images") && !screen.contains("emails")
    });
    terminal.keys(&["Enter"]);
    terminal.wait_for("filter: IMA");
    terminal.type_text("p");
    terminal.wait_for("Pause images?");
    terminal.type_text("n");
    terminal.wait_for("not done");
    assert_eq!(queue(terminal, "images")["paused"], false);
    terminal.type_text("p");
    terminal.wait_for("Pause images?");
    terminal.type_text("y");
    terminal.wait_for("paused images");
    terminal.wait_for("images (paused)");
    assert_eq!(queue(terminal, "images")["paused"], true);
    assert_eq!(queue(terminal, "emails")["paused"], false);
    terminal.type_text("p");
    terminal.wait_for("Resume images?");
    terminal.type_text("y");
    terminal.wait_until("the end of the pause", |screen| {
        !screen.contains("images (paused)")
    });
    terminal.keys(&["Escape"]);
    terminal.wait_for("emails");
    terminal.type_text("q");
    terminal.wait_for("code 0");
}

#[test]
fn it_shows_filters_and_pauses_queues_of_sqlite() {
    shows_filters_and_pauses(&Terminal::new(110, 24));
}

#[test]
fn it_shows_filters_and_pauses_queues_of_redis() {
    let redis = Redis::start(&[]).unwrap();
    shows_filters_and_pauses(&Terminal::on(redis.url(), 110, 24));
}

#[test]
fn dead_letters_are_retried_in_groups_and_one_job_is_shown() {
    let terminal = Terminal::new(120, 30);
    for n in 0..3 {
        terminal.run(&["push", "emails", &format!("{{\"to\": \"user {n}\"}}")]);
    }
    terminal.fail_all("emails", "echo \"no route to host\" >&2; exit 4");
    terminal.start_top("");
    terminal.type_text("4");
    terminal.wait_until("the group", |screen| {
        screen.contains("exit code #") && screen.contains("emails")
    });
    terminal.keys(&["Enter"]);
    terminal.wait_for("reason or payload");
    terminal.keys(&["Enter"]);
    terminal.wait_until("the job", |screen| {
        screen.contains("failed: exit code 4: no route to host")
            && screen.contains("state        dead")
    });
    terminal.keys(&["Escape"]);
    terminal.wait_for("reason or payload");
    terminal.keys(&["Escape"]);
    terminal.wait_for("r retry all of them");
    terminal.type_text("r");
    terminal.wait_for("Retry 3 dead letters of emails?");
    terminal.type_text("y");
    terminal.wait_for("retrying 3 jobs of emails");
    let counts = &queue(&terminal, "emails")["jobs"];
    assert_eq!((&counts["ready"], &counts["dead"]), (&3.into(), &0.into()));
}

#[test]
fn a_schedule_is_paused_and_resumed_after_a_question() {
    let terminal = Terminal::new(110, 24);
    terminal.run(&["cron", "add", "nightly", "@daily", "reports", "1"]);
    let is_paused = || {
        terminal
            .run(&["cron", "ls", "--json"])
            .contains("\"paused\":true")
    };
    terminal.start_top("");
    terminal.type_text("5");
    terminal.wait_for("nightly");
    terminal.type_text("p");
    terminal.wait_for("Pause nightly?");
    terminal.type_text("y");
    terminal.wait_for("nightly (paused)");
    assert!(is_paused());
    terminal.type_text("p");
    terminal.wait_for("Resume nightly?");
    terminal.type_text("y");
    terminal.wait_until("the end of the pause", |screen| {
        screen.contains("nightly") && !screen.contains("nightly (paused)")
    });
    assert!(!is_paused());
    terminal.type_text("q");
    terminal.wait_for("code 0");
}

#[test]
fn a_running_job_is_shown_with_its_consumer_and_cancelled() {
    let terminal = Terminal::new(120, 30);
    let id = terminal.run(&["push", "reports", "1", "--keep", "1h"]);
    terminal.type_line("\"$BRIGADE\" work reports -- sleep 1000 2> /dev/null &");
    terminal.start_top("");
    terminal.type_text("3");
    terminal.wait_until("the consumer", |screen| screen.contains("reports"));
    terminal.type_text("2");
    terminal.wait_until("the job", |screen| {
        screen.contains("progress") && screen.contains("reports")
    });
    terminal.type_text("c");
    terminal.wait_for(&format!("Cancel job {id}?"));
    terminal.type_text("y");
    terminal.wait_for(&format!("asked the consumer of job {id} to stop it"));
    terminal.wait_for("no job runs");
    let job: Value = serde_json::from_str(&terminal.run(&["job", &id, "--json"])).unwrap();
    assert_eq!(job["state"], "cancelled");
    terminal.type_text("q");
    terminal.wait_for("code 0");
    terminal.type_line("kill %1; wait");
}

#[test]
fn a_broker_that_is_gone_is_shown_and_the_keys_go_on() {
    let mut redis = Redis::start(&["--appendonly", "yes"]).unwrap();
    let terminal = Terminal::on(redis.url(), 100, 24);
    terminal.run(&["push", "emails", "1"]);
    terminal.start_top("--interval 200ms");
    terminal.wait_for("emails");
    redis.kill().unwrap();
    terminal.wait_for("NO DATA");
    terminal.wait_for("emails");
    terminal.type_text("?");
    terminal.wait_for("reverse the order");
    terminal.type_text("x");
    redis.start_again().unwrap();
    terminal.wait_until("the connection", |screen| {
        !screen.contains("NO DATA") && screen.contains("emails")
    });
    terminal.type_text("q");
    terminal.wait_for("code 0");
}

#[test]
fn a_broker_that_hangs_freezes_no_key() {
    let redis = Redis::start(&[]).unwrap();
    let terminal = Terminal::on(redis.url(), 100, 24);
    terminal.run(&["push", "emails", "1"]);
    terminal.start_top("--interval 200ms");
    terminal.wait_for("emails");
    redis.signal(rustix::process::Signal::STOP);
    terminal.wait_for("no answer for");
    terminal.type_text("?");
    terminal.wait_for("reverse the order");
    terminal.type_text("xq");
    terminal.wait_for("code 0");
    redis.signal(rustix::process::Signal::CONT);
}

#[test]
fn it_does_nothing_to_a_broker_if_it_may_only_read() {
    let terminal = Terminal::new(100, 24);
    terminal.run(&["push", "emails", "1"]);
    terminal.start_top("--read-only");
    terminal.wait_for("emails");
    terminal.type_text("p");
    terminal.wait_for("not done: brigade top runs with --read-only");
    assert_eq!(queue(&terminal, "emails")["paused"], false);
}

/// RabbitMQ: what runs is known from the consumers, and the other tabs say what the broker cannot.
#[test]
fn it_says_what_a_broker_without_lists_cannot_show() {
    let server = RabbitMq::shared().unwrap().url();
    let terminal = Terminal::on(format!("{server}/?ns={}", namespace()), 120, 24);
    terminal.run(&["push", "print", "1"]);
    terminal.type_line(
        "\"$BRIGADE\" work print -- sh -c 'cat; until [ -e end ]; do sleep 0.1; done' &",
    );
    terminal.start_top("--interval 200ms");
    terminal.wait_for("This broker does not list its queues and jobs.");
    terminal.wait_for("rabbitmqctl list_queues");
    let print_row = |screen: &str| screen.lines().any(|line| line.contains(" print "));
    terminal.type_text("2");
    terminal.wait_until("the job that runs", print_row);
    terminal.keys(&["Enter"]);
    terminal.wait_for("This broker does not list its queues and jobs.");
    terminal.keys(&["Escape"]);
    terminal.wait_until("the job that runs", print_row);
    terminal.type_text("c");
    terminal.wait_for("this broker cannot do that");
    terminal.type_text("3");
    terminal.wait_until("its consumer", |screen| {
        screen.contains("print") && screen.contains("1/1")
    });
    terminal.type_text("4");
    terminal.wait_for("This broker does not list its queues and jobs.");
    terminal.type_text("5");
    terminal.wait_for("This broker keeps no schedules.");
    terminal.type_text("q");
    terminal.wait_for("code 0");
    terminal.type_line("touch end; kill %1; wait; echo ended");
    terminal.wait_until("the end of the consumer", |screen| {
        screen.lines().any(|line| line == "ended")
    });
}
