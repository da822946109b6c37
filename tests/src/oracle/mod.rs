//! The oracle: a scenario runs with the kernel alone and with Virga, and all that leaves the ports is compared.
//!
//! `compare` says what is equal, `origin` what a frame descends from, `fib` what a multipath route allows, `flows` what it must keep
//! together, `trace` what the chip found, `fuzz` invents scenarios, `shrink` cuts them down,
//! `mutants` asks whether deliberate bugs are caught. Making worlds and frames is `world`'s and `frame`'s.

pub mod compare;
mod fib;
mod flows;
pub mod fuzz;
pub mod mutants;
mod origin;
mod shrink;
pub mod suite;
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::frame;
use crate::harness::Skip;
use crate::kernel;
use crate::scenario::{Action, Must, Scenario, Send, Step};
use crate::world::{Carried, Groups, Kind, Programs, Said, World, memory};
pub use compare::Difference;
pub use shrink::shrink;

/// What to run scenarios in.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The two worlds: the kernel and Virga, or (to measure the harness's own noise) the kernel twice.
    pub worlds: [Kind; 2],
    /// Where Virga's programs are.
    pub programs: Programs,
}

/// How a scenario ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Both worlds did the same.
    Equal,
    /// They did not; the report.
    Different(String),
    /// They did not once, and then did: the report of that once.
    Flaky(String),
    /// It could not be run to its end.
    Failed(String),
    /// This machine lacks something.
    Skipped(Skip),
}

/// A scenario's row in the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Frames sent.
    pub sent: usize,
    /// Data frames that left the first world's ports.
    pub left: usize,
    /// Of them: injected frames passed on, not answers of the switch itself.
    pub forwarded: usize,
    /// The same in the second world: what a multipath route sends into a void may be more in one than in the other.
    pub passed: usize,
    /// Frames that the chip forwarded.
    pub carried: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

impl Row {
    /// What the chip carried of what was forwarded, in percent; `None` where nothing was. What the chip sent into a void, as the
    /// kernel alone would have, makes it no more than all.
    pub fn share(&self) -> Option<u32> {
        (self.passed > 0).then(|| (self.carried as usize * 100 / self.passed).min(100) as u32)
    }
    /// Whether nothing is wrong.
    pub fn fine(&self) -> bool {
        matches!(self.outcome, Outcome::Equal | Outcome::Skipped(_))
    }
}

/// One step in one world.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// What each action said.
    pub said: Vec<Said>,
    /// What left each port.
    pub left: Vec<Vec<Vec<u8>>>,
}

/// Frames sent before the harness waits until they have been dealt with, so that no queue on the way overflows.
const BURST: usize = 48;

fn step(w: &mut World, s: &Step) -> Result<Done> {
    let mut d = Done::default();
    let is_ip = |a: &Action| match a {
        Action::Command { line, .. } if line.starts_with("ip ") && !line.starts_with("ip -") => Some(line.clone()),
        _ => None,
    };
    let mut rest = &s.actions[..];
    while let Some(a) = rest.first() {
        let mut lines: Vec<String> = rest.iter().map_while(is_ip).collect();
        // A device set up gets its carrier a moment later, and the kernel then sets things back (its IPv6 MTU, say): what follows waits.
        let link = |l: &String| l.contains("link set");
        let cut = lines.windows(2).position(|w| link(&w[0]) && !link(&w[1]));
        lines.truncate(cut.map_or(lines.len(), |c| c + 1));
        let waits = lines.last().is_some_and(link);
        if lines.len() > 1 {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            d.said.extend(w.run_ip(&lines)?);
            rest = &rest[lines.len()..];
        } else {
            d.said.push(w.act(a).with_context(|| format!("{a:?}"))?);
            rest = &rest[1..];
        }
        if waits {
            w.carriers()?;
        }
    }
    w.settle()?;
    let bridged = w.bridges()?;
    let mut stations = BTreeMap::new();
    for burst in s.sends.chunks(BURST) {
        let mut last = None;
        for f in burst {
            // The order of frames is given within a port only, and which of two comes first to a neighbour can matter.
            if last.replace(f.port).is_some_and(|p| p != f.port) {
                w.quiesce()?;
            }
            // The kernel hears of a station a moment after the chip.
            let sender = f.bytes.get(6..18).map(<[u8]>::to_vec);
            let station = bridged && sender.is_some_and(|s| stations.insert(s, f.port) != Some(f.port));
            // What may change a neighbour is kept apart: its answer may come from elsewhere.
            let apart = frame::chatter(&f.bytes).is_some() || station;
            if apart {
                w.quiesce()?;
            }
            // A wire that is down refuses frames at once or loses them, as it happens: either way nothing comes of them.
            w.send(f.port, &f.bytes);
            if apart {
                w.quiesce()?;
            }
            if station {
                w.learned()?;
            }
        }
        w.quiesce()?;
    }
    d.left = w.take();
    Ok(d)
}

