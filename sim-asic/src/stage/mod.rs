//! The forwarding pipeline: parse, check, look up, rewrite. Pure: a batch of frames in, a verdict for each out.
//!
//! Each step is a file; this one runs them over a batch, step by step, so that the memory accesses of many frames overlap.
//! Reading frames, sending them, policing traps and talking to the kernel is `worker`'s.

mod decide;
mod hash;
pub(crate) mod parse;
mod resolve;
mod rewrite;
pub(crate) mod sample;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use hal::{DropReason, PortId, TableId, TrapClass};

use crate::counters::{PortCells, WorkerCounters};
use crate::sync::Reader;
use crate::table::{Leaf, NODE, Rif, Tables};
use crate::trace::{Note, Raw};
use parse::{Family, Head};
use sample::Ring;

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

/// Frames that go through a step together.
const CHUNK: usize = 64;

/// A reader of the chip's tables that decides on frames; one for each worker thread. It works while tables change.
#[derive(Debug)]
pub struct Pipeline {
    tables: Arc<Tables>,
    reader: Reader,
    counters: Arc<WorkerCounters>,
    samples: Arc<Ring>,
}

/// The port that frames come in by, looked up once for all that follow each other.
#[derive(Clone, Copy)]
struct Ingress {
    port: PortId,
    rif: Option<(u32, Rif)>,
}

impl Ingress {
    fn of(t: &Tables, port: PortId) -> Self {
        Ingress { port, rif: t.rif_of(port).and_then(|i| Some((i, t.rif(i)?))) }
    }
}

