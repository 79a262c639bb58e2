//! redb 4: a copy-on-write B-tree as a log, keyed by sequence number. `Durability::Immediate` syncs; what is
//! committed at `None` is lost with the process, so there is no page-cache level.

use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use crate::{
    contender::{Bar, Batch, Class, Contender, Entrant, Producer, Result},
    load::Tally,
};

pub(crate) const ENTRANTS: &[Entrant] = &[Entrant {
    name: "redb",
    class: Class::Peer,
    bars: &[Bar::P3, Bar::P4, Bar::P5, Bar::P6, Bar::P8, Bar::P9],
    syncs: true,
    checks: false,
    recovers: true,
    note: "P5 is one transaction; checks what it reads only in a repair",
    open: |dir, _, _| Ok(Box::new(Store(open(dir)?))),
}];

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

fn open(dir: &Path) -> Result<Database> {
    let db = Database::create(dir.join("log.redb"))?;
    let transaction = db.begin_write()?;
    transaction.open_table(LOG)?;
    transaction.commit()?;
    Ok(db)
}

struct Store(Database);

impl Contender for Store {
    fn producer(&self, _number: usize) -> Result<Box<dyn Producer + '_>> {
        Ok(Box::new(StoreProducer { db: &self.0, sent: Vec::new() }))
    }

    fn replay(&self, tally: &mut Tally) -> Result<()> {
        let table = self.0.begin_read()?.open_table(LOG)?;
        for item in table.iter()? {
            if !tally.see(item?.1.value()) {
                break;
            }
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct StoreProducer<'a> {
    db: &'a Database,
    /// An open transaction would keep other writers out: what is sent waits here.
    sent: Vec<Vec<u8>>,
}

/// Continues the sequence inside the transaction, which is alone in writing.
fn insert<'p>(transaction: &WriteTransaction, payloads: impl Iterator<Item = &'p [u8]>) -> Result<()> {
    let mut table = transaction.open_table(LOG)?;
    let next = table.last()?.map_or(0, |(key, _)| key.value() + 1);
    for (sequence, payload) in (next..).zip(payloads) {
        table.insert(sequence, payload)?;
    }
    Ok(())
}

impl StoreProducer<'_> {
    fn commit<'p>(&self, payloads: impl Iterator<Item = &'p [u8]>) -> Result<()> {
        // Durability::Immediate is the default.
        let transaction = self.db.begin_write()?;
        insert(&transaction, payloads)?;
        Ok(transaction.commit()?)
    }
}

impl Producer for StoreProducer<'_> {
    fn append_one(&mut self, payload: &[u8]) -> Result<()> {
        self.commit([payload].into_iter())
    }

    fn append_batch(&mut self, batch: Batch<'_>) -> Result<()> {
        self.commit(batch.records())
    }

    fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.sent.push(payload.to_vec());
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        self.commit(self.sent.iter().map(Vec::as_slice))?;
        self.sent.clear();
        Ok(())
    }
}
