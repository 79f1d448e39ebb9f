//! I50: what decodes meets damaged bytes. It says what is wrong or gives a value, in bounded
//! memory; it never panics and never ends the process.
//!
//! The corpus of `fuzz/`, then inputs of a seed (`BRIGADE_SEED` repeats a run), some ten thousand
//! by default and half a million under `BRIGADE_FULL=1`, through each function of
//! [`crate::fuzzing`].

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use brigade_testkit::mutate::Mutator;
use brigade_testkit::random::Random;
use brigade_testkit::{count, facts};

use crate::attempt_limits::AttemptLimits;
use crate::codec::Codec;
use crate::fuzzing::{self, packed};
use crate::job_context::JobContext;
use crate::outcome::Failure;
use crate::payload::Bytes;
use crate::refused::Refused;
#[cfg(feature = "remote")]
use crate::retry::Retry;
use crate::sandbox::Sandbox;
use crate::wire::{
    self, CallMeta, CancelFrame, Decoder, Hello, HookCall, PanicNote, Ready, RunTarget,
    StartFailed, TaskDefaults, WorkerSettings,
};

/// What all of it together may take, with what other tests of this process take; lengths of
/// gigabytes are announced.
const MEMORY_BYTES_MAX: u64 = 256 << 20;

/// The inputs in `fuzz/corpus` for one target.
fn corpus_of(target: &str) -> Vec<Vec<u8>> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let files = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    files
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect()
}

/// Feeds inputs to a target, and looks at the memory.
pub(crate) fn feed(
    target: &str,
    more: Vec<Vec<u8>>,
    inputs: (usize, usize),
    mut decode: impl FnMut(&[u8]),
) {
    let corpus = [corpus_of(target), more].concat();
    corpus.iter().for_each(|input| decode(input));
    let mut mutator = Mutator::new(Random::from_env(), corpus);
    let peak = || facts::peak_bytes(std::process::id());
    let before = peak();
    for _ in 0..count(inputs.0, inputs.1) {
        decode(&mutator.draw());
    }
    let grown = peak().saturating_sub(before);
    assert!(grown < MEMORY_BYTES_MAX, "{grown} bytes more than before");
}

fn job_context() -> JobContext {
    JobContext {
        id: "emails/7".to_owned(),
        queue: "emails".to_owned(),
        key: Some("k".to_owned()),
        label: None,
        attempt: 2,
        history: 1,
        traceparent: None,
    }
}

fn limits() -> AttemptLimits {
    AttemptLimits::new()
        .memory(1 << 20)
        .cpu(Duration::from_secs(10))
        .processes(0)
}

fn task_defaults() -> TaskDefaults {
    TaskDefaults {
        name: "add".to_owned(),
        timeout: Some(Duration::from_secs(1)),
        queue_timeout: Some(Duration::from_secs(2)),
        limits: limits(),
        sandbox: Some(Sandbox::read_only()),
        priority: Some(-1),
        retries: Some(3),
        retry: Some(Retry::default().into()),
        labels: vec!["gpu".into()],
    }
}

fn messages() -> Vec<Vec<u8>> {
    let settings = WorkerSettings {
        worker: 3,
        slots: 10,
        payload_bytes_max: 1 << 30,
        cpu: Some(1),
        nice: -5,
        init: Some(HookCall {
            offset: 4096,
            args: vec![1, 2, 3],
        }),
        teardown: None,
        drop_after: Duration::from_millis(1500),
        log_level: 3,
        report_tasks: true,
        oom_score_adj: 100,
        core_dumps: false,
        runs_once: false,
    };
    let call = CallMeta {
        target: RunTarget::Task("thumbnail".into()),
        attempt: 1,
        codec: Codec::Json,
        timeout: Some(Duration::from_secs(30)),
        limits: limits(),
        sandbox: Some(Sandbox::compute()),
        tell_start: true,
        tick: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
        number: Some(1 << 33),
        job: Some(Cow::Owned(job_context())),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            .parse()
            .ok(),
    };
    vec![
        packed(&Hello {
            magic: wire::MAGIC,
            version: wire::VERSION,
            build: 7,
            settings,
        }),
        packed(&Ready {
            magic: wire::MAGIC,
            version: wire::VERSION,
            build: 7,
            tasks: vec![task_defaults()],
        }),
        packed(&StartFailed {
            message: "no".to_owned(),
        }),
        packed(&call),
        packed(&CallMeta {
            target: RunTarget::Function(1 << 40),
            ..call
        }),
        packed(&CancelFrame {
            reason: "user left".to_owned(),
        }),
        packed(&PanicNote {
            message: "boom".to_owned(),
            location: "main.rs:1:1".to_owned(),
        }),
        packed(&Refused::ResultTooLarge {
            bytes: 1 << 40,
            max: 1 << 30,
        }),
        packed(&Refused::UnknownTask("hello".to_owned())),
        packed(&Failure::new("it failed")),
    ]
}

