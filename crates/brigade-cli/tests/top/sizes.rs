//! Sizes of terminals, and text that a terminal could obey.

use crate::terminal::Terminal;

#[test]
fn it_fits_into_any_terminal_and_follows_its_size() {
    let terminal = Terminal::new(120, 30);
    terminal.run(&["push", "emails", "1"]);
    terminal.start_top("");
    terminal.wait_for("oldest");
    for (width, height) in [(40, 10), (20, 6), (8, 3), (1, 1), (3, 2), (200, 50)] {
        terminal.resize(width, height);
        terminal.type_text("?");
        terminal.type_text("x");
        // What is shown of the title says that it was drawn in this size.
        let title = &"brigade top "[..usize::from(width).min(11)].trim_end();
        terminal.wait_until("the title", |screen| {
            screen.starts_with(title) || height == 1
        });
    }
    terminal.wait_until("the whole table", |screen| {
        screen.contains("oldest") && screen.contains("emails")
    });
    terminal.type_text("q");
    terminal.wait_for("code 0");
}

#[test]
fn text_of_others_is_escaped_and_wide_letters_keep_the_columns() {
    let terminal = Terminal::new(120, 30);
    terminal.run(&["push", "郵便", "1"]);
    let payload = "{\"a\": \"x\\u009b2J\\u202ey\"}";
    let id = terminal.run(&["push", "emails", payload]);
    terminal.start_top("");
    terminal.wait_until("both queues", |screen| {
        screen.contains("emails") && screen.contains("郵便")
    });
    let screen = terminal.screen();
    let line = |with: &str| screen.lines().find(|line| line.contains(with)).unwrap();
    // Two cells each, so two characters fewer up to the same place.
    let chars = |line: &str| line.trim_end().chars().count();
    assert_eq!(chars(line("郵便")) + 2, chars(line("emails")), "{screen}");
    terminal.type_text(&format!("i{id}"));
    terminal.keys(&["Enter"]);
    terminal.wait_for("x\\u009b2J\\u202ey");
    terminal.type_text("q");
    terminal.wait_for("code 0");
}

#[test]
fn no_color_turns_the_colours_off() {
    let terminal = Terminal::new(100, 24);
    terminal.run(&["push", "emails", "1"]);
    terminal.fail_all("emails", "false");
    let has_colours = || terminal.coloured().contains("38;5;1m");
    terminal.start_top("");
    terminal.wait_for("1 dead");
    terminal.wait_for("emails");
    assert!(has_colours());
    terminal.type_text("q");
    terminal.wait_for("code 0");
    terminal.type_line("export NO_COLOR=1");
    terminal.start_top("");
    terminal.wait_for("1 dead");
    terminal.wait_for("emails");
    assert!(!has_colours());
}
