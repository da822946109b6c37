//! `virga-asic`: options, start-up, the control thread, the end. A library function, since the lab and embedded mode start it too.
//!
//! The control thread owns the tables' writer and the ports; worker threads move frames. Everything that can be wrong with
//! options or machine is said in one sentence before anything is changed, as far as it can be known by then.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use clap::error::ErrorKind;
use hal::bus::{AgentConn, ChipConn};
use hal::{Nanos, PortEntry, PortId};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tracing::{error, info};

use crate::chip::SimChip;
use crate::config::{self, Chip};
use crate::netns::NetNs;
use crate::policer::Policers;
use crate::ports::{self, Ports};
use crate::server::{Server, Socket};
use crate::state::{self, State};
use crate::worker;

/// Where the chip listens if nothing else is said.
pub const LISTEN: &str = "unix:/run/virga/asic.sock";
/// The namespace of the wires if nothing else is said.
pub const NETNS: &str = "virga-asic";
const PORT_HELP: &str = "A front-panel port, in order. WIRE is packet:IFNAME[@NETNS] (an existing device, found in namespace NETNS) or none";
/// How often the wires' devices are looked at: the kernel announces carrier up to a second late.
const LOOK: Duration = Duration::from_millis(100);

/// The simulated forwarding chip: owns the wires, makes a netdev for each port, forwards what it is programmed to and gives
/// the kernel the rest.
#[derive(Clone, Debug, Parser)]
#[command(name = "virga-asic", version)]
pub struct Options {
    /// Configuration, section chip; by default /etc/virga/virga.toml where that exists. Options go before it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What the chip can hold: small, tor (the default), unlimited, or a file.
    #[arg(long, value_name = "NAME|FILE")]
    pub profile: Option<String>,
    /// Front-panel ports, in order.
    #[arg(long, value_name = "NAME=WIRE", help = PORT_HELP)]
    pub port: Vec<String>,
    /// Threads that move frames, each with its share of the ports [default: one a processor, at most one a port]
    #[arg(long, value_name = "N")]
    pub workers: Option<u32>,
    /// Where the agent finds the chip [default: unix:/run/virga/asic.sock]
    #[arg(long, value_name = "unix:PATH")]
    pub listen: Option<String>,
    /// Namespace of the wires; made if missing, and outlives the chip [default: virga-asic]
    #[arg(long, value_name = "NAME")]
    pub netns: Option<String>,
    /// Namespace of the ports' netdevs [default: the one in which the chip is started]
    #[arg(long, value_name = "NAME")]
    pub host_netns: Option<String>,
    /// Give the wires back, delete the netdevs, and end.
    #[arg(long)]
    pub release: bool,
    /// Say by exit status whether a port is configured: 0 if so, 1 if not, 255 if that can't be known. For service managers.
    #[arg(long, conflicts_with = "release")]
    pub has_ports: bool,
}

impl Options {
    /// From arguments, the program's name first.
    ///
    /// # Errors
    /// Help, or one sentence.
    pub fn parse_args(args: Vec<OsString>) -> Result<Options, Quit> {
        Options::try_parse_from(args).map_err(|e| match e.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Quit::Said(e.to_string()),
            _ => {
                let text = e.to_string();
                let head = text.split("\n\n").next().unwrap_or_default();
                let words = head.split_whitespace().collect::<Vec<_>>().join(" ");
                Quit::Failed(format!("{} (see --help)", words.trim_start_matches("error: ")))
            }
        })
    }
}

/// Why the program ends before it has begun.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Quit {
    /// It was asked to say this.
    Said(String),
    /// One sentence.
    Failed(String),
    /// It was asked a question; the exit status is the answer.
    Status(u8),
}

