//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

pub(crate) const HELP: &str = "\
Takes a history of events through a crash, and proves that nothing of it is lost, doubled or out of order.

usage: cargo run --release --example 1_history -- [PATH] [--dir DIR] [--crash-after N]

  PATH             events, one JSON object a line (NDJSON), plain or gzip; without it, a small library's book loans.
                   Each has \"type\" and \"key\" (text) and \"time\" (RFC 3339 with an offset, be it long before 1970),
                   and any other fields: {\"type\":\"borrowed\",\"key\":\"loan-1\",\"time\":\"1887-05-02T09:00:00Z\",\"copy\":2}
  --dir DIR        the log's directory; made if it is not there. A run goes on where the log in DIR ends.
                   Without it: a temporary directory, and the whole story by itself. A child process appends, and
                   is killed in the middle; this process then goes on, replays, checks and prints the table.
  --crash-after N  kill the process (abort: nothing is closed or flushed) once N events of this run are acknowledged
  --help           print this

Try a crash by hand, as often as you like, then let it finish:
  cargo run --release --example 1_history -- --dir /tmp/history --crash-after 50
  cargo run --release --example 1_history -- --dir /tmp/history

exit code: 0 if everything holds, 1 if a check fails, 2 if the arguments, the input or the log cannot be used
";

/// What the command line says.
pub(crate) struct Args {
    pub(crate) path: Option<PathBuf>,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) crash_after: Option<u64>,
}

impl Args {
    /// `None` if help is wanted.
    pub(crate) fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Option<Self>, String> {
        let mut parsed = Self { path: None, dir: None, crash_after: None };
        let mut options = true;
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--help" | "-h") if options => return Ok(None),
                Some("--") if options => options = false,
                Some("--dir") if options => {
                    let dir =
                        args.next().filter(|dir| !dir.is_empty()).ok_or("--dir: expected a directory after it")?;
                    parsed.dir = Some(dir.into());
                }
                Some("--crash-after") if options => {
                    let count = args.next().unwrap_or_default();
                    let count = count.to_str().and_then(|count| count.parse().ok()).filter(|count| *count > 0);
                    parsed.crash_after = Some(count.ok_or("--crash-after: expected a whole number from 1 after it")?);
                }
                Some(unknown) if options && unknown.starts_with('-') => {
                    return Err(format!("{unknown}: unknown; expected [PATH] [--dir DIR] [--crash-after N]"));
                }
                _ if parsed.path.is_some() => return Err(format!("{}: expected one PATH only", arg.display())),
                _ => parsed.path = Some(arg.into()),
            }
        }
        Ok(Some(parsed))
    }
}
