//! The scripts that run on the server. All begin with `begin.lua`, `record.lua` and `first.lua`; a
//! server that does not know one yet gets its code with the call.

use std::sync::OnceLock;
use std::time::Duration;

use redis::{Arg, Cmd, Script, cmd};

use super::count_letters::{LETTERS, RUNS, WAITS};
use super::keys::COUNTED;
use crate::policy::{
    CANCELLED_KEPT, HISTORY_MAX, MISSED_BYTES_MAX, MISSED_NAMED_MAX, NEVER_BEGAN, NEXT_TOO_LATE,
    OUT_OF_TIME, PATTERN_BYTES_MAX, PAYLOAD_BYTES_MAX,
};
use brigade_core::job_event::{
    EVENT_REASON_BYTES_MAX, EVENTS_KEPT, PURGE_EVENTS_MAX, RECORDED_FOR,
};
use brigade_core::statistics::{Durations, OTHER_TASKS, STATISTICS_KEPT, TASKS_COUNTED_MAX};
use brigade_core::store::DeadGroup;

/// Groups of dead letters that a server keeps of a queue: twice as many as are given. What comes
/// later and fits into none of them is in one more.
const GROUPS_READ_MAX: usize = 2 * DeadGroup::GROUPS_MAX;

/// A script, which a server knows by its hash once it was loaded.
pub(super) struct Lua {
    pub(super) code: String,
    pub(super) hash: String,
}

impl Lua {
    /// A script with the values of its constants: a server makes each function of a script for
    /// each call, which takes the longer the more variables they share.
    fn new(parts: &[&str]) -> Self {
        let code = constants()
            .iter()
            .fold(parts.concat(), |code, (name, value)| {
                code.replace(name, value)
            });
        let hash = Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }
}

/// The constants of the scripts. A name that is a part of another comes after it.
fn constants() -> Vec<(&'static str, String)> {
    let text = |text: &str| format!("'{text}'");
    let millis = |time: Duration| time.as_millis().to_string();
    let bounds = Durations::BOUNDS.map(|bound| bound.to_string()).join(", ");
    vec![
        ("HISTORY_MAX", HISTORY_MAX.to_string()),
        ("CANCELLED_KEPT", millis(CANCELLED_KEPT)),
        ("PAYLOAD_BYTES_MAX", PAYLOAD_BYTES_MAX.to_string()),
        ("MISSED_BYTES_MAX", MISSED_BYTES_MAX.to_string()),
        ("MISSED_NAMED_MAX", MISSED_NAMED_MAX.to_string()),
        ("NEXT_TOO_LATE", text(NEXT_TOO_LATE)),
        ("NEVER_BEGAN", text(NEVER_BEGAN)),
        ("OUT_OF_TIME", text(OUT_OF_TIME)),
        ("BOUNDS", format!("{{{bounds}}}")),
        ("LETTERS", text(LETTERS)),
        ("TASKS_COUNTED_MAX", TASKS_COUNTED_MAX.to_string()),
        ("OTHER_TASKS", text(OTHER_TASKS)),
        ("STATISTICS_KEPT", millis(STATISTICS_KEPT)),
        ("COUNTED_QUEUES", text(COUNTED)),
        ("EVENTS_KEPT", EVENTS_KEPT.to_string()),
        ("EVENT_REASON_BYTES_MAX", EVENT_REASON_BYTES_MAX.to_string()),
        ("PURGE_EVENTS_MAX", PURGE_EVENTS_MAX.to_string()),
        ("RECORDED_FOR", millis(RECORDED_FOR)),
        ("PATTERN_BYTES_MAX", PATTERN_BYTES_MAX.to_string()),
        ("GROUPS_READ_MAX", GROUPS_READ_MAX.to_string()),
        // Places among the letters.
        ("PUSHED", "1".to_owned()),
        ("DONE", "2".to_owned()),
        ("FAILED", "3".to_owned()),
        ("CRASHED", "4".to_owned()),
        ("INTERRUPTED", "5".to_owned()),
        ("DEAD", "6".to_owned()),
        ("CANCELLED", "7".to_owned()),
        ("WAITS", WAITS.to_string()),
        ("RUNS", RUNS.to_string()),
    ]
}

// Each is loaded by the first call that finds it missing on the server. What is in braces becomes
// the function `rest`, which a script calls if it has more to do than plain jobs need: then its
// functions are made, and not before.
macro_rules! scripts {
    ($($name:ident: $($part:literal)* $({ $($rest:literal)* })?),*) => {
        $(pub(super) fn $name() -> &'static Lua {
            static SCRIPT: OnceLock<Lua> = OnceLock::new();
            SCRIPT.get_or_init(|| {
                Lua::new(&[
                    include_str!("begin.lua"),
                    include_str!("record.lua"),
                    include_str!("first.lua"),
                    $(include_str!($part),)*
                    $("local function rest()\n", $(include_str!($rest),)* "end\n",)?
                    include_str!(concat!(stringify!($name), ".lua")),
                ])
            })
        })*
    };
}

scripts! {
    push: "plain.lua" { "common.lua" "chores.lua" "push_jobs.lua" },
    settle: "plain.lua" { "common.lua" "settle_jobs.lua" },
    lease: "plain.lua" "asks.lua" "lease_answers.lua" { "common.lua" "chores.lua" "time.lua" "lease_jobs.lua" },
    order: "common.lua" "chores.lua",
    schedule: "common.lua",
    why: "common.lua" "chores.lua" "time.lua",
    commit: "common.lua",
    merge: "common.lua" "chores.lua",
    look: "plain.lua" "common.lua" "chores.lua" "time.lua",
    probe: "common.lua" "chores.lua" "time.lua" "asks.lua",
    rights:,
    takeover: "common.lua",
    clock:,
    statistics:,
    watch:,
    dead: "common.lua"
}

/// A call of a script by its hash, as one with its code.
pub(super) fn with_code(command: &Cmd, script: &Lua) -> Cmd {
    let mut arguments = command.args_iter();
    if !matches!(arguments.next(), Some(Arg::Simple(b"EVALSHA"))) {
        return command.clone();
    }
    let mut call = cmd("EVAL");
    call.arg(&script.code);
    for argument in arguments.skip(1) {
        if let Arg::Simple(bytes) = argument {
            call.arg(bytes);
        }
    }
    call
}
