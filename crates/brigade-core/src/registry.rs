//! The table of this program's tasks, filled at link time by `#[task]`.
//!
//! Names are what travels; only this process turns a name into a function. A library whose tasks no
//! code of the program mentions is not linked and its tasks are missing: `use tasks as _;` brings
//! it in.
//!
//! A task may have former names (`aliases`). Each finds it as its name does, and each is a name of
//! its own in the table: no other task may have it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::OnceLock;

use linkme::distributed_slice;
use serde::Serialize;

use crate::args::Args;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::function::{Function, invoke_function};
use crate::invocation::Invoke;
use crate::options::{Options, OptionsBuilder};
use crate::policy::RetryPolicy;
use crate::refused::unknown_task;

/// What the program knows of one of its tasks. Made by `#[task]`.
#[doc(hidden)]
pub struct TaskEntry {
    pub name: &'static str,
    /// Names that it had before.
    pub aliases: &'static [&'static str],
    /// Type name of its entry, which stands within the function that the user calls.
    pub path: fn() -> &'static str,
    pub queue: &'static str,
    pub place: &'static str,
    pub codec: Codec,
    pub idempotent: bool,
    pub signature: fn() -> &'static str,
    /// The type name of the function's body, which stands within the function that describes a
    /// call.
    pub body: fn() -> &'static str,
    /// Sets what the attribute says.
    pub options: fn(OptionsBuilder) -> OptionsBuilder,
    pub invoke: Invoke,
}

/// Every task of this program.
#[doc(hidden)]
#[distributed_slice]
pub static TASKS: [TaskEntry];

/// A plain function that other hosts may ask for. Made by `functions!`.
#[doc(hidden)]
pub struct FunctionEntry {
    name: fn() -> &'static str,
    invoke: Invoke,
}

/// What `functions!` puts into the table.
#[doc(hidden)]
pub const fn function<F, A>(_: F) -> FunctionEntry
where
    A: Args,
    F: Function<A>,
    F::Output: Serialize,
{
    FunctionEntry {
        name: std::any::type_name::<F>,
        invoke: invoke_function::<F, A>,
    }
}

/// The functions of this program that other hosts may ask for. Their order is the linker's: the
/// same in every process of one build.
#[doc(hidden)]
#[distributed_slice]
pub static FUNCTIONS: [FunctionEntry];

/// The place of a function in the table, by its type name; `None` if it is not there, or there for
/// certain.
pub fn function_number(name: &str) -> Option<u32> {
    let mut found = (0..)
        .zip(FUNCTIONS.iter())
        .filter(|(_, function)| (function.name)() == name);
    let (number, _) = found.next()?;
    found.next().is_none().then_some(number)
}

/// The function at this place of the table.
pub fn function_at(number: u32) -> Option<(Invoke, &'static str)> {
    let function = FUNCTIONS.get(usize::try_from(number).ok()?)?;
    Some((function.invoke, (function.name)()))
}

/// Every name and former name, and whose it is.
type Table = HashMap<&'static str, &'static TaskEntry>;

static TABLE: OnceLock<Result<Table, Box<str>>> = OnceLock::new();

impl TaskEntry {
    /// The options that the attribute gives its calls.
    pub fn call_options(&self) -> Options {
        (self.options)(OptionsBuilder::default()).options
    }

    /// What the attribute says of retries.
    pub fn policy(&self) -> RetryPolicy {
        let options = self.call_options();
        RetryPolicy {
            retries: options.retries,
            retry: options.retry,
        }
    }

    /// Every name by which it is called, its own first.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// The queues where its jobs may wait: its own, and those that its former names gave it.
    pub fn queues(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.queue).chain(
            self.aliases
                .iter()
                .copied()
                .filter(|alias| *alias != self.queue),
        )
    }
}

/// The table by name and former name, or which two tasks share one.
///
/// # Errors
///
/// `DuplicateTask`, naming both places.
fn table() -> Result<&'static Table, Error> {
    let table = TABLE.get_or_init(|| table_of(&TASKS));
    table
        .as_ref()
        .map_err(|text| Error::new(ErrorKind::DuplicateTask, text.clone()))
}

fn table_of(tasks: &'static [TaskEntry]) -> Result<Table, Box<str>> {
    let mut table = Table::with_capacity(tasks.len());
    for (name, task) in tasks
        .iter()
        .flat_map(|task| task.names().map(move |name| (name, task)))
    {
        match table.entry(name) {
            Entry::Vacant(entry) => {
                entry.insert(task);
            }
            Entry::Occupied(entry) => return Err(twice(name, entry.get(), task)),
        }
    }
    Ok(table)
}