/// The program. `args` begins with its name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    match run(args) {
        Err(Quit::Status(status)) => ExitCode::from(status),
        Ok(()) => ExitCode::SUCCESS,
        Err(Quit::Said(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(Quit::Failed(why)) => {
            eprintln!("virga-asic: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Vec<OsString>) -> Result<(), Quit> {
    let options = Options::parse_args(args)?;
    if options.has_ports {
        return Err(has_ports(&options));
    }
    log();
    if options.release {
        for line in release(&options).map_err(Quit::Failed)? {
            println!("{line}");
        }
        return Ok(());
    }
    // Before any thread: all inherit the mask, and the signals come by the descriptor alone.
    let signals = signals().map_err(|e| Quit::Failed(format!("signals can't be caught: {e}")))?;
    let chip = start(&options, None).map_err(Quit::Failed)?;
    chip.run(Some(signals)).map_err(Quit::Failed)
}

/// Log to standard error, by `RUST_LOG` (default `info`); without time stamps where the journal adds its own.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    let log = log.with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    // Whoever embeds the chip may have set up its own.
    let _ = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => log.without_time().try_init(),
        None => log.try_init(),
    };
}

/// The answer to `--has-ports`: systemd's `ExecCondition=` takes 1 to 254 for "skip the unit" and 255 for a failure.
fn has_ports(o: &Options) -> Quit {
    match settings(o) {
        Ok(c) => Quit::Status(c.port.is_empty().into()),
        Err(e) => {
            eprintln!("virga-asic: {e}");
            Quit::Status(255)
        }
    }
}

fn signals() -> io::Result<OwnedFd> {
    // SAFETY: an all-zero set is what sigemptyset starts from; all calls get pointers to that local set.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigaddset(&raw mut set, libc::SIGHUP);
        if libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Take the signal that waits; whether it is SIGHUP.
fn hangup(signals: &OwnedFd) -> bool {
    // struct signalfd_siginfo (signalfd(2)): the number comes first.
    let mut info = [0; 128];
    matches!(rustix::io::read(signals, &mut info), Ok(n) if n >= 4)
        && info.first_chunk().is_some_and(|n| u32::from_ne_bytes(*n) == libc::SIGHUP as u32)
}

/// Start a chip in a thread of this process; `args` are the options, without a program's name. The agent's end of the bus
/// comes back, the chip ends when that is closed. Such a chip does not outlive the agent's process.
///
/// # Errors
/// One sentence.
pub fn embedded(args: Vec<OsString>) -> Result<AgentConn, String> {
    let args = std::iter::once("virga-asic".into()).chain(args).collect();
    let options = Options::parse_args(args).map_err(|q| match q {
        Quit::Said(text) | Quit::Failed(text) => text,
        Quit::Status(_) => String::new(),
    })?;
    if options.release || options.has_ports || options.listen.is_some() {
        return Err("an embedded chip takes neither --release nor --has-ports nor --listen".into());
    }
    let (agent, conn) = hal::bus::pair().map_err(|e| format!("no socket pair: {e}"))?;
    let chip = start(&options, Some(conn))?;
    std::thread::Builder::new()
        .name("chip".into())
        .spawn(move || {
            if let Err(e) = chip.run(None) {
                error!("the chip ended: {e}");
            }
        })
        .map_err(|e| format!("no thread for the chip: {e}"))?;
    Ok(agent)
}

/// Options and configuration as one; options go first.
fn settings(o: &Options) -> Result<Chip, String> {
    let path = o.config.as_deref().unwrap_or(Path::new(config::PATH));
    let mut c = config::read(path, o.config.is_some())?.chip;
    if !o.port.is_empty() {
        c.port.clone_from(&o.port);
    }
    if o.workers.is_some() {
        c.workers = o.workers;
    }
    for (to, from) in [
        (&mut c.profile, &o.profile),
        (&mut c.listen, &o.listen),
        (&mut c.netns, &o.netns),
        (&mut c.host_netns, &o.host_netns),
    ] {
        if from.is_some() {
            to.clone_from(from);
        }
    }
    Ok(c)
}

fn host_netns(c: &Chip) -> Result<NetNs, String> {
    c.host_netns.as_deref().map_or_else(NetNs::current, NetNs::open).map_err(|e| e.to_string())
}

fn release(o: &Options) -> Result<Vec<String>, String> {
    let c = settings(o)?;
    let netns = c.netns.as_deref().unwrap_or(NETNS);
    let state = State::open(Path::new(state::DIR), netns)?;
    if state.all().is_empty() {
        return Ok(vec![format!("the chip of namespace {netns} holds nothing")]);
    }
    let chip = NetNs::open(netns).map_err(|e| e.to_string())?;
    ports::release(host_netns(&c)?, chip, state)
}

/// A chip that is set up.
struct Running {
    // Dropped first, so that no frame is read or written while the rest goes.
    worker: worker::Handle,
    server: Server,
    ports: Ports,
    /// Rung by news of stations.
    bell: OwnedFd,
}

fn start(o: &Options, embedded: Option<ChipConn>) -> Result<Running, String> {
    let c = settings(o)?;
    let profile = config::profile(c.profile.as_deref().unwrap_or(config::PROFILE))?;
    let specs = config::ports(&c.port)?;
    if specs.is_empty() {
        return Err("no port is given: say --port NAME=WIRE, or name ports in [chip] of the configuration".into());
    }
    let workers = c.workers(specs.len())?;
    let listen = c.listen.as_deref().unwrap_or(LISTEN);
    let path = listen
        .strip_prefix("unix:")
        .filter(|p| !p.is_empty())
        .ok_or_else(|| format!("--listen {listen:?} is not unix:PATH"))?;
    let netns = c.netns.as_deref().unwrap_or(NETNS);
    let host = host_netns(&c)?;
    if embedded.is_none() {
        Socket::probe(Path::new(path))?;
    }
    let state = State::open(Path::new(state::DIR), netns)?;
    let (ns, made) = NetNs::open_or_make(netns).map_err(|e| e.to_string())?;
    if made {
        info!("namespace {netns} made");
    }
    let rates = c.clone();
    let frame = profile.frame;
    let name = profile.name.clone();
    let mut chip = SimChip::new(profile, specs.len());
    let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
        .and_then(|b| rustix::io::fcntl_dupfd_cloexec(&b, 0).map(|dup| (b, dup)))
        .map(|(bell, dup)| {
            chip.set_bell(dup);
            bell
        })
        .map_err(|e| format!("no eventfd for news of stations: {e}"))?;
    let (mut ports, fronts) = Ports::open(specs, host, ns, state)?;
    let policers = Policers::new(|class| rates.rate(class));
    let pipelines = (0..workers).map(|_| chip.pipeline()).collect();
    let worker =
        worker::start(fronts, pipelines, chip.turns(), policers, frame).map_err(|e| format!("no worker: {e}"))?;
    ports.refresh_all(&worker, |id, e| chip.set_port(id, e.clone()));
    ports.summary(worker.workers());
    let socket = if embedded.is_none() { Some(Socket::bind(Path::new(path))?) } else { None };
    let threads = if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") };
    let about = format!("virga-asic {}, {threads}", env!("CARGO_PKG_VERSION"));
    let server = Server::new(chip, about, socket, embedded).map_err(|e| format!("no random number: {e}"))?;
    match &c {
        _ if server.is_over() => {}
        _ if server.fds().0.is_some() => info!("chip of profile {name} is ready; the agent finds it at {listen}"),
        _ => info!("chip of profile {name} is ready, embedded: it ends with this process"),
    }
    Ok(Running { worker, server, ports, bell })
}

impl Running {
    /// The control thread, until a signal, or until the embedding agent is gone.
    fn run(mut self, signals: Option<OwnedFd>) -> Result<(), String> {
        let begin = Instant::now();
        let mut looked = Instant::now();
        let mut more = false;
        loop {
            let left = if more { Duration::ZERO } else { LOOK.saturating_sub(looked.elapsed()) };
            let (signalled, moved) = self.wait(signals.as_ref().map(AsFd::as_fd), left)?;
            if signalled && signals.as_ref().is_some_and(hangup) {
                let chip = self.server.chip();
                self.ports.make_again(&self.worker, |id: PortId, e: &PortEntry| chip.set_port(id, e.clone()));
            } else if signalled {
                info!("ending: wires go dark, the netdevs stay without carrier");
                self.ports.dark();
                return Ok(());
            }
            if !self.worker.is_alive() {
                return Err("a worker thread died".into());
            }
            if moved || looked.elapsed() >= LOOK {
                looked = Instant::now();
                let chip = self.server.chip();
                self.ports.poll(&self.worker, |id: PortId, e: &PortEntry| chip.set_port(id, e.clone()));
            }
            more = self.server.serve(Nanos::try_from(begin.elapsed().as_nanos()).unwrap_or(Nanos::MAX));
            if self.server.is_over() {
                info!("ending with the agent: wires go dark, the netdevs stay without carrier");
                self.ports.dark();
                return Ok(());
            }
        }
    }

    /// Wait for anything; whether a signal came, and whether the kernel said something about links.
    fn wait(&self, signals: Option<BorrowedFd<'_>>, at_most: Duration) -> Result<(bool, bool), String> {
        let monitors = self.ports.fds();
        let (listener, agent) = self.server.fds();
        let mut fds: Vec<PollFd<'_>> = monitors.iter().map(|f| PollFd::from_borrowed_fd(*f, PollFlags::IN)).collect();
        fds.extend(signals.map(|f| PollFd::from_borrowed_fd(f, PollFlags::IN)));
        fds.extend(listener.map(|f| PollFd::from_borrowed_fd(f, PollFlags::IN)));
        fds.push(PollFd::new(&self.bell, PollFlags::IN));
        if let Some((fd, write, read)) = agent {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::OUT, write);
            flags.set(PollFlags::IN, read);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(at_most.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(format!("nothing can be waited for: {e}")),
        }
        // Before the news are taken: what comes after them rings again.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        let ready = |fd: i32| fds.iter().any(|f| f.as_fd().as_raw_fd() == fd && !f.revents().is_empty());
        let moved = monitors.iter().any(|m| ready(m.as_raw_fd()));
        Ok((signals.is_some_and(|s| ready(s.as_raw_fd())), moved))
    }
}
