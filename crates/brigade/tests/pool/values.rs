//! Values on their way to a worker and back: each arrives equal or is an error, in every format.

use std::collections::BTreeMap;
use std::net::IpAddr;

use brigade::{Bytes, Call, CallError, Codec, ErrorKind, Pool, Task, task};
use serde::{Deserialize, Serialize};

use crate::probe::{pool_of, soon};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Skip {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    a: Option<u8>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub(crate) enum Shape {
    #[serde(skip)]
    #[expect(dead_code, reason = "it shifts the numbers of those behind it")]
    Hidden,
    Point,
    Circle {
        radius: f64,
        from: IpAddr,
        image: Bytes,
    },
}

type Nested = Vec<Option<Option<u128>>>;

#[task]
fn echo_values(
    skip: Skip,
    shapes: Vec<Shape>,
    list: Vec<Option<u8>>,
    nested: Nested,
) -> (Skip, Vec<Shape>, Vec<Option<u8>>, Nested) {
    (skip, shapes, list, nested)
}

#[task(codec = "json")]
fn echo_json(
    skip: Skip,
    shapes: Vec<Shape>,
    list: Vec<Option<u8>>,
) -> (Skip, Vec<Shape>, Vec<Option<u8>>) {
    (skip, shapes, list)
}

/// A syntax tree, say: `a + b + c + ..`
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Expr {
    Leaf(u32),
    Add(Box<Expr>, u32),
}

fn grown(terms: u32) -> Expr {
    (1..terms).fold(Expr::Leaf(0), |left, n| Expr::Add(Box::new(left), n))
}

fn depth(mut expr: &Expr) -> u32 {
    let mut depth = 1;
    while let Expr::Add(inner, _) = expr {
        (expr, depth) = (inner, depth + 1);
    }
    depth
}

#[task]
fn parses(terms: u32) -> Expr {
    grown(terms)
}

#[task(codec = "json")]
fn parses_to_json(terms: u32) -> Expr {
    grown(terms)
}

#[task(codec = "postcard")]
fn parses_to_postcard(terms: u32) -> Expr {
    grown(terms)
}

#[task]
fn measures(expr: Expr) -> u32 {
    depth(&expr)
}

#[task(codec = "json")]
fn divides(a: f64, b: f64) -> BTreeMap<String, Vec<f64>> {
    BTreeMap::from([("quotients".to_owned(), vec![1.0, a / b])])
}

#[task]
fn adds_more(a: i64, b: Option<i64>, c: Option<Vec<i64>>) -> i64 {
    a + b.unwrap_or(100) + c.map_or(1000, |c| c.iter().sum())
}

fn kind(error: &CallError) -> Option<ErrorKind> {
    error.rejected()
}

#[tokio::test]
async fn what_serde_attributes_make_of_a_value_arrives_equal() {
    soon(async {
        let pool = pool_of(1).await;
        let circle = Shape::Circle {
            radius: 0.1,
            from: [127, 0, 0, 1].into(),
            image: Bytes::from_static(b"\0\xff"),
        };
        let shapes = vec![Shape::Point, circle];
        for a in [None, Some(1)] {
            let skip = Skip {
                a,
                rest: BTreeMap::from([("n".to_owned(), serde_json::json!([null, 1.5, u64::MAX]))]),
            };
            let list = vec![Some(0), None];
            let nested = vec![None, Some(None), Some(Some(u128::MAX)), Some(Some(0))];
            let sent = (skip, shapes.clone(), list, nested);
            let (skip, shapes, list, nested) = sent.clone();
            assert_eq!(
                pool.call(echo_values(
                    skip.clone(),
                    shapes.clone(),
                    list.clone(),
                    nested
                ))
                .await
                .unwrap(),
                sent
            );
            let back = pool
                .call(echo_json(skip.clone(), shapes.clone(), list.clone()))
                .await
                .unwrap();
            assert_eq!(back, (skip.clone(), shapes.clone(), list.clone()));
            // A function without a name.
            assert_eq!(
                pool.run(
                    |skip: Skip, list: Vec<Option<u8>>| (list, skip),
                    (skip.clone(), list.clone())
                )
                .await
                .unwrap(),
                (list, skip)
            );
        }
        pool.shutdown().await;
    })
    .await;
}

/// On a runtime as a server has it: its threads have 2 MiB of stack.
#[expect(clippy::disallowed_methods, reason = "a thread of the runtime decodes")]
#[test]
fn a_deep_result_or_argument_is_an_error_and_host_and_worker_live() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let calls = async {
        let pool = pool_of(1).await;
        let pids: Vec<Option<u32>> = pool.workers().iter().map(|worker| worker.pid).collect();
        assert_eq!(
            pool.call(parses(50))
                .await
                .map(|expr| depth(&expr))
                .unwrap(),
            50
        );
        assert_eq!(pool.call(measures(grown(50))).await.unwrap(), 50);
        for call in [parses, parses_to_json, parses_to_postcard] {
            let error = pool.call(call(5000)).await.unwrap_err();
            assert_eq!(kind(&error), Some(ErrorKind::Encode), "{error:?}");
            assert!(format!("{error:?}").contains("128 levels"), "{error:?}");
        }
        let error = pool.call(measures(grown(5000))).await.unwrap_err();
        assert_eq!(kind(&error), Some(ErrorKind::Encode), "{error:?}");
        assert_eq!(
            pool.workers()
                .iter()
                .map(|worker| worker.pid)
                .collect::<Vec<Option<u32>>>(),
            pids
        );
        pool.shutdown().await;
    };
    runtime
        .block_on(async { tokio::task::spawn(soon(calls)).await })
        .unwrap();
}

