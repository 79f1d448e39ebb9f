//! What keys do to the [`App`].

use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use brigade::JobId;

use super::action::Action;
use super::app::{App, Effect, Mode};
use super::cells::Target;
use super::page::{JobsOf, Page};

/// Longest text that is taken into the filter or as an id, in bytes.
const TEXT_BYTES_MAX: usize = 200;

impl App {
    pub(super) fn on_event(&mut self, event: &Event) -> Effect {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.on_key(*key),
            // Elsewhere it could be taken for keys.
            Event::Paste(text) => {
                if let Some(field) = self.text_field() {
                    text.chars()
                        .filter(|char| !char.is_control())
                        .for_each(|char| append(field, char));
                }
                Effect::Nothing
            }
            _ => Effect::Nothing,
        }
    }

    /// The text that is being typed.
    fn text_field(&mut self) -> Option<&mut String> {
        match &mut self.mode {
            Mode::Filter => Some(&mut self.filter),
            Mode::JobId(id) => Some(id),
            _ => None,
        }
    }

    fn on_key(&mut self, key: KeyEvent) -> Effect {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Effect::Quit,
                KeyCode::Char('z') => return Effect::Suspend,
                KeyCode::Char('l') => return Effect::Redraw,
                KeyCode::Char('u') => {
                    if let Some(field) = self.text_field() {
                        field.clear();
                    }
                    return Effect::Nothing;
                }
                _ => return Effect::Nothing,
            }
        }
        match self.mode {
            Mode::Normal => self.on_command(key.code),
            Mode::Help => {
                self.mode = Mode::Normal;
                Effect::Nothing
            }
            Mode::Question(_) => self.on_answer(key.code),
            Mode::Filter | Mode::JobId(_) => {
                self.on_text(key.code);
                Effect::Nothing
            }
        }
    }

    fn on_answer(&mut self, key: KeyCode) -> Effect {
        let Mode::Question(action) = std::mem::replace(&mut self.mode, Mode::Normal) else {
            return Effect::Nothing;
        };
        if matches!(key, KeyCode::Char('y' | 'Y')) {
            self.say("..".to_owned());
            return Effect::Act(action);
        }
        self.say("not done".to_owned());
        Effect::Nothing
    }

    fn on_text(&mut self, key: KeyCode) {
        match key {
            KeyCode::Char(char) => {
                if let Some(field) = self.text_field() {
                    append(field, char);
                }
            }
            KeyCode::Backspace => {
                if let Some(field) = self.text_field() {
                    field.pop();
                }
            }
            KeyCode::Enter => {
                if let Mode::JobId(id) = std::mem::replace(&mut self.mode, Mode::Normal)
                    && !id.trim().is_empty()
                {
                    self.open(Page::Job(JobId::new(id.trim())));
                }
            }
            KeyCode::Esc => {
                if self.mode == Mode::Filter {
                    self.filter.clear();
                }
                self.mode = Mode::Normal;
            }
            _ => {}
        }
    }

    fn on_command(&mut self, key: KeyCode) -> Effect {
        let page = isize::try_from(self.height).unwrap_or(1).max(1);
        let tabs = self.tabs.len();
        let tab = self.page().tab();
        match key {
            KeyCode::Char('q') => return Effect::Quit,
            KeyCode::Char('?') | KeyCode::Char('h') | KeyCode::F(1) => self.mode = Mode::Help,
            KeyCode::Char(digit @ '1'..='9') => {
                let digit = digit.to_digit(10).and_then(|digit| digit.checked_sub(1));
                self.show_tab(digit.map_or(tabs, |digit| digit as usize));
            }
            KeyCode::Tab | KeyCode::Right => self.show_tab((tab + 1) % tabs),
            KeyCode::BackTab | KeyCode::Left => self.show_tab((tab + tabs - 1) % tabs),
            KeyCode::Down | KeyCode::Char('j') => self.move_by(1),
            KeyCode::Up | KeyCode::Char('k') => self.move_by(-1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.move_by(page),
            KeyCode::PageUp => self.move_by(-page),
            KeyCode::Home | KeyCode::Char('g') => self.move_by(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.move_by(isize::MAX),
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('i') if tabs > 2 => self.mode = Mode::JobId(String::new()),
            KeyCode::Char('s') => self.next_sort(),
            KeyCode::Char('S') => self.sort.is_reversed = !self.sort.is_reversed,
            KeyCode::Char('p') => self.ask_to_pause(),
            KeyCode::Char('c') => self.ask_to_cancel(),
            KeyCode::Char('r') => self.ask_to_retry(),
            KeyCode::Enter => self.open_chosen(),
            KeyCode::Esc | KeyCode::Backspace if !self.filter.is_empty() => self.filter.clear(),
            KeyCode::Esc | KeyCode::Backspace => self.go_back(),
            _ => {}
        }
        Effect::Nothing
    }

    /// Sorts by the next column; after the last by none.
    fn next_sort(&mut self) {
        let columns = self.table().map_or(0, |table| table.columns.len());
        let next = self.sort.column.map_or(0, |column| column + 1);
        self.sort.column = (next < columns).then_some(next);
    }

    fn target(&self) -> Option<Target> {
        match self.page() {
            Page::Job(id) => Some(Target::Job(id.clone())),
            _ => self.row().and_then(|row| row.target),
        }
    }

    fn ask_to_pause(&mut self) {
        match self.target() {
            Some(Target::Queue { name, is_paused }) => self.ask(match is_paused {
                true => Action::Resume(name),
                false => Action::Pause(name),
            }),
            Some(Target::Schedule { name, is_paused }) => self.ask(match is_paused {
                true => Action::ResumeSchedule(name),
                false => Action::PauseSchedule(name),
            }),
            _ => self.say("p pauses or resumes a queue or schedule: choose one".to_owned()),
        }
    }

    fn ask_to_cancel(&mut self) {
        match self.target() {
            Some(Target::Job(id)) => self.ask(Action::Cancel(id)),
            _ => self.say("c cancels a job: choose one".to_owned()),
        }
    }

    fn ask_to_retry(&mut self) {
        match self.target() {
            Some(Target::Job(id)) => self.ask(Action::Retry(id)),
            Some(Target::Dead(group)) => self.ask(Action::RetryGroup(group)),
            _ => self.say("r retries dead letters: choose some on the tab dead".to_owned()),
        }
    }

    fn open_chosen(&mut self) {
        match self.row().and_then(|row| row.target) {
            Some(Target::Queue { name, .. }) => self.open(Page::Jobs(JobsOf::Queue(name))),
            Some(Target::Dead(group)) => self.open(Page::Jobs(JobsOf::Dead(group))),
            Some(Target::Job(id)) => self.open(Page::Job(id)),
            Some(Target::Schedule { .. }) | None => {}
        }
    }
}

fn append(text: &mut String, char: char) {
    if text.len() + char.len_utf8() <= TEXT_BYTES_MAX {
        text.push(char);
    }
}
