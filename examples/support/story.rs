//! What the examples have in common that are killed on the way: how they begin and end, and the child that is killed.

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::args::Args;

/// Why there is no success.
pub(crate) enum Failure {
    /// Arguments, input or log: nothing can be said about what was to be proved.
    Unusable(String),
    /// The log does not hold what it should.
    Broken(String),
}

impl From<annals::Error> for Failure {
    fn from(error: annals::Error) -> Self {
        Self::Unusable(error.to_string())
    }
}

pub(crate) fn broken<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Broken(why.into()))
}

/// The whole program: its arguments, what it prints, and its exit code.
pub(crate) async fn tell(name: &str, help: &str, run: impl AsyncFnOnce(Args) -> Result<String, Failure>) -> ExitCode {
    let answer = match Args::parse(std::env::args_os().skip(1)) {
        Ok(Some(args)) => run(args).await,
        Ok(None) => Ok(help.to_owned()),
        Err(why) => Err(Failure::Unusable(format!("{why}; --help explains"))),
    };
    match answer {
        Ok(text) => {
            // Whoever closed the pipe early has read enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(Failure::Broken(why)) => {
            eprintln!("{name}: CHECK FAILED: {why}");
            ExitCode::from(1)
        }
        Err(Failure::Unusable(why)) => {
            eprintln!("{name}: {why}");
            ExitCode::from(2)
        }
    }
}

/// Lets a child process work in the directory until it is killed. Answers whether it was: there may have been less to do.
#[allow(dead_code, reason = "an example that tells its child something calls the other")]
pub(crate) fn crash(args: &Args, dir: &Path, after: u64) -> Result<bool, Failure> {
    crash_with(args, dir, after, &[])
}

/// [`crash`], with environment variables for the child.
pub(crate) fn crash_with(args: &Args, dir: &Path, after: u64, variables: &[(&str, String)]) -> Result<bool, Failure> {
    let program = std::env::current_exe().map_err(|error| Failure::Unusable(format!("cannot find itself: {error}")))?;
    let mut child = Command::new(program);
    child.arg("--dir").arg(dir).arg("--crash-after").arg(after.to_string()).arg("--").args(&args.path);
    child.envs(variables.iter().map(|(name, value)| (name, value)));
    match child.stdout(Stdio::null()).status().map(|status| status.code()) {
        Ok(Some(0)) => Ok(false),
        // It has said why on stderr, which is ours.
        Ok(Some(1)) => broken("a check of the child failed"),
        Ok(Some(code @ 2)) => Err(Failure::Unusable(format!("the child failed with exit code {code}"))),
        Ok(_) => Ok(true),
        Err(error) => Err(Failure::Unusable(format!("cannot start the child: {error}"))),
    }
}
