//! Files and folders of scenarios, run side by side, as a table.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};

use super::{Outcome, Row, Setup, run};
use crate::scenario::Scenario;

/// How scenario files end.
pub const ENDING: &str = "scn";

/// All scenarios below the given files and folders, in order of their names.
///
/// # Errors
/// A file that can't be read or is no scenario; nothing found.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Scenario>> {
    let mut files = Vec::new();
    for p in paths {
        if p.is_dir() {
            walk(p, &mut files)?;
        } else {
            files.push(p.clone());
        }
    }
    files.sort();
    if files.is_empty() {
        bail!("no scenario found: give files, or folders that hold some (*.{ENDING})");
    }
    files
        .iter()
        .map(|f| {
            let text = std::fs::read_to_string(f).with_context(|| format!("{} can't be read", f.display()))?;
            let feature = f.parent().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
            let stem = f.file_stem().unwrap_or_default().to_string_lossy();
            Scenario::parse(&feature.map_or(stem.to_string(), |d| format!("{d}/{stem}")), &text)
        })
        .collect()
}

fn walk(folder: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    for e in std::fs::read_dir(folder).with_context(|| format!("{} can't be read", folder.display()))? {
        let p = e?.path();
        if p.is_dir() {
            walk(&p, out)?;
        } else if p.extension().is_some_and(|e| e == ENDING) {
            out.push(p);
        }
    }
    Ok(())
}

/// Runs all, `jobs` at a time; `each` hears of every one as it ends.
pub fn run_all(list: &[Scenario], setup: &Setup, jobs: usize, each: impl Fn(&Row) + Sync) -> Vec<Row> {
    let next = AtomicUsize::new(0);
    let rows: Mutex<Vec<(usize, Row)>> = Mutex::new(Vec::new());
    std::thread::scope(|s| {
        for _ in 0..jobs.max(1) {
            s.spawn(|| {
                while let Some((i, sc)) = {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    list.get(i).map(|s| (i, s))
                } {
                    let row = run(sc, setup);
                    each(&row);
                    rows.lock().unwrap_or_else(|e| e.into_inner()).push((i, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(|e| e.into_inner());
    rows.sort_by_key(|(i, _)| *i);
    rows.into_iter().map(|(_, r)| r).collect()
}

/// A row as a line.
pub fn line(r: &Row) -> String {
    let share = r.share().map_or("-".to_owned(), |s| format!("{s} %"));
    let word = match &r.outcome {
        Outcome::Equal => "equal".to_owned(),
        Outcome::Different(_) => "DIFFERENT".to_owned(),
        Outcome::Flaky(_) => "FLAKY".to_owned(),
        Outcome::Failed(_) => "FAILED".to_owned(),
        Outcome::Skipped(skip) => format!("skipped: {skip}"),
    };
    format!(
        "{:<44} {:>6} {:>6} {:>9} {:>7} {:>6.2}s  {word}",
        r.name,
        r.sent,
        r.left,
        r.forwarded,
        share,
        r.took.as_secs_f32()
    )
}

/// The table's head.
pub fn head() -> String {
    format!("{:<44} {:>6} {:>6} {:>9} {:>7} {:>7}", "scenario", "sent", "left", "forwarded", "in chip", "time")
}

/// Sums in one sentence.
pub fn sum(rows: &[Row]) -> String {
    let (sent, left, forwarded, carried) = rows.iter().fold((0, 0, 0, 0), |(a, b, c, d), r| {
        (a + r.sent, b + r.left, c + r.passed, d + (r.carried as usize).min(r.passed))
    });
    let bad = rows.iter().filter(|r| !r.fine()).count();
    let skipped = rows.iter().filter(|r| matches!(r.outcome, Outcome::Skipped(_))).count();
    let share = (carried * 100).checked_div(forwarded).unwrap_or(0);
    format!(
        "{} scenarios, {bad} not equal, {skipped} skipped; {sent} frames sent, {left} left, {forwarded} forwarded, {share} % of them by the chip",
        rows.len()
    )
}