/// Messages between hosts and pools.
#[cfg(feature = "remote")]
fn messages_between_hosts() -> Vec<Vec<u8>> {
    use wire::remote::{Run, StopCall, TurnedAway, Welcome};
    let (magic, version, brigade) = (
        wire::remote::MAGIC,
        wire::remote::VERSION,
        "0.1.0".to_owned(),
    );
    let welcome = Welcome {
        magic,
        version,
        brigade: brigade.clone(),
        build: 7,
        pool: [8; 16],
        worker: 3,
        resumed: true,
        drop: vec![1 << 40],
        payload_bytes_max: 1 << 30,
        beat: Duration::from_secs(1),
        keep: Duration::from_secs(30),
    };
    let run = Run {
        target: RunTarget::Task("thumbnail".into()),
        number: 9,
        attempt: 2,
        codec: Codec::Json,
        timeout: Some(Duration::from_secs(30)),
        limits: AttemptLimits::default(),
        sandbox: Some(Sandbox::no_network()),
        capture: Some(1 << 16),
        alone: true,
        fresh: false,
        ahead: true,
        tick: Some(SystemTime::UNIX_EPOCH),
        job: Some(Cow::Owned(job_context())),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            .parse()
            .ok(),
    };
    let mut all = vec![
        packed(&introduction()),
        packed(&welcome),
        packed(&run),
        packed(&StopCall {
            reason: "user left".into(),
            hurry: false,
        }),
    ];
    all.push(packed(&TurnedAway {
        magic,
        version,
        brigade,
        reason: "no".to_owned(),
    }));
    all.extend(answers_of_hosts());
    all
}

/// How a host introduces itself.
#[cfg(feature = "remote")]
fn introduction() -> wire::remote::Join {
    use wire::remote::{Join, MAGIC, TaskLine, VERSION};
    let task = TaskLine {
        name: "add".to_owned(),
        signature: "fn((i64, i64)) -> i64".to_owned(),
        idempotent: true,
        retries: Some(3),
        retry: Some(Retry::default().into()),
    };
    Join {
        magic: MAGIC,
        version: VERSION,
        brigade: "0.1.0".to_owned(),
        build: 7,
        session: [7; 16],
        pool: Some([8; 16]),
        held: vec![(1, 1), (1 << 40, 2)],
        name: "far".to_owned(),
        pid: 7,
        slots: 40,
        labels: vec!["gpu".to_owned()],
        functions: false,
        leaving: true,
        tasks: vec![task],
    }
}

/// How a host says that a call ended.
#[cfg(feature = "remote")]
fn answers_of_hosts() -> Vec<Vec<u8>> {
    use wire::remote::{AnswerHead, OutputSizes, RefusalKind, RemoteOutcome};
    let written = OutputSizes {
        stdout_bytes: 3,
        stdout_dropped: 0,
        stderr_bytes: 3,
        stderr_dropped: 7,
    };
    let endings = [
        RemoteOutcome::Done,
        RemoteOutcome::Failed(Box::new(Failure::new("no"))),
        RemoteOutcome::Stopped {
            report: None,
            step: crate::attempt_report::Step::Killed,
        },
        RemoteOutcome::Passed(vec!["busy".to_owned()]),
        RemoteOutcome::Refused {
            why: RefusalKind::TooLarge,
            text: "too large".to_owned(),
        },
    ];
    let mut all = vec![packed(&AnswerHead {
        ending: RemoteOutcome::Returned,
        output: Some(written),
        cost: Some((7, crate::attempt_report::Cost::default())),
    })];
    all.extend(endings.map(|ending| {
        packed(&AnswerHead {
            ending,
            output: None,
            cost: None,
        })
    }));
    all
}

#[cfg(feature = "remote")]
#[test]
fn i50_messages_between_hosts() {
    feed(
        "host_messages",
        messages_between_hosts(),
        (20_000, 2_000_000),
        fuzzing::host_messages,
    );
}

#[cfg(feature = "remote")]
mod transport {
    use super::*;
    use crate::remote::transport::fuzzing::recorded;

    #[test]
    fn i50_urls_of_listeners() {
        feed("urls", Vec::new(), (20_000, 500_000), fuzzing::urls);
    }

    #[test]
    fn i50_handshakes() {
        feed(
            "handshakes",
            Vec::new(),
            (5_000, 100_000),
            fuzzing::handshakes,
        );
    }

    #[test]
    fn i50_records() {
        feed(
            "records",
            vec![recorded()],
            (5_000, 100_000),
            fuzzing::records,
        );
    }
}

#[test]
fn i50_control_messages() {
    feed(
        "control_messages",
        messages(),
        (20_000, 500_000),
        fuzzing::control_messages,
    );
}

#[test]
fn i50_frames() {
    let frame = |kind, id, body: &[u8]| [&wire::encode(kind, id, body.len())[..], body].concat();
    let frames: Vec<_> = messages()
        .iter()
        .zip(1..)
        .map(|(body, kind)| frame(kind, 7, body))
        .collect();
    let all = frames.concat();
    let streams = frames
        .iter()
        .chain([&all])
        .map(|stream| [&[17], &stream[..]].concat())
        .collect();
    feed("frames", streams, (20_000, 500_000), fuzzing::frames);
}

