//! See `brigade::fuzzing::urls`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| brigade::fuzzing::urls(bytes));
