//! JSON that stores keep, drawn at random: it comes back as the very text that was pushed.

use std::fmt::Write as _;
use std::time::Duration;

use brigade::JobState;
use fastrand::Rng;
use serde_json::value::RawValue;

use crate::case::{Case, case};
use crate::seed::{count, seed};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[case!(any_json_comes_back_as_the_text_that_was_pushed)];

const LONG: Duration = Duration::from_secs(30);
const ROUND: usize = 25;

/// What other programs write, and what a store that reads it into values of its own would change:
/// numbers of many digits, empty lists and objects, names twice, escapes.
fn draw(random: &mut Rng, text: &mut String, levels: u8) {
    let scalars = [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "-0.0",
        "1.0",
        "1e2",
        "0.1",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775809",
        "340282366920938463463374607431768211455",
        "9007199254740993",
        "1.7976931348623157e308",
        "5e-324",
        "1e400",
        "3.14159265358979323846264338327950288",
        r#""""#,
        r#""null""#,
        r#""\u0000""#,
        r#""\ud83e\udd80""#,
        r#""ü🦀\u202e""#,
        r#""\"\\\/\b\f\n\r\t""#,
        r#""{emails}""#,
        "[]",
        "{}",
        "[{}]",
        r#"{"":[]}"#,
    ];
    let names = [
        r#""""#,
        r#""a""#,
        r#""a""#,
        r#""\u0061""#,
        r#""0""#,
        r#""ü""#,
    ];
    let inside = levels.saturating_sub(1);
    match random.u64(0..4) {
        0 if levels > 0 => {
            text.push('[');
            for index in 0..random.u64(0..4) {
                text.push_str(if index > 0 { "," } else { "" });
                draw(random, text, inside);
            }
            text.push(']');
        }
        1 if levels > 0 => {
            text.push('{');
            for index in 0..random.u64(0..4) {
                let name = random.choice(names).unwrap();
                write!(text, "{}{name}:", if index > 0 { "," } else { "" }).unwrap();
                draw(random, text, inside);
            }
            text.push('}');
        }
        _ => text.push_str(random.choice(scalars).unwrap()),
    }
}

fn json(random: &mut Rng) -> Box<RawValue> {
    let mut text = String::new();
    draw(random, &mut text, 5);
    RawValue::from_string(text).unwrap()
}

/// One after the other: pushed, given back once, leased again, done with a result.
async fn there_and_back(subject: &Subject, random: &mut Rng) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("any"));
    let (payload, result) = (json(random), json(random));
    let keeps_results = broker.capabilities().results;
    let mut job = queue.job(&payload).unwrap().retries(1);
    if keeps_results {
        job = job.keep(LONG);
    }
    let id = broker.push(job).await.unwrap().id().clone();
    let first = queue.lease(LONG, LONG).await.unwrap().unwrap();
    assert_eq!(first.json(), payload.get());
    first.give_back("for the next").await.unwrap();
    let second = queue.lease(LONG, LONG).await.unwrap().unwrap();
    assert_eq!(second.json(), payload.get());
    if keeps_results {
        second.ack_with(&result).await.unwrap();
        let done = broker.job(&id).await.unwrap().unwrap();
        assert_eq!(
            (done.state, done.result.as_deref()),
            (JobState::Done, Some(result.get()))
        );
    } else {
        second.ack().await.unwrap();
    }
}

async fn any_json_comes_back_as_the_text_that_was_pushed(subject: Subject) {
    let mut random = Rng::with_seed(seed());
    for _ in 0..count(ROUND, 100 * ROUND) {
        there_and_back(&subject, &mut random).await;
    }
}
