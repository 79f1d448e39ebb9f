//! State that each worker builds once, before its first call, and takes down when it ends in good
//! order.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use brigade::{Context, Pool, task};

/// Stands for a connection, a model, an index: what is dear to build.
struct Dictionary {
    words: HashMap<&'static str, &'static str>,
    looked_up: AtomicU32,
}

/// Runs in the worker. If it fails, the worker does not start.
fn open(language: String) -> Result<Dictionary, std::io::Error> {
    if language != "de" {
        return Err(std::io::Error::other(format!(
            "no dictionary for {language:?}"
        )));
    }
    Ok(Dictionary {
        words: HashMap::from([("bucket", "Eimer"), ("line", "Reihe")]),
        looked_up: AtomicU32::new(0),
    })
}

fn close(dictionary: &Dictionary) {
    println!(
        "closed after {} words",
        dictionary.looked_up.load(Ordering::Relaxed)
    );
}

#[task]
fn translate(cx: &Context, word: String) -> Option<String> {
    let dictionary: &Dictionary = cx.state();
    dictionary.looked_up.fetch_add(1, Ordering::Relaxed);
    dictionary.words.get(&*word).map(ToString::to_string)
}

#[brigade::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::builder()
        .workers(1)
        .init(open, &("de".to_owned(),))
        .teardown(close)
        .start()
        .await?;
    for word in ["bucket", "line", "brigade"] {
        println!("{word}: {:?}", pool.call(translate(word.to_owned())).await?);
    }
    // What a worker prints comes out here, before this returns.
    pool.shutdown().await;

    match Pool::builder()
        .workers(1)
        .init(open, &("fr".to_owned(),))
        .start()
        .await
    {
        Ok(_) => println!("started without its state"),
        Err(error) => println!("not started: {error}"),
    }
    Ok(())
}
