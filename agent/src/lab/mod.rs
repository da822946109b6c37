//! `virga lab`: a switch with ports and hosts, in namespaces of its own, in one command.
//!
//! [`isolate`] makes the place, [`world`] builds the switch and its hosts in it, [`daemon`] keeps chip and agent running, and
//! what is here talks to the one who called. The scenario tests use the same parts. Real ports are no matter of the lab.

pub mod daemon;
pub mod isolate;
mod net;
mod shell;
pub mod world;

use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;

pub use isolate::{Inside, Side, enter, find_program};
pub use net::command_in;
pub use world::{Config, Host, World};

/// Put up a switch with hosts in namespaces of their own and run a shell, or CMD, in the switch.
#[derive(Debug, Parser)]
#[command(name = "virga lab", bin_name = "virga lab")]
struct Args {
    /// Number of ports and of hosts.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=world::MAX_PORTS as i64))]
    ports: u16,
    /// Ports without addresses, hosts without routes.
    #[arg(long)]
    bare: bool,
    /// The chip alone, its tables empty: the kernel forwards everything.
    #[arg(long)]
    no_agent: bool,
    /// The chip's profile: a name or a file.
    #[arg(long, value_name = "NAME|FILE")]
    profile: Option<String>,
    /// What to run in the switch instead of a shell; its exit status becomes the lab's.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// The verb `lab`: `args` are those behind it.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(std::iter::once(OsString::from("virga lab")).chain(args)) {
        Ok(args) => args,
        Err(e) => return crate::cli::usage("virga lab", &e),
    };
    match lab(args) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("virga lab: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn lab(args: Args) -> Result<ExitCode> {
    needs()?;
    let exe = std::env::current_exe().context("the path of this program can't be read")?;
    shell::ignore_interrupts();
    let inside = match enter().with_context(|| instead(&exe))? {
        Side::Outside(code) => return Ok(code),
        Side::Inside(inside) => inside,
    };
    tap_allowed().with_context(|| instead(&exe))?;
    let file = format!("/proc/self/fd/{}", inside.exe.as_raw_fd());
    let chip_args = args.profile.map(|p| vec!["--profile".into(), p]).unwrap_or_default();
    let config = Config { ports: args.ports, bare: args.bare, agent: !args.no_agent, chip_args, ..Config::new(file) };
    let world = World::new(config)?;
    if args.command.is_empty() { shell::interactive(&world, &inside) } else { shell::run(&args.command) }
}

/// What is looked for before anything is made: program and the Debian package that has it.
const NEEDS: [(&str, &str); 2] = [("ip", "iproute2"), ("ping", "iputils-ping")];

fn needs() -> Result<()> {
    for (program, package) in NEEDS {
        if find_program(program).is_none() {
            bail!("{program} is missing: apt install {package}");
        }
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        bail!("/dev/net/tun is missing: the kernel needs its tun module (modprobe tun)");
    }
    Ok(())
}

/// What helps an ordinary user whom the system does not let.
fn instead(exe: &std::path::Path) -> String {
    if rustix::process::geteuid().is_root() {
        "the lab needs more rights than this place gives".into()
    } else {
        format!("this system does not let an ordinary user do that; run: sudo {} lab", exe.display())
    }
}

/// Some systems grant the user namespace and not the capability in it: try what the chip will do.
fn tap_allowed() -> Result<()> {
    tun_tap::Iface::without_packet_info("virga-probe", tun_tap::Mode::Tap)
        .map(drop)
        .context("no TAP device can be made through /dev/net/tun")
}

/// Ask `probe` until it answers; an error that names what was waited for when `timeout` has passed.
///
/// # Errors
/// The time is over.
pub fn wait_for<T>(what: &str, timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return Ok(answer);
        }
        if start.elapsed() >= timeout {
            bail!("waited {} s in vain for {what}", timeout.as_secs_f32());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The lab's directory of commands: `virga` is found there.
fn bin() -> PathBuf {
    PathBuf::from(world::RUN).join("bin")
}