impl Pipeline {
    pub(crate) fn new(tables: Arc<Tables>, reader: Reader, counters: Arc<WorkerCounters>, samples: Arc<Ring>) -> Self {
        Pipeline { tables, reader, counters, samples }
    }
    /// Where this worker counts; the pipeline's verdicts are already in it.
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }
    /// Decide on each frame and rewrite those that are forwarded.
    pub fn run(&mut self, batch: &mut [Packet<'_>]) {
        for chunk in batch.chunks_mut(CHUNK) {
            let pin = self.reader.pin();
            let sample = chunk_verdicts(&self.tables, chunk);
            drop(pin);
            if let Some((table, vrf, addr)) = sample {
                self.samples.push(table, vrf, addr);
            }
            self.count(chunk);
        }
    }

    fn count(&self, chunk: &[Packet<'_>]) {
        let c = &*self.counters;
        for run in chunk.chunk_by(|a, b| a.port == b.port) {
            let (mut rx, mut fwd, mut trapped, mut dropped) = ([0; 2], [0; 2], [0; 2], [0; 2]);
            let add = |to: &mut [u64; 2], bytes| {
                to[0] += 1;
                to[1] += bytes;
            };
            for p in run {
                let bytes = p.frame.len() as u64;
                add(&mut rx, bytes);
                match p.verdict {
                    Verdict::Forward { .. } => add(&mut fwd, bytes),
                    Verdict::Trap(class) => {
                        add(&mut trapped, bytes);
                        c.traps[class as usize].add(1, bytes);
                    }
                    Verdict::Drop(why) => {
                        add(&mut dropped, bytes);
                        c.drops[why as usize].add(1, bytes);
                    }
                }
            }
            if let Some(PortCells { rx: r, forwarded: f, trapped: t, dropped: d, .. }) =
                run.first().and_then(|p| c.port(p.port))
            {
                for (cell, [frames, bytes]) in [(r, rx), (f, fwd), (t, trapped), (d, dropped)] {
                    if frames > 0 {
                        cell.add(frames, bytes);
                    }
                }
            }
        }
    }
}

/// Look one frame up as [`Pipeline::run`] does, and say why. The frame is rewritten if forwarded; nothing is counted.
pub(crate) fn explain(t: &Tables, reader: &Reader, port: PortId, frame: &mut [u8], steps: &mut Vec<Raw>) -> Verdict {
    let _pin = reader.pin();
    let ingress = Ingress::of(t, port);
    match parse::frame(t.frame, ingress.rif.as_ref(), frame, steps) {
        Err(v) => v,
        Ok(h) => {
            let (dst, src) = match h.family {
                Family::V4 => (t.routes4.lookup(h.vrf, h.dst4), t.routes4.lookup(h.vrf, h.src4)),
                Family::V6 => (t.routes6.lookup(h.vrf, parse::dst6(frame)), Leaf::NONE),
            };
            decide::forward(t, &h, dst, src, frame, steps)
        }
    }
}

/// The verdicts of up to [`CHUNK`] frames. Returns one destination that was forwarded.
fn chunk_verdicts(t: &Tables, chunk: &mut [Packet<'_>]) -> Option<(TableId, u32, u128)> {
    let mut heads = [Head::default(); CHUNK];
    let (mut todo4, mut n4) = ([0u8; CHUNK], 0);
    let (mut todo6, mut n6) = ([0u8; CHUNK], 0);
    let mut ingress = Ingress::of(t, chunk.first()?.port);
    for (i, (p, h)) in chunk.iter_mut().zip(&mut heads).enumerate() {
        if p.port != ingress.port {
            ingress = Ingress::of(t, p.port);
        }
        match parse::frame(t.frame, ingress.rif.as_ref(), p.frame, &mut ()) {
            Err(v) => p.verdict = v,
            Ok(head) => {
                *h = head;
                let (todo, n) = if head.family == Family::V4 { (&mut todo4, &mut n4) } else { (&mut todo6, &mut n6) };
                todo[*n] = i as u8;
                *n += 1;
            }
        }
    }
    let todo4 = &todo4[..n4];
    let todo6 = &todo6[..n6];
    // Loads only, so that many are under way at once.
    let (mut dst, mut src) = ([0u32; CHUNK], [0u32; CHUNK]);
    for &i in todo4 {
        let (i, h) = (usize::from(i), &heads[usize::from(i)]);
        dst[i] = t.routes4.start(h.vrf, h.dst4);
        src[i] = t.routes4.start(h.vrf, h.src4);
    }
    if !todo6.is_empty() {
        let mut addrs = [0u128; CHUNK];
        for &i in todo6 {
            let i = usize::from(i);
            addrs[i] = parse::dst6(chunk[i].frame);
            dst[i] = t.routes6.start(heads[i].vrf, addrs[i]);
        }
        for depth in (16..=120).step_by(8) {
            let mut deeper = false;
            for &i in todo6 {
                let i = usize::from(i);
                if dst[i] & NODE != 0 {
                    dst[i] = t.routes6.step(dst[i], addrs[i], depth);
                    deeper |= dst[i] & NODE != 0;
                }
            }
            if !deeper {
                break;
            }
        }
    }
    let mut sample = None;
    for &i in todo4 {
        let i = usize::from(i);
        let h = &heads[i];
        let d = t.routes4.finish(h.vrf, h.dst4, dst[i]);
        let s = t.routes4.finish(h.vrf, h.src4, src[i]);
        chunk[i].verdict = decide::forward(t, h, d, s, chunk[i].frame, &mut ());
        if matches!(chunk[i].verdict, Verdict::Forward { .. }) {
            sample = Some((TableId::Route4, h.vrf, u128::from(h.dst4)));
        }
    }
    for &i in todo6 {
        let i = usize::from(i);
        let h = &heads[i];
        let d = t.routes6.end(h.vrf, dst[i]);
        chunk[i].verdict = decide::forward(t, h, d, Leaf::NONE, chunk[i].frame, &mut ());
        if matches!(chunk[i].verdict, Verdict::Forward { .. }) && sample.is_none() {
            sample = Some((TableId::Route6, h.vrf, parse::dst6(chunk[i].frame)));
        }
    }
    sample
}

/// A verdict that gives the frame to the kernel.
pub(crate) fn trap<T>(c: TrapClass, note: &mut impl Note) -> Result<T, Verdict> {
    note.note(|| Raw::Trap(c));
    Err(Verdict::Trap(c))
}
