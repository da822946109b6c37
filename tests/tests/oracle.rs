//! The library of scenarios and a short random run, as tests: the kernel is the judge (see `virga_tests::oracle`).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use virga_tests::harness::{Skips, wanted};
use virga_tests::oracle::fuzz::{Random, case};
use virga_tests::oracle::{Outcome, Setup, run, suite};
use virga_tests::scenario::Scenario;
use virga_tests::world::{Kind, Programs, netns};

fn trial(s: Scenario, setup: Setup, skips: &Arc<Skips>) -> Trial {
    let skips = skips.clone();
    Trial::ignorable_test(s.name.clone(), move || match run(&s, &setup).outcome {
        Outcome::Equal => Ok(Completion::Completed),
        Outcome::Skipped(skip) => Ok(skips.add(&s.name, &skip)),
        Outcome::Different(t) => Err(Failed::from(format!("different\n{t}"))),
        Outcome::Flaky(t) => Err(Failed::from(format!("different once, and then not\n{t}"))),
        Outcome::Failed(t) => Err(Failed::from(t)),
    })
}

/// What the link of a namespace of a process says; `None` once the process is gone, or dead and only not yet waited for.
fn namespace(pid: &str, kind: &str) -> Option<PathBuf> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    if stat.rsplit(')').next()?.trim_start().starts_with('Z') {
        return None;
    }
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

fn processes() -> Vec<String> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().filter_map(|e| e.ok()?.file_name().into_string().ok());
    all.filter(|n| n.bytes().all(|b| b.is_ascii_digit())).collect()
}

/// Names in a folder: of namespaces, of devices.
fn names(folder: &str) -> BTreeSet<OsString> {
    std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.file_name())).collect()
}

fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T, Failed> {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(t) = ready() {
            return Ok(t);
        }
        if Instant::now() > limit {
            return Err(Failed::from(format!("{what}: not within 30 s")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An oracle that is killed in the middle of its work leaves no process, no namespace and no device behind.
fn killed(folder: &Path) -> Result<(), Failed> {
    let folders = ["/run/netns", "/run/virga", "/sys/class/net"];
    let before = folders.map(names);
    let mut oracle =
        Command::new(env!("CARGO_BIN_EXE_oracle")).arg(folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let pid = oracle.id().to_string();
    let begun = until("the oracle starts chips and agents", || {
        let inner = namespace(&pid, "pid_for_children").filter(|n| Some(n) != namespace("self", "pid").as_ref())?;
        let inside: Vec<String> =
            processes().into_iter().filter(|p| namespace(p, "pid").as_ref() == Some(&inner)).collect();
        let named = |name: &str| {
            inside.iter().any(|p| std::fs::read_to_string(format!("/proc/{p}/comm")).is_ok_and(|c| c.trim() == name))
        };
        let nets: BTreeSet<PathBuf> = inside.iter().filter_map(|p| namespace(p, "net")).collect();
        (named("virga-asic") && named("virgad") && nets.len() > 1).then_some((inner, nets))
    });
    oracle.kill()?;
    oracle.wait()?;
    let (inner, mut nets) = begun?;
    nets.retain(|n| Some(n) != namespace("self", "net").as_ref());
    until("all that it started ends", || {
        let left = processes().into_iter().filter(|p| {
            namespace(p, "pid").as_ref() == Some(&inner) || namespace(p, "net").is_some_and(|n| nets.contains(&n))
        });
        (left.count() == 0).then_some(())
    })?;
    let after = folders.map(names);
    if before != after {
        return Err(Failed::from(format!("{folders:?} held {before:?} before and {after:?} after")));
    }
    Ok(())
}

fn main() {
    let mut args = Arguments::from_args();
    // Waiting is most of what a scenario does, but the processes it waits for share these processors.
    args.test_threads.get_or_insert(2);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let list = suite::load(std::slice::from_ref(&folder));
    let programs = Programs::beside();
    if !args.list
        && let Err(e) = netns::enter()
    {
        println!("skipped, all of it: {e:#}");
        return;
    }
    let programs = match programs {
        Ok(p) => p,
        Err(e) => {
            println!("skipped, all of it: {e:#}");
            return;
        }
    };
    let setup = Setup { worlds: [Kind::Kernel, Kind::Virga], programs };
    let skips = Arc::new(Skips::default());
    let mut trials = Vec::new();
    if wanted("killed") {
        // Before the scenarios, which make namespaces of their own meanwhile.
        let outcome = if args.list { Ok(()) } else { killed(&folder) };
        trials.push(Trial::test("killed", move || outcome));
    }
    match list {
        Ok(list) => {
            trials.extend(list.into_iter().filter(|s| wanted(&s.name)).map(|s| trial(s, setup.clone(), &skips)))
        }
        Err(e) => trials.push(Trial::test("scenarios", move || Err(Failed::from(format!("{e:#}"))))),
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let given = std::env::var("VIRGA_SEED").ok().and_then(|s| s.parse().ok());
    let seed = given.unwrap_or_else(|| Random::new(now.as_nanos() as u64).bits() % 1_000_000_000);
    if !args.list {
        println!("random scenarios: seed {seed} (again: oracle fuzz --seed {seed} --cases 6)");
    }
    for s in seed..seed + 6 {
        let mut c = case(s);
        c.name = format!("random/{}", c.name.replace(' ', "-"));
        if wanted(&c.name) {
            trials.push(trial(c, setup.clone(), &skips));
        }
    }
    let done = libtest_mimic::run(&args, trials);
    skips.print();
    done.exit();
}
