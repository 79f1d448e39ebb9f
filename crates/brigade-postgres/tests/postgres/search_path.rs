//! What others have made in the schemas of a session is never called by the functions of `brigade`.

use std::collections::BTreeSet;
use std::{fs, path::Path};

use crate::stage::{fresh_broker, run, session};

/// Exact matches for calls of the server's polymorphic functions, as a user could make them who may
/// create in `public`.
const TRAPS: &str = "create function public.cardinality(bigint[]) returns integer language sql as 'select 1 / 0';
    create function public.cardinality(text[]) returns integer language sql as 'select 1 / 0';
    create function public.width_bucket(bigint, bigint[]) returns integer language sql as 'select 1 / 0';
    create function public.array_remove(text[], text) returns text[] language sql as 'select array[(1 / 0)::text]';";
const LEASE: &str = "select id, token from brigade.lease(array['q'], array[null]::integer[], array[0]::bigint[], \
    1, 60000, 1) where id is not null";
const SETTLE: &str = "select brigade.settle(array[$1::bigint], array[$2::bigint], array['done'], array['done'], \
    null, null, null, null, null, array[5]::bigint[])";

/// Plain expressions without a call that another function could stand in for.
const PLAIN: [&str; 4] = ["ms", "now", "schema_version", "wall"];

#[test]
fn functions_of_others_are_not_called() {
    run(async {
        let (_broker, url) = fresh_broker().await;
        let client = session(&url).await;
        client.batch_execute(TRAPS).await.unwrap();
        let trapped = client.query_one("select cardinality(array['q'])", &[]);
        assert!(trapped.await.is_err(), "the session itself finds them");
        for options in ["{}", r#"{"key": "k", "unique": "u"}"#] {
            let push = format!("select brigade.push('q', '1', '{options}')");
            client.batch_execute(&push).await.unwrap();
            let leased = client.query_one(LEASE, &[]).await.unwrap();
            let (id, token): (i64, i64) = (leased.get(0), leased.get(1));
            let settled = client.query_one(SETTLE, &[&id, &token]).await.unwrap();
            assert_eq!(settled.get::<_, Vec<String>>(0), ["accepted"]);
        }
        let chores = "select brigade.chores(10, null, null)::text, brigade.keep_up(10)";
        client.query_one(chores, &[]).await.unwrap();
    });
}

#[test]
fn every_function_that_the_library_calls_sets_its_path() {
    run(async {
        let (_broker, url) = fresh_broker().await;
        let client = session(&url).await;
        let safe = "select proname::text from pg_proc where pronamespace = 'brigade'::regnamespace
            and array_to_string(proconfig, ' ') like '%search_path=pg_catalog, pg_temp%'";
        let rows = client.query(safe, &[]).await.unwrap();
        let mut safe: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        safe.extend(PLAIN.map(str::to_owned));
        let known =
            "select proname::text from pg_proc where pronamespace = 'brigade'::regnamespace";
        let known = client.query(known, &[]).await.unwrap();
        let known: BTreeSet<String> = known.iter().map(|row| row.get(0)).collect();
        let called: BTreeSet<String> = called().intersection(&known).cloned().collect();
        assert!(called.len() > 20, "{called:?}");
        let unsafe_ones: Vec<&String> = called.difference(&safe).collect();
        assert!(unsafe_ones.is_empty(), "{unsafe_ones:?}");
    });
}

/// Names behind `brigade.` and before a bracket in the sources.
fn called() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in fs::read_dir(sources).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(path).unwrap();
            let calls = text.split("brigade.").skip(1);
            names.extend(calls.filter_map(|call| Some(call.split_once('(')?.0.to_owned())));
        }
    }
    names
}
