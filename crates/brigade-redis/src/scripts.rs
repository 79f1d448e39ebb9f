//! The scripts that run on the server. All begin with `common.lua`; a server that does not know one
//! yet gets its code with the call.

use std::sync::OnceLock;

use redis::{Arg, Cmd, Script, cmd};

use crate::policy::{
    CANCELLED_KEPT, HISTORY_MAX, MISSED_BYTES_MAX, MISSED_NAMED_MAX, NEVER_BEGAN, NEXT_TOO_LATE,
    OUT_OF_TIME, PAYLOAD_BYTES_MAX,
};

/// A script, which a server knows by its hash once it was loaded.
pub(super) struct Lua {
    pub(super) code: String,
    pub(super) hash: String,
}

impl Lua {
    /// A script that begins with the constants of [`policy`](crate::policy).
    fn new(parts: &[&str]) -> Self {
        let constants = format!(
            "local HISTORY_MAX, CANCELLED_KEPT, PAYLOAD_BYTES_MAX = {HISTORY_MAX}, {}, \
                {PAYLOAD_BYTES_MAX}\n\
                local MISSED_BYTES_MAX, MISSED_NAMED_MAX = {MISSED_BYTES_MAX}, {MISSED_NAMED_MAX}\n\
                local NEXT_TOO_LATE, NEVER_BEGAN, OUT_OF_TIME = '{NEXT_TOO_LATE}', \
                '{NEVER_BEGAN}', '{OUT_OF_TIME}'\n",
            CANCELLED_KEPT.as_millis()
        );
        let code = constants + &parts.concat();
        let hash = Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }
}

// Each is loaded by the first call that finds it missing on the server.
macro_rules! scripts {
    ($($name:ident: $($part:literal)*),*) => {
        $(pub(super) fn $name() -> &'static Lua {
            static SCRIPT: OnceLock<Lua> = OnceLock::new();
            SCRIPT.get_or_init(|| {
                Lua::new(&[
                include_str!("common.lua"),
                $(include_str!($part),)*
                include_str!(concat!(stringify!($name), ".lua")),
            ])
            })
        })*
    };
}

scripts! {
    push: "plain.lua" "chores.lua", lease: "plain.lua" "chores.lua" "time.lua", settle: "plain.lua", order: "chores.lua", schedule:,
    why: "chores.lua" "time.lua", commit:, merge: "chores.lua", tick: "chores.lua" "time.lua",
    probe: "chores.lua" "time.lua", rights:, takeover:, clock:
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
