//! A go-between on the bus: it hands on what agent and chip say to each other, keeps the agent's operations, asks the chip
//! questions of its own, behind the agent's back, and keeps the chip's answers to itself when told to.
//!
//! For tests of what an agent notices. Knows nothing of what the messages mean.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use hal::bus::{AgentConn, ChipConn};
use hal::{FromChip, Op, Record, TableId, ToChip};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::LIMIT;

/// Ids of questions of our own begin here: the agent counts from 1.
const OURS: u64 = 1 << 60;

#[derive(Default)]
struct Shared {
    silent: AtomicBool,
    ops: Mutex<Vec<Op>>,
    stop: AtomicBool,
    next: AtomicU64,
}

type Question = (ToChip, Sender<FromChip>);

/// The go-between; ends with it.
pub struct Proxy {
    path: PathBuf,
    shared: Arc<Shared>,
    ask: Mutex<Sender<Question>>,
}

impl Proxy {
    /// Listen on `path` for an agent, in front of the chip at `chip`.
    ///
    /// # Errors
    /// The socket can't be made.
    pub fn new(path: &Path, chip: &Path) -> Result<Proxy> {
        let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
        listener.set_nonblocking(true)?;
        let shared = Arc::<Shared>::default();
        let (ask, asked) = channel();
        let (s, chip) = (Arc::clone(&shared), chip.to_owned());
        std::thread::spawn(move || {
            while !s.stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    // An end of the connection, on either side, ends both: the agent comes again.
                    Ok((agent, _)) => drop(session(&s, agent, &chip, &asked)),
                    Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
                }
            }
        });
        Ok(Proxy { path: path.to_owned(), shared, ask: Mutex::new(ask) })
    }

    /// Where the agent is to connect to, as its option has it.
    pub fn address(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    /// Whether the chip's answers are kept from the agent.
    pub fn silence(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::Relaxed);
    }

    /// Operations that agents have sent so far.
    pub fn ops(&self) -> Vec<Op> {
        self.shared.ops.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn ask(&self, question: impl FnOnce(u64) -> ToChip) -> Result<FromChip> {
        let id = OURS + self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = channel();
        let Ok(ask) = self.ask.lock() else { bail!("the go-between panicked") };
        ask.send((question(id), reply))?;
        answer.recv_timeout(LIMIT).context("the chip does not answer the go-between; is an agent connected?")
    }

    /// Change the chip behind the agent's back.
    ///
    /// # Errors
    /// The chip refused, or does not answer.
    pub fn write(&self, op: Op) -> Result<()> {
        let shown = op.to_string();
        match self.ask(|id| ToChip::Batch { id, ops: vec![op] })? {
            FromChip::Done { rejected, .. } if rejected.is_empty() => Ok(()),
            other => bail!("{shown}: {other:?}"),
        }
    }

    /// All that the chip holds in a table.
    ///
    /// # Errors
    /// The chip does not answer.
    pub fn table(&self, table: TableId) -> Result<Vec<Record>> {
        let (mut all, mut cursor) = (Vec::new(), 0);
        loop {
            match self.ask(|id| ToChip::Dump { id, table, cursor })? {
                FromChip::Records { records, next, .. } => {
                    all.extend(records);
                    match next {
                        Some(n) => cursor = n,
                        None => return Ok(all),
                    }
                }
                other => bail!("{other:?}"),
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Until one of the two hangs up.
fn session(s: &Shared, agent: UnixStream, chip: &Path, asked: &Receiver<Question>) -> Result<()> {
    let mut agent = ChipConn::new(agent)?;
    let mut chip = AgentConn::new(UnixStream::connect(chip)?)?;
    let mut open: Vec<(u64, Sender<FromChip>)> = Vec::new();
    while !s.stop.load(Ordering::Relaxed) {
        while let Some(m) = agent.recv()? {
            if let ToChip::Batch { ops, .. } = &m {
                s.ops.lock().unwrap_or_else(|e| e.into_inner()).extend(ops.iter().cloned());
            }
            chip.send(&m)?;
        }
        match asked.try_recv() {
            Ok((m, reply)) => {
                if let ToChip::Batch { id, .. } | ToChip::Dump { id, .. } = &m {
                    open.push((*id, reply));
                }
                chip.send(&m)?;
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
        if !s.silent.load(Ordering::Relaxed) {
            while let Some(m) = chip.recv()? {
                let ours = match &m {
                    FromChip::Done { id, .. } | FromChip::Records { id, .. } => open.iter().position(|o| o.0 == *id),
                    _ => None,
                };
                match ours {
                    // Whoever asked may have given up.
                    Some(at) => drop(open.swap_remove(at).1.send(m)),
                    None => agent.send(&m)?,
                }
            }
        }
        agent.flush()?;
        chip.flush()?;
        wait(&agent, &chip)?;
    }
    Ok(())
}

fn wait(agent: &ChipConn, chip: &AgentConn) -> io::Result<()> {
    let (a, c) = (agent.fd(), chip.fd());
    let mut fds = [PollFd::new(&a, PollFlags::IN), PollFd::new(&c, PollFlags::IN)];
    let tick = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    match poll(&mut fds, Some(&tick)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