/// Runs both closures at once.
fn both<T: std::marker::Send>(w: &mut [World; 2], f: impl Fn(&mut World) -> Result<T> + Sync) -> Result<[T; 2]> {
    let [a, b] = w;
    std::thread::scope(|s| {
        let t = s.spawn(|| f(b));
        let a = f(a);
        let b = t.join().map_err(|_| anyhow::anyhow!("a thread of the harness died"))?;
        Ok([a.context("in the first world")?, b.context("in the second world")?])
    })
}

/// Asks both worlds, as a querier does, which groups they listen to. The answers have to be the same; when they come is the kernel's own
/// affair, so the slower one is waited for.
fn memberships(w: &mut [World; 2]) -> Result<Vec<Difference>> {
    let until = Instant::now() + REPORTS;
    both(w, World::query)?;
    loop {
        both(w, World::quiesce)?;
        let [a, b] = [&w[0], &w[1]].map(World::memberships);
        if a == b {
            return Ok(Vec::new());
        }
        if Instant::now() > until {
            let one = |x: &Groups, y: &Groups, name: &str| -> Vec<Difference> {
                let only = x.difference(y);
                only.map(|(p, g)| Difference::Note(format!("only in the {name} world, port {p}: reports group {g}")))
                    .collect()
            };
            return Ok([one(a, b, "first"), one(b, a, "second")].concat());
        }
    }
}

/// How long a report of a group may take after it was asked for, in a healthy world on a loaded machine.
const REPORTS: Duration = Duration::from_secs(5);

/// Why the scenario can't be run here, if it can't.
fn missing(s: &Scenario) -> Result<Option<Skip>> {
    for n in &s.needs {
        let needed = match kernel::feature(n) {
            Some(f) => kernel::need_kernel(f.name),
            None if virga::lab::find_program(n).is_none() => {
                return Ok(Some(Skip::new(format!("{n} is not installed"))));
            }
            None => Ok(()),
        };
        if let Err(e) = needed {
            return e.downcast().map(Some);
        }
    }
    Ok(None)
}

/// Runs a scenario once, to its end or its first difference.
///
/// # Errors
/// It could not be run to its end.
pub fn once(s: &Scenario, setup: &Setup) -> Result<Row> {
    let start = Instant::now();
    let mut row = Row {
        name: s.name.clone(),
        sent: 0,
        left: 0,
        forwarded: 0,
        passed: 0,
        carried: 0,
        outcome: Outcome::Equal,
        took: Duration::ZERO,
    };
    if let Some(skip) = missing(s)? {
        row.outcome = Outcome::Skipped(skip);
        return Ok(row);
    }
    if s.memory {
        let sends: Vec<&Send> = s.steps.iter().flat_map(|s| &s.sends).collect();
        row.sent = sends.len();
        let (wrong, carried) = memory::run(s.ports, &sends)?;
        let n = carried as usize;
        (row.left, row.forwarded, row.passed, row.carried) = (n, n, n, carried);
        if !wrong.is_empty() {
            row.outcome = Outcome::Different(wrong.iter().map(|w| format!("  {w}\n")).collect());
        }
        row.took = start.elapsed();
        return Ok(row);
    }
    let make = |k| World::new(k, s.ports, &setup.programs);
    let mut worlds = std::thread::scope(|scope| -> Result<[World; 2]> {
        let t = scope.spawn(|| make(setup.worlds[1]));
        let a = make(setup.worlds[0]);
        let b = t.join().map_err(|_| anyhow::anyhow!("a thread of the harness died"))?;
        Ok([a.context("making the first world")?, b.context("making the second world")?])
    })?;
    let virga = setup.worlds[1] == Kind::Virga;
    let before = worlds[1].carried()?;
    let mut sends: BTreeMap<u32, &Send> = BTreeMap::new();
    let mut passed = BTreeSet::new();
    for (n, st) in s.steps.iter().enumerate() {
        sends.extend(st.sends.iter().map(|f| (f.id, f)));
        row.sent += st.sends.len();
        let done = both(&mut worlds, |w| step(w, st))?;
        let (left, forwarded) = compare::tally(&done[0], &sends);
        row.left += left;
        row.forwarded += forwarded;
        row.passed += compare::tally(&done[1], &sends).1;
        let mut differences = expected(st, &done[0]);
        let after = |w: &World| -> Result<fib::Snapshot> {
            let mut snap = fib::Snapshot::take(|line| w.run(line))?;
            // A gateway is kept resolved for a moment longer than its route is there.
            for l in s.steps[..=n].iter().flat_map(|s| &s.actions) {
                if let Action::Command { line, .. } = l {
                    snap.add_narrow(line);
                    let words = line.split_whitespace().skip_while(|w| *w != "via").filter_map(|w| w.parse().ok());
                    words.for_each(|a| snap.add_gateway(a));
                }
            }
            Ok(snap)
        };
        differences
            .extend(compare::compare(st, &done, &sends, &mut passed, || Ok([after(&worlds[0])?, after(&worlds[1])?]))?);
        if s.multipath() {
            for (w, name) in ["first", "second"].into_iter().enumerate() {
                let chip = std::cell::LazyCell::new(|| {
                    (w == 1 && virga).then(|| trace::Twin::new(s.ports, |t| worlds[1].table(t)).ok()).flatten()
                });
                let by_chip = |f: &Send| chip.as_ref().is_some_and(|c| c.chooses(f.port, &f.bytes));
                let torn = flows::torn(&done[w], &st.sends, &sends, || after(&worlds[w]), by_chip)?;
                differences.extend(torn.into_iter().map(|t| Difference::Note(format!("in the {name} world {t}"))));
            }
        }
        if differences.is_empty() && n + 1 == s.steps.len() {
            differences.extend(memberships(&mut worlds)?);
        }
        if !differences.is_empty() {
            let mut text = format!("step {} (line {}):\n", n + 1, st.line);
            let chip = if virga { Some(trace::Twin::new(s.ports, |t| worlds[1].table(t))) } else { None };
            let traced = |f: &Send| match &chip {
                None => String::new(),
                Some(Ok(chip)) => format!("    the chip's trace:\n{}", chip.trace(f.port, &f.bytes)),
                Some(Err(e)) => format!("    the chip's trace can't be had: {e:#}\n"),
            };
            for d in &differences {
                text += &d.show(&sends, traced);
            }
            if virga {
                let now = worlds[1].carried()?;
                text += &format!("  {}\n", traps(&before, &now));
                text += &worlds[1].state();
                text += &worlds[1].log();
            }
            row.outcome = Outcome::Different(text);
            break;
        }
    }
    let after = worlds[1].carried()?;
    row.carried = after.forwarded.saturating_sub(before.forwarded);
    if row.outcome == Outcome::Equal {
        row.outcome = judge(s, &row, &worlds[1], &before, &after, virga);
    }
    row.took = start.elapsed();
    Ok(row)
}

