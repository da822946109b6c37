//! The monitor socket: everything that the kernel announces, in the kernel's order, and the fence.
//!
//! A reader thread only copies: it stamps what it reads and puts route messages into a low queue and the rest into a
//! high one (kernel-facts 45), so that a burst of routes does not delay a link event. Memory is bounded: beyond [`QUEUED`] the
//! reader stops, the socket fills and the kernel says `ENOBUFS`, which is normal life (kernel-facts 41).
//! Not here: what a message means.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::nl::{HEADER, NLMSG_ERROR, Ring, Socket, messages, stamp};
use super::wake::Waker;

/// Bytes in both queues beyond which the reader stops.
const QUEUED: usize = 48 << 20;
/// Datagrams that one system call reads.
const AT_ONCE: usize = 64;
/// Longest notification, in bytes: a route with 512 next hops is below 32 KiB.
const LONGEST: usize = 64 << 10;
/// What is asked for as receive buffer, in bytes.
pub const RECEIVE_BUFFER: usize = 64 << 20;

/// `RTM_NEWROUTE` and `RTM_DELROUTE` (`linux/rtnetlink.h`).
const ROUTE: std::ops::RangeInclusive<u16> = 24..=25;

/// What the reader hands on.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// Whole messages, all of one queue, and the reader's stamp.
    Data {
        /// Ascends over both queues.
        seq: u64,
        /// The bytes.
        buf: Vec<u8>,
    },
    /// The answer to the fence of this number; in both queues.
    Fence {
        /// As above.
        seq: u64,
        /// As sent.
        number: u32,
    },
    /// Messages were lost. What was queued before it is gone, in the socket, too: a dump that begins now says it all.
    Overrun,
}

impl Item {
    fn seq(&self) -> u64 {
        match self {
            Item::Data { seq, .. } | Item::Fence { seq, .. } => *seq,
            Item::Overrun => 0,
        }
    }
    fn len(&self) -> usize {
        match self {
            Item::Data { buf, .. } => buf.len(),
            _ => 0,
        }
    }
}

#[derive(Default)]
struct Queues {
    high: VecDeque<Item>,
    low: VecDeque<Item>,
    bytes: usize,
}

/// What reader and core's thread share.
struct Shared {
    socket: Socket,
    queues: Mutex<Queues>,
    room: Condvar,
    /// Last stamp given.
    seq: AtomicU64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        // A poisoned lock is that of a thread that panicked between two pushes: the queues are whole.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The core's side of it.
pub struct Monitor {
    shared: Arc<Shared>,
    fences: Fences,
    /// What the kernel granted as receive buffer, in bytes of its own accounting.
    pub buffer: usize,
}

/// The reader's last stamp, for other threads.
#[derive(Clone)]
pub struct Stamp(Arc<Shared>);

impl Stamp {
    /// The last one given.
    pub fn now(&self) -> u64 {
        self.0.seq.load(Ordering::Acquire)
    }
}

impl Monitor {
    /// Subscribe to `groups` and start the reader. `buffer` is what to ask for, in bytes.
    ///
    /// # Errors
    /// No socket, or the kernel lacks a group, named in the error.
    pub fn start(groups: &[u32], buffer: usize, waker: Waker) -> io::Result<Monitor> {
        let socket = Socket::open()?;
        let buffer = socket.receive_buffer(buffer)?;
        for &g in groups {
            socket.subscribe(g).map_err(|e| {
                io::Error::new(e.kind(), format!("the kernel refused netlink notifications of group {g}: {e}"))
            })?;
        }
        let shared =
            Arc::new(Shared { socket, queues: Mutex::default(), room: Condvar::new(), seq: AtomicU64::new(0) });
        let reader = Arc::clone(&shared);
        std::thread::Builder::new().name("nl-reader".into()).spawn(move || read(&reader, &waker))?;
        Ok(Monitor { shared, fences: Fences::default(), buffer })
    }

    /// The reader's stamp, readable elsewhere.
    pub fn stamp(&self) -> Stamp {
        Stamp(Arc::clone(&self.shared))
    }

    /// Send a fence; its id comes out of [`Monitor::came`] when its answer has come out of both queues.
    ///
    /// # Errors
    /// As `send(2)`; the fence is then lost, as it may be lost later in an overrun.
    pub fn fence(&mut self, id: u64) -> io::Result<()> {
        let number = self.fences.add(id);
        let sent = match stamp(vec![0; HEADER], number, 0) {
            Some(mut m) => {
                // A request without a body, to which the kernel does nothing but acknowledge it (`rtnetlink_rcv_msg`): it takes
                // no lock there, and the answer queues up on this socket behind everything announced so far. Of a type that
                // security modules know.
                m[4..6].copy_from_slice(&crate::netlink::rtm::GETLINK.to_ne_bytes());
                m[6..8].copy_from_slice(&(0x1u16 | 0x4).to_ne_bytes());
                self.shared.socket.send(&m, libc::MSG_DONTWAIT)
            }
            None => Ok(()),
        };
        if sent.is_err() {
            self.fences.open.remove(&number);
        }
        sent
    }

    /// Everything in the high queue, into `out`; if that is empty, up to `low` items of the low one.
    /// What is taken from the low queue is thus never newer than what waits in the high one.
    /// Returns whether more waits.
    pub fn take(&mut self, low: usize, out: &mut Vec<Item>) -> bool {
        let mut q = self.shared.lock();
        if q.high.is_empty() {
            let n = low.min(q.low.len());
            out.extend(q.low.drain(..n));
        } else {
            out.extend(q.high.drain(..));
        }
        let taken: usize = out.iter().map(Item::len).sum();
        let was = q.bytes;
        q.bytes = was.saturating_sub(taken);
        let more = !q.low.is_empty() || !q.high.is_empty();
        let wake = was > QUEUED && q.bytes <= QUEUED;
        drop(q);
        if wake {
            self.shared.room.notify_one();
        }
        more
    }

