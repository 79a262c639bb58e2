//! Tables of text.

use crate::failure::Outcome;
use crate::output::Output;

/// Rows under headings. A column whose heading begins with a `>` is a column of numbers.
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn write(&self, out: &mut Output) -> Outcome {
        let names: Vec<&str> = self.headings.iter().map(|heading| heading.trim_start_matches('>')).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).chain([names[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..names.len()).map(width).collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for ((cell, width), heading) in cells.zip(&widths).zip(&self.headings) {
                let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
                let (before, after) = if heading.starts_with('>') { (&*padding, "") } else { ("", &*padding) };
                line.extend([before, cell, after, "  "]);
            }
            line.trim_end().to_owned()
        };
        let heading = out.palette.heading;
        out.line(format!("{heading}{}{heading:#}", line(&mut names.iter().copied())))?;
        self.rows.iter().try_for_each(|row| out.line(line(&mut row.iter().map(String::as_str))))
    }
}
