//! Settings from the environment: `ANNALS_` and the path of the key, in capitals, with `_` between its parts.

use toml::{Table, Value};

use super::read::{checked, from_text, unknown};
use super::schema::{Keys, Kind, Node, ROOT};
use crate::error::{Error, Result};
use crate::text::quoted;

pub(super) const PREFIX: &str = "ANNALS_";

/// A key with a value: the tables that lead to it, up to a name, and from there on.
#[derive(Debug, Clone)]
struct Leaf {
    before: Vec<&'static str>,
    /// `None` if there is no name in it.
    after: Option<Vec<&'static str>>,
    kind: Kind,
}

fn leaves() -> Vec<Leaf> {
    fn walk(keys: Keys, before: &[&'static str], after: Option<&[&'static str]>, found: &mut Vec<Leaf>) {
        let longer = |path: &[&'static str], key| path.iter().copied().chain([key]).collect::<Vec<_>>();
        for (key, node) in keys {
            let (before, after) = match after {
                Some(after) => (before.to_vec(), Some(longer(after, *key))),
                None => (longer(before, *key), None),
            };
            match node {
                Node::Leaf(kind) => found.push(Leaf { before, after, kind: *kind }),
                Node::Table(keys) => walk(keys, &before, after.as_deref(), found),
                Node::Named(keys) => walk(keys, &before, Some(&[]), found),
            }
        }
    }
    let mut found = Vec::new();
    walk(ROOT, &[], None, &mut found);
    found
}

/// A part of a path as the environment has it.
fn capitals(part: &str) -> String {
    part.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

fn joined(parts: &[&str]) -> String {
    parts.iter().map(|part| capitals(part)).collect::<Vec<_>>().join("_")
}

/// The section that a variable is about, if it is about any.
pub(super) fn section(variable: &str) -> Option<&'static str> {
    let path = variable.strip_prefix(PREFIX)?;
    let is_in = |section: &str| {
        let rest = path.strip_prefix(&capitals(section));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    ROOT.iter().map(|(section, _)| *section).find(|section| is_in(section))
}

/// Puts the value of a variable into the table. Variables that are not about a section of the configuration are let be:
/// `ANNALS_DIR` is the command's.
pub(super) fn put(table: &mut Table, variable: &str, text: &str) -> Result<()> {
    let (Some(section), Some(path)) = (section(variable), variable.strip_prefix(PREFIX)) else { return Ok(()) };
    let leaves = leaves();
    for leaf in &leaves {
        let before = joined(&leaf.before);
        let Some(after) = &leaf.after else {
            if path == before {
                let path: Vec<String> = leaf.before.iter().map(|&part| part.to_owned()).collect();
                return set(table, &path, checked(leaf.kind, variable, from_text(leaf.kind, text))?);
            }
            continue;
        };
        let name =
            path.strip_prefix(&format!("{before}_")).and_then(|rest| rest.strip_suffix(&format!("_{}", joined(after))));
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            let value = checked(leaf.kind, variable, from_text(leaf.kind, text))?;
            let name = named(table, &leaf.before, name, variable)?;
            let parts = leaf.before.iter().copied().chain([name.as_str()]).chain(after.iter().copied());
            let path: Vec<String> = parts.map(str::to_owned).collect();
            return set(table, &path, value);
        }
    }
    let known: Vec<String> = leaves
        .iter()
        .filter(|leaf| leaf.before.first() == Some(&section))
        .map(|leaf| match &leaf.after {
            Some(after) => format!("{PREFIX}{}_NAME_{}", joined(&leaf.before), joined(after)),
            None => format!("{PREFIX}{}", joined(&leaf.before)),
        })
        .collect();
    Err(unknown(variable, variable, known.iter().map(String::as_str)))
}

/// The name in the table that is written so in capitals; a new one is in small letters.
fn named(table: &Table, before: &[&str], capital: &str, variable: &str) -> Result<String> {
    let mut named = Some(table);
    for part in before {
        named = named.and_then(|table| table.get(*part)).and_then(Value::as_table);
    }
    let mut same = named.into_iter().flat_map(Table::keys).filter(|name| capitals(name) == capital);
    match (same.next(), same.next()) {
        (Some(first), Some(second)) => Err(Error::invalid(format!(
            "the variable {variable} may be about {} and about {}; names that differ in more than case and punctuation are allowed",
            quoted(first),
            quoted(second)
        ))),
        (Some(name), None) => Ok(name.clone()),
        (None, _) => Ok(capital.to_ascii_lowercase()),
    }
}

fn set(table: &mut Table, path: &[String], value: Value) -> Result<()> {
    let Some((last, tables)) = path.split_last() else { return Ok(()) };
    let mut table = table;
    for part in tables {
        let below = table.entry(part.as_str()).or_insert_with(|| Value::Table(Table::new()));
        table = below.as_table_mut().ok_or_else(|| Error::invalid(format!("`{part}` is no table")))?;
    }
    table.insert(last.clone(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{joined, leaves};

    /// Or a variable could be about a key of one name, and about another of a longer one.
    #[test]
    fn no_key_ends_like_another() {
        let leaves = leaves();
        assert!(leaves.len() > 50);
        for one in &leaves {
            for other in &leaves {
                if let (Some(one), Some(other)) = (&one.after, &other.after) {
                    assert!(!joined(one).ends_with(&format!("_{}", joined(other))), "{one:?} ends like {other:?}");
                }
            }
        }
    }
}
