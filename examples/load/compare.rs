//! Puts the reports of several runs side by side: the floor and the bridge,
//! medians over the rounds, their ratio, and the project's own limits.

use std::error::Error;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What is compared: name and where it stands in a report.
const ROWS: [(&str, &str); 21] = [
    ("calls up", "/calls/up"),
    ("calls ended early", "/calls/endedEarly"),
    ("INVITE to 200, p50 ms", "/setupMs/answer/p50"),
    ("frames sent", "/frames/sent"),
    ("frames lost to the worker", "/frames/lostToWorker"),
    ("frames lost to the caller", "/frames/lostToCaller"),
    ("RTP to WebSocket, p50 ms", "/latencyMs/rtpToWebSocket/p50"),
    ("RTP to WebSocket, p99 ms", "/latencyMs/rtpToWebSocket/p99"),
    ("WebSocket to RTP, p50 ms", "/latencyMs/webSocketToRtp/p50"),
    ("WebSocket to RTP, p99 ms", "/latencyMs/webSocketToRtp/p99"),
    ("round trip, p50 ms", "/latencyMs/roundTrip/p50"),
    ("round trip, p99 ms", "/latencyMs/roundTrip/p99"),
    ("RTP gap, p50 ms", "/rtpGapMs/p50"),
    ("RTP gap, p99 ms", "/rtpGapMs/p99"),
    (
        "clear to last old packet, max ms",
        "/clearMs/lastOldPacket/max",
    ),
    ("CPU-ms per call-second", CPU),
    ("RSS without calls, MB", "/bridge/rss/0"),
    ("RSS with calls, MB", RSS),
    ("RSS per call, MB", "/bridge/rssPerCallMb"),
    ("generator late, p99 ms", "/generator/lateMs/p99"),
    ("machine idle, %", "/machineIdlePercent"),
];
const CPU: &str = "/bridge/cpuMsPerCallSecond";
const RSS: &str = "/bridge/rss/1";
/// Most that the bridge may cost, in floors.
const CPU_RATIO_LIMIT: f64 = 1.5;
const RSS_LIMIT_MB: f64 = 60.0;
const RSS_PER_CALL_LIMIT_MB: f64 = 0.3;

/// The figures that the bridge has to meet besides CPU, calls and memory.
const LIMITS: [(&str, &str, f64); 6] = [
    ("frames lost to the worker", "/frames/lostToWorker", 0.0),
    ("frames lost to the caller", "/frames/lostToCaller", 0.0),
    (
        "RTP to WebSocket, p50 ms",
        "/latencyMs/rtpToWebSocket/p50",
        1.0,
    ),
    (
        "RTP to WebSocket, p99 ms",
        "/latencyMs/rtpToWebSocket/p99",
        5.0,
    ),
    ("RTP gap, p99 ms", "/rtpGapMs/p99", 23.0),
    (
        "clear to last old packet, max ms",
        "/clearMs/lastOldPacket/max",
        40.0,
    ),
];

/// Prints the comparison; true when the bridge met every limit.
///
/// # Errors
/// When a report cannot be read.
pub fn run(floor: &[PathBuf], bridge: &[PathBuf]) -> Result<bool, Box<dyn Error>> {
    let (floor, bridge) = (read(floor)?, read(bridge)?);
    println!(
        "{:<34} {:>10} {:>10} {:>8}",
        "median of the rounds", "floor", "bridge", "ratio"
    );
    for (name, path) in ROWS {
        let (a, b) = (median(&floor, path), median(&bridge, path));
        let ratio = a.zip(b).filter(|(a, _)| *a > 0.0).map(|(a, b)| b / a);
        println!(
            "{name:<34} {:>10} {:>10} {:>8}",
            show(a),
            show(b),
            show(ratio)
        );
    }
    println!();
    Ok(judge(&floor, &bridge))
}

fn read(paths: &[PathBuf]) -> Result<Vec<Value>, Box<dyn Error>> {
    let one = |path: &Path| -> Result<Value, Box<dyn Error>> {
        let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    };
    paths.iter().map(|path| one(path)).collect()
}

/// A figure of every round that has it, in order of size.
fn numbers(reports: &[Value], path: &str) -> Vec<f64> {
    let number = |report: &Value| report.pointer(path)?.as_f64();
    let mut values: Vec<f64> = reports.iter().filter_map(number).collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

fn median(reports: &[Value], path: &str) -> Option<f64> {
    let values = numbers(reports, path);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

fn show(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(whole) if whole.fract() == 0.0 => format!("{whole:.0}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// Each limit with what was measured; a figure that is missing is missed.
fn judge(floor: &[Value], bridge: &[Value]) -> bool {
    let cpu = median(floor, CPU)
        .zip(median(bridge, CPU))
        .map(|(floor, bridge)| bridge / floor);
    let calls = median(bridge, "/calls/asked").unwrap_or(0.0);
    let fewest_up = numbers(bridge, "/calls/up").first().copied();
    let calls_missing = fewest_up.map(|up| calls - up);
    let rss_limit = RSS_LIMIT_MB + RSS_PER_CALL_LIMIT_MB * calls;
    let mut figures = vec![
        ("CPU, floors", cpu, CPU_RATIO_LIMIT),
        ("calls not up", calls_missing, 0.0),
        ("RSS with calls, MB", median(bridge, RSS), rss_limit),
    ];
    figures.extend(LIMITS.map(|(name, path, limit)| {
        // What must never happen is judged by the worst round.
        let worst = numbers(bridge, path).last().copied();
        let measured = if limit == 0.0 {
            worst
        } else {
            median(bridge, path)
        };
        (name, measured, limit)
    }));
    let mut all = true;
    for (name, measured, limit) in figures {
        let met = measured.is_some_and(|measured| measured <= limit);
        all &= met;
        let verdict = if met { "met" } else { "MISSED" };
        println!(
            "{name:<34} {:>10} of {:>6}  {verdict}",
            show(measured),
            show(Some(limit))
        );
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn medians_pass_over_what_is_missing() {
        let reports = [
            json!({"a": 3}),
            json!({"a": 1.0}),
            json!({}),
            json!({"a": 2}),
        ];
        assert_eq!(median(&reports, "/a"), Some(2.0));
        assert_eq!(median(&reports[..2], "/a"), Some(2.0));
        assert_eq!(median(&reports, "/b"), None);
    }

    #[test]
    fn a_missing_figure_is_a_missed_limit() {
        assert!(!judge(&[json!({})], &[json!({})]));
    }
}
