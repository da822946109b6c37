//! Runs scenarios: each in a process and namespaces of its own, some side by side, skips counted by reason.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use virga::lab::{Side, daemon, enter, world};

/// Name and function of a scenario.
pub type Scenario = (&'static str, fn() -> Result<()>);

/// Names the scenario that the process is to run, in its environment.
const INSIDE: &str = "VIRGA_SCENARIO";
const SKIPPED: u8 = 77;
const SKIP: &str = "skipped: ";
/// Two cores get a little more than they can do: scenarios wait a lot.
const SIDE_BY_SIDE: usize = 3;
const LIMIT: Duration = Duration::from_secs(180);

/// A scenario that this machine can't run, and why. To be returned as an error.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// The main function of a scenario executable.
pub fn main(scenarios: &'static [Scenario]) -> ExitCode {
    if let Ok(name) = std::env::var(INSIDE) {
        return match scenarios.iter().find(|s| s.0 == name) {
            Some(s) => inside(s.1),
            None => ExitCode::FAILURE,
        };
    }
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(SIDE_BY_SIDE);
    let skips = Arc::new(Mutex::new(BTreeMap::<String, usize>::new()));
    let trials = scenarios.iter().map(|(name, _)| {
        let skips = skips.clone();
        Trial::ignorable_test(*name, move || {
            outside(name).inspect(|done| {
                if let (Completion::Ignored { reason: Some(why) }, Ok(mut all)) = (done, skips.lock()) {
                    *all.entry(why.clone()).or_default() += 1;
                }
            })
        })
    });
    let conclusion = libtest_mimic::run(&args, trials.collect());
    if let Ok(skips) = skips.lock()
        && !skips.is_empty()
    {
        println!("skipped on this machine:");
        for (why, count) in skips.iter() {
            println!("{count:5}  {why}");
        }
    }
    conclusion.exit_code()
}

/// Start this executable again for one scenario and judge what it says.
fn outside(name: &str) -> Result<Completion, Failed> {
    let out = Command::new(std::env::current_exe()?).env(INSIDE, name).output()?;
    let stdout = String::from_utf8_lossy(&out.stdout);
    match out.status.code() {
        Some(0) => Ok(Completion::Completed),
        Some(77) => {
            let why = stdout.lines().rev().find_map(|l| l.strip_prefix(SKIP));
            Ok(Completion::ignored_with(why.unwrap_or("for a reason it did not say")))
        }
        _ => Err(Failed::from(format!("{}\n{stdout}{}", out.status, String::from_utf8_lossy(&out.stderr)))),
    }
}

fn inside(scenario: fn() -> Result<()>) -> ExitCode {
    match enter() {
        Ok(Side::Outside(code)) => return code,
        Ok(Side::Inside(_)) => {}
        Err(e) => return skip(&e.to_string()),
    }
    std::thread::spawn(|| {
        std::thread::sleep(LIMIT);
        eprintln!("not done after {} seconds", LIMIT.as_secs());
        logs();
        std::process::exit(1);
    });
    match catch_unwind(AssertUnwindSafe(scenario)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(e)) => match e.downcast_ref::<Skip>() {
            Some(why) => skip(&why.0),
            None => {
                eprintln!("{e:#}");
                logs();
                ExitCode::FAILURE
            }
        },
        Err(_) => {
            logs();
            ExitCode::FAILURE
        }
    }
}

fn skip(why: &str) -> ExitCode {
    println!("{SKIP}{why}");
    ExitCode::from(SKIPPED)
}

/// What chip and agent said.
fn logs() {
    for name in ["virga-asic.log", "virgad.log"] {
        let path = Path::new(world::RUN).join(name);
        if path.exists() {
            eprintln!("--- {name}\n{}", daemon::tail(&path, 60));
        }
    }
}
