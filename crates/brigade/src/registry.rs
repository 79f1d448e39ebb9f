//! The table of this program's tasks, filled at link time by `#[task]`.
//!
//! Names are what travels; only this process turns a name into a function. A library whose tasks no code of the
//! program mentions is not linked and its tasks are missing: `use tasks as _;` brings it in.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::OnceLock;

use linkme::distributed_slice;

use crate::call::Call;
use crate::codec::Codec;
use crate::context::Context;
use crate::error::{Error, ErrorKind};
use crate::task::Invocation;

/// Runs a task: decodes its arguments, calls it, encodes what it returns.
#[doc(hidden)]
pub type Invoke = fn(Context, Codec, &[u8]) -> Invocation;

/// What the program knows of one of its tasks. Made by `#[task]`.
#[doc(hidden)]
pub struct TaskEntry {
    pub name: &'static str,
    /// Type name of its entry, which stands within the function that the user calls.
    pub path: fn() -> &'static str,
    pub queue: &'static str,
    pub place: &'static str,
    pub codec: Codec,
    pub idempotent: bool,
    pub signature: fn() -> &'static str,
    /// The type name of the function's body, which stands within the function that describes a call.
    pub body: fn() -> &'static str,
    /// Sets what the attribute says on a call.
    pub options: fn(Call<()>) -> Call<()>,
    pub invoke: Invoke,
}

/// Every task of this program.
#[doc(hidden)]
#[distributed_slice]
pub static TASKS: [TaskEntry];

type Table = HashMap<&'static str, &'static TaskEntry>;

static TABLE: OnceLock<Result<Table, Box<str>>> = OnceLock::new();

/// The table, or which two tasks share a name.
///
/// # Errors
///
/// `DuplicateTask`, naming both places.
pub(crate) fn table() -> Result<&'static Table, Error> {
    let table = TABLE.get_or_init(|| {
        let mut table = Table::with_capacity(TASKS.len());
        for task in TASKS {
            match table.entry(task.name) {
                Entry::Vacant(entry) => {
                    entry.insert(task);
                }
                Entry::Occupied(entry) => {
                    let (name, one, two) = (task.name, entry.get().place, task.place);
                    return Err(format!(
                        "register tasks: {name:?} is defined twice, at {one} and at {two}; name one of them with #[task(name = ..)]"
                    )
                    .into());
                }
            }
        }
        Ok(table)
    });
    table.as_ref().map_err(|text| Error::new(ErrorKind::DuplicateTask, text.clone()))
}

/// The task that a function of this type name describes calls of. `#[task]` made both the function and, within it, the entry.
///
/// # Errors
///
/// `BadOption` if it is no task.
#[cfg(feature = "broker")]
pub(crate) fn of_function(path: &str) -> Result<&'static TaskEntry, Error> {
    let described_by = |task: &&&TaskEntry| (task.path)().rsplit_once("::").is_some_and(|(function, _)| function == path);
    let mut tasks = table()?.values().filter(described_by);
    match (tasks.next(), tasks.next()) {
        (Some(task), None) => Ok(task),
        _ => Err(Error::new(ErrorKind::BadOption, format!("serve {path}: it is no #[task] function of this program"))),
    }
}

/// The task of this name, if this program has it.
pub(crate) fn find(name: &str) -> Option<&'static TaskEntry> {
    table().ok()?.get(name).copied()
}

/// The task whose calls the function of this type name describes. Both names are the compiler's own, from one build.
#[cfg(feature = "broker")]
pub(crate) fn described_by(function: &str) -> Option<&'static TaskEntry> {
    let is_it = |task: &&&TaskEntry| (task.body)().rsplit_once("::").is_some_and(|(describing, _)| describing == function);
    let mut found = table().ok()?.values().filter(is_it);
    // Two of one name would be a guess.
    found.next().copied().filter(|_| found.next().is_none())
}
