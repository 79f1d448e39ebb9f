//! How a host introduces itself, and what of that is refused.

use super::super::super::config::SLOTS_MAX;
use super::super::super::core::{HostArrival, HostInfo, TaskFacts};
use super::super::super::ids::CallId;
use super::super::outgoing::TASK_NAME_BYTES_MAX;
use crate::address;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::registry;
use crate::remote::{FrameConnection, printable};
use crate::retry::Retry;
use crate::wire::remote::{Join, MAGIC, TaskLine, VERSION, kind};

/// Tasks of one host.
const TASKS_MAX: usize = 10_000;
pub(super) const LABELS_MAX: usize = 256;
/// Of a host's version of the library, in an error text.
const VERSION_BYTES_MAX: usize = 64;
const SIGNATURE_BYTES_MAX: usize = 1024;

/// Reads how a host introduces itself, and checks what can be checked of that.
pub(super) async fn introduce(
    line: &mut FrameConnection,
    identity: &str,
) -> Result<(HostInfo, HostArrival), Error> {
    let refuse = |text: String| Err(Error::new(ErrorKind::Refused, text));
    let frame = line.listen().await?;
    // What both versions have in common comes first.
    let Ok(((magic, version, brigade), _)) =
        postcard::take_from_bytes::<([u8; 4], u16, String)>(&frame.body)
    else {
        return refuse("it does not introduce itself".to_owned());
    };
    if frame.kind != kind::JOIN || magic != MAGIC {
        return refuse("it does not introduce itself".to_owned());
    }
    if version != VERSION {
        let (own, brigade) = (
            env!("CARGO_PKG_VERSION"),
            printable(&brigade, VERSION_BYTES_MAX),
        );
        return refuse(format!(
            "it speaks version {version} of the protocol (brigade {brigade}), this pool {VERSION} \
                (brigade {own})"
        ));
    }
    let join: Join = Codec::Postcard.decode(&frame.body)?;
    match problem_of(&join) {
        Some(text) => refuse(text),
        None => Ok(accepted(join, identity)),
    }
}

/// What is wrong with how a host introduces itself.
fn problem_of(join: &Join) -> Option<String> {
    if join.slots == 0 || join.slots > SLOTS_MAX {
        return Some(format!(
            "it offers {} slots: there are 1 to {SLOTS_MAX}",
            join.slots
        ));
    }
    if join.tasks.len() > TASKS_MAX
        || join.labels.len() > LABELS_MAX
        || join.held.len() > 4 * SLOTS_MAX as usize
    {
        return Some("it names too many tasks, labels or calls".to_owned());
    }
    if let Some((task, own)) = join.tasks.iter().find_map(other_signature) {
        let theirs = printable(&task.signature, SIGNATURE_BYTES_MAX);
        let text = format!(
            "its task {:?} is {theirs}, this pool's is {own}: build both from the same source",
            task.name
        );
        return Some(text);
    }
    None
}

fn accepted(join: Join, identity: &str) -> (HostInfo, HostArrival) {
    let info = HostInfo {
        session: join.session,
        identity: identity.into(),
        name: printable(&join.name, TASK_NAME_BYTES_MAX).into(),
        pid: join.pid,
        slots: join.slots,
        labels: join.labels.into_iter().map(Into::into).collect(),
        functions: join.functions && join.build == address::build_id(),
        tasks: join
            .tasks
            .into_iter()
            .map(|task| {
                (
                    task.name.into(),
                    TaskFacts {
                        idempotent: task.idempotent,
                        retries: task.retries,
                        retry: task.retry.map(Retry::from),
                    },
                )
            })
            .collect(),
    };
    let held = join.held.into_iter();
    let arrival = HostArrival {
        held: held
            .map(|(call, attempt)| (CallId::from_wire(call), attempt))
            .collect(),
        leaving: join.leaving,
    };
    (info, arrival)
}

/// A task that this program has too, and whose types are others here: calls of this program would
/// not fit there.
fn other_signature(task: &TaskLine) -> Option<(&TaskLine, &'static str)> {
    let own = (registry::find(&task.name)?.signature)();
    (!crate::signature::fits(own, &task.signature)).then_some((task, own))
}
