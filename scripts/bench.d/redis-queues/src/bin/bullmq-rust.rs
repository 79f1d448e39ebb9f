//! BullMQ's crate. Jobs that are done are removed, as elsewhere.

use std::sync::Arc;

use bench_redis_queues::{PREFETCH, Queue, Result};
use bullmq::options::RedisConnectionOptions;
use bullmq::types::RemoveOnFinish;
use bullmq::worker::WorkerEvent;
use bullmq::{BulkJob, JobOptions, QueueOptions, Worker, WorkerOptions};

#[derive(Clone)]
struct BullMq {
    queue: Arc<bullmq::Queue>,
    connection: RedisConnectionOptions,
}

impl Queue for BullMq {
    async fn open(url: &str) -> Result<Self> {
        let connection = RedisConnectionOptions::new().url(url);
        let mut options = QueueOptions::new().connection(connection.clone());
        options.default_job_options = JobOptions {
            remove_on_complete: Some(RemoveOnFinish::Bool(true)),
            ..JobOptions::default()
        };
        Ok(Self {
            queue: Arc::new(bullmq::Queue::with_options("noop", options).await?),
            connection,
        })
    }

    async fn push(&mut self) -> Result<()> {
        self.queue.add("noop", [(); 0]).await?;
        Ok(())
    }

    async fn push_many(&mut self, count: usize) -> Result<()> {
        self.queue
            .add_bulk((0..count).map(|_| BulkJob::new("noop", [(); 0])).collect())
            .await?;
        Ok(())
    }

    async fn run(self, count: u64) -> Result<()> {
        let options = WorkerOptions {
            connection: self.connection,
            concurrency: PREFETCH,
            ..WorkerOptions::default()
        };
        let noop = |_, _| async { Ok(serde_json::Value::Null) };
        let worker = Worker::with_options("noop", noop, options).await?;
        if !worker.is_running() {
            worker.run().await?;
        }
        let mut left = count;
        while left > 0 {
            match worker.next_event().await.ok_or("the worker ended")? {
                WorkerEvent::Completed { .. } => left -= 1,
                WorkerEvent::Failed { error, .. } | WorkerEvent::Error(error) => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(worker.close(1000).await?)
    }
}

fn main() -> Result<()> {
    bench_redis_queues::main::<BullMq>("bullmq-rust")
}