fn twice(name: &str, one: &TaskEntry, two: &TaskEntry) -> Box<str> {
    let (place_one, place_two) = (one.place, two.place);
    let is_alias = |task: &TaskEntry| task.name != name;
    let help = match (is_alias(one), is_alias(two)) {
        (false, false) => "name one of them with #[task(name = ..)]",
        _ => {
            "a former name (#[task(aliases = [..])]) belongs to one task and is no other task's \
                name: take it out of one of them"
        }
    };
    format!("register tasks: {name:?} is defined twice, at {place_one} and at {place_two}; {help}")
        .into()
}

/// Refuses a program in which two tasks share a name.
///
/// # Errors
///
/// `DuplicateTask`, naming both places.
pub fn check() -> Result<(), Error> {
    table().map(|_| ())
}

/// Every task, once.
///
/// # Errors
///
/// As [`check`].
pub fn tasks() -> Result<impl Iterator<Item = &'static TaskEntry>, Error> {
    check().map(|()| TASKS.iter())
}

/// Which task runs the plain jobs of a queue, for each queue that a task has. Of several tasks in
/// one queue it is that which has the queue's name, or had it.
///
/// # Errors
///
/// As [`check`].
pub fn by_queue() -> Result<HashMap<Box<str>, &'static str>, Error> {
    let lines = |task: &'static TaskEntry| task.queues().map(move |queue| (queue, task));
    let (namesakes, others): (Vec<_>, Vec<_>) = tasks()?
        .flat_map(lines)
        .partition(|(queue, task)| task.names().any(|name| name == *queue));
    Ok(others
        .into_iter()
        .chain(namesakes)
        .map(|(queue, task)| (queue.into(), task.name))
        .collect())
}

/// The task that is called by this name, or had it before.
///
/// # Errors
///
/// As [`check`], and `UnknownTask`.
pub fn named(name: &str) -> Result<&'static TaskEntry, Error> {
    table()?
        .get(name)
        .copied()
        .ok_or_else(|| unknown_task(name))
}

/// The task that a function of this type name describes calls of. `#[task]` made both the function
/// and, within it, the entry.
///
/// # Errors
///
/// `BadOption` if it is no task.
pub fn of_function(path: &str) -> Result<&'static TaskEntry, Error> {
    let described_by = |task: &&TaskEntry| {
        (task.path)()
            .rsplit_once("::")
            .is_some_and(|(function, _)| function == path)
    };
    let mut tasks = tasks()?.filter(described_by);
    match (tasks.next(), tasks.next()) {
        (Some(task), None) => Ok(task),
        _ => Err(Error::new(
            ErrorKind::BadOption,
            format!("serve {path}: it is no #[task] function of this program"),
        )),
    }
}

/// The task that is called by this name, or had it before, if this program has it.
pub fn find(name: &str) -> Option<&'static TaskEntry> {
    table().ok()?.get(name).copied()
}

/// The task whose calls the function of this type name describes. Both names are the compiler's
/// own, from one build.
pub fn described_by(function: &str) -> Option<&'static TaskEntry> {
    let is_it = |task: &&TaskEntry| {
        (task.body)()
            .rsplit_once("::")
            .is_some_and(|(describing, _)| describing == function)
    };
    let mut found = tasks().ok()?.filter(is_it);
    // Two of one name would be a guess.
    found.next().filter(|_| found.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invocation::{Invocation, Returned};

    const fn task(
        name: &'static str,
        aliases: &'static [&'static str],
        place: &'static str,
    ) -> TaskEntry {
        TaskEntry {
            name,
            aliases,
            path: || "",
            queue: name,
            place,
            codec: Codec::Json,
            idempotent: false,
            signature: || "",
            body: || "",
            options: |call| call,
            invoke: |_, _, _| Invocation::Now(Returned::Passed(String::new())),
        }
    }

    #[test]
    fn a_task_is_found_by_each_of_its_names() {
        static TASKS: [TaskEntry; 2] = [
            task("add", &["plus", "sum"], "a.rs:1"),
            task("sub", &[], "a.rs:2"),
        ];
        let table = table_of(&TASKS).unwrap();
        assert_eq!(table.len(), 4);
        assert!(
            ["add", "plus", "sum"]
                .iter()
                .all(|name| table[name].name == "add")
        );
    }

    #[test]
    fn a_former_name_that_is_another_task_s_is_refused_with_both_places() {
        static NAMES: [TaskEntry; 2] =
            [task("add", &[], "a.rs:1"), task("sub", &["add"], "b.rs:2")];
        static FORMER: [TaskEntry; 2] = [
            task("one", &["old"], "a.rs:1"),
            task("two", &["old"], "b.rs:2"),
        ];
        for tasks in [&NAMES, &FORMER] {
            let text = table_of(tasks).err().unwrap();
            assert!(
                ["a.rs:1", "b.rs:2", "aliases"]
                    .iter()
                    .all(|part| text.contains(part)),
                "{text}"
            );
        }
    }
}
