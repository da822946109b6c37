//! The library of scenarios and a short random run, as tests: the kernel is the judge (see `virga_tests::oracle`).

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

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

fn main() {
    let mut args = Arguments::from_args();
    // Waiting is most of what a scenario does, but the processes it waits for share these processors.
    args.test_threads.get_or_insert(2);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let list = suite::load(&[folder]);
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
