//! Draws the [`App`] on a frame, whatever its size.
//!
//! From top to bottom: name and age of the data, sums, tabs, the page, and one line for keys,
//! questions and messages. Where there are few lines, the page keeps the most important ones.

use std::env;

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{self, Clear, Paragraph, TableState};

use super::app::{App, Mode};
use super::cells::{Row, Tone, brief};
use super::columns;
use super::data::Data;
use super::help::KEYS;
use super::page::{JobsOf, Page};
use super::pool;
use super::rows::Table;
use crate::commands::job::job_lines;
use crate::escape::escape;

/// Lines that a page needs before the line of sums and the tabs are drawn.
const PAGE_HEIGHT_MIN: u16 = 3;

/// Draws the whole screen.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let mut area = frame.area();
    let mut take_top = |height: u16| {
        let line = Rect { height, ..area };
        area.y += height;
        area.height -= height;
        line
    };
    if frame.area().height == 0 || frame.area().width == 0 {
        return;
    }
    let height = frame.area().height;
    let head = (height > 1).then(|| take_top(1));
    let sums = (height >= PAGE_HEIGHT_MIN + 6).then(|| take_top(1));
    let tabs = (height >= PAGE_HEIGHT_MIN + 3).then(|| take_top(1));
    let foot = (height > 2).then(|| {
        area.height -= 1;
        Rect {
            y: area.bottom(),
            height: 1,
            ..area
        }
    });
    draw_line(frame, head, head_line(app));
    draw_line(frame, sums, sums_line(app));
    draw_line(frame, tabs, tabs_line(app));
    draw_page(frame, area, app);
    if app.mode == Mode::Help {
        draw_help(frame, area);
    }
    draw_line(frame, foot, foot_line(app));
}

fn draw_line(frame: &mut Frame<'_>, area: Option<Rect>, line: Line<'_>) {
    if let Some(area) = area {
        frame.render_widget(line, area);
    }
}

/// Colours, where the user has not turned them off (<https://no-color.org>).
fn colour(colour: Color) -> Style {
    let is_off = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if is_off {
        Style::new()
    } else {
        Style::new().fg(colour)
    }
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn bad() -> Style {
    colour(Color::Red).add_modifier(Modifier::BOLD)
}

fn quiet() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn reversed() -> Style {
    Style::new().add_modifier(Modifier::REVERSED)
}

/// The state of the connection first: it stays when the terminal is narrow.
fn head_line(app: &App) -> Line<'static> {
    let mut spans = Vec::new();
    match (&app.reading.failure, app.late()) {
        (Some(failure), late) => {
            let age = late.map_or_else(String::new, |age| format!(" for {}", brief(age)));
            let failure = escape(failure);
            spans.push(Span::styled(format!("NO DATA{age}: {failure} "), bad()));
        }
        (None, Some(age)) => {
            let text = format!("no answer for {} ", brief(age));
            spans.push(Span::styled(text, bad()));
        }
        (None, None) => {}
    }
    spans.push(Span::styled("brigade top ", bold()));
    spans.push(Span::raw(escape(&app.source_name).into_owned()));
    Line::from(spans)
}

fn sums_line(app: &App) -> Line<'static> {
    if let Data::Pool(state) = &app.reading.data {
        return Line::raw(pool::summary(state));
    }
    let Some(totals) = app.reading.totals else {
        return Line::raw("");
    };
    let counts = format!(
        "{} queues, {} waiting, {} running, ",
        totals.queues, totals.waiting, totals.running
    );
    let dead = match totals.dead {
        0 => Style::new(),
        _ => bad(),
    };
    Line::from(vec![
        Span::raw(counts),
        Span::styled(format!("{} dead", totals.dead), dead),
    ])
}

fn tabs_line(app: &App) -> Line<'static> {
    let mut spans = Vec::new();
    for (place, name) in app.tabs.iter().enumerate() {
        let style = match place == app.page().tab() {
            true => reversed(),
            false => Style::new(),
        };
        spans.push(Span::styled(format!(" {} {name} ", place + 1), style));
    }
    Line::from(spans)
}

fn foot_line(app: &App) -> Line<'static> {
    let of_user = |text: &str| escape(text).into_owned();
    match (&app.mode, &app.message) {
        (Mode::Question(action), _) => {
            let question = of_user(&action.question());
            Line::styled(format!("{question} [y/N]"), reversed())
        }
        (Mode::Filter, _) => Line::styled(format!("/{}_", of_user(&app.filter)), bold()),
        (Mode::JobId(id), _) => Line::styled(format!("job {}_", of_user(id)), bold()),
        (Mode::Help, _) => Line::raw("any key closes this"),
        (Mode::Normal, Some(message)) => Line::styled(of_user(message), bold()),
        (Mode::Normal, None) => Line::styled(keys_of(app), quiet()),
    }
}

/// The keys that mean something on the page.
fn keys_of(app: &App) -> String {
    let keys = match app.page() {
        Page::Queues => "Enter jobs  p pause  / filter  s sort",
        Page::Running => "Enter job  c cancel  / filter  s sort",
        Page::Dead => "Enter jobs  r retry all of them  / filter",
        Page::Jobs(JobsOf::Dead(_)) => "Enter job  r retry  / filter  Esc back",
        Page::Jobs(_) => "Enter job  c cancel  / filter  Esc back",
        Page::Job(_) => "c cancel  r retry  Esc back",
        _ => "/ filter  s sort",
    };
    match app.filter.is_empty() {
        true => format!("? help  q quit  {keys}"),
        false => format!("filter: {}  (Esc clears it)  {keys}", escape(&app.filter)),
    }
}

