use std::time::{Duration, SystemTime};

use brigade::{Blocker, Explanation, JobId, JobState, QueueCounts, Rate};

use super::*;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn queue(name: &str, waits: u64) -> QueueCounts {
    let mut queue = QueueCounts::new(name);
    queue.jobs = vec![(JobState::Ready, 12), (JobState::Leased, 5)];
    queue.waits_since = Some(now() - Duration::from_secs(waits));
    queue
}

/// The sentences for queues of which the first waits for this reason.
fn found_for(queues: &[QueueCounts], blocker: Option<Blocker>) -> Vec<Sentence> {
    let explanation = blocker.map(|blocker| {
        let name = queues[0].queue.clone();
        Explanation::new(JobId::new("1"), name, JobState::Ready, vec![blocker])
    });
    // Of the first queues, only that one has a reason.
    let asked = queues.iter().take(2).enumerate();
    let reasons: Vec<(String, Option<Explanation>)> = asked
        .map(|(place, queue)| {
            let explanation = explanation.clone().filter(|_| place == 0);
            (queue.queue.clone(), explanation)
        })
        .collect();
    sentences(&SentenceFacts {
        now: now(),
        queues,
        reasons: &reasons,
        findings: &[],
        recent_dead: &[],
        per_minute: Some(412.3),
    })
}

#[test]
fn all_is_well_while_nothing_waits_long() {
    let found = found_for(&[queue("mail", 2)], None);
    assert_eq!(
        found[0].text(),
        "All well: 412 jobs/min, nothing waits longer than 3 s"
    );
    assert_eq!(found[0].mood, Mood::Well);
}

#[test]
fn a_queue_at_its_limit_is_told_with_the_limit_and_the_way_to_it() {
    let blocker = Blocker::RunningLimit {
        partition: None,
        limit: 5,
        running: 5,
    };
    let found = found_for(&[queue("mail", 14 * 60)], Some(blocker));
    let text = "Queue `mail` waits 14 min: its limit of 5 running is used up";
    assert_eq!(found[0].text(), text);
    let action = found[0].action.as_ref().unwrap();
    assert_eq!(action.path, "/queues/mail#limits");
}

#[test]
fn a_queue_without_consumers_is_worse_than_one_that_is_busy() {
    let blocker = Blocker::NoConsumer {
        since: Duration::from_secs(60),
    };
    let found = found_for(&[queue("mail", 70), queue("slow", 7_200)], Some(blocker));
    assert_eq!(found[0].mood, Mood::Problem);
    assert!(
        found[0].text().contains("no consumer has asked"),
        "{}",
        found[0].text()
    );
    assert_eq!(
        found[1].text(),
        "Queue `slow` waits 2 h: its consumers are busy with 5 jobs"
    );
}

#[test]
fn a_paused_queue_is_told_with_what_waits_in_it() {
    let mut paused = queue("mail", 3);
    paused.paused = true;
    let found = found_for(&[paused], None);
    assert_eq!(
        found[0].text(),
        "Queue `mail` is paused, with 12 ready jobs"
    );
    assert!(found[0].action.as_ref().unwrap().is_change);
}

#[test]
fn a_rate_limit_is_told_with_its_time() {
    let blocker = Blocker::RateLimit {
        partition: Some("acme".to_owned()),
        rate: Rate {
            starts: 10,
            per: Duration::from_secs(60),
        },
        free_in: Duration::from_secs(12),
    };
    let found = found_for(&[queue("mail", 90)], Some(blocker));
    let text = found[0].text();
    assert!(
        text.contains("10 starts within 60 s") && text.contains("acme"),
        "{text}"
    );
}

#[test]
fn queues_without_a_known_reason_share_a_sentence() {
    let blocker = Blocker::NoConsumer {
        since: Duration::from_secs(60),
    };
    let queues = ["a", "b", "c", "d"].map(|name| queue(name, 240));
    let found = found_for(&queues, Some(blocker));
    let texts: Vec<String> = found.iter().map(Sentence::text).collect();
    let expected = [
        "Queue `a` waits 4 min: no consumer has asked for its jobs in the last 60 s",
        "Queue `b` waits 4 min: its consumers are busy with 5 jobs",
        "2 more queues wait long, up to 4 min",
    ];
    assert_eq!(texts, expected);
}

#[test]
fn many_findings_of_the_check_share_a_sentence() {
    let finding = |name: &str| Finding::new(Level::Warning, format!("{name} is odd"), "look");
    let found = without_list(Some(&[]), &["a", "b", "c"].map(finding));
    assert_eq!(found.len(), 2);
    let text = "A is odd, and 2 more findings of the check";
    assert_eq!(found[0].text(), text);
    let few = without_list(Some(&[]), &["a", "b"].map(finding));
    assert_eq!(few.len(), 3);
}
