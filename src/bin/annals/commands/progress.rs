//! Progress on stderr: only on a terminal, and only as long as the work takes.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often it is drawn, at the most, a second.
const DRAWS: u8 = 10;

/// A bar of bytes, or a line without one where their number is not known. Hidden where stderr is no terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn of_bytes(total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(DRAWS));
        let template = match total {
            Some(_) => "{bar:30} {bytes} of {total_bytes}, {eta} left  {msg}",
            None => "{spinner} {bytes}, {elapsed}  {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    pub(crate) fn at(&self, bytes: u64, message: impl FnOnce() -> String) {
        if !self.0.is_hidden() {
            self.0.set_position(bytes);
            self.0.set_message(message());
        }
    }

    /// Says something else on stderr, above the bar.
    #[cfg(feature = "kafka")]
    pub(crate) fn aside(&self, say: impl FnOnce()) {
        self.0.suspend(say);
    }

    pub(crate) fn set_total(&self, bytes: u64) {
        self.0.set_length(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
