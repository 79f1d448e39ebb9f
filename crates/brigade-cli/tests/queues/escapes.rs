//! Foreign text on a terminal.

use super::desk::{Desk, Ran};

/// Sets a terminal's title, colours, forges a line, turns the direction of text.
const WILD: &str = "\u{1b}]0;owned\u{7}\u{1b}[31mx\nbrigade: forged\u{9b}1m\u{202e}";

fn assert_printable(ran: &Ran, what: &[&str]) {
    for text in [&ran.stdout, &ran.stderr] {
        let is_wild = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(
            !text.contains(is_wild) && !text.lines().any(|line| line == "brigade: forged"),
            "{what:?}: {text:?}"
        );
    }
}

#[test]
fn foreign_text_never_reaches_a_terminal_as_it_is() {
    let desk = Desk::new();
    let payload = serde_json::to_string(WILD).unwrap();
    // Names have no control characters.
    let bidi = "q\u{202e}";
    let id = desk.push(&[
        "q",
        &payload,
        "--label",
        WILD,
        "--key",
        WILD,
        "--unique",
        WILD,
        "--partition",
        WILD,
        "--task",
        bidi,
    ]);
    desk.push(&[bidi, "1"]);
    desk.run(&[
        "work",
        "q",
        "--until-empty",
        "--",
        "sh",
        "-c",
        &format!("printf '%s' '{WILD}' >&2; exit 1"),
    ]);
    let commands: [&[&str]; 24] = [
        &["job", WILD],
        &["job", &id],
        &["why", WILD],
        &["why", &id],
        &["cancel", WILD],
        &["cancel", WILD, "--wait"],
        &["retry", WILD],
        &["dead", "show", WILD],
        &["dead", "delete", WILD],
        &["dead", "ls"],
        &["dead", "retry", "--all", bidi],
        &["jobs"],
        &["jobs", bidi],
        &["queues"],
        &["pause", bidi],
        &["resume", bidi],
        &["limit", bidi],
        &["take", bidi],
        &["purge", bidi, "--yes"],
        &["cron", "rm", WILD],
        &["push", WILD, "1"],
        &["check"],
        &["call", WILD, "--timeout", "1ms"],
        &["jobs", "--after", WILD],
    ];
    for command in commands {
        assert_printable(&desk.run(command), command);
        assert_printable(&desk.run(&[command, &["--json"]].concat()), command);
    }
}
