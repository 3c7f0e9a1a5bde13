//! `sipbridge nodes`: the bridges that share lines, as the running bridge of the same settings sees them.

use std::process::ExitCode;

use serde::Deserialize;

use super::EXIT_FAILURE;
use super::running_bridge::{RunningBridge, Silence};
use crate::config::{self, Config, RawArgs};

const PATH: &str = "/api/admin/cluster/nodes";

/// What it answers, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Nodes {
    items: Vec<Node>,
    lines_without_holder: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    id: String,
    is_this: bool,
    state: String,
    version: String,
    lines: u64,
    calls: u64,
    heartbeat_age_ms: u64,
}

/// Runs the subcommand; returns the exit code of the process.
pub fn main(given: RawArgs) -> ExitCode {
    let config = config::validate(given).config;
    match ask(&config) {
        Ok(nodes) => {
            print!("{}", table(&nodes));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sipbridge: {error}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn ask(config: &Config) -> Result<Nodes, Silence> {
    RunningBridge::ask(config, async |bridge| {
        let nodes = bridge.get::<Nodes>(PATH, &[], &[]).await?;
        nodes.ok_or_else(|| bridge.odd("404".to_owned()))
    })
}

/// One row for each bridge; the one that was asked has a star.
fn table(nodes: &Nodes) -> String {
    let mut rows =
        vec![["NODE", "STATE", "VERSION", "LINES", "CALLS", "HEARTBEAT"].map(str::to_owned)];
    rows.extend(nodes.items.iter().map(|node| {
        let star = if node.is_this { "*" } else { "" };
        [
            // Another bridge's words, on a terminal.
            plain(&format!("{}{star}", node.id)),
            plain(&node.state),
            plain(&node.version),
            node.lines.to_string(),
            node.calls.to_string(),
            format!(
                "{:.1} s ago",
                std::time::Duration::from_millis(node.heartbeat_age_ms).as_secs_f64()
            ),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..6)
        .map(|column| width(column).unwrap_or_default())
        .collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    if nodes.lines_without_holder > 0 {
        let lines = nodes.lines_without_holder;
        text.push_str(&format!("{lines} lines are registered at no bridge\n"));
    }
    text
}

fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bridge_has_a_row() {
        let nodes = r#"{"linesWithoutHolder": 2, "items": [
            {"id": "a", "isThis": true, "state": "up", "version": "0.1.0", "capacity": 9, "lines": 12, "calls": 0, "heartbeatAgeMs": 1240, "apiUrl": null},
            {"id": "bridge-2", "isThis": false, "state": "draining", "version": "0.1.0", "capacity": 9, "lines": 3, "calls": 1, "heartbeatAgeMs": 90, "apiUrl": null}]}"#;
        let nodes: Nodes = serde_json::from_str(nodes).expect("nodes");
        let expected = "\
NODE      STATE     VERSION  LINES  CALLS  HEARTBEAT
a*        up        0.1.0    12     0      1.2 s ago
bridge-2  draining  0.1.0    3      1      0.1 s ago
2 lines are registered at no bridge
";
        assert_eq!(table(&nodes), expected);
    }
}
