//! See `brigade::fuzzing::schedules`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| brigade::fuzzing::schedules(bytes));
