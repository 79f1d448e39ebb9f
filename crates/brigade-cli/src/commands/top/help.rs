//! The keys, for `?`.

pub(super) const KEYS: [(&str, &str); 15] = [
    ("1 to 6, Tab", "change the tab"),
    ("arrows, j k", "choose a row"),
    ("PgUp PgDn g G", "by pages, to the first, to the last"),
    ("Enter", "open: the jobs of a queue or group, one job"),
    ("Esc", "back; with a filter: clear it"),
    (
        "/",
        "filter the rows; Enter keeps the filter, Esc clears it",
    ),
    ("s", "sort by the next column"),
    ("S", "reverse the order"),
    ("p", "pause or resume the chosen queue or schedule"),
    ("c", "cancel the chosen job"),
    ("r", "retry the chosen dead letter or group"),
    ("i", "open a job by its id"),
    ("Ctrl-L", "draw the screen again"),
    ("Ctrl-Z", "stop; `fg` goes on"),
    ("q, Ctrl-C", "quit"),
];
