//! See `brigade::fuzzing::control_messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| brigade::fuzzing::control_messages(bytes));
