//! See `brigade::fuzzing::json_values`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| brigade::fuzzing::json_values(bytes));
