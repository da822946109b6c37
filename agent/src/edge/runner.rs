//! The core's thread: waits, hands inputs to the core in order of urgency, carries its outputs out.
//!
//! Chip messages first, then the high queue of the monitor, then answers and dumps, then the low queue in bounded slices, then operators.
//! Not here: any decision about forwarding.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufWriter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use hal::Nanos;
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::sync::oneshot;

use crate::core::Core;
use crate::input::{DumpKind, Input, Output, Reply, Request};
use crate::policy::Polled;
use crate::record::Recorder;

use super::chip::{Link, News};
use super::monitor::{Item, Monitor};
use super::poller::Ask;
use super::wake::Waker;

/// Chip messages and answers taken in one round, at most.
const SLICE: usize = 64;
/// Items of the low queue taken in one round; one is up to [`super::monitor`]'s read, some 64 routes.
const LOW_SLICE: usize = 16;
/// Parts of dumps taken in one round, each up to 32 KiB.
const DUMP_SLICE: usize = 16;
/// The thread shows that it lives at least this often.
const BEAT: Nanos = 1_000_000_000;

/// Keeps what the core sees and says, in order.
pub type Journal = Recorder<BufWriter<File>>;

/// From other threads to the core's.
#[derive(Debug)]
pub enum Msg {
    /// An input as it stands.
    Input(Input),
    /// A reading of the poller, and the question it may answer.
    Polled(u64, Box<Polled>),
    /// An operator asks.
    Ask {
        /// Chosen by the asker, never reused.
        id: u64,
        /// What.
        request: Request,
        /// Where the answer goes.
        reply: oneshot::Sender<Reply>,
    },
    /// The operator with that question has gone.
    Gone(u64),
    /// Stop; the chip keeps what it has.
    Stop,
}

/// What the core's thread works with.
pub struct Runner {
    /// The core.
    pub core: Core,
    /// The monitor socket.
    pub monitor: Monitor,
    /// The chip.
    pub link: Link,
    /// From other threads.
    pub inbox: Receiver<Msg>,
    /// From the dump thread.
    pub dumps: Receiver<Input>,
    /// To the dump thread.
    pub dump_jobs: Sender<(u64, DumpKind)>,
    /// To the request thread; bounded: see [`Runner::request`].
    pub request_jobs: SyncSender<(u64, Vec<u8>)>,
    /// To the poller.
    pub poll_jobs: Sender<Ask>,
    /// Wakes this thread.
    pub waker: Waker,
    /// Grows while this thread lives, for the watchdog.
    pub beat: Arc<AtomicU64>,
    /// The journal, if one is kept.
    pub journal: Option<Journal>,
}

/// Bookkeeping of the thread.
struct State {
    started: Instant,
    askers: HashMap<u64, oneshot::Sender<Reply>>,
    /// Inputs that this thread made itself.
    own: VecDeque<Input>,
    /// A part of a dump that older notifications have to go before.
    held: Option<Input>,
    asked: u64,
    items: Vec<Item>,
    stop: Option<Result<(), String>>,
}

impl Runner {
    /// Run until told to stop. What the chip holds stays.
    ///
    /// # Errors
    /// One sentence why the agent cannot go on.
    pub fn run(mut self) -> Result<(), String> {
        let mut s = State {
            started: Instant::now(),
            askers: HashMap::new(),
            own: VecDeque::new(),
            held: None,
            asked: 0,
            items: Vec::new(),
            stop: None,
        };
        // The core begins by asking for the initial dumps.
        self.input(&mut s, Input::Tick);
        loop {
            self.beat.fetch_add(1, Ordering::Relaxed);
            let more = self.round(&mut s);
            if let Some(end) = s.stop.take() {
                self.flush(&mut s);
                return end;
            }
            if !more {
                self.flush(&mut s);
                self.wait(&s);
            }
        }
    }

    /// What the journal has so far, onto the disk's way: a kill then loses little of it.
    fn flush(&mut self, s: &mut State) {
        if let Some(Err(e)) = self.journal.as_mut().map(Recorder::flush) {
            self.journal_failed(s, &e);
        }
    }

    /// The chip matters more than the journal: the agent goes on without, and says so.
    fn journal_failed(&mut self, s: &mut State, e: &io::Error) {
        let what = format!("the journal can't be written and has ended: {e}");
        tracing::error!("{what}");
        self.journal = None;
        s.own.push_back(Input::Warning(what));
    }

