//! Worlds of namespaces and what the scenario tests share. Nothing depends on this crate.
//!
//! A scenario is a function that builds a [`World`] and looks at what it does. Each runs in a process of its own, in PID, mount
//! and network namespaces of its own, so that scenarios run side by side and leave nothing behind.

//!
//! The [`oracle`] is apart from that: text files that say what to configure and send ([`scenario`], [`frame`]), run in two
//! worlds of its own ([`mod@world`]).

pub mod frame;
pub mod harness;
pub mod kernel;
pub mod net;
pub mod oracle;
pub mod proxy;
pub mod scenario;
pub mod traffic;
pub mod world;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
pub use harness::{Scenario, Skip, main};
pub use kernel::need_kernel;
pub use virga::lab::{Config, Host, World, wait_for};

/// How long a condition may take that normally takes well below a second.
pub const LIMIT: Duration = Duration::from_secs(20);

/// The built `virga`, beside the test executables.
///
/// # Errors
/// It has not been built.
pub fn virga_exe() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let exe = me.parent().and_then(|deps| deps.parent()).context("no target directory")?.join("virga");
    if !exe.exists() {
        bail!("{} is missing: run cargo test or cargo build in the whole workspace", exe.display());
    }
    Ok(exe)
}

/// A world with the chip alone: everything goes through the kernel.
///
/// # Errors
/// It did not come up.
pub fn chip_only() -> Result<World> {
    World::new(Config { agent: false, ..Config::new(virga_exe()?) })
}

/// A world with chip and agent, settled.
///
/// # Errors
/// It did not come up.
pub fn world() -> Result<World> {
    world_with(|_| ())
}

/// As [`world()`], with a configuration that `change` changed.
///
/// # Errors
/// It did not come up.
pub fn world_with(change: impl FnOnce(&mut Config)) -> Result<World> {
    let mut config = Config::new(virga_exe()?);
    change(&mut config);
    let world = World::new(config)?;
    settle(&world)?;
    Ok(world)
}

/// `virga settle`.
///
/// # Errors
/// It did not settle.
pub fn settle(world: &World) -> Result<()> {
    let mut c = world.virga();
    c.args(["settle", "--timeout", "60"]);
    run(&mut c).map(drop)
}

/// `virga check`: kernel, desired and chip agree.
///
/// # Errors
/// They do not.
pub fn check(world: &World) -> Result<()> {
    let mut c = world.virga();
    c.arg("check");
    run(&mut c).map(drop)
}

/// Run a command that must succeed; its standard output.
///
/// # Errors
/// It failed; with what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("{command:?} does not start"))?;
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        bail!("{command:?}: {}\n{stdout}{}", out.status, String::from_utf8_lossy(&out.stderr));
    }
    Ok(stdout)
}

/// `ip`, in the switch, with these arguments.
///
/// # Errors
/// It failed; with what it said.
pub fn ip(args: &str) -> Result<String> {
    run(Command::new("ip").args(args.split_whitespace()))
}

/// A command in a host, words split at spaces.
///
/// # Errors
/// It failed; with what it said.
pub fn on(host: &Host, line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let mut c = host.command(words.next().context("no command")?)?;
    c.args(words);
    run(&mut c)
}

/// Write a sysctl of the switch, path below `/proc/sys/net/`.
///
/// # Errors
/// It can't be written.
pub fn sysctl(path: &str, value: &str) -> Result<()> {
    std::fs::write(format!("/proc/sys/net/{path}"), value).with_context(|| format!("sysctl {path}"))
}

/// Skip the scenario unless that program is there.
///
/// # Errors
/// The skip, to be handed on.
pub fn need(program: &str, package: &str) -> Result<()> {
    match virga::lab::find_program(program) {
        Some(_) => Ok(()),
        None => Err(Skip::new(format!("{program} is not installed (Debian package {package})")).into()),
    }
}
