//! A result as large as may be, while small calls and beats go on.
//!
//! In programs of its own, so that their memory can be measured apart from other tests.

use std::time::{Duration, Instant};

use brigade_testkit::facts;
use brigade_testkit::program::{Program, arguments};

use crate::stage::{away, fleet, host, url_of};
use crate::tasks::{add, zeros};

/// What master and host may need in addition to the result: their buffers, and what a program has
/// anyway.
const OTHER_BYTES: u64 = 64 << 20;
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn a_large_result_is_held_once_and_holds_up_neither_small_calls_nor_beats() {
    // A payload limit counts all that is encoded, the length of these bytes too.
    let bytes = brigade_testkit::count(128 << 20, (1 << 30) - 16);
    let mut master = Program::start_with("large", &[&bytes.to_string()]).unwrap();
    let ended = master.wait(LIMIT);
    print!("{}", master.log());
    assert!(ended.expect("it hangs").success());
}

/// The life of the master.
pub(crate) async fn master() {
    let bytes: usize = arguments().remove(0).parse().unwrap();
    let fleet = fleet().payload_max(1 << 30).start().await.unwrap();
    let host = host(&[&url_of(&fleet), "workers=2", "payload=1024"]);
    fleet.ready(1).await.unwrap();
    assert_eq!(fleet.call(add(1, 2)).await.unwrap(), 3);
    let mut events = fleet.events();
    let began = Instant::now();
    let mut large = Box::pin(async { fleet.call(zeros(bytes)).await.unwrap() });
    let (mut small, mut longest) = (0, Duration::ZERO);
    let result = loop {
        let asked = Instant::now();
        tokio::select! {
            result = &mut large => break result,
            how = away(&mut events) => panic!("the beat did not go on: {how}"),
            sum = fleet.call(add(1, 2)) => {
                assert_eq!(sum.unwrap(), 3);
                small += 1;
                longest = longest.max(asked.elapsed());
            }
        }
    };
    let took = began.elapsed();
    assert!(
        result.len() == bytes
            && result
                .chunks(1 << 20)
                .all(|chunk| chunk == &vec![0; chunk.len()][..])
    );
    assert!(small > 0);
    let peaks = [std::process::id(), host.pid()].map(facts::peak_bytes);
    println!(
        "{} MiB in {took:.1?}, {small} small calls meanwhile, the longest {longest:.1?}; peaks: \
            master {} MiB, host {} MiB",
        bytes >> 20,
        peaks[0] >> 20,
        peaks[1] >> 20
    );
    for peak in peaks {
        assert!(
            peak < bytes as u64 + OTHER_BYTES,
            "{peak} bytes of memory for a result of {bytes}"
        );
    }
    fleet.shutdown().await;
}
