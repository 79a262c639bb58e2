//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

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
