//! Cuts a scenario that differs down to what is needed for that.

use std::time::{Duration, Instant};

use super::{Outcome, Setup, once};
use crate::scenario::Scenario;

/// What kind of difference a report begins with: the first word of its first sentence.
fn kind(report: &str) -> Option<&str> {
    let sentence = report.lines().find_map(|l| l.strip_prefix("  "))?;
    sentence.split_whitespace().next()
}

/// Whether the scenario differs, and not in another way than the one that is looked for.
fn differs(name: &str, lines: &[String], setup: &Setup, like: Option<&str>) -> bool {
    let Ok(s) = Scenario::parse(name, &lines.join("\n")) else { return false };
    matches!(once(&s, setup).map(|r| r.outcome), Ok(Outcome::Different(t)) if kind(&t) == like)
}

/// Whether the line only says how the world looks, so that without it the rest has no meaning.
fn fixed(line: &str) -> bool {
    line.starts_with("ports") || line.is_empty()
}

/// Removes lines and then words of frames as long as the scenario still differs as in `report`, for at most `time`. It is for scenarios whose
/// commands may fail (`?`): else a command that no longer makes sense would be taken for the difference.
pub fn shrink(s: &Scenario, report: &str, setup: &Setup, time: Duration) -> Scenario {
    let until = Instant::now() + time;
    let like = kind(report);
    let mut lines: Vec<String> =
        s.lines.iter().filter(|l| !l.trim().is_empty() && !l.starts_with('#')).cloned().collect();
    let mut chunk = (lines.len() / 2).max(1);
    loop {
        let mut at = 0;
        let mut cut = false;
        while at < lines.len() && Instant::now() < until {
            let end = (at + chunk).min(lines.len());
            let kept: Vec<String> = lines
                .iter()
                .enumerate()
                .filter(|(i, l)| !(at..end).contains(i) || fixed(l))
                .map(|(_, l)| l.clone())
                .collect();
            if kept.len() < lines.len() && differs(&s.name, &kept, setup, like) {
                lines = kept;
                cut = true;
            } else {
                at = end;
            }
        }
        if Instant::now() >= until || (chunk == 1 && !cut) {
            break;
        }
        if !cut || chunk > 1 {
            chunk = (chunk / 2).max(1);
        }
    }
    for i in 0..lines.len() {
        let Some((port, frame)) = lines[i].split_once(':').filter(|(p, _)| p.parse::<usize>().is_ok()) else {
            continue;
        };
        let port = port.to_owned();
        let mut words: Vec<String> = frame.split_whitespace().map(str::to_owned).collect();
        let mut w = 1;
        while w < words.len() && Instant::now() < until {
            let mut fewer = words.clone();
            fewer.remove(w);
            let mut trial = lines.clone();
            trial[i] = format!("{port}: {}", fewer.join(" "));
            if differs(&s.name, &trial, setup, like) {
                lines = trial;
                words = fewer;
            } else {
                w += 1;
            }
        }
    }
    Scenario::parse(&s.name, &lines.join("\n")).unwrap_or_else(|_| s.clone())
}
