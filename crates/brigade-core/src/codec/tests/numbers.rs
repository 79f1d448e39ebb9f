//! Numbers of each width, and those that are none.

use serde::{Deserialize, Serialize};

use super::{ALL, Codec, ErrorKind, New, arrives, there_and_back};

#[test]
fn numbers_arrive_exactly() {
    arrives(&(
        i8::MIN,
        i16::MIN,
        i32::MIN,
        i64::MIN,
        u8::MAX,
        u16::MAX,
        u32::MAX,
        u64::MAX,
    ));
    for wide in [
        0,
        1,
        u128::from(u64::MAX),
        u128::from(u64::MAX) + 1,
        u128::MAX,
    ] {
        arrives(&(wide, Some(wide), New(wide)));
    }
    for wide in [
        0,
        -1,
        i128::from(i64::MIN),
        i128::from(i64::MIN) - 1,
        i128::from(u64::MAX) + 1,
        i128::MIN,
        i128::MAX,
    ] {
        arrives(&[wide]);
    }
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..2000 {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let single = f32::from_bits(u32::try_from(random >> 32).unwrap());
        let double = f64::from_bits(random);
        if single.is_finite() && double.is_finite() {
            for codec in ALL {
                let back: (f32, f64) = there_and_back(codec, &(single, double)).unwrap();
                assert_eq!(
                    (back.0.to_bits(), back.1.to_bits()),
                    (single.to_bits(), double.to_bits()),
                    "{codec}"
                );
            }
        }
    }
}

#[test]
fn not_a_number_and_infinity_are_no_null_in_json_and_arrive_elsewhere() {
    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    struct Order {
        items: Vec<Price>,
    }
    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    struct Price {
        price: f64,
    }
    for price in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let order = Order {
            items: vec![Price { price: 1.0 }, Price { price }],
        };
        let error = Codec::Json.encode(&order).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Encode);
        assert!(error.to_string().contains("at .items[1].price"), "{error}");
        for codec in [Codec::MessagePack, Codec::Postcard] {
            assert_eq!(
                there_and_back(codec, &order).unwrap().items[1]
                    .price
                    .to_bits(),
                price.to_bits()
            );
        }
    }
    assert!(
        Codec::Json.encode(&f32::NAN).is_err() && Codec::Json.encode(&Some(f32::INFINITY)).is_err()
    );
}
