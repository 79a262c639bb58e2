//! What is offered to the contenders (random payloads, at a producer's own pace) and what is counted on return.

use std::{
    sync::{
        Barrier, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::contender::{Batch, Contender, Result};

/// Small enough to stay in the second-level cache, so that a limit measures the write and not the fetch of its
/// source; larger than the window of any compressor that a peer has on by default.
const POOL_BYTES: usize = 1 << 20;

/// Whether payloads are cut out of lines of JSON. Set before the first of them is taken.
pub(crate) static TEXT: AtomicBool = AtomicBool::new(false);

static POOL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    // xorshift64*: a benchmark's payloads need to be incompressible, not unpredictable.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut words = std::iter::repeat_with(|| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    });
    if !TEXT.load(Ordering::Relaxed) {
        return words.take(POOL_BYTES / 8).flat_map(u64::to_le_bytes).collect();
    }
    let mut pool = Vec::new();
    while pool.len() < POOL_BYTES {
        let mut number = |below| words.next().unwrap_or_default() % below;
        let (id, customer, cents) = (number(u64::MAX), number(100_000), number(50_000));
        let state = ["placed", "paid", "packed", "shipped", "returned"][number(5) as usize];
        let line = format!(
            "{{\"id\":\"{id:016x}\",\"type\":\"order.{state}\",\"customer\":{customer},\"amount\":{}.{:02},\"currency\":\"EUR\"}}\n",
            cents / 100,
            cents % 100,
        );
        pool.extend_from_slice(line.as_bytes());
    }
    pool.truncate(POOL_BYTES);
    pool
});

/// An endless supply of random payloads of one size.
pub(crate) struct Payloads {
    pool: &'static [u8],
    record_bytes: usize,
    at: usize,
}

impl Payloads {
    /// Producers of different numbers start at different places.
    pub(crate) fn new(record_bytes: usize, number: usize) -> Self {
        Self { pool: &POOL, record_bytes, at: number * 7_919 % (POOL_BYTES / 2) }
    }

    pub(crate) fn one(&mut self) -> &'static [u8] {
        self.take(self.record_bytes)
    }

    pub(crate) fn batch(&mut self, records: usize) -> Batch<'static> {
        Batch { bytes: self.take(records * self.record_bytes), record_bytes: self.record_bytes }
    }

    fn take(&mut self, bytes: usize) -> &'static [u8] {
        if self.at + bytes > self.pool.len() {
            // An odd restart: the next lap cuts the pool into other records.
            self.at = (self.at + bytes) % 4_093;
        }
        let taken = &self.pool[self.at..self.at + bytes];
        self.at += bytes;
        taken
    }
}

/// A race of many producers, each of which awaits its own acknowledgements.
pub(crate) struct Load {
    pub(crate) producers: usize,
    record_bytes: usize,
    time: Duration,
    start: Barrier,
}

impl Load {
    pub(crate) fn new(producers: usize, record_bytes: usize, time: Duration) -> Self {
        Self { producers, record_bytes, time, start: Barrier::new(producers) }
    }

    /// The pace of one producer on a thread of its own; returns when all producers are ready.
    pub(crate) fn pace(&self, number: usize) -> Pace {
        self.start.wait();
        self.task_pace(number)
    }

    /// The same without the wait, for tasks: there are fewer threads than producers.
    pub(crate) fn task_pace(&self, number: usize) -> Pace {
        let now = Instant::now();
        Pace {
            payloads: Payloads::new(self.record_bytes, number),
            started: now,
            sent: now,
            ended: now,
            deadline: now + self.time,
            latencies_ns: Vec::new(),
        }
    }
}

/// One producer's payloads and the latencies of their acknowledgements.
pub(crate) struct Pace {
    payloads: Payloads,
    pub(crate) started: Instant,
    sent: Instant,
    pub(crate) ended: Instant,
    deadline: Instant,
    pub(crate) latencies_ns: Vec<u32>,
}

