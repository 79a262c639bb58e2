//! The proof by simulation: the engine on a disk that loses power, fails and lies, judged after every crash by a model that
//! knows what was sent, what was acknowledged, and nothing about how the engine does it.
//!
//! | module | what it shows |
//! |---|---|
//! | [`power_loss`] | random lives with faults and power losses; `ANNALS_SIM_SEED=n` runs one seed and tells each step |
//! | [`planted`] | each deliberate defect of [`crate::planted`] is found by the above |
//! | [`compaction`] | a compaction that is cut off at each call |
//! | [`kth_call`] | every single call to the disk fails once, and from then on |
//! | [`damage`] | every byte cut, every bit flipped, in every file of a small log |
//! | [`repair`] | the same damage, checked and repaired: nothing that is whole is lost, at a power loss neither |
//! | [`read_only`] | what is seen beside a writer, and after a crash before anybody recovers, is right and stays |
//! | [`groups`] | consumers that crash at each call, and transactions |
//! | [`joint`] | transactions that share an entry of the journal, cut off at each call |
//! | [`reserve`] | what keeps a reserve goes on where the disk is full |
//! | [`rows`] | what docs/RELIABILITY.md promises for one situation each |
//!
//! But for [`groups`], everything is single-threaded and follows from the seed.

mod bench;
mod compaction;
mod content;
mod damage;
mod dice;
mod groups;
mod joint;
mod judge;
mod kth_call;
mod model;
mod ops;
mod planted;
mod power_loss;
mod prefix;
mod read_only;
mod repair;
mod reserve;
mod rows;
mod world;

/// What a check has found wrong, or nothing.
type Verdict<T = ()> = Result<T, String>;

/// Fails the check around it with a sentence.
macro_rules! ensure {
    ($holds:expr, $($sentence:tt)+) => {
        if !$holds {
            return Err(format!($($sentence)+));
        }
    };
}
use ensure;