fn draw_page(frame: &mut Frame<'_>, area: Rect, app: &mut App) {
    if let Some(table) = app.table() {
        return draw_table(frame, area, app, &table);
    }
    let lines = match (app.data(), app.page()) {
        (Data::Lacks(capability), _) => lacking(capability),
        (Data::Job(Some(found)), _) => {
            let (job, explanation) = &**found;
            let mut lines = job_lines(job);
            if let Some(explanation) = explanation {
                lines.push(String::new());
                lines.extend(explanation.to_string().lines().map(str::to_owned));
            }
            lines
        }
        (Data::Job(None), Page::Job(id)) => vec![format!("There is no job {id} (any more).")],
        _ => vec!["reading ..".to_owned()],
    };
    app.height = area.height.into();
    app.scroll_max = lines.len().saturating_sub(app.height);
    app.scroll = app.scroll.min(app.scroll_max);
    let shown = lines.iter().skip(app.scroll).take(app.height);
    let shown: Vec<Line<'_>> = shown.map(|line| Line::raw(escape(line))).collect();
    frame.render_widget(Paragraph::new(shown), area);
}

/// What a page says that the broker cannot fill, and where to look instead.
fn lacking(capability: &str) -> Vec<String> {
    let (what, instead) = match capability {
        "schedules" => (
            "This broker keeps no schedules.",
            "A timer of the system can run `brigade push` instead.",
        ),
        "consumers" => (
            "This broker does not know its consumers.",
            "Its own tools show its connections.",
        ),
        _ => (
            "This broker does not list its queues and jobs.",
            "Press 2 for what its consumers run and 3 for the consumers.\n\
             Its own tools show what waits; for RabbitMQ: rabbitmqctl list_queues",
        ),
    };
    let lines = std::iter::once(what).chain(instead.lines());
    lines.map(str::to_owned).collect()
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, app: &mut App, table: &Table) {
    let title = title_of(app, table);
    let has_header = area.height > 2;
    app.height = usize::from(area.height.saturating_sub(u16::from(has_header))).max(1);
    if table.rows.is_empty() {
        let text = match app.filter.is_empty() {
            true => table.empty.to_owned(),
            false => format!("nothing has {:?} in it", app.filter),
        };
        return frame.render_widget(Paragraph::new(text), area);
    }
    let wanted = widths(table, &title);
    let fitted = columns::fit(table.columns, &wanted, area.width);
    let place = app.place_in(table);
    // Only these are made into rows of the screen, however many there are.
    let first = place.map_or(0, |place| first_shown(app, place, table.rows.len()));
    let shown = table.rows.iter().skip(first).take(app.height);
    let rows = shown.map(|row| {
        let cells = fitted
            .iter()
            .map(|(column, _)| text_of(table, row, *column));
        widgets::Row::new(cells).style(style_of(row.tone))
    });
    let widths = fitted.iter().map(|(_, width)| Constraint::Length(*width));
    let mut drawn = widgets::Table::new(rows, widths)
        .column_spacing(1)
        .row_highlight_style(reversed());
    if has_header {
        let cells = fitted.iter().map(|(column, _)| {
            let text = Text::raw(title[*column].clone());
            align(table, *column, text)
        });
        drawn = drawn.header(widgets::Row::new(cells).style(bold()));
    }
    let mut state = TableState::default();
    state.select(place.map(|place| place - first));
    frame.render_stateful_widget(drawn, area, &mut state);
}

/// The first row that is shown, so that the chosen one is among them.
fn first_shown(app: &mut App, place: usize, rows: usize) -> usize {
    let last_first = rows.saturating_sub(app.height);
    let at_least = (place + 1).saturating_sub(app.height);
    app.scroll = app.scroll.min(last_first).min(place).max(at_least);
    app.scroll
}

/// The titles of the columns, with a mark at the one that is sorted by.
fn title_of(app: &App, table: &Table) -> Vec<String> {
    let mark = match app.sort.is_reversed {
        true => '▲',
        false => '▼',
    };
    let title = |(place, column): (usize, &columns::Column)| match app.sort.column {
        Some(sorted) if sorted == place => format!("{}{mark}", column.title),
        _ => column.title.to_owned(),
    };
    let mut titles: Vec<String> = table.columns.iter().enumerate().map(title).collect();
    if table.has_more
        && let Some(first) = titles.first_mut()
    {
        *first = format!("{first} (first {})", table.rows.len());
    }
    titles
}

/// The width of the longest cell of each column.
fn widths(table: &Table, titles: &[String]) -> Vec<u16> {
    let width = |text: &str| u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX);
    let widest = |(place, title): (usize, &String)| {
        let cells = table.rows.iter().filter_map(|row| row.cells.get(place));
        let widths = cells.map(|cell| width(&cell.text));
        widths.max().unwrap_or(0).max(width(title))
    };
    titles.iter().enumerate().map(widest).collect()
}

fn text_of<'a>(table: &Table, row: &'a Row, column: usize) -> Text<'a> {
    let text = row.cells.get(column).map_or("", |cell| cell.text.as_str());
    align(table, column, Text::raw(text))
}

fn align<'a>(table: &Table, column: usize, text: Text<'a>) -> Text<'a> {
    match table.columns[column].is_number {
        true => text.right_aligned(),
        false => text,
    }
}

fn style_of(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Quiet => quiet(),
        Tone::Bad => colour(Color::Red),
    }
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let line = |(keys, meaning): &(&'static str, &'static str)| {
        Line::from(vec![
            Span::styled(format!(" {keys:<14} "), bold()),
            Span::raw(*meaning),
        ])
    };
    let lines: Vec<Line<'_>> = KEYS.iter().map(line).collect();
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines), area);
}
