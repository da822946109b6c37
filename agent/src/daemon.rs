//! `virgad`: options, start-up, shutdown. What it then does is `edge`'s and the core's.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::config;
use crate::core::{Core, CoreConfig};
use crate::edge::chip::{Link, Target};
use crate::edge::http::{Asker, Listener};
use crate::edge::monitor::Monitor;
use crate::edge::poller::{self, Ask};
use crate::edge::runner::{Journal, Msg, Runner};
use crate::edge::wake::Waker;
use crate::edge::watch::{self, Watch};
use crate::edge::{dump, http, log, request, serve, service};
use crate::input::{Reply, Request};

/// Requests to the kernel that may wait.
const REQUESTS: usize = 4096;
/// Parts of dumps that may wait, each up to 32 KiB; the dump then pauses in the kernel.
const DUMP_PARTS: usize = 64;

/// Mirrors the kernel's forwarding state into a chip.
#[derive(Parser, Debug)]
#[command(name = "virgad", version)]
struct Options {
    /// Configuration file [default: /etc/virga/virga.toml, which may be missing]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The chip: unix:PATH of a running virga-asic, or "embedded" to start one in this process
    #[arg(long, value_name = "unix:PATH|embedded")]
    chip: Option<String>,
    /// Keep a journal of everything that the core sees and says, for `virga replay`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Where operators reach the agent [default: /run/virga/virgad.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Options of the embedded chip, as virga-asic has them
    #[arg(last = true, value_name = "CHIP-OPTIONS")]
    chip_options: Vec<OsString>,
}

/// The program's options, for manual pages and completions.
pub fn command() -> clap::Command {
    <Options as clap::CommandFactory>::command()
}