    fn now(&self, s: &State) -> Nanos {
        Nanos::try_from(s.started.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }

    fn input(&mut self, s: &mut State, input: Input) {
        let now = self.now(s);
        if let Some(r) = &mut self.journal
            && let Err(e) = r.input(now, &input)
        {
            self.journal_failed(s, &e);
        }
        self.core.handle(now, input);
        self.outputs(s);
    }

    /// One round of inputs; whether more waits.
    fn round(&mut self, s: &mut State) -> bool {
        let mut more = self.chip(s);
        more |= self.monitor_items(s);
        while let Some(i) = s.own.pop_front() {
            self.input(s, i);
        }
        more |= self.inbox(s);
        more |= self.dump_parts(s);
        let now = self.now(s);
        if self.core.deadline().is_some_and(|d| d <= now) {
            self.input(s, Input::Tick);
        }
        more
    }

    fn chip(&mut self, s: &mut State) -> bool {
        for _ in 0..SLICE {
            let now = self.now(s);
            match self.link.poll(now) {
                None => return false,
                Some(News::Message(m)) => self.input(s, Input::Chip(*m)),
                Some(News::Lost(why)) => self.input(s, Input::ChipLost(why)),
                Some(News::Fatal(why)) => {
                    s.stop = Some(Err(why));
                    return false;
                }
            }
        }
        true
    }

    fn monitor_items(&mut self, s: &mut State) -> bool {
        let mut items = core::mem::take(&mut s.items);
        let more = self.monitor.take(LOW_SLICE, &mut items);
        for item in items.drain(..) {
            match item {
                Item::Data { seq, buf } => self.input(s, Input::Monitor { seq, buf }),
                Item::Fence { number, .. } => {
                    if let Some(id) = self.monitor.came(number) {
                        self.input(s, Input::Fence { id });
                    }
                }
                Item::Overrun => {
                    // Everyday life with a small buffer; `status` counts them.
                    tracing::debug!("the netlink monitor socket overran; dumping everything again");
                    self.monitor.overrun();
                    self.input(s, Input::Overrun);
                }
            }
        }
        s.items = items;
        more
    }

    fn inbox(&mut self, s: &mut State) -> bool {
        for _ in 0..SLICE {
            match self.inbox.try_recv() {
                Ok(Msg::Input(i)) => self.input(s, i),
                Ok(Msg::Polled(n, p)) => {
                    // One that began before the core asked would be taken for the answer.
                    if n >= s.asked {
                        self.input(s, Input::Polled(p));
                    }
                }
                Ok(Msg::Ask { id, request, reply }) => {
                    s.askers.insert(id, reply);
                    self.input(s, Input::Request { id, request });
                }
                Ok(Msg::Gone(id)) => {
                    if s.askers.remove(&id).is_some() {
                        self.input(s, Input::Request { id, request: Request::Cancel { id } });
                    }
                }
                Ok(Msg::Stop) => {
                    s.stop = Some(Ok(()));
                    return false;
                }
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => {
                    s.stop = Some(Err("the agent's other threads are gone".into()));
                    return false;
                }
            }
        }
        true
    }

    /// Parts of dumps; one waits until everything announced before the dump was asked for has been handed in.
    fn dump_parts(&mut self, s: &mut State) -> bool {
        for _ in 0..DUMP_SLICE {
            let Some(i) = s.held.take().or_else(|| self.dumps.try_recv().ok()) else { return false };
            if let Input::Dump { seq, .. } = i
                && self.monitor.waits(seq)
            {
                s.held = Some(i);
                return true;
            }
            self.input(s, i);
        }
        true
    }

    fn outputs(&mut self, s: &mut State) {
        while let Some(o) = self.core.next() {
            if let Some(r) = &mut self.journal
                && let Err(e) = r.output(&o)
            {
                self.journal_failed(s, &e);
            }
            match o {
                Output::Dump { id, kind } => {
                    if self.dump_jobs.send((id, kind)).is_err() {
                        s.stop = Some(Err("the dump thread is gone".into()));
                    }
                }
                Output::Request { id, message } => self.request(s, id, message),
                Output::Fence { id } => {
                    // A lost fence is sent again by the core, after its time-out.
                    if let Err(e) = self.monitor.fence(id) {
                        tracing::warn!("sending a fence to the kernel failed: {e}");
                    }
                }
                Output::Poll { ports } => {
                    s.asked += 1;
                    if self.poll_jobs.send(Ask::Core(s.asked, ports)).is_err() {
                        s.stop = Some(Err("the policy thread is gone".into()));
                    }
                }
                Output::Chip(m) => self.link.send(&m),
                Output::Reply { id, reply } => {
                    if let Some(asker) = s.askers.remove(&id) {
                        // It may have gone meanwhile.
                        let _ = asker.send(reply);
                    }
                }
            }
        }
    }

    /// A full queue is answered at once, so that neither this thread waits nor memory grows.
    fn request(&mut self, s: &mut State, id: u64, message: Vec<u8>) {
        if self.request_jobs.try_send((id, message)).is_err() {
            let message = "too many requests wait for the kernel".to_owned();
            s.own.push_back(Input::Ack { id, errno: libc::EBUSY, message });
        }
    }

    fn wait(&self, s: &State) {
        let now = self.now(s);
        let until = [self.core.deadline(), self.link.deadline()].into_iter().flatten().min();
        let left = until.map_or(BEAT, |u| u.saturating_sub(now)).min(BEAT);
        if !s.own.is_empty() || left == 0 {
            return;
        }
        let timeout = Timespec::try_from(Duration::from_nanos(left)).ok();
        let mut fds = vec![PollFd::from_borrowed_fd(self.waker.fd(), PollFlags::IN)];
        if let Some((fd, write)) = self.link.fd() {
            let want = if write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            fds.push(PollFd::from_borrowed_fd(fd, want));
        }
        // An interrupted wait is a short one.
        let _ = rustix::event::poll(&mut fds, timeout.as_ref());
        drop(fds);
        self.waker.clear();
    }
}
