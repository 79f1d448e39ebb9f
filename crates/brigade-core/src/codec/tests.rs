//! What arrives, and what is refused, of each kind of value and in each format.

mod depth;
mod generated;
mod numbers;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serializer, de, ser};
use serde_json::{Value, json};

use super::*;
use crate::payload::Bytes;

const ALL: [Codec; 3] = [Codec::MessagePack, Codec::Json, Codec::Postcard];
/// Those that promise that any type arrives equal or is an error.
const SAFE: [Codec; 2] = [Codec::MessagePack, Codec::Json];

/// Whether it arrived.
#[track_caller]
fn equal_or_error<T: Serialize + DeserializeOwned + PartialEq + Debug>(
    codec: Codec,
    value: &T,
) -> bool {
    match codec.encode(value) {
        Err(e) => assert_eq!(e.kind(), ErrorKind::Encode, "{e}"),
        Ok(bytes) => match codec.decode::<T>(&bytes) {
            Err(e) => assert_eq!(e.kind(), ErrorKind::Decode, "{e}"),
            Ok(back) => {
                assert_eq!(back, *value, "in {codec}: {bytes:02x?}");
                return true;
            }
        },
    }
    false
}

/// It arrives by the default, and in the others or is an error there.
#[track_caller]
fn arrives<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    assert!(
        equal_or_error(Codec::MessagePack, value),
        "{value:?}: {:?}",
        there_and_back(Codec::MessagePack, value).err()
    );
    equal_or_error(Codec::Json, value);
}

