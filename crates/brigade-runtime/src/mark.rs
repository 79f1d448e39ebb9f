//! The mark by which descendants of workers are known: the cookies in the environment that they
//! inherited.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

/// Marks a worker and all its descendants: a path of cookies, one per nested pool.
pub const TREE_VARIABLE: &str = "BRIGADE_TREE";

/// How often a process without an environment is looked at again, and the pause before that.
const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_micros(200);

/// The cookies that a process carries, by its number in `/proc`, outermost first, with `/` between
/// them.
#[expect(
    clippy::disallowed_methods,
    reason = "execve(2) gives no notice when it is done"
)]
pub fn mark_of(pid: &str) -> Option<String> {
    let mut environment = environment(pid)?;
    for _ in 0..LOOKS {
        // execve(2) takes a process's memory away before it has put the new environment there.
        // Threads of the kernel, and what has ended, have no executable.
        if !environment.is_empty() || fs::read_link(format!("/proc/{pid}/exe")).is_err() {
            break;
        }
        sleep(PAUSE);
        environment = self::environment(pid)?;
    }
    environment.split(|byte| *byte == 0).find_map(|variable| {
        let value = variable
            .strip_prefix(TREE_VARIABLE.as_bytes())?
            .strip_prefix(b"=")?;
        String::from_utf8(value.to_vec()).ok()
    })
}

fn environment(pid: &str) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/environ")).ok()
}
