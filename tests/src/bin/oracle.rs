//! `oracle FILE…|DIR…`, `oracle fuzz`, `oracle mutants`: scenarios with the kernel as the judge. What is done is in the library; here are its arguments.

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use virga_tests::oracle::fuzz::{Random, case};
use virga_tests::oracle::{Outcome, Setup, mutants, run, shrink, suite};
use virga_tests::scenario::Scenario;
use virga_tests::world::{Kind, Programs, netns};

/// Runs scenarios with the kernel alone and with Virga, and compares all that leaves the ports.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Scenario files, or folders that hold some.
    #[arg(value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Clone)]
struct Common {
    /// How many scenarios run side by side.
    #[arg(short, long, default_value_t = 2)]
    jobs: usize,
    /// Compare the kernel with itself: what differs then is the harness's own noise.
    #[arg(long)]
    noise: bool,
    /// Compare the kernel with the chip alone, which without an agent hands everything to the kernel: the slow path's test.
    #[arg(long, conflicts_with = "noise")]
    punt: bool,
    /// The folder that holds virga, virgad and virga-asic; else that of this program.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Verb {
    /// Random scenarios; one that differs is shrunk and written to a file.
    Fuzz {
        /// The first case's seed; else one from the clock, printed.
        #[arg(long)]
        seed: Option<u64>,
        /// How many cases.
        #[arg(long, default_value_t = 100)]
        cases: u64,
        /// Of these only the ones that have this text in them: br0, vrf, nexthop.
        #[arg(long, value_name = "TEXT")]
        about: Option<String>,
        /// Stop after so many seconds.
        #[arg(long, value_name = "SECONDS")]
        time: Option<u64>,
        /// Write the cases instead of running them.
        #[arg(long)]
        print: bool,
        /// Where scenarios that differ are written.
        #[arg(long, value_name = "DIR", default_value = "target/oracle")]
        out: PathBuf,
        /// Spend at most so many seconds on shrinking a case.
        #[arg(long, value_name = "SECONDS", default_value_t = 180)]
        shrink: u64,
        #[command(flatten)]
        common: Common,
    },
    /// Deliberate bugs, one at a time: applied to a copy of the tree, built, and whether the scenarios catch them.
    Mutants {
        /// Which of tests/mutants/list; all, if none is given.
        names: Vec<String>,
        /// The repository's root.
        #[arg(long, value_name = "DIR", default_value = ".")]
        tree: PathBuf,
        /// How often each runs; it has to be caught every time.
        #[arg(long, default_value_t = 2)]
        times: usize,
    },
}

fn setup(c: &Common) -> Result<Setup> {
    let other = match (c.noise, c.punt) {
        (true, _) => Kind::Kernel,
        (_, true) => Kind::Punt,
        _ => Kind::Virga,
    };
    let worlds = [Kind::Kernel, other];
    let programs = match &c.programs {
        Some(folder) => Programs { folder: std::path::absolute(folder)? },
        None if c.noise => Programs { folder: PathBuf::new() },
        None => Programs::beside()?,
    };
    Ok(Setup { worlds, programs })
}

fn scenarios(paths: &[PathBuf], c: &Common) -> Result<bool> {
    let list = suite::load(paths)?;
    let setup = setup(c)?;
    netns::enter()?;
    println!("{}", suite::head());
    let rows = suite::run_all(&list, &setup, c.jobs, |r| {
        println!("{}", suite::line(r));
        if let Outcome::Different(t) | Outcome::Flaky(t) | Outcome::Failed(t) = &r.outcome {
            println!("{t}");
        }
    });
    println!("{}", suite::sum(&rows));
    Ok(rows.iter().all(|r| r.fine()))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.verb {
        Some(Verb::Mutants { names, tree, times }) => {
            std::path::absolute(tree).map_err(Into::into).and_then(|t| mutants::run(&t, &names, times))
        }
        None => scenarios(&cli.paths, &cli.common),
        Some(Verb::Fuzz { seed, cases, about, time, print, out, shrink, common }) => {
            let seed = seed.unwrap_or_else(|| {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                Random::new(now.as_nanos() as u64).bits() % 1_000_000_000
            });
            if print {
                for (s, c) in (seed..seed + cases).filter_map(|s| Some((s, case_about(s, about.as_deref())?))) {
                    println!("# seed {s}\n{}", c.lines.join("\n"));
                }
                return ExitCode::SUCCESS;
            }
            let seeds = seed..seed + cases;
            fuzz(seeds, about.as_deref(), time.map(Duration::from_secs), &out, Duration::from_secs(shrink), &common)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("oracle: {e:#}");
            ExitCode::from(2)
        }
    }
}

/// The case of a seed, if it is about that.
fn case_about(seed: u64, about: Option<&str>) -> Option<Scenario> {
    Some(case(seed)).filter(|c| about.is_none_or(|a| c.lines.iter().any(|l| l.contains(a))))
}

fn fuzz(
    seeds: Range<u64>,
    about: Option<&str>,
    time: Option<Duration>,
    out: &PathBuf,
    cut: Duration,
    c: &Common,
) -> Result<bool> {
    let setup = setup(c)?;
    netns::enter()?;
    println!("seed {}, {} cases", seeds.start, seeds.end - seeds.start);
    let start = Instant::now();
    let until = time.map(|t| start + t);
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    let rows = std::sync::Mutex::new(Vec::new());
    let work = || -> Result<()> {
        loop {
            let s = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if s >= seeds.end || until.is_some_and(|u| Instant::now() > u) {
                return Ok(());
            }
            let Some(sc) = case_about(s, about) else { continue };
            let row = run(&sc, &setup);
            println!("{}", suite::line(&row));
            match &row.outcome {
                Outcome::Different(t) => {
                    println!("{t}");
                    let small = shrink(&sc, t, &setup, cut);
                    let again = run(&small, &setup);
                    let text = match &again.outcome {
                        Outcome::Different(t) | Outcome::Failed(t) | Outcome::Flaky(t) => t.clone(),
                        _ => String::new(),
                    };
                    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
                    let file = out.join(format!("seed-{s}.{}", suite::ENDING));
                    let comment: String = text.lines().map(|l| format!("# {l}\n")).collect();
                    let body = format!("{}\n{comment}", small.lines.join("\n"));
                    std::fs::write(&file, &body).with_context(|| file.display().to_string())?;
                    println!("seed {s} shrunk to {}:\n{body}", file.display());
                }
                Outcome::Flaky(t) | Outcome::Failed(t) => println!("{t}"),
                _ => {}
            }
            rows.lock().unwrap_or_else(|e| e.into_inner()).push(row);
        }
    };
    std::thread::scope(|s| -> Result<()> {
        let all: Vec<_> = (0..c.jobs.max(1)).map(|_| s.spawn(work)).collect();
        for t in all {
            t.join().map_err(|_| anyhow::anyhow!("a thread of the harness died"))??;
        }
        Ok(())
    })?;
    let rows = rows.into_inner().unwrap_or_else(|e| e.into_inner());
    println!("{} in {:.0} s", suite::sum(&rows), start.elapsed().as_secs_f32());
    Ok(rows.iter().all(|r| r.fine()))
}
