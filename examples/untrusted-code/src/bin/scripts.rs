//! A web service that runs scripts of its users.
//!
//! `POST /run` with a Python script as the body answers with JSON: what the script printed, and how
//! it ended, with the report of its attempt.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use brigade::{CallError, Pool, Sandbox, task};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The interpreter. Its files are among those of the system, which the sandbox may read.
const PYTHON: &str = "/usr/bin/python3";
/// The most of a script's output that is kept.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// What scripts may do: read the system's programs and libraries, and start them.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::builder().system().programs().build();
    sandbox.expect("a sandbox without paths is always valid")
}

/// How a script ended, if that was by itself.
#[derive(Serialize, Deserialize)]
struct Ran {
    exit_code: Option<i32>,
    signal: Option<i32>,
    output: String,
}

/// Runs a script.
#[task(
    sandbox = sandbox(),
    timeout = "5s",
    cpu = "3s",
    memory = "128MiB",
    address_space = "1GiB",
    processes = 16,
    files = 64,
    file_size = "1MiB"
)]
fn run_script(script: String) -> io::Result<Ran> {
    let mut python = python()?;
    // Reading goes on meanwhile, so that neither side waits for the other. A script that does not
    // read its own text to the end ends by itself; its output says why.
    let stdin = python.stdin.take();
    #[expect(
        clippy::disallowed_methods,
        reason = "a program of a user, not the library"
    )]
    let writer =
        std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(script.as_bytes())));
    let mut output = Vec::new();
    if let Some(stdout) = python.stdout.take() {
        stdout.take(OUTPUT_BYTES_MAX).read_to_end(&mut output)?;
    }
    writer.join().ok();
    let status = python.wait()?;
    Ok(Ran {
        exit_code: status.code(),
        signal: status.signal(),
        output: String::from_utf8_lossy(&output).into_owned(),
    })
}

/// The interpreter, without the user's settings and packages, both of its outputs in one.
#[expect(
    clippy::disallowed_methods,
    reason = "running a program is what this is about"
)]
fn python() -> io::Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", "exec \"$0\" -I - 2>&1", PYTHON])
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

async fn run(State(pool): State<Pool>, script: String) -> (StatusCode, Json<Value>) {
    let call = run_script(script).queue_timeout(Duration::from_secs(10));
    match pool.call(call).await {
        Ok(ran) => (StatusCode::OK, Json(json!({"ending": "done", "ran": ran}))),
        Err(error) => (status_of(&error), Json(report_of(&error))),
    }
}

/// Whose fault it was.
fn status_of(error: &CallError) -> StatusCode {
    match error {
        // The service has too much to do, or cannot keep the sandbox.
        CallError::Rejected(_) | CallError::Lost(_) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// How a script was ended, for its user.
fn report_of(error: &CallError) -> Value {
    json!({
        "ending": error.outcome(),
        "message": error.to_string(),
        "report": error.report(),
    })
}

#[brigade::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::builder()
        .workers(4)
        .spares(1)
        // No script meets what another one left in a process.
        .fresh_per_call()
        // A host that cannot keep the sandbox refuses now, and not at the first script.
        .sandbox(sandbox())
        .start()
        .await?;
    let router = Router::new()
        .route("/run", post(run))
        .with_state(pool.clone());
    let address = std::env::args().nth(1);
    let address = address.as_deref().unwrap_or("127.0.0.1:3000");
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, router)
        .with_graceful_shutdown(brigade::stop_signal())
        .await?;
    pool.shutdown().await;
    Ok(())
}
