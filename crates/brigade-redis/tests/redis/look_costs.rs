//! What looks cost the server, counted in scripts, commands and connections: it does not grow with
//! what the look does not show.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use brigade::{Broker, DeadGroup, EventRequest, JobFilter, JobState, StatisticsFilter};
use brigade_testkit::redis::Redis;

use crate::many_queues::scripts;
use crate::stage::{LONG, NOW, millis, plain, start, tell};

/// Calls of a command so far, also those of scripts.
fn calls(server: &Redis, command: &str) -> u64 {
    let stats = server.ask("INFO commandstats").unwrap();
    let name = format!("cmdstat_{command}:calls=");
    let line = stats.lines().find_map(|line| line.strip_prefix(&name));
    let calls = line.and_then(|rest| rest.split(',').next()?.parse().ok());
    calls.unwrap_or(0)
}

/// Jobs of a queue that another program has put there, which is quicker: `each` is what is done
/// with the number `i` and the text `id` of each.
fn put(server: &Redis, queue: &str, count: usize, each: &str) {
    let script = format!(
        "local q = 'brigade:{{{queue}}}:' for i = 1, {count} do local id = \
        string.format('%016.0f', i + (tonumber(redis.call('GET', q .. 'seq')) or 0)) \
        redis.call('HSET', q .. 'job:' .. id, 'token', '1', 'attempts', '1', 'pushed_at', i, \
        'payload', i) redis.call('ZADD', q .. 'jobs', 0, id) {each} end redis.call('INCRBY', q \
        .. 'seq', {count}) redis.call('SADD', 'brigade:queues', '{queue}')"
    );
    tell::<()>(&mut plain(server), &["EVAL", &script, "0"]);
}

/// Makes a dead letter of a job, with a reason as Lua has it.
fn dead(reason: &str) -> String {
    format!(
        "redis.call('HSET', q .. 'job:' .. id, 'state', 'dead', 'reason', {reason}) \
        redis.call('ZADD', q .. 'dead', 0, id)"
    )
}

async fn sum(broker: &Broker) -> (usize, u64) {
    let groups = broker.dead_groups(Some("q")).await.unwrap();
    let sum = groups.iter().map(|group| group.count).sum();
    (groups.len(), sum)
}

#[tokio::test]
async fn a_look_at_groups_of_dead_letters_reads_none_of_them_after_the_first() {
    let (server, broker) = start(&[]).await;
    broker.queue("q").push(&"ready").await.unwrap();
    put(&server, "q", 5_000, &dead("'took ' .. i .. ' ms'"));
    assert_eq!(sum(&broker).await, (1, 5_000));
    for change in 0..3 {
        let filter = JobFilter {
            state: Some(JobState::Dead),
            limit: 2,
            ..JobFilter::default()
        };
        let jobs = broker.find(&filter).await.unwrap().jobs;
        assert!(broker.delete(&jobs[0].id).await.unwrap());
        assert!(broker.retry(&jobs[1].id).await.unwrap());
        let lease = broker.queue("q").lease(LONG, NOW).await.unwrap().unwrap();
        lease.dead_letter("refused").await.unwrap();
        let before = (scripts(&server), calls(&server, "hmget"));
        assert_eq!(sum(&broker).await, (2, 4_999 - change));
        let (scripts, read) = (
            scripts(&server) - before.0,
            calls(&server, "hmget") - before.1,
        );
        assert!(scripts <= 3 && read <= 10, "{scripts} scripts, {read} jobs");
    }
}

#[tokio::test]
async fn groups_are_right_again_after_the_server_or_a_program_has_removed_dead_letters() {
    let (server, broker) = start(&[]).await;
    put(&server, "q", 1_200, &dead("i % 2 == 0 and 'even' or 'odd'"));
    assert_eq!(sum(&broker).await, (2, 1_200));
    let mut connection = plain(&server);
    let removed = ["ZREMRANGEBYRANK", "brigade:{q}:dead", "0", "0"];
    tell::<()>(&mut connection, &removed);
    assert_eq!(sum(&broker).await, (2, 1_199));
    for key in ["brigade:{q}:dead_groups", "brigade:{q}:dead_by_group"] {
        tell::<()>(&mut connection, &["DEL", key]);
        assert_eq!(sum(&broker).await, (2, 1_199), "{key}");
        let kept: i64 = tell(&mut connection, &["PTTL", key]);
        assert!(kept > 0, "{key} does not stay for ever");
    }
}

