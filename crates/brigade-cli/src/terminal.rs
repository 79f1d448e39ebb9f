//! How text looks: colour and lines on a terminal, plain text everywhere else. Progress goes to
//! standard error, so that standard output can be piped while it shows.

use std::env;
use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

#[derive(Clone, Copy)]
pub(crate) struct Terminal {
    is_terminal: bool,
    colour: bool,
}

impl Terminal {
    /// What standard output is.
    pub(crate) fn of_stdout() -> Self {
        let is_terminal = stdout().is_terminal();
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            is_terminal,
            colour: is_terminal && !refused && !dumb,
        }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.paint("1;32", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// A table; the first columns are numbers and stand to the right.
    pub(crate) fn table<const N: usize>(
        self,
        header: [&str; N],
        numbers: usize,
        rows: impl Iterator<Item = [String; N]>,
    ) -> String {
        let mut table = Table::new();
        table.load_style(if self.is_terminal {
            presets::UTF8_FULL_CONDENSED
        } else {
            presets::NOTHING
        });
        table.set_header(header);
        table.add_rows(rows);
        for column in table.column_iter_mut().take(numbers) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.trim_fmt()
    }
}

/// A bar on standard error that clears itself when it is dropped, and shows nothing where that is
/// no terminal.
pub(crate) fn bar(template: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template(template).expect("templates are constants of this program");
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
        .with_style(style.progress_chars("━╸ "))
        .with_finish(ProgressFinish::AndClear);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
