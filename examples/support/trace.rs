//! All that has come of one thing, as a tree: each event stands below the one that was its cause.

use std::collections::HashMap;

use annals::{Log, Message};
use futures_util::StreamExt;

use crate::story::{Failure, broken};

/// So much is printed of a long story.
const LINES_MAX: usize = 40;

struct Node {
    id: String,
    cause: Option<String>,
    label: String,
}

impl Node {
    fn of(message: &Message) -> Option<Self> {
        let headers = message.headers();
        let id = headers.get_str("message_id")?.to_owned();
        let kind = message.event_type().unwrap_or("");
        if let Some(group) = headers.get_str("dead_letter_group") {
            // It is the event once more: the same identity, and the same cause. It is shown below the event itself.
            let reason = headers.get_str("dead_letter_reason").unwrap_or("");
            let attempts = headers.get_str("dead_letter_attempts").unwrap_or("");
            let label = format!("{}: given up by {group} ({reason}, attempt {attempts})", message.topic());
            return Some(Self { id: format!("{id} in {}", message.topic()), cause: Some(id), label });
        }
        let label = format!("{} {}/{} {kind:?}", message.topic(), message.partition(), message.offset());
        Some(Self { id, cause: message.causation_id().map(str::to_owned), label })
    }
}

/// The tree of a correlation id, and how many events it has.
pub(crate) async fn tree(log: &Log, correlation_id: &str) -> Result<(String, usize), Failure> {
    let mut nodes = Vec::new();
    let mut found = log.find("correlation_id", correlation_id);
    while let Some(message) = found.next().await {
        let message = message?;
        let Some(node) = Node::of(&message) else {
            return broken(format!(
                "topic {}, offset {}: an event without an identity",
                message.topic(),
                message.offset()
            ));
        };
        nodes.push(node);
    }
    let ids: HashMap<&str, usize> = nodes.iter().enumerate().map(|(place, node)| (node.id.as_str(), place)).collect();
    let (mut roots, mut children) = (Vec::new(), vec![Vec::new(); nodes.len()]);
    for (place, node) in nodes.iter().enumerate() {
        match &node.cause {
            None => roots.push(place),
            Some(cause) => match ids.get(cause.as_str()) {
                Some(parent) => children[*parent].push(place),
                None => return broken(format!("the cause {cause} of {} is not in the trace", node.label)),
            },
        }
    }
    let mut lines = Vec::new();
    for root in roots {
        draw(root, "", "", &nodes, &children, &mut lines);
    }
    if lines.len() != nodes.len() {
        return broken(format!("{} of {} events of the trace are below their causes", lines.len(), nodes.len()));
    }
    let more = lines.len().saturating_sub(LINES_MAX);
    lines.truncate(LINES_MAX);
    if more > 0 {
        lines.push(format!("... and {more} more"));
    }
    Ok((lines.iter().map(|line| format!("  {line}\n")).collect(), nodes.len()))
}

fn draw(at: usize, own: &str, below: &str, nodes: &[Node], children: &[Vec<usize>], lines: &mut Vec<String>) {
    lines.push(format!("{own}{}", nodes[at].label));
    for (number, child) in children[at].iter().enumerate() {
        let (own, rest) = if number + 1 == children[at].len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        draw(*child, &format!("{below}{own}"), &format!("{below}{rest}"), nodes, children, lines);
    }
}
