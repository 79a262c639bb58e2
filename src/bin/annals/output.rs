//! Standard output: buffered, closed quietly, coloured where that is wanted.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;

use crate::failure::{Failure, Outcome};

/// When to colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorWhen {
    #[default]
    Auto,
    Always,
    Never,
}

impl ColorWhen {
    fn is_on(self, auto: ColorChoice) -> bool {
        match self {
            Self::Auto => auto != ColorChoice::Never,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Whether stderr is coloured.
pub(crate) fn on_stderr(when: ColorWhen) -> bool {
    when.is_on(AutoStream::choice(&io::stderr()))
}

/// The colours, or none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Palette {
    pub(crate) heading: Style,
    pub(crate) place: Style,
    pub(crate) key: Style,
    pub(crate) dim: Style,
    pub(crate) bad: Style,
    pub(crate) good: Style,
}

impl Palette {
    fn colored() -> Self {
        let color = |color: AnsiColor| Style::new().fg_color(Some(color.into()));
        Self {
            heading: Style::new().bold(),
            place: color(AnsiColor::Cyan),
            key: color(AnsiColor::Yellow),
            dim: Style::new().dimmed(),
            bad: color(AnsiColor::Red).bold(),
            good: color(AnsiColor::Green).bold(),
        }
    }
}

/// Standard output.
pub(crate) struct Output {
    out: BufWriter<StdoutLock<'static>>,
    pub(crate) palette: Palette,
    pub(crate) is_terminal: bool,
}

impl Output {
    pub(crate) fn new(color: ColorWhen) -> Self {
        let stdout = io::stdout();
        let palette = if color.is_on(AutoStream::choice(&stdout)) { Palette::colored() } else { Palette::default() };
        let is_terminal = stdout.is_terminal();
        Self { out: BufWriter::with_capacity(64 << 10, stdout.lock()), palette, is_terminal }
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) -> Outcome {
        self.bytes(line.as_ref().as_bytes())?;
        self.bytes(b"\n")
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Outcome {
        self.out.write_all(bytes).map_err(|error| Failure::output(&error))
    }

    pub(crate) fn flush(&mut self) -> Outcome {
        self.out.flush().map_err(|error| Failure::output(&error))
    }

    /// For what writes by itself.
    pub(crate) fn writer(&mut self) -> &mut impl Write {
        &mut self.out
    }
}