#[tokio::test]
async fn very_many_reasons_are_few_groups_and_few_keys() {
    let (server, broker) = start(&[]).await;
    let reason = "'reason ' .. string.char(97 + i % 26) .. string.rep('x', i % 997) .. ' ' .. i";
    put(&server, "q", 8_000, &dead(reason));
    let (groups, count) = sum(&broker).await;
    assert!(groups <= DeadGroup::GROUPS_MAX + 1, "{groups}");
    assert_eq!(count, 8_000);
    let kept: usize = tell(&mut plain(&server), &["HLEN", "brigade:{q}:dead_groups"]);
    assert!(kept <= 2 * DeadGroup::GROUPS_MAX + 2, "{kept}");
}

#[tokio::test]
async fn a_page_of_a_large_state_ends_after_many_jobs_of_others() {
    let (server, broker) = start(&[]).await;
    put(&server, "q", 25_000, &dead("'broken'"));
    let ready = "redis.call('HSET', q .. 'job:' .. id, 'state', 'ready') redis.call('ZADD', q .. \
        'ready', 0, id)";
    tell::<()>(&mut plain(&server), &["INCRBY", "brigade:{q}:seq", "1"]);
    put(&server, "q", 21_000, ready);
    let mut filter = JobFilter {
        queue: Some("q".into()),
        state: Some(JobState::Ready),
        limit: 50,
        ..JobFilter::default()
    };
    let mut pages = 0;
    let page = loop {
        let before = calls(&server, "hmget");
        let page = broker.find(&filter).await.unwrap();
        let read = calls(&server, "hmget") - before;
        assert!(read <= JobFilter::READ_MAX as u64 + 1_000, "{read}");
        pages += 1;
        if !page.jobs.is_empty() {
            break page;
        }
        filter.after = page.next;
        assert!(filter.after.is_some(), "it says where to go on");
    };
    assert!(pages > 1);
    assert!(page.jobs.iter().all(|job| job.state == JobState::Ready));
    assert!(page.next.is_some());
}

/// Commands that the server carries out from now on, until the mark.
struct Monitored(BufReader<UnixStream>);

impl Monitored {
    fn start(server: &Redis) -> Self {
        let mut stream = UnixStream::connect(server.socket()).unwrap();
        stream.write_all(b"MONITOR\r\n").unwrap();
        let mut lines = BufReader::new(stream);
        lines.read_line(&mut String::new()).unwrap();
        Self(lines)
    }

    fn until_now(self, server: &Redis) -> Vec<String> {
        server.ask("ECHO monitored").unwrap();
        let lines = self.0.lines().map(Result::unwrap);
        let is_before = |line: &String| !line.to_lowercase().contains("\"echo\" \"monitored\"");
        lines.take_while(is_before).collect()
    }
}

#[tokio::test]
async fn a_script_of_statistics_reads_one_hour_of_a_queue() {
    let (server, broker) = start(&[]).await;
    for number in 0..5 {
        let queue = broker.queue(format!("q{number}").as_str());
        queue.push(&number).await.unwrap();
    }
    let monitored = Monitored::start(&server);
    let all = broker
        .statistics(StatisticsFilter::default())
        .await
        .unwrap();
    assert_eq!(
        all.iter().map(|counts| counts.counts.pushed).sum::<u64>(),
        5
    );
    let lines = monitored.until_now(&server);
    let hours = lines.iter().filter(|line| line.contains(":minutes:"));
    let (in_scripts, alone): (Vec<_>, Vec<_>) = hours.partition(|line| line.contains(" lua]"));
    assert_eq!(in_scripts.len(), 5, "{lines:#?}");
    assert!(alone.len() >= 5 * 23, "{}", alone.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_wait_for_events_again_and_again_open_no_connections() {
    const READERS: u64 = 20;
    let (server, broker) = start(&[]).await;
    let after = broker.events(EventRequest::default()).await.unwrap().next;
    let wait_together = || async {
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let (broker, after) = (broker.clone(), after.clone());
                let request = EventRequest {
                    after: Some(after),
                    max: 10,
                    wait: millis(100),
                    ..EventRequest::default()
                };
                tokio::spawn(async move { broker.events(request).await })
            })
            .collect();
        for reader in readers {
            reader.await.unwrap().unwrap();
        }
    };
    let opened = || {
        let stats = server.ask("INFO stats").unwrap();
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().parse::<u64>().unwrap()
    };
    wait_together().await;
    let before = opened();
    for _ in 0..3 {
        wait_together().await;
    }
    // This one asks with a connection of its own; a reader that is late by chance may open one.
    let opened = opened() - before;
    assert!(opened <= READERS / 2, "{opened}");
}
