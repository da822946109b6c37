//! The forwarding pipeline: parse, check, look up, rewrite. Pure: a batch of frames in, a verdict for each out.
//!
//! Reading frames, sending them, policing traps and talking to the kernel is `worker`'s.

use std::sync::Arc;

use hal::{DropReason, PortId, TrapClass};

use crate::counters::WorkerCounters;

/// What is to be done with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Send the first `len` bytes of the (rewritten) buffer out of the wire of `port`.
    Forward {
        /// Where to.
        port: PortId,
        /// How much of the buffer: padding behind the IP packet is cut off.
        len: u32,
    },
    /// Give the frame, which is as it was received, to the kernel through its ingress port's netdev.
    Trap(TrapClass),
    /// Forget it; counted.
    Drop(DropReason),
}

/// One received frame, from the Ethernet header on, without checksum.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The port that it came in by.
    pub port: PortId,
    /// The frame; changed only where the verdict is [`Verdict::Forward`].
    pub frame: &'a mut [u8],
    /// Set by the pipeline.
    pub verdict: Verdict,
}

/// Length of an Ethernet header without tags.
const ETH: usize = 14;

/// A reader of the chip's tables that decides on frames; one for each worker thread.
#[derive(Debug)]
pub struct Pipeline {
    counters: Arc<WorkerCounters>,
}

impl Pipeline {
    pub(crate) fn new(counters: Arc<WorkerCounters>) -> Self {
        Pipeline { counters }
    }
    /// Where this worker counts; the pipeline's verdicts are already in it.
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }
    /// Decide on each frame and rewrite those that are forwarded.
    pub fn run(&mut self, batch: &mut [Packet<'_>]) {
        for p in batch {
            let bytes = p.frame.len() as u64;
            p.verdict = match p.frame.len() {
                ..ETH => Verdict::Drop(DropReason::Runt),
                _ => Verdict::Trap(TrapClass::NoRif),
            };
            let Some(port) = self.counters.port(p.port) else { continue };
            port.rx.add(1, bytes);
            match p.verdict {
                Verdict::Forward { .. } => port.forwarded.add(1, bytes),
                Verdict::Trap(c) => {
                    port.trapped.add(1, bytes);
                    self.counters.traps[c as usize].add(1, bytes);
                }
                Verdict::Drop(r) => {
                    port.dropped.add(1, bytes);
                    self.counters.drops[r as usize].add(1, bytes);
                }
            }
        }
    }
}
