//! Code that makes calls, and its unit tests: `cargo test --example unit_tests`.

use brigade::{CallError, Pool, task};

#[task]
fn word_count(text: String) -> usize {
    text.split_whitespace().count()
}

async fn longest(pool: &Pool, texts: &[&str]) -> Result<usize, CallError> {
    let calls: Vec<_> = texts
        .iter()
        .map(|text| pool.call(word_count((*text).to_owned())))
        .collect();
    let mut longest = 0;
    for call in calls {
        longest = longest.max(call.await?);
    }
    Ok(longest)
}

#[brigade::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Without a pool, in this process: what unit tests of a task need.
    println!(
        "here: {} words",
        word_count("one two".to_owned()).run_here().await?
    );

    let pool = Pool::builder().workers(2).start().await?;
    println!(
        "in workers: {} words",
        longest(&pool, &["a b c", "d e"]).await?
    );
    pool.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Lets pools start workers although the test harness owns `main`.
    brigade::test_workers!();

    #[tokio::test]
    async fn counts_words() {
        assert_eq!(
            word_count(" one  two\nthree ".to_owned())
                .run_here()
                .await
                .unwrap(),
            3
        );
    }

    #[tokio::test]
    async fn finds_the_longest() {
        let pool = Pool::builder().workers(1).start().await.unwrap();
        assert_eq!(longest(&pool, &["a b", "c d e", ""]).await.unwrap(), 3);
        pool.shutdown().await;
    }
}