#[tokio::test]
async fn not_a_number_is_no_null_in_json_and_the_error_says_where() {
    soon(async {
        let pool = pool_of(1).await;
        assert_eq!(
            pool.call(divides(1.0, 4.0)).await.unwrap()["quotients"],
            [1.0, 0.25]
        );
        let error = pool.call(divides(1.0, 0.0)).await.unwrap_err();
        assert_eq!(kind(&error), Some(ErrorKind::Encode));
        assert!(
            format!("{error:?}").contains("at {entry 0}[1]"),
            "{error:?}"
        );
        assert_eq!(
            kind(&pool.call(divides(f64::NAN, 1.0)).await.unwrap_err()),
            Some(ErrorKind::Encode)
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn an_option_that_is_missing_at_the_end_is_none_and_one_argument_too_many_is_refused() {
    const BEFORE: Task<(i64,), i64> = Task::new("adds_more");
    type Later = (i64, Option<i64>, Option<Vec<i64>>, u8);
    const LATER: Task<Later, i64> = Task::new("adds_more");
    soon(async {
        let pool: Pool = pool_of(1).await;
        assert_eq!(
            pool.call(adds_more(1, Some(2), Some(vec![3])))
                .await
                .unwrap(),
            6
        );
        for codec in [Codec::MessagePack, Codec::Json, Codec::Postcard] {
            assert_eq!(
                pool.call(BEFORE.codec(codec).call((1,))).await.unwrap(),
                1101,
                "{codec}"
            );
        }
        assert_eq!(
            pool.call(Call::<i64>::json("adds_more", &(1, 2)))
                .await
                .unwrap(),
            1003
        );
        assert_eq!(
            pool.call(Call::<i64>::json("adds_more", &(1, None::<i64>)))
                .await
                .unwrap(),
            1101
        );
        for args in [
            serde_json::json!([1, 2, [3], 4]),
            serde_json::json!([]),
            serde_json::json!([1, "x"]),
        ] {
            let error = pool
                .call(Call::<i64>::json("adds_more", &args))
                .await
                .unwrap_err();
            assert_eq!(
                kind(&error),
                Some(ErrorKind::BadArguments),
                "{args}: {error:?}"
            );
        }
        assert_eq!(
            kind(&pool.call(LATER.call((1, None, None, 1))).await.unwrap_err()),
            Some(ErrorKind::BadArguments)
        );
        pool.shutdown().await;
    })
    .await;
}