/// The whole program: `args` with the program's name first.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let options = match Options::try_parse_from(args) {
        Ok(o) => o,
        Err(e) => return crate::cli::usage("virgad", &e),
    };
    log::init();
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("virgad: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Where the chip is, from a word.
fn chip_of(word: &str, options: &[OsString]) -> Result<ChipChoice, String> {
    match word.strip_prefix("unix:") {
        Some("") => Err("--chip unix: names no path: unix:/run/virga/asic.sock for example".into()),
        Some(_) if !options.is_empty() => {
            Err("options after -- are for the embedded chip: give them to virga-asic, or say --chip embedded".into())
        }
        Some(p) => Ok(ChipChoice::Unix(p.into())),
        None if word == "embedded" => Ok(ChipChoice::Embedded),
        None => Err(format!("the chip {word:?} is neither unix:PATH nor embedded")),
    }
}

#[derive(Debug, PartialEq)]
enum ChipChoice {
    Unix(PathBuf),
    Embedded,
}

fn run(options: Options) -> Result<(), String> {
    let cfg = config::load(options.config.as_deref())?;
    let chip = chip_of(options.chip.as_deref().unwrap_or(&cfg.chip), &options.chip_options)?;
    let socket = options.socket.unwrap_or(cfg.socket);
    let record = options.record.or(cfg.record);
    let listener = Listener::bind(&socket)?;
    let netns = netns_inode()?;

    let core_config =
        CoreConfig { ignore_firewall: cfg.firewall == config::Firewall::Ignore, ..CoreConfig::new(netns) };
    if core_config.ignore_firewall {
        tracing::warn!("policy.firewall is \"ignore\": hardware forwards past nftables and iptables");
    }
    let waker = Waker::new().map_err(|e| format!("no eventfd: {e}"))?;
    let monitor = Monitor::start(&crate::netlink::MONITOR_GROUPS, cfg.receive_buffer, waker.clone())
        .map_err(|e| format!("the netlink monitor socket can't be opened: {e}"))?;
    let journal = record.as_deref().map(|p| journal(p, &core_config)).transpose()?;
    let shown = match &chip {
        ChipChoice::Unix(p) => format!("unix:{}", p.display()),
        ChipChoice::Embedded => "embedded".to_owned(),
    };
    tracing::info!(
        "virgad {}: chip {shown}, socket {}, network namespace {netns}, netlink receive buffer {} KiB",
        env!("CARGO_PKG_VERSION"),
        socket.display(),
        monitor.buffer >> 10
    );
    if monitor.buffer < cfg.receive_buffer {
        tracing::warn!(
            "the netlink receive buffer is {} KiB where {} were asked for: bursts will overrun it and cost a fresh dump; \
             raise net.core.rmem_max, or run with CAP_NET_ADMIN in the initial user namespace",
            monitor.buffer >> 10,
            cfg.receive_buffer >> 10
        );
    }
    let farewell = match &chip {
        ChipChoice::Unix(_) => "stopped; the chip keeps forwarding as it was",
        ChipChoice::Embedded => "stopped, and the embedded chip with it",
    };
    let target = match chip {
        ChipChoice::Unix(p) => Target::Unix(p),
        ChipChoice::Embedded => embedded(&options.chip_options)?,
    };

    let (inbox_tx, inbox) = mpsc::channel();
    let (dumps_tx, dumps) = mpsc::sync_channel(DUMP_PARTS);
    let (dump_jobs, dump_rx) = mpsc::channel();
    let (request_jobs, request_rx) = mpsc::sync_channel(REQUESTS);
    let (poll_jobs, poll_rx) = mpsc::channel();
    let stamp = monitor.stamp();
    let w = waker.clone();
    spawn("nl-dump", move || dump::run(&dump_rx, &dumps_tx, &stamp, &w))?;
    let (w, tx) = (waker.clone(), inbox_tx.clone());
    spawn("nl-request", move || request::run(&request_rx, &tx, &w))?;
    let (w, tx) = (waker.clone(), inbox_tx.clone());
    let heard = Arc::new(AtomicBool::new(false));
    let h = Arc::clone(&heard);
    spawn("policy", move || poller::run(&poll_rx, &h, &tx, &w))?;
    // Heard from here on: the first reading comes later.
    let (watch, changed) = (Watch::open(), poll_jobs.clone());
    spawn("policy-watch", move || {
        watch::run(&watch, || heard.swap(true, Ordering::SeqCst) || changed.send(Ask::Changed).is_ok());
    })?;

    let beat = Arc::new(AtomicU64::new(0));
    let runner = Runner {
        core: Core::new(core_config),
        monitor,
        link: Link::new(target),
        inbox,
        dumps,
        dump_jobs,
        request_jobs,
        poll_jobs,
        waker: waker.clone(),
        beat: Arc::clone(&beat),
        journal,
    };
    let (ended_tx, ended) = oneshot::channel();
    let core = std::thread::Builder::new()
        .name("core".into())
        .spawn(move || {
            let end = runner.run();
            // The receiver may have gone first, at shutdown.
            let _ = ended_tx.send(end);
        })
        .map_err(|e| format!("no thread: {e}"))?;

    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("no event loop: {e}"))?;
    let end = rt.block_on(serve(listener, inbox_tx, waker, beat, ended));
    // What still runs on it are idle connections.
    rt.shutdown_timeout(Duration::from_millis(100));
    if core.join().is_err() {
        return Err("the core's thread panicked: this is a bug; the chip keeps forwarding as it was".into());
    }
    if end.is_ok() {
        tracing::info!("{farewell}");
    }
    end
}

