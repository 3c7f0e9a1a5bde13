//! What became of the lines at the running bridge of the same settings, asked
//! over its API: for `sipbridge lines`. Reads only, and waits for nobody long.

use std::collections::HashMap;

use serde::Deserialize;

use super::running_bridge::{RunningBridge, Silence};
use crate::config::Config;
use crate::core::ids::LineId;
use crate::lines::FLAGS_LINE_ID;

/// Lines of one page, and pages: so many lines no bridge has.
const PAGE_LINES: &str = "500";
const PAGES_MAX: usize = 200;
const PATH: &str = "/api/admin/telephony/phone-lines";

/// The states, in words.
#[derive(Debug, Default)]
pub struct LineStates {
    by_id: HashMap<String, LineText>,
    /// Why there are none, or not all.
    pub silence: Option<Silence>,
}

#[derive(Debug)]
struct LineText {
    /// Whether the bridge takes calls of the line.
    is_in_use: bool,
    words: String,
}

impl LineStates {
    /// What to add to a line that can be used by the settings.
    #[must_use]
    pub fn of_usable(&self, line: &LineId) -> String {
        match (self.by_id.get(line.as_str()), &self.silence) {
            (Some(shown), _) => format!("; {}", shown.words),
            (None, None) => "; the running bridge does not have it".to_owned(),
            (None, Some(_)) => String::new(),
        }
    }

    /// What to add to one that cannot: the bridge may have it as it was before.
    #[must_use]
    pub fn of_other(&self, line: &LineId) -> String {
        let shown = self.by_id.get(line.as_str());
        let shown = shown.filter(|shown| shown.is_in_use);
        shown.map_or_else(String::new, |shown| {
            format!("; in the running bridge as it was: {}", shown.words)
        })
    }
}

/// A page of lines, as far as it matters here.
#[derive(Deserialize)]
struct Page {
    items: Vec<Line>,
    next: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    id: String,
    state: String,
    expires_at: Option<String>,
    next_try_at: Option<String>,
    last_error: Option<String>,
    /// Which bridge is registered for it, where bridges share lines.
    node: Option<String>,
}

/// Asks the bridge for the state of each line. Blocks.
#[must_use]
pub fn ask(config: &Config) -> LineStates {
    let mut states = LineStates::default();
    let by_id = &mut states.by_id;
    let asked = RunningBridge::ask(config, async |bridge| read(config, &bridge, by_id).await);
    states.silence = asked.err();
    states
}

async fn read(
    config: &Config,
    bridge: &RunningBridge,
    by_id: &mut HashMap<String, LineText>,
) -> Result<(), Silence> {
    read_all(bridge, by_id).await?;
    // The line of the flags is in no database, and so on no page of one.
    if config.flags_line.is_some() && !by_id.contains_key(FLAGS_LINE_ID) {
        let line = bridge.get::<Line>(PATH, &[FLAGS_LINE_ID], &[]).await?;
        by_id.extend(line.map(shown));
    }
    Ok(())
}

/// Page after page; those before a failure are kept.
async fn read_all(
    bridge: &RunningBridge,
    by_id: &mut HashMap<String, LineText>,
) -> Result<(), Silence> {
    let mut after: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let mut query = vec![("limit", PAGE_LINES)];
        query.extend(after.as_deref().map(|after| ("after", after)));
        let page = bridge.get::<Page>(PATH, &[], &query).await?;
        let page = page.ok_or_else(|| bridge.odd("404".to_owned()))?;
        by_id.extend(page.items.into_iter().map(shown));
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
    Err(bridge.odd("there is no end of them".to_owned()))
}

/// `registered until 17:40:12 UTC`, `failed: why; next try at 17:40:12 UTC`.
fn shown(line: Line) -> (String, LineText) {
    let mut words = match (&line.node, line.state.as_str()) {
        (Some(node), "elsewhere") => format!("at node {node}"),
        (Some(node), state) => format!("{state} at node {node}"),
        (None, state) => state.to_owned(),
    };
    if let Some(error) = &line.last_error {
        words.push_str(": ");
        words.push_str(error);
    }
    for (what, at) in [
        (" until ", line.expires_at),
        ("; next try at ", line.next_try_at),
    ] {
        // 2026-01-15T14:30:00.123Z
        if let Some(time) = at.as_deref().and_then(|at| at.get(11..19)) {
            words.push_str(&format!("{what}{time} UTC"));
        }
    }
    // A part of it are the registrar's own words, and this goes to a terminal.
    words.retain(|c| !c.is_control());
    let is_in_use = !matches!(line.state.as_str(), "unusable" | "left-out" | "pending");
    (line.id, LineText { is_in_use, words })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(json: &str) -> String {
        shown(serde_json::from_str(json).expect("a line")).1.words
    }

    #[test]
    fn a_state_is_told_in_plain_words() {
        assert_eq!(
            words(
                r#"{"id":"1","state":"registered","expiresAt":"2026-01-15T17:40:12.123Z","lastError":null}"#
            ),
            "registered until 17:40:12 UTC"
        );
        assert_eq!(
            words(
                r#"{"id":"1","state":"failed","lastError":"no \u001b[31manswer","nextTryAt":"2026-01-15T17:40:12.123Z"}"#
            ),
            "failed: no [31manswer; next try at 17:40:12 UTC"
        );
        assert_eq!(
            words(
                r#"{"id":"1","state":"registered","expiresAt":"2026-01-15T17:40:12.123Z","node":"b-1"}"#
            ),
            "registered at node b-1 until 17:40:12 UTC"
        );
        assert_eq!(
            words(r#"{"id":"1","state":"elsewhere","node":"b-2"}"#),
            "at node b-2"
        );
        assert_eq!(
            words(r#"{"id":"1","state":"refused","lastError":"full"}"#),
            "refused: full"
        );
        assert_eq!(words(r#"{"id":"1","state":"off","expiresAt":"é"}"#), "off");
    }
}
