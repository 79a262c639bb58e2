//! The contenders, one file each, in the order of the tables' rows: limits first, annals last.

mod annals;
mod commitlog;
mod fjall;
mod group_commit;
mod kafko;
mod okaywal;
mod raft_engine;
mod raw;
mod redb;
mod single_file;
mod sled;
mod sqlite;
mod yaque;

#[cfg(test)]
mod tests;

use crate::contender::Entrant;

pub(crate) fn all() -> impl Iterator<Item = &'static Entrant> {
    let files = [
        raw::ENTRANTS,
        single_file::ENTRANTS,
        commitlog::ENTRANTS,
        yaque::ENTRANTS,
        okaywal::ENTRANTS,
        raft_engine::ENTRANTS,
        kafko::ENTRANTS,
        sled::ENTRANTS,
        fjall::ENTRANTS,
        redb::ENTRANTS,
        sqlite::ENTRANTS,
        annals::ENTRANTS,
    ];
    files.into_iter().flatten()
}
