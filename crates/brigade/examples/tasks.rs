//! Tasks: functions with a name, called with types, through a constant, or as JSON.

use brigade::{Call, CallError, Codec, ErrorKind, Pool, Task, task};
use serde_json::{Value, json};

#[task]
fn add(a: i64, b: i64) -> i64 {
    a + b
}

/// An async task that may fail. Its options hold for every call that does not say otherwise.
#[task(name = "text.shout", timeout = "5s", codec = "json")]
async fn shout(text: String) -> Result<String, std::io::Error> {
    if text.is_empty() {
        return Err(std::io::Error::other("nothing to shout"));
    }
    Ok(format!("{}!", text.to_uppercase()))
}

/// For a caller that does not have the code: name, types and format are all it needs.
const ADD: Task<(i64, i64), i64> = Task::new("add");
const SHOUT: Task<(String,), String> = Task::new("text.shout").codec(Codec::Json);

#[brigade::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::builder().workers(2).start().await?;

    println!("by function: {}", pool.call(add(3, 4)).await?);
    println!("by constant: {}", pool.call(ADD.call((3, 4))).await?);
    println!(
        "by constant: {}",
        pool.call(SHOUT.call(("hello".to_owned(),))).await?
    );
    let value: Value = pool.call(Call::json("add", &json!([3, 4]))).await?;
    println!("as JSON: {value}");

    match pool.call(shout(String::new())).await {
        Err(CallError::Failed(failure)) => println!("failed: {failure}"),
        other => println!("unexpected: {other:?}"),
    }

    // What does not fit is refused with a kind.
    let unknown = pool.call(Call::<Value>::json("unknown", &json!([]))).await;
    println!(
        "unknown task refused: {}",
        unknown.is_err_and(|e| e.rejected() == Some(ErrorKind::UnknownTask))
    );
    let misfit = pool
        .call(Call::<Value>::json("add", &json!(["three", 4])))
        .await;
    println!(
        "wrong types refused: {}",
        misfit.is_err_and(|e| e.rejected() == Some(ErrorKind::BadArguments))
    );

    pool.shutdown().await;
    Ok(())
}
