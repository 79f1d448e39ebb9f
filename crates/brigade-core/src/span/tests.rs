//! The table in `docs/tracing.md` has the names of the spans and fields, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, with_default};
use tracing::{Event, Level, Metadata, Span, Subscriber};

use super::*;
use crate::attempt_report::{AttemptOutcome, Exit};

type Fields = BTreeMap<String, BTreeSet<String>>;

/// Notes the fields that each span declares, and the values that are recorded.
#[derive(Clone, Default)]
struct Notes {
    fields: Arc<Mutex<Fields>>,
    recorded: Arc<Mutex<BTreeSet<String>>>,
}

struct Recorded<'a>(&'a mut BTreeSet<String>);

impl tracing::field::Visit for Recorded<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, _: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned());
    }
}

impl Subscriber for Notes {
    /// To be asked each time: what a subscriber wants always, `tracing` takes for wanted by the
    /// tests that run with and after this one, too.
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "brigade" && *metadata.level() == Level::INFO
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let metadata = span.metadata();
        let fields = metadata.fields().iter();
        let names = fields.map(|field| field.name().to_owned()).collect();
        self.fields
            .lock()
            .unwrap()
            .insert(metadata.name().to_owned(), names);
        span.record(&mut Recorded(&mut self.recorded.lock().unwrap()));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut Recorded(&mut self.recorded.lock().unwrap()));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// One span of each kind, with all that can be recorded.
fn make_all() {
    let mut jobs = [Job::new("emails", Some("send".into()), "[]")];
    let span = push(&mut jobs);
    record_pushed(&span, Ok(Some(&JobId::new("7"))));
    let error = Error::new(crate::ErrorKind::Closed, "closed");
    record_pushed(&span, Err(&error));
    let mut attempt = AttemptSpan {
        task: "send",
        attempt: 2,
        job: Some(("7", "emails")),
        call: Some(9),
        label: Some("to Ann"),
        traceparent: None,
        is_first: true,
    };
    let mut report = AttemptReport::new("send", 2, AttemptOutcome::Signalled);
    report.exit = Some(Exit::Signal(6));
    report.host = Some("far".to_owned());
    let error = CallError::Crashed(Box::new(report));
    let end = AttemptEnd::of(Some(&error), None);
    end.record(&attempt.begin(&Span::none()));
    attempt.job = None;
    end.record(&attempt.begin(&Span::none()));
    let run = RunSpan {
        task: "send",
        attempt: 2,
        job: Some(("7", "emails")),
        call: 9,
        worker: 1,
        traceparent: None,
    };
    record_run(&run.begin(), "failed", Some("no"));
    record_response(&request("POST", "/v1/flows", None), 500);
}

/// The fields of each span, as the table has them.
fn documented() -> Fields {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tracing.md");
    let text = std::fs::read_to_string(path).expect("the document is there");
    let table = text.split("## Fields").nth(1).expect("it has the table");
    let table = table.split("\n## ").next().unwrap_or_default();
    let mut fields = Fields::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`');
        for (place, span) in [
            "brigade.push",
            "brigade.attempt",
            "brigade.run",
            "brigade.request",
        ]
        .into_iter()
        .enumerate()
        {
            if cells[2 + place] == "x" {
                let known = fields.entry(span.to_owned()).or_default();
                known.insert(name.to_owned());
            }
        }
    }
    fields
}

#[test]
fn the_document_has_every_span_and_field_and_no_other() {
    let notes = Notes::default();
    with_default(notes.clone(), make_all);
    let fields = notes.fields.lock().unwrap().clone();
    assert_eq!(fields, documented());
    let declared: BTreeSet<String> = fields.into_values().flatten().collect();
    assert_eq!(
        *notes.recorded.lock().unwrap(),
        declared,
        "each field gets its value"
    );
}

#[test]
fn without_a_subscriber_nothing_is_wanted_and_no_span_is_made() {
    assert!(!is_wanted());
    let mut jobs = [Job::new("emails", None, "[]")];
    // With the feature `log` of tracing, which another crate may turn on, it is not none.
    assert!(push(&mut jobs).is_disabled());
    assert_eq!(jobs[0].options.traceparent, None);
}

#[test]
fn a_push_within_an_attempt_belongs_to_its_trace_unless_it_was_given_one() {
    let [of_attempt, given] = ["1", "2"].map(|id| {
        let text = format!("00-{}-{}-01", id.repeat(32), id.repeat(16));
        text.parse::<TraceParent>().unwrap()
    });
    let _attempt = AmbientTrace::enter(Some(&of_attempt));
    let mut jobs = [
        Job::new("emails", None, "[]"),
        Job::new("emails", None, "[]").traceparent(given.clone()),
    ];
    push(&mut jobs);
    let traces = jobs.map(|job| job.options.traceparent);
    assert_eq!(traces, [Some(of_attempt), Some(given)]);
}
