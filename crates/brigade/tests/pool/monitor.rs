//! The monitor: a socket that shows what a pool does.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use brigade::{ErrorKind, Pool};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;

use crate::gate::Gate;
use crate::probe::soon;
use crate::tasks::*;

#[tokio::test]
async fn the_monitor_shows_workers_and_running_calls_line_by_line() {
    soon(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("monitor");
        let pool = Pool::builder().workers(2).monitor(&path).start().await;
        let (pool, gate) = (pool.unwrap(), Gate::new());
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let held = pool.call(hold(gate.path(), 1));
        let arrival = gate.arrival().await;
        let stream = UnixStream::connect(&path).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let mut next = async || {
            let line = lines.next_line().await.unwrap().unwrap();
            serde_json::from_str::<Value>(&line).unwrap()
        };
        let state = next().await;
        assert_eq!(state["version"], 1);
        assert_eq!(state["pid"], json!(std::process::id()));
        let stats = &state["stats"];
        assert_eq!(
            (&stats["workers"], &stats["busy"], &stats["running"]),
            (&json!(2), &json!(1), &json!(1))
        );
        let states = [&state["workers"][0]["state"], &state["workers"][1]["state"]];
        assert!(states.contains(&&json!("busy")) && states.contains(&&json!("idle")));
        assert_eq!(state["calls"].as_array().unwrap().len(), 1);
        let call = &state["calls"][0];
        assert_eq!(
            (&call["task"], &call["attempt"]),
            (&json!("hold"), &json!(1))
        );

        drop(arrival);
        held.await.unwrap();
        while next().await["calls"] != json!([]) {}
        pool.shutdown().await;
        assert!(!path.exists(), "the socket goes with its pool");
    })
    .await;
}

#[tokio::test]
async fn a_monitor_takes_no_path_that_is_in_use_and_replaces_a_stale_socket() {
    soon(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("monitor");
        let start = || {
            let builder = Pool::builder().workers(1).shutdown_timeout(Duration::ZERO);
            builder.monitor(&path).start()
        };
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let pool = start().await.unwrap();
        assert_eq!(start().await.unwrap_err().kind(), ErrorKind::Os);
        pool.shutdown().await;
        std::fs::write(&path, "a file of a user").unwrap();
        assert_eq!(start().await.unwrap_err().kind(), ErrorKind::BadOption);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file of a user");
    })
    .await;
}
