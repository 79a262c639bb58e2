//! The lines of a file or of standard input, plain or gzip, read on a thread of their own: what has come while the last commit
//! was under way is the next one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use flate2::bufread::MultiGzDecoder;

use crate::failure::{Class, Failure, Outcome};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// More than any record can have: nothing is allocated for a file without line feeds.
const LINE_BYTES_MAX: u64 = 65 << 20;

/// Lines that wait between the threads.
const AHEAD: usize = 4096;

/// A line without its end, and its number, from 1.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) number: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The lines, as they come.
pub(crate) struct Lines {
    /// The name of what is read.
    pub(crate) name: String,
    /// How many bytes there are, where that is known.
    pub(crate) bytes_total: Option<u64>,
    bytes_read: Arc<AtomicU64>,
    receiver: Receiver<Result<Line, String>>,
}

impl Lines {
    /// Opens a file, or standard input for none and for `-`.
    pub(crate) fn open(path: Option<&Path>) -> Outcome<Self> {
        let path = path.filter(|path| *path != Path::new("-"));
        let bytes_read = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&bytes_read);
        let (name, bytes_total, input): (_, _, Box<dyn Read + Send>) = match path {
            None => ("standard input".to_owned(), None, Box::new(Counted { inner: io::stdin(), count })),
            Some(path) => {
                let name = path.display().to_string();
                let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
                let (metadata, file) = opened.map_err(|error| {
                    let class = if error.kind() == io::ErrorKind::NotFound { Class::NotFound } else { Class::Failed };
                    Failure::new(class, format!("{name}: cannot be read: {error}"))
                })?;
                if metadata.is_dir() {
                    return Err(Failure::usage(format!("{name} is a directory; expected a file")));
                }
                let len = Some(metadata.len()).filter(|_| metadata.is_file());
                (name, len, Box::new(Counted { inner: file, count }))
            }
        };
        let (sender, receiver) = sync_channel(AHEAD);
        let spawned = std::thread::Builder::new().name("annals-lines".to_owned()).spawn(move || send(input, &sender));
        spawned.map_err(|error| Failure::new(Class::Failed, format!("cannot start a thread: {error}")))?;
        Ok(Self { name, bytes_total, bytes_read, receiver })
    }

    /// How many bytes of the file were read, compressed as they may be.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Waits for the next line; `None` at the end.
    pub(crate) fn next(&self) -> Outcome<Option<Line>> {
        self.receiver.recv().ok().transpose().map_err(|why| self.failed(&why))
    }

    /// The next line if it is there already. `None` at the end, too, which the next [`next`](Self::next) tells.
    pub(crate) fn try_next(&self) -> Outcome<Option<Line>> {
        match self.receiver.try_recv() {
            Ok(line) => line.map(Some).map_err(|why| self.failed(&why)),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Ok(None),
        }
    }

    fn failed(&self, why: &str) -> Failure {
        Failure::new(Class::Failed, format!("{}: {why}", self.name))
    }
}

fn send(input: Box<dyn Read + Send>, sender: &SyncSender<Result<Line, String>>) {
    let mut plain = BufReader::with_capacity(256 << 10, input);
    // The content tells, not the name.
    let is_gzip = plain.fill_buf().is_ok_and(|front| front.starts_with(&GZIP_MAGIC));
    // A gzip file may have several members: that is what `cat a.gz b.gz` makes.
    let mut lines: Box<dyn BufRead> =
        if is_gzip { Box::new(BufReader::new(MultiGzDecoder::new(plain))) } else { Box::new(plain) };
    for number in 1.. {
        let line = match next_line(&mut *lines, number) {
            Ok(Some(bytes)) => Ok(Line { number, bytes }),
            Ok(None) => return,
            Err(why) => Err(why),
        };
        let failed = line.is_err();
        // Who does not want more lines has gone.
        if sender.send(line).is_err() || failed {
            return;
        }
    }
}

fn next_line(lines: &mut dyn BufRead, number: u64) -> Result<Option<Vec<u8>>, String> {
    let mut bytes = Vec::new();
    let read = lines.take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes);
    let read = read.map_err(|error| format!("line {number}: cannot be read: {error}"))?;
    if read == 0 {
        return Ok(None);
    }
    if bytes.pop_if(|last| *last == b'\n').is_some() {
        bytes.pop_if(|last| *last == b'\r');
    } else if read as u64 == LINE_BYTES_MAX {
        return Err(format!("line {number}: has more than {LINE_BYTES_MAX} bytes, which no record can have"));
    }
    if number == 1 && bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(Some(bytes))
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn lines_of(bytes: &[u8]) -> Result<Vec<String>, String> {
        let (sender, receiver) = sync_channel(1000);
        send(Box::new(io::Cursor::new(bytes.to_vec())), &sender);
        drop(sender);
        receiver.iter().map(|line| line.map(|line| format!("{}:{}", line.number, line.bytes.escape_ascii()))).collect()
    }

    #[test]
    fn ends_of_lines_and_files() {
        assert_eq!(lines_of(b"").unwrap(), [""; 0]);
        assert_eq!(lines_of(b"\n").unwrap(), ["1:"]);
        assert_eq!(lines_of(b"\xef\xbb\xbfa\r\n\r\nb\xff").unwrap(), ["1:a", "2:", "3:b\\xff"]);
        let mut packed = Vec::new();
        for part in ["a\nb\n", "c\n"] {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(part.as_bytes()).unwrap();
            packed.extend(encoder.finish().unwrap());
        }
        assert_eq!(lines_of(&packed).unwrap(), ["1:a", "2:b", "3:c"]);
        let cut = lines_of(&packed[..packed.len() - 3]).unwrap_err();
        assert!(cut.contains("line 4: cannot be read"), "{cut}");
    }
}
