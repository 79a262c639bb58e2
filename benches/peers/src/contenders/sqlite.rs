//! SQLite through rusqlite (bundled), in WAL mode, as a log keyed by rowid. `synchronous=FULL` syncs the WAL at each
//! commit; `NORMAL` leaves a commit in the page cache.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard},
};

use rusqlite::Connection;

use crate::{
    contender::{Bar, Batch, Class, Contender, Entrant, Level, Producer, Result},
    load::Tally,
};

pub(crate) const ENTRANTS: &[Entrant] = &[Entrant {
    name: "sqlite",
    class: Class::Peer,
    bars: &[Bar::P1, Bar::P2, Bar::P3, Bar::P4, Bar::P5, Bar::P6, Bar::P8, Bar::P9],
    syncs: true,
    checks: false,
    recovers: true,
    note: "rusqlite, WAL, one connection; P5 is one transaction",
    open: |dir, level, _| Ok(Box::new(Store(Mutex::new(open(dir, level)?)))),
}];

const INSERT: &str = "INSERT INTO log (payload) VALUES (?1)";

fn open(dir: &Path, level: Level) -> Result<Connection> {
    let connection = Connection::open(dir.join("log.sqlite"))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let synchronous = if level == Level::Durable { "FULL" } else { "NORMAL" };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.execute("CREATE TABLE IF NOT EXISTS log (sequence INTEGER PRIMARY KEY, payload BLOB NOT NULL)", [])?;
    Ok(connection)
}

struct Store(Mutex<Connection>);

impl Store {
    fn lock(&self) -> Result<MutexGuard<'_, Connection>> {
        self.0.lock().map_err(|_| "poisoned".into())
    }
}

impl Contender for Store {
    fn producer(&self, _number: usize) -> Result<Box<dyn Producer + '_>> {
        Ok(Box::new(StoreProducer { store: self, in_transaction: false }))
    }

    fn replay(&self, tally: &mut Tally) -> Result<()> {
        let connection = self.lock()?;
        let mut statement = connection.prepare_cached("SELECT payload FROM log ORDER BY sequence")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if !tally.see(row.get_ref(0)?.as_blob()?) {
                break;
            }
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        let connection = self.0.into_inner().map_err(|_| "poisoned")?;
        connection.close().map_err(|(_, error)| error.into())
    }
}

struct StoreProducer<'a> {
    store: &'a Store,
    in_transaction: bool,
}

impl Producer for StoreProducer<'_> {
    fn append_one(&mut self, payload: &[u8]) -> Result<()> {
        self.store.lock()?.prepare_cached(INSERT)?.execute([payload])?;
        Ok(())
    }

    fn append_batch(&mut self, batch: Batch<'_>) -> Result<()> {
        let mut connection = self.store.lock()?;
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(INSERT)?;
            for payload in batch.records() {
                insert.execute([payload])?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let connection = self.store.lock()?;
        if !self.in_transaction {
            connection.execute_batch("BEGIN")?;
            self.in_transaction = true;
        }
        connection.prepare_cached(INSERT)?.execute([payload])?;
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        self.in_transaction = false;
        Ok(self.store.lock()?.execute_batch("COMMIT")?)
    }
}
