//! The fuzz targets without a fuzzer: every input that was ever kept, and a few thousand mutations of them from fixed seeds.
//!
//! `cargo test --features fuzzing --test fuzz_corpus`; `fuzz/run` is the real thing.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use annals::fuzzing::TARGETS;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    /// A few small changes: bytes, bits, cuts, repeats, and pieces of another input.
    fn mutate(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] = self.below(256) as u8,
                1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                2 => bytes.truncate(at),
                3 => {
                    let piece = bytes[at..].iter().copied().take(self.below(32)).collect::<Vec<_>>();
                    bytes.splice(at..at, piece);
                }
                4 => {
                    let from = self.below(other.len() + 1);
                    let piece = other[from..].iter().copied().take(self.below(64)).collect::<Vec<_>>();
                    bytes.splice(at..at, piece);
                }
                _ => bytes.insert(at, [0, 1, 0x7f, 0x80, 0xff][self.below(5)]),
            }
        }
        bytes
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

fn run(name: &str, target: fn(&[u8]), input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{name} fails for this input; to keep it: echo {hex} | xxd -r -p > fuzz/corpus/{name}/found");
    }
}

#[test]
fn corpora_and_their_mutations_pass() {
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name} has no corpus");
        for input in &corpus {
            run(name, *target, input);
        }
        let mut random = Random(name.len() as u64);
        for _ in 0..3000 {
            let (input, other) = (&corpus[random.below(corpus.len())], &corpus[random.below(corpus.len())]);
            run(name, *target, &random.mutate(input, other));
        }
    }
}

#[test]
fn every_corpus_and_every_target_file_has_its_body() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (dir, suffix) in [("corpus", ""), ("fuzz_targets", ".rs")] {
        let mut names: Vec<_> = fs::read_dir(fuzz.join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut expected: Vec<_> = TARGETS.iter().map(|(name, _)| format!("{name}{suffix}")).collect();
        // Its body is the command's, which is no part of the library: see the property test of its arguments.
        expected.push(format!("arguments{suffix}"));
        names.sort();
        expected.sort();
        assert_eq!(names, expected, "fuzz/{dir}");
    }
}
