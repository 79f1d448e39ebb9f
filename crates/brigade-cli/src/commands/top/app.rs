//! [`App`]: the state of the screen. Pure: it takes keys and readings, and says what is to be done.

use std::time::{Duration, Instant};

use brigade::{Capabilities, JobId};

use super::action::Action;
use super::cells::Row;
use super::data::{Data, Reading};
use super::page::{BROKER_TABS, POOL_TABS, Page};
use super::rows::{Sort, Table};
use super::source::Source;

/// What is to be done after an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    Quit,
    /// Draw everything again.
    Redraw,
    /// Stop the process as Ctrl-Z does.
    Suspend,
    Act(Action),
}

/// What keys mean.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Normal,
    /// They go to the filter.
    Filter,
    /// They go to the id of a job to open.
    JobId(String),
    /// They answer the question of an action.
    Question(Action),
    Help,
}

pub(super) struct App {
    pub(super) source_name: String,
    pub(super) tabs: &'static [&'static str],
    capabilities: Option<Capabilities>,
    is_read_only: bool,
    every: Duration,
    page: Page,
    /// Pages to go back to.
    back: Vec<Page>,
    /// The job that was looked at last.
    pub(super) last_job: Option<JobId>,
    pub(super) mode: Mode,
    pub(super) filter: String,
    pub(super) sort: Sort,
    /// The row that is chosen, by its id, and where it was.
    pub(super) chosen: Option<String>,
    pub(super) place: usize,
    /// First line of a job's page that is shown, and the last that may be first.
    pub(super) scroll: usize,
    pub(super) scroll_max: usize,
    /// Rows of the table on the screen, for a page's worth of movement.
    pub(super) height: usize,
    pub(super) message: Option<String>,
    pub(super) reading: Reading,
    began: Instant,
}

/// Pages that are kept to go back to.
const BACK_MAX: usize = 50;

