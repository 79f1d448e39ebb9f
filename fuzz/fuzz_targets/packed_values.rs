//! See `brigade::fuzzing::packed_values`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| brigade::fuzzing::packed_values(bytes));
