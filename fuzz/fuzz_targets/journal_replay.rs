#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| annals::fuzzing::journal_replay(data));
