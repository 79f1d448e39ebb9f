//! Random keys, readings and sizes: nothing panics, and nothing that a terminal would obey is
//! drawn. `BRIGADE_SEED` repeats a run.

use std::collections::HashMap;
use std::time::{Instant, SystemTime};

use brigade::{Capabilities, DeadGroup, JobId, JobState, LiveConsumer, QueueCounts, RunningJob};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};

use super::app::{App, Effect};
use super::data::{Data, Reading, Run, Totals};
use super::draw::draw;
use super::page::{BROKER_TABS, Page};
use super::rates::QueueRates;

/// At least so many steps; more, up to the bound, until the keys reached an action and the end.
const STEPS: usize = 800;
const MOST_STEPS: usize = 100 * STEPS;
const KEYS: &str = "q?123456789jkgG/isSpcry nyx\u{1b}\n\t\u{8}漢é";
const NAMES: [&str; 6] = [
    "emails",
    "漢字の列",
    "\u{1b}[2J\u{202e}evil",
    "",
    "a\u{301}\u{200d}👩‍👩‍👧",
    "a name that is longer than any column of a table could ever be, on every terminal there is",
];

fn name(random: &mut fastrand::Rng) -> String {
    NAMES[random.usize(..NAMES.len())].to_owned()
}

fn key(random: &mut fastrand::Rng) -> Event {
    let all: Vec<char> = KEYS.chars().collect();
    let code = match all[random.usize(..all.len())] {
        '\u{1b}' => KeyCode::Esc,
        '\n' => KeyCode::Enter,
        '\t' => KeyCode::Tab,
        '\u{8}' => KeyCode::Backspace,
        'x' => KeyCode::PageDown,
        'n' => KeyCode::Down,
        char => KeyCode::Char(char),
    };
    match random.u8(..20) {
        0 => Event::Paste(NAMES[2].to_owned()),
        1 => Event::Resize(random.u16(..300), random.u16(..100)),
        2 => Event::Key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL)),
        _ => Event::Key(KeyEvent::new(code, KeyModifiers::NONE)),
    }
}

fn data(page: &Page, random: &mut fastrand::Rng) -> Data {
    let count = random.usize(..60);
    let now = SystemTime::now();
    match page {
        Page::Queues => {
            let queue = |place: usize, random: &mut fastrand::Rng| {
                let mut queue = QueueCounts::new(format!("{place}{}", name(random)));
                queue.paused = random.bool();
                queue.jobs = vec![(JobState::Ready, random.u64(..)), (JobState::Dead, 1)];
                queue.waits_since = random.bool().then_some(now);
                queue
            };
            let queues: Vec<_> = (0..count).map(|place| queue(place, random)).collect();
            let rates = queues.iter().map(|queue| {
                let rates = QueueRates {
                    done: Some(f64::NAN),
                    spark: vec![0, u64::MAX, 3],
                    ..QueueRates::default()
                };
                (queue.queue.clone(), rates)
            });
            let rates: HashMap<_, _> = rates.collect();
            Data::Queues(queues, rates)
        }
        Page::Running => {
            let run = |place: usize, random: &mut fastrand::Rng| Run {
                job: RunningJob::new(JobId::new(place.to_string()), name(random), None, 1),
                holder: name(random),
                cancel: random.bool().then(|| name(random)),
                since: random.bool().then_some(now),
            };
            Data::Running((0..count).map(|place| run(place, random)).collect())
        }
        Page::Consumers => {
            let consumer = |place: usize, random: &mut fastrand::Rng| {
                LiveConsumer::new(place.to_string(), name(random), &[name(random).into()])
            };
            Data::Consumers((0..count).map(|place| consumer(place, random)).collect())
        }
        Page::Dead => {
            let group = |place: u64, random: &mut fastrand::Rng| DeadGroup {
                queue: name(random),
                task: random.bool().then(|| name(random)),
                reason: name(random),
                count: place,
                first: now,
                last: now,
                example: JobId::new("1"),
            };
            Data::Dead(
                (0..count as u64)
                    .map(|place| group(place, random))
                    .collect(),
            )
        }
        Page::Job(_) => Data::Job(None),
        _ if random.bool() => Data::Lacks("schedules"),
        _ => Data::Jobs(Vec::new(), random.bool()),
    }
}

fn read(page: &Page, random: &mut fastrand::Rng) -> Reading {
    Reading {
        page: Some(page.clone()),
        at: random.bool().then(Instant::now),
        data: data(page, random),
        totals: random.bool().then(Totals::default),
        failure: (random.u8(..4) == 0).then(|| name(random)),
    }
}

#[test]
fn no_keys_readings_or_sizes_break_the_screen() {
    let seed = std::env::var("BRIGADE_SEED").map_or_else(
        |_| fastrand::u64(..),
        |seed| seed.parse().expect("BRIGADE_SEED is a number"),
    );
    println!("BRIGADE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut can = Capabilities::minimal();
    (can.listing, can.pauses, can.cancels) = (true, true, true);
    let mut app = App::of(
        name(&mut random),
        Page::Queues,
        &BROKER_TABS,
        Some(can),
        false,
    );
    let (mut acted, mut quit) = (0, 0);
    for step in 0..MOST_STEPS {
        if step >= STEPS && acted > 0 && quit > 0 {
            break;
        }
        if random.u8(..3) == 0 {
            let page = app.page().clone();
            app.on_reading(read(&page, &mut random));
        }
        match app.on_event(&key(&mut random)) {
            Effect::Act(action) => {
                acted += 1;
                app.say(action.question());
            }
            Effect::Quit => quit += 1,
            _ => {}
        }
        let size = (random.u16(..130), random.u16(..40));
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        terminal.draw(|frame| draw(frame, &mut app)).unwrap();
        let cells = &terminal.backend().buffer().content;
        let is_bad = |char: char| char.is_control() || char == '\u{202e}';
        assert!(!cells.iter().any(|cell| cell.symbol().contains(is_bad)));
    }
    assert!(acted > 0 && quit > 0, "the keys reach everything");
}
