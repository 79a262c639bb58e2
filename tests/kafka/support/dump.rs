//! What a topic of Kafka holds, read by Kafka's own client: Dump.java.

use super::{Broker, PATIENCE};

/// Which records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// What transactions have committed.
    Committed,
    /// Also what they have aborted, or not decided.
    Uncommitted,
}

/// A record as it stands in Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dumped {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    /// Milliseconds since 1970.
    pub(crate) timestamp: i64,
    /// `CreateTime`, or `LogAppendTime` if the broker has put its own in.
    pub(crate) timestamp_type: String,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    pub(crate) value: Option<Vec<u8>>,
}

impl Dumped {
    /// The text of the last header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(other, _)| other == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let dumped = Self {
            partition: fields.next()?.parse().ok()?,
            offset: fields.next()?.parse().ok()?,
            timestamp: fields.next()?.parse().ok()?,
            timestamp_type: fields.next()?.to_owned(),
            key: bytes(fields.next()?)?,
            headers: headers(fields.next()?)?,
            value: bytes(fields.next()?)?,
        };
        fields.next().is_none().then_some(dumped)
    }
}

/// Bytes that may be absent; `None` if the text means nothing.
fn bytes(text: &str) -> Option<Option<Vec<u8>>> {
    if text == "-" {
        return Some(None);
    }
    let (pairs, rest) = text.strip_prefix('x')?.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    rest.is_empty().then(|| pairs.iter().map(byte).collect::<Option<Vec<u8>>>())?.map(Some)
}

fn headers(text: &str) -> Option<Vec<(String, Option<Vec<u8>>)>> {
    if text == "-" {
        return Some(Vec::new());
    }
    let header = |text: &str| {
        let (name, value) = text.split_once('=')?;
        Some((String::from_utf8(bytes(name)??).ok()?, bytes(value)?))
    };
    text.split(',').map(header).collect()
}

impl Broker {
    /// All that is committed in a topic, by partition and offset. Waits until each transaction is decided that had begun before.
    pub(crate) async fn dump(&self, topic: &str) -> Vec<Dumped> {
        self.dump_as(topic, Isolation::Committed).await
    }

    pub(crate) async fn dump_as(&self, topic: &str, isolation: Isolation) -> Vec<Dumped> {
        let (bootstrap, topic) = (self.bootstrap().to_owned(), topic.to_owned());
        tokio::task::spawn_blocking(move || dump(&bootstrap, &topic, isolation)).await.unwrap()
    }

    /// [`dump`](Self::dump) for threads.
    pub(crate) fn blocking_dump(&self, topic: &str) -> Vec<Dumped> {
        dump(self.bootstrap(), topic, Isolation::Committed)
    }
}

fn dump(bootstrap: &str, topic: &str, isolation: Isolation) -> Vec<Dumped> {
    let isolation = match isolation {
        Isolation::Committed => "read_committed",
        Isolation::Uncommitted => "read_uncommitted",
    };
    let seconds = PATIENCE.as_secs().to_string();
    let output = super::script(&["tool", "dump", bootstrap, topic, &seconds, isolation]).output().unwrap();
    parse(&super::checked("dump", &output))
}

fn parse(text: &str) -> Vec<Dumped> {
    let mut lines: Vec<&str> = text.lines().collect();
    let end = lines.pop().and_then(|line| line.strip_prefix("end ")).and_then(|count| count.parse().ok());
    assert_eq!(end, Some(lines.len()), "the dump was cut off");
    let line = |line: &str| Dumped::parse(line).unwrap_or_else(|| panic!("no line of a dump: {line:?}"));
    let mut dumped: Vec<Dumped> = lines.into_iter().map(line).collect();
    dumped.sort_by_key(|record| (record.partition, record.offset));
    dumped
}

#[test]
fn a_dump_keeps_what_is_empty_and_what_is_absent_apart() {
    let dumped = parse("1 7 -5 CreateTime - - -\n0 3 12 LogAppendTime x x6162=-,x6162=x,x63=xff00 x0a\nend 2\n");
    let first = Dumped {
        partition: 0,
        offset: 3,
        timestamp: 12,
        timestamp_type: "LogAppendTime".into(),
        key: Some(vec![]),
        headers: vec![("ab".into(), None), ("ab".into(), Some(vec![])), ("c".into(), Some(vec![0xff, 0]))],
        value: Some(b"\n".to_vec()),
    };
    assert_eq!(dumped[0], first);
    let bare = (&dumped[1].key, dumped[1].headers.len(), &dumped[1].value, dumped[1].timestamp);
    assert_eq!(bare, (&None, 0, &None, -5));
    for wrong in
        ["0 0 0 CreateTime x1 - -", "0 0 0 CreateTime xzz - -", "0 0 0 CreateTime - -", "0 0 0 CreateTime - - - -"]
    {
        assert_eq!(Dumped::parse(wrong), None, "{wrong}");
    }
    assert!(
        std::panic::catch_unwind(|| parse("0 3 12 CreateTime - - -\n")).is_err(),
        "what was cut off was taken for all"
    );
}
