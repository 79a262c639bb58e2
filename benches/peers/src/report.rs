//! What is printed around the tables, and the file of all samples.

use std::{fmt::Write, path::Path};

use crate::{
    contender::{Bar, Class, Result},
    table::{Table, median},
};

pub(crate) fn header(facts: &[(&str, String)], rounds: usize, millis: u128) -> String {
    let mut out = String::from("## Measured in this run\n\n| | |\n|---|---|\n");
    for (name, value) in facts {
        let _ = writeln!(out, "| {name} | {value} |");
    }
    let _ = writeln!(
        out,
        "| method | {rounds} interleaved rounds of {millis} ms a workload, fresh directories, random payloads, memory \
         made resident before each |"
    );
    out.push_str(
        "\nThe median of the rounds, with minimum and maximum. Ratios are medians of the ratios within each round; \
         above 1 is better, whatever the unit. The limit is the first raw row, the baseline the single-file log, \
         the best peer the best of those that keep the bar's \
         promise in full (sync, check what they read, find a torn tail).\n",
    );
    out
}

/// The bars that are stated against another bar of the same contender.
pub(crate) fn own_ratios(tables: &[Table]) -> String {
    let pairs = [("P5", "P2 100 B"), ("P15", "P4"), ("P17", "P6 warm 100 B")];
    let find = |variant: &str| tables.iter().find(|table| table.variant == variant);
    let mut out = String::new();
    for (variant, against) in pairs {
        let (Some(table), Some(other)) = (find(variant), find(against)) else { continue };
        for row in table.rows.iter().filter(|row| row.entrant.class != Class::Raw && !row.samples.is_empty()) {
            let Some(base) = other.row(row.entrant.name) else { continue };
            let ratio = median(&row.values()) / median(&base.values());
            let _ = writeln!(out, "| {} | {variant} / {against} | {ratio:.2} |", row.entrant.name);
        }
    }
    if out.is_empty() {
        return out;
    }
    format!(
        "\n### Bars stated against another bar of the same contender\n\n| contender | bars | ratio |\n|---|---|---|\n{out}"
    )
}

/// Every sample, for other programs. Names hold nothing that JSON has to escape but for error texts.
pub(crate) fn write_json(path: &Path, facts: &[(&str, String)], tables: &[Table]) -> Result<()> {
    let facts: Vec<String> = facts.iter().map(|(name, value)| format!("{}: {}", quoted(name), quoted(value))).collect();
    let mut rows = Vec::new();
    for table in tables {
        for row in &table.rows {
            let samples: Vec<String> = row
                .samples
                .iter()
                .map(|sample| {
                    let extras = sample.extras.iter().map(|(name, value)| format!(", {}: {value}", quoted(name)));
                    format!("{{\"value\": {}{}}}", sample.value, extras.collect::<String>())
                })
                .collect();
            rows.push(format!(
                "    {{\"bar\": {}, \"workload\": {}, \"contender\": {}, \"class\": {}, \"unit\": {}, \"samples\": [{}], \"failure\": {}}}",
                quoted(&Bar::name(table.bar)),
                quoted(table.variant),
                quoted(row.entrant.name),
                quoted(&format!("{:?}", row.entrant.class)),
                quoted(table.unit.name()),
                samples.join(", "),
                row.failure.as_deref().map_or_else(|| "null".to_owned(), quoted),
            ));
        }
    }
    let text =
        format!("{{\n  \"machine\": {{{}}},\n  \"results\": [\n{}\n  ]\n}}\n", facts.join(", "), rows.join(",\n"));
    Ok(std::fs::write(path, text)?)
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