fn there_and_back<T: Serialize + DeserializeOwned>(codec: Codec, value: &T) -> Result<T, Error> {
    codec.decode(&codec.encode(value)?)
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Skips {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    a: Option<u8>,
    #[serde(skip)]
    b: u32,
    #[serde(default, rename = "C")]
    c: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    d: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    #[serde(skip)]
    #[expect(
        dead_code,
        reason = "it stands before the others and shifts their numbers"
    )]
    Hidden,
    One,
    Two(u8),
    Three(u8, String),
    #[serde(rename = "4")]
    Four {
        x: Option<i64>,
        bytes: Bytes,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Tagged {
    Empty,
    Data { n: i64, ip: IpAddr, bytes: Bytes },
    Inner(Skips),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    Empty,
    Data { n: u64, ip: IpAddr },
    Pair(Option<u8>, BTreeMap<u32, String>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Nothing,
    Number(i64),
    Fraction(f64),
    Text(String),
    Raw(Bytes),
    Map { x: IpAddr, when: SystemTime },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    before: u8,
    #[serde(flatten)]
    skips: Skips,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
struct Even(u8);

impl TryFrom<u8> for Even {
    type Error = String;
    fn try_from(n: u8) -> Result<Self, String> {
        if n.is_multiple_of(2) {
            Ok(Self(n))
        } else {
            Err(format!("{n} is odd"))
        }
    }
}

impl From<Even> for u8 {
    fn from(even: Even) -> Self {
        even.0
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Timed {
    #[serde(with = "seconds")]
    after: Duration,
    at: SystemTime,
    for_: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct New<T>(T);

#[test]
fn skipped_and_flattened_fields_arrive_equal() {
    for skips in [
        Skips::default(),
        Skips {
            a: Some(1),
            c: "c".into(),
            d: vec![u64::MAX],
            ..Skips::default()
        },
    ] {
        arrives(&(skips.clone(), vec![Some(0_u8)]));
        let rest = BTreeMap::from([(
            "v".to_owned(),
            json!({"a": [1, -1, 1.5, null, "x"], "b": u64::MAX}),
        )]);
        arrives(&Flat {
            before: 1,
            skips: skips.clone(),
            rest,
        });
        arrives(&Tagged::Inner(skips));
    }
}

#[test]
fn attributes_that_change_the_shape_arrive_equal() {
    let ip: IpAddr = "::1".parse().unwrap();
    let bytes = Bytes::from(vec![0, 255, 7]);
    for kind in [
        Kind::One,
        Kind::Two(2),
        Kind::Three(3, String::new()),
        Kind::Four {
            x: None,
            bytes: bytes.clone(),
        },
    ] {
        arrives(&vec![kind.clone(), kind]);
    }
    arrives(&[
        Tagged::Empty,
        Tagged::Data {
            n: -1,
            ip,
            bytes: bytes.clone(),
        },
    ]);
    arrives(&[
        Adjacent::Empty,
        Adjacent::Data { n: u64::MAX, ip },
        Adjacent::Pair(None, BTreeMap::from([(7, "seven".into())])),
    ]);
    let map = Untagged::Map {
        x: ip,
        when: SystemTime::UNIX_EPOCH + Duration::from_nanos(1),
    };
    // A text that is base64 is a text all the same.
    let some = [
        Untagged::Nothing,
        Untagged::Number(-5),
        Untagged::Fraction(0.1),
        Untagged::Text("AAAA".into()),
        map,
    ];
    arrives(&some);
    assert!(equal_or_error(Codec::MessagePack, &Untagged::Raw(bytes)));
    arrives(&Timed {
        after: Duration::from_millis(1500),
        at: SystemTime::now(),
        for_: Duration::MAX,
    });
    arrives(&(
        Even(4),
        Unit,
        New(Unit),
        New(New(7_u8)),
        'x',
        "\u{10ffff}".to_owned(),
        (),
    ));
}

#[test]
fn options_within_options_arrive_or_are_refused_and_are_never_another() {
    type Nested = Option<Option<Option<u8>>>;
    let nested: [Nested; 4] = [None, Some(None), Some(Some(None)), Some(Some(Some(5)))];
    for value in nested {
        arrives(&value);
        arrives(&vec![New(value)]);
        arrives(&BTreeMap::from([(1, value)]));
    }
    arrives(&[None, Some(())]);
    arrives(&[Some(Some(())), Some(None), None]);
    arrives(&[Some(New(())), None]);
    arrives(&[Some(Unit), None]);
    arrives(&[Some(Some(Unit)), Some(None), None]);
    arrives(&[Some(New(Some(Bytes::from(vec![1])))), Some(New(None)), None]);
    arrives(&[Some(Some(Kind::One)), Some(Some(Kind::Two(1))), Some(None)]);
    arrives(&[Some(Value::Null), Some(json!(1)), None]);
    arrives(&[Some(Untagged::Nothing), Some(Untagged::Number(1)), None]);
    arrives(&[Some(Some(u128::MAX)), Some(None)]);
    arrives(&[Some(Some(String::from("x"))), Some(Some(String::new()))]);
    arrives(&[Some(Some(vec![Some(Some(1_u8)), Some(None), None]))]);
    for value in [Some(None), Some(Some(()))] {
        let error = Codec::Json.encode(&[value]).unwrap_err();
        assert!(error.to_string().contains("at [0]"), "{error}");
    }
}

#[test]
fn what_has_a_form_of_its_own_is_an_error_where_types_cannot_be_told() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Any {
        Deep(Option<Option<String>>),
        Wide(u128),
        Fraction(f64),
        Text(String),
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Outer {
        #[serde(flatten)]
        inner: Inner,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Inner {
        deep: Option<Option<Vec<u8>>>,
        wide: u128,
    }
    for value in [
        Any::Deep(Some(None)),
        Any::Deep(Some(Some("x".into()))),
        Any::Wide(u128::MAX),
        Any::Fraction(0.5),
        Any::Deep(None),
    ] {
        equal_or_error(Codec::MessagePack, &value);
    }
    for deep in [None, Some(None), Some(Some(vec![])), Some(Some(vec![1]))] {
        for wide in [1, u128::MAX] {
            for codec in SAFE {
                equal_or_error(
                    codec,
                    &Outer {
                        inner: Inner {
                            deep: deep.clone(),
                            wide,
                        },
                    },
                );
            }
        }
    }
    // A field that the reader does not know is skipped, whatever it is.
    let more = Codec::MessagePack
        .encode(&Inner {
            deep: Some(None),
            wide: u128::MAX,
        })
        .unwrap();
    assert_eq!(
        Codec::MessagePack.decode::<Skips>(&more).unwrap(),
        Skips::default()
    );
    assert!(
        Codec::MessagePack.encode("\0brigade:none").is_err(),
        "no text of a user is taken for one of ours"
    );
}

#[test]
fn keys_that_are_no_texts_arrive_or_are_refused() {
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    enum Key {
        A,
        B(u8),
    }
    arrives(&BTreeMap::from([(1_u64, 1), (u64::MAX, 2)]));
    arrives(&BTreeMap::from([(-1_i128, 1), (i128::MAX, 2)]));
    arrives(&BTreeMap::from([(true, 1)]));
    arrives(&BTreeMap::from([('x', 1)]));
    arrives(&BTreeMap::from([((1, "b".to_owned()), 1)]));
    arrives(&BTreeMap::from([(Some(1), 1), (None, 2)]));
    arrives(&BTreeMap::from([(Key::A, 1), (Key::B(7), 2)]));
    arrives(&BTreeMap::from([((), 1)]));
    arrives(&BTreeMap::from([(
        vec![1_u8],
        BTreeSet::from([IpAddr::from([1, 2, 3, 4])]),
    )]));
}

#[test]
fn left_over_bytes_are_refused_in_every_format() {
    for codec in ALL {
        let mut bytes = codec.encode(&(1_u8, 2_u8)).unwrap();
        assert_eq!(
            codec.decode::<(u8,)>(&bytes).unwrap_err().kind(),
            ErrorKind::Decode
        );
        assert_eq!(codec.decode::<(u8, u8)>(&bytes).unwrap(), (1, 2));
        for rest in [b'0', 0xc0, 0xc1, 0xdd, 0x91] {
            bytes.push(rest);
            assert_eq!(
                codec.decode::<(u8, u8)>(&bytes).unwrap_err().kind(),
                ErrorKind::Decode,
                "{codec}"
            );
            bytes.pop();
        }
    }
}

#[test]
fn what_a_type_says_of_itself_reaches_the_caller_in_every_format() {
    #[derive(Debug)]
    struct Picky;
    impl Serialize for Picky {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(ser::Error::custom("not on a Monday"))
        }
    }
    impl<'de> Deserialize<'de> for Picky {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            u8::deserialize(deserializer)?;
            Err(de::Error::custom("not on a Tuesday"))
        }
    }
    for codec in ALL {
        let error = codec.encode(&vec![Some(Picky)]).unwrap_err();
        assert!(error.to_string().contains("not on a Monday"), "{error}");
        let bytes = codec.encode(&(vec![Some(1_u8)], 3_u8)).unwrap();
        let error = codec
            .decode::<(Vec<Option<Picky>>, u8)>(&bytes)
            .unwrap_err();
        assert!(error.to_string().contains("not on a Tuesday"), "{error}");
        let error = codec.decode::<(Vec<Option<u8>>, Even)>(&bytes).unwrap_err();
        assert!(error.to_string().contains("3 is odd"), "{error}");
    }
}

#[test]
fn binary_data_is_raw_in_messagepack_and_keeps_the_memory_it_came_in() {
    let value = (7_u8, Bytes::from(vec![3; 1 << 20]));
    let packed = bytes::Bytes::from(Codec::MessagePack.encode(&value).unwrap());
    assert_eq!(packed.len(), (1 << 20) + 2 + 5);
    let back: (u8, Bytes) =
        payload::sharing(&packed, |packed| Codec::MessagePack.decode(packed)).unwrap();
    assert!(back == value && packed.as_ptr_range().contains(&back.1.as_ptr()));
}

#[test]
fn a_type_that_needs_a_format_that_describes_itself_is_refused_by_postcard() {
    let packed = Codec::Postcard.encode(&json!({"a": 1})).unwrap();
    let error = Codec::Postcard.decode::<Value>(&packed).unwrap_err();
    assert!(error.to_string().contains("the default one"), "{error}");
}
