//! Samples, what they amount to, and how they are printed.

use std::fmt::Write;

use crate::contender::{Bar, Class, Entrant};

/// One contender's figure in one round, with what else was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) value: f64,
    /// By column name; the columns of a table are those of its samples.
    pub(crate) extras: Vec<(&'static str, f64)>,
    /// What the reader has to know of this figure.
    pub(crate) remark: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Higher is better.
    RecordsPerSecond,
    /// Lower is better.
    Milliseconds,
    /// Lower is better.
    BytesPerByte,
}

pub(crate) struct Row {
    pub(crate) entrant: &'static Entrant,
    pub(crate) samples: Vec<Sample>,
    pub(crate) failure: Option<String>,
}

impl Row {
    pub(crate) fn values(&self) -> Vec<f64> {
        self.samples.iter().map(|sample| sample.value).collect()
    }

    fn extra(&self, column: &str) -> Option<f64> {
        let of = |sample: &Sample| sample.extras.iter().find(|extra| extra.0 == column).map(|extra| extra.1);
        let values: Vec<f64> = self.samples.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| median(&values))
    }
}

pub(crate) struct Table {
    pub(crate) bar: Bar,
    pub(crate) title: String,
    /// Tells the tables of one bar apart, to a program.
    pub(crate) variant: &'static str,
    pub(crate) unit: Unit,
    pub(crate) rows: Vec<Row>,
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

impl Table {
    pub(crate) fn new(
        bar: Bar,
        title: impl Into<String>,
        variant: &'static str,
        unit: Unit,
        entrants: &[&'static Entrant],
    ) -> Self {
        let row = |entrant: &&'static Entrant| Row { entrant, samples: Vec::new(), failure: None };
        let rows = entrants.iter().filter(|entrant| entrant.offers(bar)).map(row).collect();
        Self { bar, title: title.into(), variant, unit, rows }
    }

    pub(crate) fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.entrant.name == name && !row.samples.is_empty())
    }

    /// How much better `row` did than `other`: the median of the ratios of each round, for absolute figures drift
    /// within a run on a shared machine. Above 1 is better whatever the unit.
    fn ratio(&self, row: &Row, other: &Row) -> f64 {
        let of_round = |(a, b): (f64, f64)| if self.unit == Unit::RecordsPerSecond { a / b } else { b / a };
        median(&row.values().into_iter().zip(other.values()).map(of_round).collect::<Vec<_>>())
    }

    fn best_peer(&self) -> Option<&Row> {
        let durable = matches!(self.bar, Bar::P3 | Bar::P4 | Bar::P5 | Bar::P15);
        let (reads, opens) = (self.bar == Bar::P6, self.bar == Bar::P8);
        let counts = |row: &&Row| {
            row.entrant.class == Class::Peer
                && !row.samples.is_empty()
                && (row.entrant.syncs || !durable)
                && (row.entrant.checks || !reads)
                && (row.entrant.recovers || !opens)
        };
        let score = |row: &&Row| {
            let value = median(&row.values());
            if self.unit == Unit::RecordsPerSecond { value } else { -value }
        };
        self.rows.iter().filter(counts).max_by(|a, b| score(a).total_cmp(&score(b)))
    }

    fn first_of(&self, class: Class) -> Option<&Row> {
        self.rows.iter().find(|row| row.entrant.class == class && !row.samples.is_empty())
    }

    pub(crate) fn markdown(&self) -> String {
        let mut out = format!("\n### {}: {}\n\n", self.bar.name(), self.title);
        if self.rows.is_empty() {
            out.push_str("No contender offers it yet.\n");
            return out;
        }
        let mut columns: Vec<&str> = Vec::new();
        for extra in self.rows.iter().flat_map(|row| &row.samples).flat_map(|sample| &sample.extras) {
            if !columns.contains(&extra.0) {
                columns.push(extra.0);
            }
        }
        let extra_heads: String = columns.iter().map(|column| format!(" {column} |")).collect();
        let _ = writeln!(
            out,
            "| contender | median | min | max |{extra_heads} of limit | of baseline | of best peer | note |"
        );
        let _ = writeln!(out, "|---|---|---|---|{}---|---|---|---|", "---|".repeat(columns.len()));
        for row in &self.rows {
            out.push_str(&self.line(row, &columns));
        }
        out
    }

    fn line(&self, row: &Row, columns: &[&str]) -> String {
        let name = row.entrant.name;
        if row.samples.is_empty() {
            let why = row.failure.as_deref().unwrap_or("no sample");
            return format!("| {name} | - | - | - |{} - | - | - | failed: {why} |\n", " - |".repeat(columns.len()));
        }
        let values = row.values();
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let show = |value| self.unit.show(value);
        let mut line = format!("| {name} | **{}** | {} | {} |", show(median(&values)), show(min), show(max));
        for column in columns {
            let text = row.extra(column).map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
            let _ = write!(line, " {text} |");
        }
        for other in [self.first_of(Class::Raw), self.first_of(Class::Baseline), self.best_peer()] {
            let text = other.map_or_else(|| "-".to_owned(), |other| format!("{:.2}", self.ratio(row, other)));
            let _ = write!(line, " {text} |");
        }
        line.push(' ');
        line.push_str(row.entrant.note);
        if let Some(remark) = row.samples.iter().find_map(|sample| sample.remark) {
            let _ = write!(line, "; {remark}");
        }
        if let Some(why) = &row.failure {
            let _ = write!(line, "; a later round failed: {why}");
        }
        line.push_str(" |\n");
        line
    }
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Unit::RecordsPerSecond => "records/s",
            Unit::Milliseconds => "ms",
            Unit::BytesPerByte => "bytes/byte",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Unit::RecordsPerSecond if value >= 1e6 => format!("{:.2} M/s", value / 1e6),
            Unit::RecordsPerSecond if value >= 1e3 => format!("{:.1} k/s", value / 1e3),
            Unit::RecordsPerSecond => format!("{value:.0} /s"),
            Unit::Milliseconds => format!("{value:.2} ms"),
            Unit::BytesPerByte => format!("{value:.3}"),
        }
    }
}
