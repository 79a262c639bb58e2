//! The same work on many files, several at once where that is faster.

use std::panic::resume_unwind;
use std::thread;

use super::Storage;

/// A thread is not worth it for fewer items.
const ITEMS_MIN: usize = 16;

/// Does `work` with each item, on as many threads as the [storage](Storage::calls_at_once) makes something of. Answers in the order
/// of the items; the error is that of the first item that has one.
pub(crate) fn for_each<T: Send, R: Send, E: Send>(
    storage: &dyn Storage,
    items: Vec<T>,
    work: impl Fn(T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let threads = storage.calls_at_once().min(items.len() / ITEMS_MIN);
    if threads <= 1 {
        return items.into_iter().map(work).collect();
    }
    let share = items.len().div_ceil(threads);
    let mut items = items.into_iter();
    let work = &work;
    thread::scope(|scope| {
        let shares = (0..threads).map(|_| items.by_ref().take(share).collect::<Vec<_>>()).collect::<Vec<_>>();
        let run = |share: Vec<T>| scope.spawn(move || share.into_iter().map(work).collect::<Result<Vec<R>, E>>());
        let running: Vec<_> = shares.into_iter().map(run).collect();
        let mut all = Vec::new();
        for thread in running {
            all.extend(thread.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use std::thread::ThreadId;

    use super::*;
    use crate::storage::disk::Disk;
    use crate::storage::memory::MemoryDisk;

    #[test]
    fn answers_come_in_order_and_so_do_errors() {
        let seen = Mutex::new(BTreeSet::new());
        let note = |id: ThreadId| seen.lock().unwrap().insert(format!("{id:?}"));
        for count in [0, 1, 15, 16, 17, 31, 32, 33, 1000] {
            let all = for_each(&Disk, (0..count).collect(), |item| {
                note(thread::current().id());
                Ok::<_, ()>(item * 2)
            });
            assert_eq!(all.unwrap(), (0..count).map(|item| item * 2).collect::<Vec<_>>());
        }
        assert!(seen.lock().unwrap().len() > 2, "several threads");
        let fails = |item: u32| if item % 300 == 299 { Err(item) } else { Ok(()) };
        assert_eq!(for_each(&Disk, (0..1000).collect(), fails), Err(299));
    }

    #[test]
    fn one_after_the_other_where_it_makes_no_difference() {
        let here = thread::current().id();
        let is_here = |_| if thread::current().id() == here { Ok(()) } else { Err(()) };
        for_each(&MemoryDisk::default(), (0..1000).collect(), is_here).unwrap();
    }
}
