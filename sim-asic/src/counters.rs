//! Counters of one worker: plain words that it alone writes and anyone reads.
//!
//! The pipeline counts its own verdicts. What becomes of them afterwards (sent, policed, refused) the worker adds here.

use std::sync::{Arc, Mutex, PoisonError};

use hal::{Count, Counters, DropReason, PortCounters, PortId, TrapClass};

use crate::sync::Counter;

/// Frames and bytes.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    frames: Counter,
    bytes: Counter,
}

impl Cell {
    pub(crate) fn add(&self, frames: u64, bytes: u64) {
        self.frames.add(frames);
        self.bytes.add(bytes);
    }
    fn sum(&self, into: &mut Count) {
        into.frames += self.frames.get();
        into.bytes += self.bytes.get();
    }
}

#[derive(Debug, Default)]
pub(crate) struct PortCells {
    pub(crate) rx: Cell,
    pub(crate) tx: Cell,
    pub(crate) forwarded: Cell,
    /// Trap verdicts of the pipeline, those lost on the way to the kernel included.
    pub(crate) trapped: Cell,
    /// Trap verdicts that were lost on the way to the kernel.
    pub(crate) lost: Cell,
    pub(crate) from_host: Cell,
    pub(crate) dropped: Cell,
    gso: Counter,
    csum: Counter,
}

/// What one worker counted. Only the thread that it belongs to may call the methods that count.
#[derive(Debug)]
pub struct WorkerCounters {
    ports: Box<[PortCells]>,
    /// Trap verdicts of the pipeline, those lost on the way to the kernel included.
    pub(crate) traps: [Cell; TrapClass::COUNT],
    trap_drops: [Cell; TrapClass::COUNT],
    pub(crate) drops: [Cell; DropReason::COUNT],
}

impl WorkerCounters {
    pub(crate) fn new(ports: usize) -> Self {
        WorkerCounters {
            ports: (0..ports).map(|_| PortCells::default()).collect(),
            traps: Default::default(),
            trap_drops: Default::default(),
            drops: Default::default(),
        }
    }
    pub(crate) fn port(&self, port: PortId) -> Option<&PortCells> {
        self.ports.get(port.0 as usize)
    }
    /// A frame left by the wire of `port`, forwarded or from the kernel.
    pub fn tx(&self, port: PortId, bytes: usize) {
        if let Some(p) = self.port(port) {
            p.tx.add(1, bytes as u64);
        }
    }
    /// The kernel gave a frame for `port` (besides [`WorkerCounters::tx`] or [`WorkerCounters::dropped`]).
    pub fn from_host(&self, port: PortId, bytes: usize) {
        if let Some(p) = self.port(port) {
            p.from_host.add(1, bytes as u64);
        }
    }
    /// A frame that the pipeline trapped with `class` did not reach the kernel.
    pub fn trap_dropped(&self, port: PortId, class: TrapClass, why: DropReason, bytes: usize) {
        self.trap_drops[class as usize].add(1, bytes as u64);
        if let Some(p) = self.port(port) {
            p.lost.add(1, bytes as u64);
        }
        self.dropped(port, why, bytes);
    }
    /// A frame that came from `port` or was given by the kernel for it was dropped after the pipeline. A forwarded
    /// frame that its egress wire refuses counts at the egress port.
    pub fn dropped(&self, port: PortId, why: DropReason, bytes: usize) {
        self.drops[why as usize].add(1, bytes as u64);
        if let Some(p) = self.port(port) {
            p.dropped.add(1, bytes as u64);
        }
    }
    /// A GSO super-frame was segmented.
    pub fn gso(&self, port: PortId) {
        if let Some(p) = self.port(port) {
            p.gso.add(1);
        }
    }
    /// A partial checksum was completed.
    pub fn csum(&self, port: PortId) {
        if let Some(p) = self.port(port) {
            p.csum.add(1);
        }
    }
}

/// All workers' counters.
#[derive(Clone, Debug, Default)]
pub(crate) struct AllCounters(Arc<Mutex<Vec<Arc<WorkerCounters>>>>);

impl AllCounters {
    pub(crate) fn worker(&self, ports: usize) -> Arc<WorkerCounters> {
        let w = Arc::new(WorkerCounters::new(ports));
        // A worker's figures stay when it ends.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(w.clone());
        w
    }

    pub(crate) fn sum(&self, ports: usize) -> Counters {
        let mut all = vec![(PortCounters::default(), Count::default()); ports];
        let mut traps = [Count::default(); TrapClass::COUNT];
        let mut trap_drops = traps;
        let mut drops = [Count::default(); DropReason::COUNT];
        for w in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for ((to, lost), c) in all.iter_mut().zip(&w.ports) {
                c.rx.sum(&mut to.rx);
                c.tx.sum(&mut to.tx);
                c.forwarded.sum(&mut to.forwarded);
                c.trapped.sum(&mut to.trapped);
                c.lost.sum(lost);
                c.from_host.sum(&mut to.from_host);
                c.dropped.sum(&mut to.dropped);
                to.gso += c.gso.get();
                to.csum += c.csum.get();
            }
            for (to, c) in traps.iter_mut().zip(&w.traps) {
                c.sum(to);
            }
            for (to, c) in trap_drops.iter_mut().zip(&w.trap_drops) {
                c.sum(to);
            }
            for (to, c) in drops.iter_mut().zip(&w.drops) {
                c.sum(to);
            }
        }
        for (p, lost) in &mut all {
            p.trapped = less(p.trapped, *lost);
        }
        Counters {
            ports: all.into_iter().enumerate().map(|(i, (p, _))| (PortId(i as u32), p)).collect(),
            traps: TrapClass::ALL.iter().zip(traps).zip(trap_drops).map(|((c, t), d)| (*c, less(t, d))).collect(),
            trap_drops: TrapClass::ALL.iter().copied().zip(trap_drops).collect(),
            drops: DropReason::ALL.iter().copied().zip(drops).collect(),
        }
    }
}

/// Saturating, since a worker may count between two reads.
fn less(a: Count, b: Count) -> Count {
    Count { frames: a.frames.saturating_sub(b.frames), bytes: a.bytes.saturating_sub(b.bytes) }
}