/// What the scenario itself demands, once both worlds agree.
fn judge(s: &Scenario, row: &Row, w: &World, before: &Carried, after: &Carried, virga: bool) -> Outcome {
    if let Some(want) = s.count
        && want != row.left
    {
        return Outcome::Different(format!("{} data frames left the ports, the scenario says {want}\n", row.left));
    }
    if !virga {
        return Outcome::Equal;
    }
    if let Err(e) = w.check() {
        return Outcome::Different(format!("the frames are equal, but {e:#}\n"));
    }
    if after.policed > before.policed {
        return Outcome::Different(format!(
            "{} punted frames were dropped by policers\n",
            after.policed - before.policed
        ));
    }
    if let (Some(want), Some(share)) = (s.share, row.share())
        && share < want
    {
        return Outcome::Different(format!(
            "the chip carried {share} % of the {} forwarded frames, the scenario says {want} %\n  {}\n{}",
            row.passed,
            traps(before, after),
            w.state()
        ));
    }
    Outcome::Equal
}

/// Commands that ended otherwise than the scenario says, in the first world.
fn expected(st: &Step, done: &Done) -> Vec<Difference> {
    let mut out = Vec::new();
    for (a, said) in st.actions.iter().zip(&done.said) {
        if let Action::Command { line, must } = a
            && (*must, said.ok) != (Must::Succeed, true)
            && (*must, said.ok) != (Must::Fail, false)
            && *must != Must::Either
        {
            let how = if said.ok { "succeeded and should not" } else { "failed" };
            out.push(Difference::Note(format!("{line:?} {how}: {}", said.text)));
        }
    }
    out
}

fn traps(before: &Carried, after: &Carried) -> String {
    let old: BTreeMap<_, _> = before.traps.iter().map(|(k, n)| (k, *n)).collect();
    let list: Vec<String> = after
        .traps
        .iter()
        .map(|(k, n)| (k, n - old.get(k).copied().unwrap_or(0)))
        .filter(|(_, n)| *n > 0)
        .map(|(k, n)| format!("{k} {n}"))
        .collect();
    format!("the chip forwarded {} and trapped: {}", after.forwarded.saturating_sub(before.forwarded), list.join(", "))
}

/// Runs a scenario; one that differs runs again, to tell a difference from a fluke.
pub fn run(s: &Scenario, setup: &Setup) -> Row {
    let start = Instant::now();
    let attempt = || {
        once(s, setup).unwrap_or_else(|e| Row {
            name: s.name.clone(),
            sent: 0,
            left: 0,
            forwarded: 0,
            passed: 0,
            carried: 0,
            outcome: Outcome::Failed(format!("{e:#}\n")),
            took: Duration::ZERO,
        })
    };
    let mut first = attempt();
    if let Outcome::Different(text) | Outcome::Failed(text) = &first.outcome {
        let again = [attempt(), attempt()];
        if again.iter().all(|r| r.outcome == Outcome::Equal) {
            first.outcome = Outcome::Flaky(text.clone());
        }
    }
    first.took = start.elapsed();
    first
}