impl Pace {
    /// The next payload to append, or `None` when time is up.
    pub(crate) fn next(&mut self) -> Option<&'static [u8]> {
        // The end of one append is the start of the next: one reading of the clock a record.
        self.sent = self.ended;
        (self.sent < self.deadline).then(|| self.payloads.one())
    }

    pub(crate) fn acknowledged(&mut self) {
        self.ended = Instant::now();
        let nanos = (self.ended - self.sent).as_nanos();
        self.latencies_ns.push(u32::try_from(nanos).unwrap_or(u32::MAX));
    }
}

/// Runs a load's producers, a thread each.
pub(crate) fn race_threads<C: Contender + ?Sized>(log: &C, load: &Load) -> Result<Vec<Pace>> {
    thread::scope(|scope| {
        let produce = |number| {
            // Made before the barrier, and an error only after it: the others would wait forever.
            let producer = log.producer(number);
            let mut pace = load.pace(number);
            let mut producer = producer?;
            while let Some(payload) = pace.next() {
                producer.append_one(payload)?;
                pace.acknowledged();
            }
            Ok(pace)
        };
        let threads: Vec<_> = (0..load.producers).map(|number| scope.spawn(move || produce(number))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a producer panicked")?).collect()
    })
}

/// Runs a load's producers as tasks; `produce` is one producer's whole run.
pub(crate) fn race_tasks<F>(
    runtime: &tokio::runtime::Runtime,
    load: &Load,
    produce: impl Fn(usize, Pace) -> F,
) -> Result<Vec<Pace>>
where
    F: Future<Output = Result<Pace>> + Send + 'static,
{
    let tasks: Vec<_> =
        (0..load.producers).map(|number| runtime.spawn(produce(number, load.task_pace(number)))).collect();
    runtime.block_on(async {
        let mut paces = Vec::with_capacity(tasks.len());
        for task in tasks {
            paces.push(task.await??);
        }
        Ok(paces)
    })
}

/// Counts what a replay delivers, and touches every payload as a reader would.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// Whether the deadline ended the replay before the log did.
    pub(crate) stopped: bool,
    folded: u8,
    record_bytes: usize,
    deadline: Option<Instant>,
}

impl Tally {
    pub(crate) fn new(record_bytes: usize, deadline: Instant) -> Self {
        Self { record_bytes, deadline: Some(deadline), ..Self::default() }
    }

    /// Takes one payload; `false` asks the replay to stop.
    #[inline]
    #[must_use]
    pub(crate) fn see(&mut self, payload: &[u8]) -> bool {
        self.folded ^= payload.first().copied().unwrap_or(0) ^ payload.last().copied().unwrap_or(0);
        self.records += 1;
        self.bytes += payload.len() as u64;
        // Rarely enough to cost nothing at 40 M/s; and each of the first, for a reader that manages 10/s.
        if self.records.is_multiple_of(64) || self.records < 64 { self.in_time() } else { true }
    }

    /// The same for a payload whose key is kept apart from the rest.
    #[inline]
    #[must_use]
    pub(crate) fn see_parts(&mut self, key: &[u8], value: &[u8]) -> bool {
        self.folded ^= key.first().copied().unwrap_or(0) ^ value.last().copied().unwrap_or(0);
        self.records += 1;
        self.bytes += (key.len() + value.len()) as u64;
        if self.records.is_multiple_of(64) { self.in_time() } else { true }
    }

    /// Takes bytes that hold whole records side by side: for limits, which know no records.
    #[must_use]
    pub(crate) fn see_region(&mut self, bytes: &[u8]) -> bool {
        self.folded ^= bytes.first().copied().unwrap_or(0);
        self.bytes += bytes.len() as u64;
        self.records = self.bytes / self.record_bytes as u64;
        self.in_time()
    }

    /// Keeps the optimiser from dropping the touch.
    pub(crate) fn folded(&self) -> u8 {
        std::hint::black_box(self.folded)
    }

    fn in_time(&mut self) -> bool {
        // 64 records at 40 M/s are 1.6 us; the clock is read in 30 ns.
        self.stopped = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        !self.stopped
    }
}
