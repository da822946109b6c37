//! Runs scenarios: each in a process and namespaces of its own, some side by side, skips counted by reason.

use std::collections::BTreeMap;
use std::io::Write as _;
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
/// Exit statuses of a scenario that was skipped, one for each [`Cure`].
const SKIPPED: [(i32, Cure); 3] = [(77, Cure::None), (78, Cure::Machine), (79, Cure::Booted)];
const SKIP: &str = "skipped: ";
/// Two cores get a little more than they can do: scenarios wait a lot.
const SIDE_BY_SIDE: usize = 3;
const LIMIT: Duration = Duration::from_secs(180);

/// Where a test that was skipped would run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cure {
    /// Where what the reason says is other.
    None,
    /// In `tests/vm/run`.
    Machine,
    /// In `tests/vm/run --boot`.
    Booted,
}

/// A test that can't be run here, and why. To be returned as an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Skip {
    /// In a few words.
    pub why: String,
    /// What to do about it.
    pub cure: Cure,
}

impl Skip {
    /// One that `tests/vm/run` would not cure.
    pub fn new(why: impl Into<String>) -> Skip {
        Skip { why: why.into(), cure: Cure::None }
    }
}

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Skip {}

/// Names a file to which a line is added for each test that was skipped and that `tests/vm/run` would run: `machine` or `booted`, folder, executable,
/// name of the test, with tabs between them. `tests/vm/run --skipped FILE` runs them.
const LIST: &str = "VIRGA_SKIPPED";
/// The tests to run, one a line; without it all. That is how the above are run.
const ONLY: &str = "VIRGA_ONLY";

/// What an executable skipped.
#[derive(Debug, Default)]
pub struct Skips(Mutex<BTreeMap<String, usize>>);

impl Skips {
    /// Counts, lists and reports one.
    pub fn add(&self, test: &str, skip: &Skip) -> Completion {
        if let Err(e) = list(test, skip.cure) {
            eprintln!("{LIST}: {e:#}");
        }
        *self.0.lock().unwrap_or_else(|e| e.into_inner()).entry(skip.why.clone()).or_default() += 1;
        Completion::ignored_with(&skip.why)
    }

    /// Prints how many for which reason.
    pub fn print(&self) {
        let skips = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if !skips.is_empty() {
            println!("skipped on this machine:");
            for (why, count) in skips.iter() {
                println!("{count:5}  {why}");
            }
        }
    }
}

fn list(test: &str, cure: Cure) -> Result<()> {
    let where_ = match cure {
        Cure::None => return Ok(()),
        Cure::Machine => "machine",
        Cure::Booted => "booted",
    };
    let Some(file) = std::env::var_os(LIST) else { return Ok(()) };
    let folder = std::env::current_dir()?;
    let exe = std::env::current_exe()?;
    let line = format!("{where_}\t{}\t{}\t{test}\n", folder.display(), exe.display());
    // In one write, since several executables may add at once.
    std::fs::OpenOptions::new().append(true).create(true).open(file)?.write_all(line.as_bytes())?;
    Ok(())
}

/// Whether a test of that name is asked for.
pub fn wanted(test: &str) -> bool {
    std::env::var(ONLY).map_or(true, |only| only.lines().any(|l| l == test))
}

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
    let skips = Arc::new(Skips::default());
    let trials = scenarios.iter().filter(|(name, _)| wanted(name)).map(|(name, _)| {
        let skips = skips.clone();
        Trial::ignorable_test(*name, move || outside(name, &skips))
    });
    let conclusion = libtest_mimic::run(&args, trials.collect());
    skips.print();
    conclusion.exit_code()
}

/// Start this executable again for one scenario and judge what it says.
fn outside(name: &str, skips: &Skips) -> Result<Completion, Failed> {
    let out = Command::new(std::env::current_exe()?).env(INSIDE, name).output()?;
    let stdout = String::from_utf8_lossy(&out.stdout);
    let code = out.status.code();
    if code == Some(0) {
        return Ok(Completion::Completed);
    }
    if let Some((_, cure)) = SKIPPED.iter().find(|(c, _)| Some(*c) == code) {
        let why = stdout.lines().rev().find_map(|l| l.strip_prefix(SKIP)).unwrap_or("for a reason it did not say");
        return Ok(skips.add(name, &Skip { why: why.into(), cure: *cure }));
    }
    Err(Failed::from(format!("{}\n{stdout}{}", out.status, String::from_utf8_lossy(&out.stderr))))
}

/// Run another scenario of this executable once more, as an ordinary user: what is built lies where that user can read it, and TAPs
/// may be asked for by all, as udev has it.
///
/// # Errors
/// It failed, or a skip.
pub fn as_user(name: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let map = std::fs::read_to_string("/proc/self/uid_map")?;
    if map.split_whitespace().nth(1) != Some("0") {
        return Err(Skip::new("already run by an ordinary user: every scenario tests this").into());
    }
    crate::need("setpriv", "util-linux")?;
    rustix::mount::mount("dev", "/dev/net", "tmpfs", rustix::mount::MountFlags::empty(), None)?;
    crate::run(Command::new("mknod").args(["-m", "666", "/dev/net/tun", "c", "10", "200"]))?;
    // As in the build: the programs beside the directory of the tests. Not below /run, which is the scenario's own inside.
    rustix::mount::mount("public", "/mnt", "tmpfs", rustix::mount::MountFlags::empty(), None)?;
    let deps = Path::new("/mnt/deps");
    std::fs::create_dir_all(deps)?;
    for (from, to) in [(crate::virga_exe()?, "/mnt/virga"), (std::env::current_exe()?, "/mnt/deps/scenario")] {
        std::fs::copy(from, to)?;
        std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o755))?;
    }
    for dir in [Path::new("/mnt"), deps] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    }
    let mut c = Command::new("setpriv");
    c.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "/mnt/deps/scenario"]);
    let out = c.env(INSIDE, name).current_dir("/").output()?;
    let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if out.status.success() {
        return Ok(());
    }
    if let Some((_, cure)) = SKIPPED.iter().find(|(status, _)| out.status.code() == Some(*status)) {
        let why = text.lines().rev().find_map(|l| l.strip_prefix(SKIP)).unwrap_or("for a reason it did not say");
        return Err(Skip { why: why.into(), cure: *cure }.into());
    }
    anyhow::bail!("as an ordinary user: {}\n{text}{errors}", out.status)
}

fn inside(scenario: fn() -> Result<()>) -> ExitCode {
    match enter() {
        Ok(Side::Outside(code)) => return code,
        Ok(Side::Inside(_)) => {}
        Err(e) => return skip(&Skip::new(e.to_string())),
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
            Some(s) => skip(s),
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

fn skip(s: &Skip) -> ExitCode {
    println!("{SKIP}{}", s.why);
    let code = SKIPPED.iter().find(|(_, c)| *c == s.cure).map_or(1, |(code, _)| *code);
    ExitCode::from(code as u8)
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
