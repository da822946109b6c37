//! The mirror against the real kernel: thousands of random commands over a raw socket in a network namespace of our own;
//! after each the mirror, which has only notifications, has to equal a fresh one made from dumps.
//!
//! `VIRGA_SEED` repeats a run, `VIRGA_COMMANDS` says how many commands it is.

mod facts;
mod facts_more;
mod kernel;
mod random;

use std::io::Write as _;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::thread::{UnshareFlags, unshare_unsafe};

fn main() {
    let args = Arguments::from_args();
    if let Err(e) = private() {
        println!("mirror: every test skipped: no network namespace of our own: {e}");
        return;
    }
    let trial = |name: &str, f: fn() -> Result<(), Failed>| Trial::test(name, f);
    let mut args = args;
    // On this thread, which goes into a network namespace of its own for each.
    args.test_threads = Some(1);
    let mut all = vec![trial("random_commands", random::commands)];
    all.extend(facts::ALL.iter().chain(facts_more::ALL).map(|(name, f)| {
        Trial::ignorable_test(*name, || {
            // SAFETY: no descriptor table is unshared.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            match f() {
                Err(why) if why.starts_with(facts::LACKS) => {
                    list(name)?;
                    Ok(Completion::ignored_with(why))
                }
                done => Ok(done.map(|()| Completion::Completed)?),
            }
        })
    }));
    if let Ok(only) = std::env::var("VIRGA_ONLY") {
        all.retain(|t| only.lines().any(|o| o == t.name()));
    }
    libtest_mimic::run(&args, all).exit();
}

/// A test that this kernel can't run is noted where `tests/vm/run --skipped` finds it, if that is asked for.
fn list(test: &str) -> std::io::Result<()> {
    let Some(file) = std::env::var_os("VIRGA_SKIPPED") else { return Ok(()) };
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file)?;
    let (folder, exe) = (std::env::current_dir()?, std::env::current_exe()?);
    writeln!(file, "machine\t{}\t{}\t{test}", folder.display(), exe.display())
}

/// Into namespaces of our own, before any thread starts: the kernel removes everything with us.
fn private() -> std::io::Result<()> {
    let mut flags = UnshareFlags::NEWNET;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let user = !uid.is_root();
    if user {
        flags |= UnshareFlags::NEWUSER;
    }
    // SAFETY: there is one thread only, and no descriptor table is unshared.
    unsafe { unshare_unsafe(flags) }?;
    if user {
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw()))?;
        std::fs::write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw()))?;
    }
    Ok(())
}