    /// Whether anything stamped `seq` or earlier still waits in a queue.
    pub fn waits(&self, seq: u64) -> bool {
        let q = self.shared.lock();
        [q.high.front(), q.low.front()].into_iter().flatten().any(|i| i.seq() <= seq)
    }

    /// A fence's answer came out of a queue; its id if it has now come out of both.
    pub fn came(&mut self, number: u32) -> Option<u64> {
        self.fences.came(number)
    }

    /// An overrun came out: all fences are void.
    pub fn overrun(&mut self) {
        self.fences.open.clear();
    }
}

/// Fences that were sent and not yet answered.
#[derive(Default)]
struct Fences {
    last: u32,
    /// Number on the wire → id of the core, queues that its answer has come out of.
    open: BTreeMap<u32, (u64, u8)>,
}

impl Fences {
    /// More than the core ever has open; what is older was lost and has been sent again since.
    const MOST: usize = 64;

    fn add(&mut self, id: u64) -> u32 {
        self.last = self.last.wrapping_add(1).max(1);
        self.open.insert(self.last, (id, 0));
        if self.open.len() > Self::MOST {
            self.open.pop_first();
        }
        self.last
    }

    fn came(&mut self, number: u32) -> Option<u64> {
        let (id, seen) = self.open.get_mut(&number)?;
        *seen += 1;
        let (id, seen) = (*id, *seen);
        if seen < 2 {
            return None;
        }
        self.open.remove(&number);
        Some(id)
    }
}

/// The reader's thread.
fn read(s: &Shared, waker: &Waker) {
    let mut ring = Ring::new(AT_ONCE, LONGEST);
    let mut items = Vec::new();
    loop {
        let read = match ring.read(&s.socket) {
            Ok(true) => Ok(false),
            Err(e) if e.raw_os_error() != Some(libc::ENOBUFS) => Err(e),
            _ => ring.drain(&s.socket).map(|()| true),
        };
        let lost = read.unwrap_or_else(|e| {
            tracing::error!("reading the netlink monitor socket failed: {e}");
            std::thread::sleep(Duration::from_millis(100));
            true
        });
        let mut q = s.lock();
        if lost {
            q.low.clear();
            q.high.clear();
            q.bytes = 0;
            q.high.push_back(Item::Overrun);
        } else {
            let mut seq = s.seq.load(Ordering::Relaxed);
            split(ring.datagrams(), &mut seq, &mut items);
            for (low, item) in items.drain(..) {
                q.bytes += item.len();
                if low { q.low.push_back(item) } else { q.high.push_back(item) }
            }
            // Published under the lock: whoever reads a stamp finds what bears it queued or taken.
            s.seq.store(seq, Ordering::Release);
        }
        waker.wake();
        while q.bytes > QUEUED {
            q = s.room.wait(q).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Stamp the messages and assign them to queues. Neighbouring messages of one queue share an item and its stamp; a
/// message of the other queue between them makes a new one, so that stamps tell the order between the queues.
fn split<'a>(datagrams: impl Iterator<Item = &'a [u8]>, seq: &mut u64, out: &mut Vec<(bool, Item)>) {
    for d in datagrams {
        for m in messages(d) {
            if m.kind == NLMSG_ERROR {
                // Only the kernel's answer to a fence is of this type on this socket.
                *seq += 1;
                out.push((false, Item::Fence { seq: *seq, number: m.seq }));
                out.push((true, Item::Fence { seq: *seq, number: m.seq }));
                continue;
            }
            let low = ROUTE.contains(&m.kind);
            match out.last_mut() {
                Some((l, Item::Data { buf, .. })) if *l == low => append(buf, m.bytes),
                _ => {
                    *seq += 1;
                    let mut buf = Vec::with_capacity(m.bytes.len().next_multiple_of(4));
                    append(&mut buf, m.bytes);
                    out.push((low, Item::Data { seq: *seq, buf }));
                }
            }
        }
    }
}

fn append(buf: &mut Vec<u8>, message: &[u8]) {
    buf.extend_from_slice(message);
    buf.resize(buf.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, seq: u32, len: usize) -> Vec<u8> {
        let mut m = stamp(vec![0; len], seq, 0).unwrap();
        m[4..6].copy_from_slice(&kind.to_ne_bytes());
        m
    }

    #[test]
    fn fact_45_stamps_tell_the_order_between_the_queues() {
        let (r, l, f) = (message(24, 0, 30), message(16, 0, 32), message(NLMSG_ERROR, 9, 36));
        let d: Vec<&[u8]> = vec![&r, &r, &l, &r, &f, &l, &l];
        let (mut seq, mut out) = (10, Vec::new());
        split(d.into_iter(), &mut seq, &mut out);
        let seen: Vec<_> = out.iter().map(|(low, i)| (*low, i.seq(), i.len())).collect();
        assert_eq!(
            seen,
            [(true, 11, 64), (false, 12, 32), (true, 13, 32), (false, 14, 0), (true, 14, 0), (false, 15, 64)]
        );
        assert_eq!(seq, 15);
    }

    #[test]
    fn a_fence_comes_when_it_came_out_of_both_queues_and_never_after_an_overrun() {
        let mut f = Fences::default();
        let (a, b) = (f.add(70), f.add(71));
        assert_eq!((f.came(a), f.came(b), f.came(99), f.came(a)), (None, None, None, Some(70)));
        assert_eq!(f.came(a), None);
        f.open.clear();
        assert_eq!(f.came(b), None);
        for id in 0..1000 {
            f.add(id);
        }
        assert_eq!(f.open.len(), Fences::MOST);
    }
}
