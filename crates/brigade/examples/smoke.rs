#![allow(missing_docs, unsafe_code, unconditional_recursion)]
use brigade::{Context, Pool, task};
use std::time::{Duration, Instant};

#[task]
fn add(a: i64, b: i64) -> i64 {
    a + b
}
#[task]
fn noop() {}
#[task]
fn boom() -> i64 {
    panic!("boom {}", 3)
}
#[task]
fn segv() {
    unsafe { std::ptr::null_mut::<i32>().write_volatile(1) }
}
#[task]
fn overflow(n: u64) -> u64 {
    let a = [n; 64];
    std::hint::black_box(&a);
    if n == 0 { 0 } else { 1 + *Box::new(rec(n)) }
}
fn rec(n: u64) -> u64 {
    let a = [n; 64];
    std::hint::black_box(&a);
    rec(n + 1) + a[3]
}
#[task]
fn spin() {
    loop {
        std::hint::spin_loop()
    }
}
#[task]
fn hog() -> usize {
    let mut v: Vec<Vec<u8>> = vec![];
    loop {
        v.push(vec![1; 1 << 20]);
    }
}
#[task]
async fn slow(cx: &Context) -> u32 {
    for i in 0..10 {
        cx.progress(f64::from(i) / 10.0, "x");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    7
}

#[brigade::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let t = Instant::now();
    let pool = Pool::builder().workers(2).start().await?;
    println!("start {:?}", t.elapsed());
    println!("{}", pool.call(add(3, 4)).await?);
    println!("{}", pool.run(|a: i64, b: i64| a * b, (3, 4)).await?);
    println!("first {:?}", t.elapsed());
    println!("{:?}", pool.call(boom()).await.unwrap_err().to_string());
    println!("{:?}", pool.call(segv()).await.unwrap_err().to_string());
    println!("{:?}", pool.call(overflow(1)).await.unwrap_err().to_string());
    println!("{:?}", pool.call(spin().timeout(Duration::from_millis(100))).await.unwrap_err().to_string());
    println!("{:?}", pool.call(hog().memory(100 << 20)).await.unwrap_err().to_string());
    println!("{:?}", pool.call(slow()).await);
    println!("{:?}", pool.stats());
    for w in pool.workers() {
        println!("{w:?}");
    }
    let n = 20000;
    let t = Instant::now();
    for i in 0..n {
        assert_eq!(pool.call(add(i, 1)).await?, i + 1);
    }
    println!("one in flight (main) {:?}", t.elapsed() / n as u32);
    let p = pool.clone();
    tokio::spawn(async move {
        let t = Instant::now();
        for i in 0..n {
            assert_eq!(p.call(add(i, 1)).await.unwrap(), i + 1);
        }
        println!("one in flight (task) {:?}", t.elapsed() / n as u32);
    })
    .await?;
    let t = Instant::now();
    let mut set = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let p = pool.clone();
        set.spawn(async move {
            for _ in 0..100 {
                p.call(noop()).await.unwrap();
            }
        });
    }
    set.join_all().await;
    println!("1000 in flight, 1 slot: {:.0}/s", 100_000.0 / t.elapsed().as_secs_f64());
    println!("{:?}", pool.shutdown().await);
    let pool = Pool::builder().workers(2).slots(512).start().await?;
    for _ in 0..3 {
        let t = Instant::now();
        let mut set = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let p = pool.clone();
            set.spawn(async move {
                for _ in 0..1000 {
                    p.call(noop()).await.unwrap();
                }
            });
        }
        set.join_all().await;
        println!("1000 in flight, 512 slots: {:.0}/s", 1_000_000.0 / t.elapsed().as_secs_f64());
    }
    let t = Instant::now();
    let mut set = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        set.spawn(async move {
            for _ in 0..1000 {
                tokio::task::spawn_blocking(|| ()).await.unwrap();
            }
        });
    }
    set.join_all().await;
    println!("spawn_blocking: {:.0}/s", 1_000_000.0 / t.elapsed().as_secs_f64());
    println!("{:?}", pool.shutdown().await);
    Ok(())
}
