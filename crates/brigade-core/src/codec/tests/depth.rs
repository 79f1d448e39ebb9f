//! How deep a value may be, on a thread with a small stack.

use std::fmt::Debug;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ALL, Codec, DEPTH_MAX, ErrorKind, Skips, equal_or_error, there_and_back};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Expr {
    Leaf(u32),
    Add(Box<Expr>, u32),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct LinkedList {
    next: Option<Box<LinkedList>>,
    name: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum UntaggedTree {
    Leaf(u8),
    Node(Vec<UntaggedTree>),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Shell(Option<Box<Shell>>);

fn expr(depth: u32) -> Expr {
    (1..depth).fold(Expr::Leaf(0), |left, n| Expr::Add(Box::new(left), n))
}

fn chain(depth: u32) -> LinkedList {
    (1..depth).fold(
        LinkedList {
            next: None,
            name: "end".into(),
        },
        |next, _| LinkedList {
            next: Some(Box::new(next)),
            name: "more".into(),
        },
    )
}

fn tree(depth: u32) -> UntaggedTree {
    (1..depth).fold(UntaggedTree::Leaf(0), |inner, _| {
        UntaggedTree::Node(vec![inner])
    })
}

fn shell(depth: u32) -> Shell {
    (1..depth).fold(Shell(None), |inner, _| Shell(Some(Box::new(inner))))
}

/// On a thread as small as those of a runtime.
fn on_a_small_stack(test: fn()) {
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(test)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn a_value_up_to_the_limit_arrives_and_a_deeper_one_is_refused_by_writer_and_reader() {
    on_a_small_stack(|| {
        for codec in ALL {
            for depth in [1, 20, 30, 60, 63, 64, 65, 120, 127, 128, 129, 5000] {
                equal_or_error(codec, &expr(depth));
                equal_or_error(codec, &chain(depth));
                equal_or_error(codec, &shell(depth));
                equal_or_error(codec, &tree(depth));
            }
            assert!(
                there_and_back(codec, &expr(60)).is_ok()
                    && there_and_back(codec, &chain(60)).is_ok(),
                "{codec}"
            );
            let error = codec.encode(&expr(5000)).unwrap_err();
            assert!(
                error.kind() == ErrorKind::Encode
                    && error.to_string().contains(&DEPTH_MAX.to_string()),
                "{error}"
            );
        }
    });
}

#[test]
fn deep_bytes_of_a_stranger_are_refused_by_every_reader() {
    fn refused<T: DeserializeOwned + Debug>(codec: Codec, bytes: &[u8]) {
        let error = codec.decode::<T>(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    }
    on_a_small_stack(|| {
        const DEEP: usize = 1_000_000;
        let packed = Codec::MessagePack;
        refused::<UntaggedTree>(packed, &[0x91].repeat(DEEP));
        refused::<Value>(packed, &[0x91].repeat(DEEP));
        refused::<IgnoredAny>(packed, &[0x91].repeat(DEEP));
        refused::<Skips>(
            packed,
            &[&[0x81, 0xa1, b'x'][..], &[0x81, 0x01].repeat(DEEP)].concat(),
        );
        refused::<Expr>(packed, &[0x81, 0xa3, b'A', b'd', b'd', 0x92].repeat(DEEP));
        refused::<LinkedList>(packed, &[0x81, 0xa4, b'n', b'e', b'x', b't'].repeat(DEEP));
        refused::<Expr>(Codec::Postcard, &[1].repeat(DEEP));
        refused::<LinkedList>(Codec::Postcard, &[1].repeat(DEEP));
        refused::<Shell>(Codec::Postcard, &[1].repeat(DEEP));
        refused::<UntaggedTree>(Codec::Json, &[b'['].repeat(DEEP));
        refused::<Expr>(Codec::Json, &br#"{"Add":["#.repeat(DEEP));
        refused::<Value>(Codec::Json, &br#"{"":"#.repeat(DEEP));
    });
}