#[test]
fn i50_a_length_of_4_gib_takes_no_memory() {
    let before = facts::peak_bytes(std::process::id());
    for (limit, is_refused) in [(1 << 30, true), (usize::MAX, false)] {
        let mut decoder = Decoder::new(limit);
        decoder
            .buffer()
            .extend_from_slice(&[&[0xff; 4][..], &[1, 0, 0, 0], &[0; 8]].concat());
        assert_eq!(decoder.next().is_err(), is_refused);
        assert!(decoder.buffer().capacity() <= 8 << 20);
    }
    let length = packed(&(u64::from(u32::MAX)));
    assert!(Codec::Postcard.decode::<Vec<u8>>(&length).is_err());
    assert!(Codec::Postcard.decode::<Vec<String>>(&length).is_err());
    assert!(Codec::Postcard.decode::<String>(&length).is_err());
    assert!(Codec::Postcard.decode::<Bytes>(&length).is_err());
    // Values without bytes are counted, not kept.
    let units = packed(&3_000_000_u64);
    assert_eq!(
        Codec::Postcard.decode::<Vec<()>>(&units).unwrap().len(),
        3_000_000
    );
    assert!(facts::peak_bytes(std::process::id()) - before < MEMORY_BYTES_MAX);
}

/// NestedValue as deep as the bytes say.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
enum NestedValue {
    Leaf,
    Pair(Vec<serde_json::Value>),
}

#[test]
fn i50_a_million_brackets_are_an_error() {
    for (open, close, depth) in [
        ("[", "]", 1_000_000),
        ("{\"a\":", "}", 100_000),
        ("{\"Pair\":[", "]}", 100_000),
    ] {
        let begun = open.repeat(depth);
        let whole = format!("{begun}0{}", close.repeat(depth));
        for text in [&begun, &whole] {
            assert!(
                Codec::Json
                    .decode::<serde_json::Value>(text.as_bytes())
                    .is_err()
            );
            assert!(Codec::Json.decode::<NestedValue>(text.as_bytes()).is_err());
            assert!(Codec::Json.decode::<Vec<Vec<u8>>>(text.as_bytes()).is_err());
        }
        // A payload is kept as text and not built, so that its depth does not matter.
        assert!(serde_json::from_str::<&serde_json::value::RawValue>(&begun).is_err());
        assert!(serde_json::from_str::<&serde_json::value::RawValue>(&whole).is_ok());
    }
}

#[test]
fn i50_values() {
    feed(
        "json_values",
        Vec::new(),
        (20_000, 500_000),
        fuzzing::json_values,
    );
    let value = serde_json::json!({"name": "a", "list": [1, 2.5, -3e7], "deep": {"x": [[[]]]}});
    let corpus = vec![
        Codec::default().encode(&value).unwrap(),
        Codec::default()
            .encode(&(7, "a", Some(Some(7)), true))
            .unwrap(),
    ];
    feed(
        "packed_values",
        corpus,
        (20_000, 500_000),
        fuzzing::packed_values,
    );
}

mod broker {
    use super::*;
    use brigade_core::job::{AttemptKind, AttemptRecord, Job};
    use brigade_core::schedule::Schedule;

    fn json(value: &impl serde::Serialize) -> Vec<u8> {
        serde_json::to_vec(value).unwrap()
    }

    #[test]
    fn i50_jobs_limits_and_histories_in_json() {
        let job = Job::new("emails", Some("send".into()), r#"["a@b.c"]"#)
            .priority(-3)
            .retries(5)
            .delay(Duration::from_secs(3600));
        let (at, kind) = (SystemTime::UNIX_EPOCH, AttemptKind::Crashed);
        let record = AttemptRecord {
            attempt: 1,
            at,
            kind,
            reason: "no".to_owned(),
            report: None,
            stop: None,
        };
        feed(
            "jobs",
            vec![json(&job), json(&record)],
            (20_000, 500_000),
            fuzzing::jobs,
        );
    }

    #[test]
    fn i50_schedules_and_cron() {
        let job = || Job::new("emails", None, "null");
        let plans = [
            Schedule::cron("nightly", "0 3 * * *", job())
                .unwrap()
                .zone("Europe/Berlin"),
            Schedule::cron("odd", "*/7 0-5 1 2 *", job()).unwrap(),
            Schedule::every("often", Duration::from_secs(90), job()).unwrap(),
        ];
        let corpus = plans.iter().map(|schedule| {
            [
                &1_700_000_000_000_i64.to_le_bytes()[..],
                &json(&schedule.plan),
            ]
            .concat()
        });
        // Each may look through years of a calendar.
        feed(
            "schedules",
            corpus.collect(),
            (1_000, 50_000),
            fuzzing::schedules,
        );
    }
}