/// Serve operators until a signal comes or the core ends.
async fn serve(
    listener: Listener,
    inbox: mpsc::Sender<Msg>,
    waker: Waker,
    beat: Arc<AtomicU64>,
    mut ended: oneshot::Receiver<Result<(), String>>,
) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("the event loop failed: {e}");
    let mut term = signal(SignalKind::terminate()).map_err(fail)?;
    let mut int = signal(SignalKind::interrupt()).map_err(fail)?;
    let asker = Asker::new(inbox.clone(), waker.clone());
    let socket = listener.inner.try_clone().and_then(tokio::net::UnixListener::from_std).map_err(fail)?;
    tokio::spawn(serve::serve(socket, http::router(asker.clone()), serve::Times::default()));
    tokio::spawn(announce(asker));
    tokio::spawn(service::watchdog(beat));
    let early = tokio::select! {
        _ = term.recv() => None,
        _ = int.recv() => None,
        end = &mut ended => Some(end),
    };
    service::stopping();
    let end = match early {
        Some(end) => end,
        None => {
            tracing::info!("stopping");
            if inbox.send(Msg::Stop).is_ok() {
                waker.wake();
            }
            ended.await
        }
    };
    // Only now, so that a successor is not refused while we still write.
    drop(listener);
    // An error here means that the core's thread panicked, which is seen when it is joined.
    end.unwrap_or(Ok(()))
}

/// Tell log and service manager when the chip holds all that the kernel knows.
async fn announce(asker: Asker) {
    let mut settle = std::pin::pin!(asker.ask(Request::Settle));
    loop {
        match tokio::time::timeout(Duration::from_secs(10), &mut settle).await {
            Ok(Some(Reply::Error(e))) => return service::status(&e),
            Ok(Some(_)) => {
                tracing::info!("settled: the chip holds all that the kernel knows");
                return service::ready("settled");
            }
            Ok(None) => return,
            Err(_) => {
                let what = http::waiting(&asker).await;
                tracing::warn!("not settled yet: {what}");
                service::status(&what);
            }
        }
    }
}

fn spawn(name: &str, f: impl FnOnce() + Send + 'static) -> Result<(), String> {
    std::thread::Builder::new().name(name.into()).spawn(f).map(drop).map_err(|e| format!("no thread: {e}"))
}

/// Inode of the network namespace that we are in.
fn netns_inode() -> Result<u64, String> {
    std::fs::metadata("/proc/self/ns/net").map(|m| m.ino()).map_err(|e| {
        format!("/proc/self/ns/net can't be read, which names our network namespace: {e}; is /proc mounted?")
    })
}

/// Begin a journal at `path`. One that is there already is kept as `path.1`: it may hold what led to the restart.
fn journal(path: &Path, config: &CoreConfig) -> Result<Journal, String> {
    let fail = |e: std::io::Error| format!("the journal {} can't be written: {e}", path.display());
    if path.is_file() {
        let mut old = path.as_os_str().to_owned();
        old.push(".1");
        std::fs::rename(path, old).map_err(fail)?;
    }
    let file = std::fs::File::create(path).map_err(fail)?;
    Journal::new(std::io::BufWriter::with_capacity(1 << 18, file), config).map_err(fail)
}

fn embedded(options: &[OsString]) -> Result<Target, String> {
    let conn = sim_asic::daemon::embedded(options.to_vec()).map_err(|e| format!("the embedded chip: {e}"))?;
    tracing::warn!(
        "the chip is embedded: forwarding ends with this process; run virga-asic where it has to outlive the agent"
    );
    Ok(Target::Embedded(conn))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_chip_is_one_sentence() {
        assert_eq!(chip_of("unix:/x", &[]), Ok(ChipChoice::Unix("/x".into())));
        assert_eq!(chip_of("embedded", &["--port".into()]), Ok(ChipChoice::Embedded));
        for (word, options, has) in [
            ("unix:", vec![], "names no path"),
            ("tcp:1", vec![], "neither unix:PATH nor embedded"),
            ("unix:/x", vec!["--port".into()], "for the embedded chip"),
        ] {
            let e = chip_of(word, &options).unwrap_err();
            assert!(e.contains(has) && !e.contains('\n'), "{e}");
        }
    }

    #[test]
    fn the_command_line_is_what_the_manual_says() {
        use clap::CommandFactory;
        Options::command().debug_assert();
        let o = Options::try_parse_from(["virgad", "--chip", "embedded", "--", "--port", "swp1=none"]).unwrap();
        assert_eq!(o.chip_options, ["--port", "swp1=none"]);
        assert!(Options::try_parse_from(["virgad", "--chp", "x"]).is_err());
    }
}
