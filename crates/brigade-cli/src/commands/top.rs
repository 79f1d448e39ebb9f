//! `brigade top`: a live screen of a broker, or of the pool of a running program.
//!
//! Three parts run side by side, so that none waits for another: a thread reads the keys
//! (`keys`), a task reads the source (`reader`), and `run` here takes what both bring, changes the
//! [`App`](app::App), and draws it. Actions of the user (pause, cancel, retry) are futures next to
//! that loop.
//!
//! Invariants: `App` is pure, it holds no terminal and no connection. The terminal is changed by
//! `screen` alone, which puts it back however the command ends.

mod action;
mod app;
mod cells;
mod columns;
mod counts;
mod data;
mod draw;
mod ends;
mod help;
mod input;
mod keys;
mod page;
mod pool;
mod rates;
mod reader;
mod rows;
mod screen;
#[cfg(test)]
mod simulation;
mod source;

use std::io::{self, IsTerminal as _, stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use self::app::{App, Effect};
use self::data::Reading;
use self::ends::{Meaning, Signals};
use self::keys::Keys;
use self::reader::Reader;
use self::screen::Screen;
use self::source::Source;
use crate::connection::Globals;
use crate::exit::{self, usage};
use crate::times;

/// Watch queues, running jobs, consumers, dead letters and schedules on a live screen
///
/// Works with any broker; what a broker cannot list is said on the screen. Press ? for the keys.
#[derive(clap::Args)]
pub(crate) struct Top {
    /// Time between two readings, 200ms to 1m
    #[arg(long, value_name = "TIME", value_parser = times::duration, default_value = "1s")]
    interval: Duration,

    /// Refuse to pause, cancel and retry
    #[arg(long)]
    read_only: bool,

    /// Watch the pool of a running program, by the socket of `Pool::builder().monitor(PATH)`
    #[arg(long, value_name = "PATH")]
    pool: Option<PathBuf>,
}

/// How often the screen is drawn when nothing happens, for the ages on it.
const REDRAW: Duration = Duration::from_secs(1);
/// The most actions that run at once.
const ACTIONS_MAX: usize = 16;

/// What the loop waits for.
enum Event {
    Key(io::Result<ratatui::crossterm::event::Event>),
    Read(Box<Reading>),
    Acted(String),
    Tick,
    Signal(Meaning),
}

impl Top {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        if !(Duration::from_millis(200)..=Duration::from_secs(60)).contains(&self.interval) {
            return Err(usage("--interval is from 200ms to 1m"));
        }
        if globals.json {
            return Err(usage(
                "top draws a screen: for programs there are `brigade queues --json` and `brigade jobs --json`",
            ));
        }
        check_terminal()?;
        let source = Arc::new(match self.pool {
            Some(path) => Source::of_pool(path).await?,
            None => Source::of_broker(globals).await?,
        });
        let app = App::new(&source, self.read_only, self.interval);
        watch_source(source, app, self.interval).await
    }
}

/// A screen needs a terminal on both sides, and one that can place its cursor.
fn check_terminal() -> anyhow::Result<()> {
    if !stdin().is_terminal() || !stdout().is_terminal() {
        return Err(usage(
            "top needs a terminal as its input and output: for programs there are `brigade queues \
             --json` and `brigade jobs --json`",
        ));
    }
    if std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb") {
        return Err(usage(
            "top needs a terminal that can place its cursor: set TERM to its type",
        ));
    }
    Ok(())
}

async fn watch_source(
    source: Arc<Source>,
    mut app: App,
    every: Duration,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let (page, pages) = watch::channel(app.page().clone());
    let (readings, mut reading) = watch::channel(Reading::default());
    let again = Arc::new(Notify::new());
    // Dropped, and so stopped, when this function returns.
    let mut tasks = JoinSet::new();
    let reader = Reader::new(Arc::clone(&source), every, Arc::clone(&again));
    tasks.spawn(reader.run(pages, readings));
    tasks.spawn(ends::force().context("cannot listen for signals")?);
    let mut screen = Screen::enter().context("cannot prepare the terminal")?;
    let mut keys = Keys::start().context("cannot read the keys")?;
    let mut actions = FuturesUnordered::new();
    let mut redraw = interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        screen
            .draw(|frame| draw::draw(frame, &mut app))
            .context("the terminal is gone")?;
        let event = tokio::select! {
            biased;
            meaning = signals.next() => Event::Signal(meaning),
            key = keys.next() => Event::Key(key),
            Some(done) = actions.next(), if !actions.is_empty() => Event::Acted(done),
            Ok(()) = reading.changed() => Event::Read(Box::new(reading.borrow_and_update().clone())),
            _ = redraw.tick() => Event::Tick,
        };
        if matches!(event, Event::Acted(_)) {
            again.notify_one();
        }
        let effect = match event {
            Event::Signal(Meaning::End) => return Ok(exit::STOPPED.into()),
            event => on_event(&mut app, event).context("the terminal is gone")?,
        };
        match effect {
            Effect::Nothing => {}
            Effect::Quit => return Ok(ExitCode::SUCCESS),
            Effect::Redraw => screen.enter_again().context("the terminal is gone")?,
            Effect::Suspend => screen.suspend().context("the terminal is gone")?,
            Effect::Act(_) if actions.len() >= ACTIONS_MAX => {
                app.say("not done: earlier actions have not ended yet".to_owned());
            }
            Effect::Act(action) => actions.push(action.run(&source)),
        }
        if *page.borrow() != *app.page() {
            page.send_replace(app.page().clone());
        }
    }
}

fn on_event(app: &mut App, event: Event) -> io::Result<Effect> {
    match event {
        Event::Signal(_) => return Ok(Effect::Redraw),
        Event::Key(key) => return Ok(app.on_event(&key?)),
        Event::Acted(message) => app.say(message),
        Event::Read(reading) => app.on_reading(*reading),
        Event::Tick => {}
    }
    Ok(Effect::Nothing)
}
