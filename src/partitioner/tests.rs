use std::thread;

use proptest::prelude::*;

use super::{Sticky, murmur2, partition_of_key};

/// Kafka's own vectors (`UtilsTest.testMurmur2`), and librdkafka's for every length of the tail (`rdmurmur2.c`).
const VECTORS: [(&[u8], i32); 16] = [
    (b"21", -973_932_308),
    (b"foobar", -790_332_482),
    (b"a-little-bit-long-string", -985_981_536),
    (b"a-little-bit-longer-string", -1_486_304_829),
    (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
    (b"abc", 479_470_107),
    (b"", 275_646_681),
    (b"kafka", -798_503_068),
    (b"giberish123456789", -1_890_243_828),
    (b"1234", -1_614_185_708),
    (b"234", -406_844_982),
    (b"34", -2_026_295_078),
    (b"4", 1_514_888_353),
    (b"PreAmbleWillBeRemoved,ThePrePartThatIs", 2_017_611_548),
    (b"reAmbleWillBeRemoved,ThePrePartThatIs", 1_247_982_455),
    (b"AmbleWillBeRemoved,ThePrePartThatIs", 1_656_271_935),
];

#[test]
fn the_hash_is_kafkas() {
    for (key, expected) in VECTORS {
        assert_eq!(murmur2(key) as i32, expected, "{}", key.escape_ascii());
    }
}

#[test]
fn the_partition_is_kafkas() {
    for (key, hash) in VECTORS {
        for partitions in [1, 2, 3, 12, 50, 10_000] {
            let expected = (hash & 0x7fff_ffff) % partitions;
            assert_eq!(partition_of_key(key, partitions as u32), expected as u32, "{}", key.escape_ascii());
        }
    }
    assert_eq!(partition_of_key(b"foobar", 50), 16, "a negative hash");
}

#[test]
fn records_stick_until_16_kib_then_move_on() {
    let sticky = Sticky::default();
    let partitions: Vec<u32> = (0..12).map(|_| sticky.partition(4096, 3)).collect();
    assert_eq!(partitions, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
    assert_eq!(sticky.partition(1, 3), 0, "round again");
}

#[test]
fn records_of_any_size_reach_every_partition() {
    let sticky = Sticky::new(1);
    // Two full portions each: to count bytes alone would send all of them to the same partition.
    let partitions: Vec<u32> = (0..4).map(|_| sticky.partition(32 << 10, 2)).collect();
    assert_eq!(partitions, [1, 0, 1, 0]);
    assert_eq!(sticky.partition(usize::MAX, 2), 1);
    assert_eq!(sticky.partition(0, 2), 0);
}

#[test]
fn the_first_partition_may_be_any_number() {
    assert_eq!(Sticky::new(7).partition(1, 4), 3);
    assert_eq!(Sticky::new(u32::MAX).partition(1, 1), 0);
    // Settings with fewer partitions than the last call saw.
    let sticky = Sticky::new(9);
    assert_eq!(sticky.partition(1, 10), 9);
    assert_eq!(sticky.partition(1, 4), 1);
}

#[test]
fn threads_lose_no_bytes_to_each_other() {
    const THREADS: usize = 4;
    const CALLS: usize = 8 * 1024;
    let sticky = Sticky::default();
    let counts = thread::scope(|scope| {
        let handles: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let mut counts = [0; 4];
                    (0..CALLS).for_each(|_| counts[sticky.partition(1024, 4) as usize] += 1);
                    counts
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap())
            .fold([0; 4], |sum: [usize; 4], counts| std::array::from_fn(|partition| sum[partition] + counts[partition]))
    });
    assert_eq!(counts, [THREADS * CALLS / 4; 4]);
}

proptest! {
    #[test]
    fn every_choice_exists(key: Vec<u8>, first: u32, sizes: Vec<u16>, partitions in 1u32..=10_000) {
        prop_assert!(partition_of_key(&key, partitions) < partitions);
        let sticky = Sticky::new(first);
        let mut last = sticky.partition(0, partitions);
        for size in sizes {
            let partition = sticky.partition(usize::from(size), partitions);
            prop_assert!(partition == last || partition == (last + 1) % partitions);
            last = partition;
        }
    }
}