impl App {
    pub(super) fn new(source: &Source, is_read_only: bool, every: Duration) -> Self {
        let (page, tabs): (_, &'static [&'static str]) = match source {
            Source::Broker(_) => (Page::Queues, &BROKER_TABS),
            Source::Pool(_) => (Page::Workers, &POOL_TABS),
        };
        Self::of(
            source.name(),
            page,
            tabs,
            source.capabilities(),
            is_read_only,
        )
        .every(every)
    }

    pub(super) fn of(
        source_name: String,
        page: Page,
        tabs: &'static [&'static str],
        capabilities: Option<Capabilities>,
        is_read_only: bool,
    ) -> Self {
        Self {
            source_name,
            tabs,
            capabilities,
            is_read_only,
            every: Duration::from_secs(1),
            page,
            back: Vec::new(),
            last_job: None,
            mode: Mode::Normal,
            filter: String::new(),
            sort: Sort::default(),
            chosen: None,
            place: 0,
            scroll: 0,
            scroll_max: 0,
            height: 1,
            message: None,
            reading: Reading::default(),
            began: Instant::now(),
        }
    }

    fn every(self, every: Duration) -> Self {
        Self { every, ..self }
    }

    pub(super) fn page(&self) -> &Page {
        &self.page
    }

    pub(super) fn on_reading(&mut self, reading: Reading) {
        self.reading = reading;
    }

    pub(super) fn say(&mut self, message: String) {
        self.message = Some(message);
    }

    /// The data of the page that is shown, if they have been read.
    pub(super) fn data(&self) -> &Data {
        match &self.reading.page {
            Some(page) if *page == self.page => &self.reading.data,
            _ => &Data::Unread,
        }
    }

    /// How old the data are if that is worth a word: they are older than they should be.
    pub(super) fn late(&self) -> Option<Duration> {
        let age = self.reading.at.unwrap_or(self.began).elapsed();
        (age > self.every * 2 + Duration::from_secs(1)).then_some(age)
    }

    /// The table of the page, filtered and sorted; none for the page of a job.
    pub(super) fn table(&self) -> Option<Table> {
        let mut table = Table::of(self.data(), &self.page)?;
        table.keep(&self.filter);
        table.sort(self.sort);
        Some(table)
    }

    /// Where the chosen row is by now.
    pub(super) fn place_in(&self, table: &Table) -> Option<usize> {
        let chosen = self.chosen.as_ref();
        let found = chosen.and_then(|id| table.rows.iter().position(|row| row.id == *id));
        let last = table.rows.len().checked_sub(1)?;
        Some(found.unwrap_or(self.place).min(last))
    }

    /// The row that is chosen.
    pub(super) fn row(&self) -> Option<Row> {
        let mut table = self.table()?;
        let place = self.place_in(&table)?;
        Some(table.rows.swap_remove(place))
    }

    /// Moves the choice by so many rows, or scrolls the page of a job.
    pub(super) fn move_by(&mut self, rows: isize) {
        let Some(table) = self.table() else {
            self.scroll = self.scroll.saturating_add_signed(rows).min(self.scroll_max);
            return;
        };
        let Some(place) = self.place_in(&table) else {
            return;
        };
        self.place = place.saturating_add_signed(rows).min(table.rows.len() - 1);
        self.chosen = table.rows.get(self.place).map(|row| row.id.clone());
    }

    /// Shows another page, from which Escape leads back here.
    pub(super) fn open(&mut self, page: Page) {
        if page == self.page {
            return;
        }
        if self.back.len() >= BACK_MAX {
            self.back.remove(0);
        }
        let before = self.page.clone();
        self.show(page);
        self.back.push(before);
    }

    /// Shows the page before, or nothing new if there is none.
    pub(super) fn go_back(&mut self) {
        if let Some(page) = self.back.pop() {
            self.show(page);
        }
    }

    /// Shows the page of a tab.
    pub(super) fn show_tab(&mut self, tab: usize) {
        let pages: &[Page] = match self.tabs.len() {
            2 => &[Page::Workers, Page::Calls],
            _ => &[
                Page::Queues,
                Page::Running,
                Page::Consumers,
                Page::Dead,
                Page::Schedules,
            ],
        };
        let job = self.last_job.clone().map(Page::Job);
        match pages.get(tab).cloned().or(job) {
            Some(page) if tab < self.tabs.len() => {
                self.back.clear();
                self.show(page);
            }
            None if tab < self.tabs.len() => {
                self.say("no job yet: Enter on a job, or i for an id".to_owned());
            }
            _ => {}
        }
    }

    fn show(&mut self, page: Page) {
        if let Page::Job(id) = &page {
            self.last_job = Some(id.clone());
        }
        self.page = page;
        self.filter.clear();
        self.sort = Sort::default();
        self.chosen = None;
        self.place = 0;
        self.scroll = 0;
        self.message = None;
    }

    /// Asks before an action, or says why it cannot be done.
    pub(super) fn ask(&mut self, action: Action) {
        let can = self.capabilities;
        let has = |capability: fn(&Capabilities) -> bool| can.as_ref().is_some_and(capability);
        let (is_possible, capability) = match action {
            Action::Pause(_) | Action::Resume(_) => (has(|can| can.pauses), "pauses"),
            Action::PauseSchedule(_) | Action::ResumeSchedule(_) => {
                (has(|can| can.schedules), "schedules")
            }
            Action::Cancel(_) => (has(|can| can.cancels), "cancels"),
            Action::Retry(_) | Action::RetryGroup(_) => (has(|can| can.listing), "listing"),
        };
        if self.is_read_only {
            self.say("not done: brigade top runs with --read-only".to_owned());
        } else if !is_possible {
            self.say(format!(
                "this broker cannot do that: its capability {capability:?} is false"
            ));
        } else {
            self.mode = Mode::Question(action);
        }
    }
}
