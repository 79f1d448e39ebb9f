//! A lease that a crash of the server undid: hand-outs do not wait for the disk.

use brigade::Broker;
use brigade_testkit::postgres::Postgres;

const LEASE: &str = "select id || ' ' || token from brigade.lease(array['q'], array[null]::integer[], \
    array[0]::bigint[], 1, 600000, 1) where id is not null";
/// Crashes until one undoes the lease, which another process of the server may write at any time.
const TRIES: usize = 5;

fn settle(server: &Postgres, lease: &str) -> String {
    let (id, token) = lease.split_once(' ').unwrap();
    let text = format!(
        "select (brigade.settle(array[{id}::bigint], array[{token}::bigint], array['done'], array['done'], \
            null, null, null, null, null, null))[1]"
    );
    server.sql(&text).unwrap()
}

#[tokio::test]
async fn a_lease_that_a_crash_undid_settles_nothing_that_others_hold_now() {
    let mut server = Postgres::start(&["fsync = on", "wal_writer_delay = 10000ms"]).unwrap();
    Broker::migrate(&server.url()).await.unwrap();
    for _ in 0..TRIES {
        server.sql("select brigade.push('q', '1')").unwrap();
        let undone = server.sql(LEASE).unwrap();
        server.restart().unwrap();
        let again = server.sql(LEASE).unwrap();
        if again.is_empty() {
            assert_eq!(settle(&server, &undone), "accepted", "the lease was kept");
            continue;
        }
        assert_ne!(undone, again);
        assert_eq!(settle(&server, &undone), "stale");
        assert_eq!(settle(&server, &again), "accepted");
        return;
    }
    panic!("no crash undid a lease");
}
