//! Flows: a chain hands each result on, a group runs side by side and collects, and a retry brings
//! a broken flow to its end.

use brigade::{Broker, Chain, Failure, Group, JobState, Pool, task};

#[task]
fn words(text: String) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Its first argument is the result of the step before.
#[task]
fn longest(words: Vec<String>, at_least: usize) -> Option<String> {
    words
        .into_iter()
        .filter(|word| word.len() >= at_least)
        .max_by_key(String::len)
}

#[task]
fn shout(word: Option<String>) -> String {
    word.map_or_else(|| "nothing".to_owned(), |word| word.to_uppercase())
}

#[task]
fn square(n: u64) -> u64 {
    n * n
}

#[task]
fn sum(parts: Vec<u64>) -> u64 {
    parts.into_iter().sum()
}

/// Fails until the file that it needs exists.
#[task]
fn load(file: String) -> Result<u64, Failure> {
    let text = std::fs::read_to_string(&file)
        .map_err(|e| Failure::permanent(format!("cannot read: {e}")))?;
    text.trim()
        .parse()
        .map_err(|_| Failure::permanent("not a number"))
}

#[brigade::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("brigade-flows-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let broker =
        Broker::connect(&format!("sqlite:{}", directory.join("jobs.db").display())).await?;
    let pool = Pool::builder().workers(2).start().await?;
    let worker = broker.consumer().on(&pool);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();

    let using = async {
        let chain = Chain::new(words("a bucket brigade passes water".into()))
            .then_with(longest, (3,))
            .then(shout);
        println!("a chain: {}", broker.call_flow(chain).await?);

        println!(
            "a group, collected: {}",
            broker
                .call_flow(Group::new((1..=10).map(square)).collect(sum))
                .await?
        );
        println!(
            "a group by itself: {:?}",
            broker.call_flow(Group::new((1..=3).map(square))).await?
        );

        // One member fails. Nothing behind it is run, and nothing that was done is lost.
        let missing = directory.join("number");
        let group = Group::new([square(3), load(missing.to_string_lossy().into_owned())]);
        let flow = broker
            .push_flow(
                group
                    .collect(sum)
                    .then(square)
                    .keep(std::time::Duration::from_secs(60)),
            )
            .await?;
        let ended = broker.wait(flow.last()).await?.ok_or("it is kept")?;
        println!(
            "broken: {}, {}",
            ended.state,
            ended.reason.unwrap_or_default()
        );
        let dead = broker
            .jobs(Some("load"), Some(JobState::Dead), None, 1)
            .await?;
        std::fs::write(&missing, "16")?;
        broker.retry(&dead[0].id).await?;
        let ended = broker.wait(flow.last()).await?.ok_or("it is kept")?;
        println!(
            "after one retry: {}, {}",
            ended.state,
            ended.result.unwrap_or_default()
        );
        drop(stop);
        Ok::<(), Box<dyn std::error::Error>>(())
    };
    let (used, served) = tokio::join!(using, worker.run_until(stopped));
    used?;
    println!("{} jobs done", served?.done);
    pool.shutdown().await;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}
