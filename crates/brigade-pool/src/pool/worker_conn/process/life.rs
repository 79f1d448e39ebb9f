//! The life of one worker process of ours: start, shake hands, serve, end, reap.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::super::super::ids::WorkerId;
use super::super::super::program_tasks::ProgramTasks;
use super::super::super::shared::Shared;
use super::super::WorkerConn;
use super::{CONTROL_BYTES_MAX, finish, service, start};
use crate::wire::Decoder;

/// The life of a worker, in order.
pub(in super::super::super) async fn live(shared: Arc<Shared>, id: WorkerId) {
    let (worker, tasks) = match start::start(&shared, id).await {
        Ok(start::Started { worker, tasks }) => (Arc::new(worker), ProgramTasks::new(tasks)),
        Err(error) => {
            shared.step(|core, effects| core.on_start_failed(id, &error, effects));
            return;
        }
    };
    let reading = CancellationToken::new();
    // Also cancelled if the reading task is dropped.
    let read = reading.clone().drop_guard();
    let (to_read, for_reading) = (Arc::clone(&worker), Arc::clone(&shared));
    shared.scope.spawn(async move {
        service::read_data(&for_reading, &to_read).await;
        drop(read);
    });
    let writing = Arc::clone(&worker);
    shared.scope.spawn(async move {
        writing
            .process
            .gone
            .run_until_cancelled(writing.data.write_loop())
            .await;
    });
    let (conn, pid) = (Arc::clone(&worker) as Arc<dyn WorkerConn>, worker.pid());
    shared.step(|core, effects| {
        core.on_program_tasks(tasks, effects);
        core.on_ready(id, conn, pid, effects);
    });

    let mut control = Decoder::new(CONTROL_BYTES_MAX);
    let service = service::serve(&shared, &worker, &mut control).await;
    finish::finish(&shared, &worker, &reading, control, service).await;
}
