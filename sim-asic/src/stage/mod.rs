//! The forwarding pipeline: parse, check, look up, rewrite. Pure: a batch of frames in, a verdict for each out.
//!
//! Each step is a file; this one runs them over a batch, step by step, so that the memory accesses of many frames overlap.
//! Reading frames, sending them, policing traps and talking to the kernel is `worker`'s.

mod bridge;
mod decide;
mod dissect;
mod hash;
pub(crate) mod parse;
mod resolve;
mod rewrite;
pub(crate) mod sample;
mod select;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use hal::{DropReason, Mac, PortId, TableId, TrapClass};

use crate::counters::{PortCells, WorkerCounters};
use crate::sync::Reader;
use crate::table::bridge::Bridged;
use crate::table::takers::{Claim, TagWord};
use crate::table::{Leaf, NODE, Rif, Tables, lpm6};
use crate::trace::{Note, Raw};
use bridge::Came;
pub use bridge::Copy;
use parse::{Family, Head};
use resolve::Way;
use sample::Ring;

/// What is to be done with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Send the (rewritten) frame out of the wire of `port`.
    Forward {
        /// Where to.
        port: PortId,
        /// By how many bytes of VLAN tags it grew at its front; below 0: shrank.
        grown: i8,
        /// Its bytes now: padding behind the IP packet is cut off.
        len: u32,
    },
    /// Send it by several ports: those of [`Pipeline::copies`] from `first` on. It is as the first of them gets it; those that get it
    /// without tag come after those that get it tagged ([`Packet::untag`]).
    Flood {
        /// The first.
        first: u32,
        /// How many.
        copies: u16,
        /// As of [`Verdict::Forward`].
        grown: i8,
        /// As of [`Verdict::Forward`].
        len: u32,
    },
    /// Give the frame, which is as it was received, to the kernel through its ingress port's netdev.
    Trap(TrapClass),
    /// Forget it; counted.
    Drop(DropReason),
}

/// Bytes in front of a frame in the buffer that it is in: for the tags that it may get.
pub const ROOM: usize = 8;

/// One received frame, from the Ethernet header on, without checksum.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The port that it came in by.
    pub port: PortId,
    /// [`ROOM`], then the frame.
    buf: &'a mut [u8],
    /// Set by the pipeline.
    pub verdict: Verdict,
}

/// A frame in a buffer of its own, with [`ROOM`] before it.
pub fn with_room(frame: &[u8]) -> Vec<u8> {
    [&[0; ROOM], frame].concat()
}

impl<'a> Packet<'a> {
    /// A frame that came in by that port: what is in `buf` behind its first [`ROOM`] bytes.
    pub fn new(port: PortId, buf: &'a mut [u8]) -> Self {
        Packet { port, buf, verdict: Verdict::Drop(DropReason::Runt) }
    }
    /// The frame as it was received; of one whose verdict is [`Verdict::Forward`] what is left of it.
    #[inline(always)]
    pub fn frame(&self) -> &[u8] {
        self.buf.get(ROOM..).unwrap_or_default()
    }
    /// Bytes of the frame as it was received.
    #[inline(always)]
    fn len(&self) -> usize {
        self.buf.len().saturating_sub(ROOM)
    }
    /// What the first ports of a flooded frame get.
    pub fn flooded(&self) -> &[u8] {
        let Verdict::Flood { grown, len, .. } = self.verdict else { return &[] };
        sent(self.buf, grown, len)
    }
    /// A flooded frame that bears a tag loses it.
    pub fn untag(&mut self) {
        if let Verdict::Flood { grown, len, .. } = &mut self.verdict {
            bridge::strip(self.buf, ROOM.saturating_add_signed(-isize::from(*grown)));
            *grown -= 4;
            *len = len.saturating_sub(4);
        }
    }
    /// What is to be sent, and where.
    #[inline(always)]
    pub fn sent(&self) -> Option<(PortId, &[u8])> {
        self.verdict.sent(self.buf)
    }
}

impl Verdict {
    /// What of the buffer (room and frame) is to be sent, and where.
    #[inline(always)]
    fn sent(self, buf: &[u8]) -> Option<(PortId, &[u8])> {
        let Verdict::Forward { port, grown, len } = self else { return None };
        Some((port, sent(buf, grown, len)))
    }
}

/// What of a buffer is to be sent.
#[inline(always)]
fn sent(buf: &[u8], grown: i8, len: u32) -> &[u8] {
    let from = ROOM.saturating_add_signed(-isize::from(grown));
    buf.get(from..).and_then(|b| b.get(..len as usize)).unwrap_or_default()
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
    scratch: Box<Scratch>,
    copies: Vec<Copy>,
}

/// What is known of the frames of a chunk from one step to the next. Kept, so that no chunk has to clear it; a step reads
/// of a frame only what an earlier one wrote for that chunk.
#[derive(Debug)]
struct Scratch {
    heads: [Head; CHUNK],
    todo4: [u8; CHUNK],
    todo6: [u8; CHUNK],
    live: [u8; CHUNK],
    /// Where the lookups start; of IPv6 then the cells that they have come to.
    dst: [u32; CHUNK],
    src: [u32; CHUNK],
    /// What is left of IPv6 destinations.
    rest: [u128; CHUNK],
}

/// The port that frames come in by, looked up once for all that follow each other.
#[derive(Clone, Copy)]
struct Ingress {
    port: PortId,
    /// The first interface for its untagged frames.
    rif: Option<(u32, Rif)>,
    /// The interface that another frame was found to belong to.
    other: Option<(Claim, u32, Rif)>,
    bridge: Bridge,
}

/// What an ingress port is to bridges.
#[derive(Clone, Copy)]
enum Bridge {
    No,
    Port(Came),
    /// Of two, or of one that is not there.
    Unclear,
}

impl Ingress {
    fn of(t: &Tables, port: PortId) -> Self {
        let bridge = match t.bridges.of(port) {
            Bridged::No => Bridge::No,
            Bridged::As(index) => match t.bridges.port(index) {
                Some(port) => Bridge::Port(Came { index, port }),
                None => Bridge::Unclear,
            },
            Bridged::Disputed => Bridge::Unclear,
        };
        Ingress { port, rif: t.rif_of(port).and_then(|i| Some((i, t.rif(i)?))), other: None, bridge }
    }
    /// The interface that takes frames to that MAC with these tags.
    #[inline]
    fn other(&mut self, t: &Tables, tags: TagWord, mac: [u8; 6]) -> Option<(u32, Rif)> {
        let claim = Claim { port: self.port, tags, mac: Mac(mac) };
        if let Some((_, i, rif)) = self.other.filter(|(c, ..)| *c == claim) {
            return Some((i, rif));
        }
        let (i, rif) = t.taker(&claim)?;
        self.other = Some((claim, i, rif));
        Some((i, rif))
    }
}

/// A frame's way to the lookups of routes, or its verdict.
#[inline(always)]
fn entry(
    t: &Tables,
    ingress: &mut Ingress,
    buf: &mut [u8],
    copies: &mut Vec<Copy>,
    head: &mut Head,
    note: &mut impl Note,
) -> Result<(), Verdict> {
    match &ingress.bridge {
        Bridge::No => parse::frame(t, ingress, buf, head, note),
        Bridge::Port(came) => {
            *head = bridge::frame(t, came, buf, copies, note)?;
            Ok(())
        }
        Bridge::Unclear => trap(TrapClass::Dangling, note),
    }
}

impl Pipeline {
    pub(crate) fn new(tables: Arc<Tables>, reader: Reader, counters: Arc<WorkerCounters>, samples: Arc<Ring>) -> Self {
        let scratch = Scratch {
            heads: [Head::default(); CHUNK],
            todo4: [0; CHUNK],
            todo6: [0; CHUNK],
            live: [0; CHUNK],
            dst: [0; CHUNK],
            src: [0; CHUNK],
            rest: [0; CHUNK],
        };
        Pipeline { tables, reader, counters, samples, scratch: Box::new(scratch), copies: Vec::new() }
    }
    /// Where this worker counts; the pipeline's verdicts are already in it.
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }
    /// What frames of the last batch are sent by several ports.
    pub fn copies(&self) -> &[Copy] {
        &self.copies
    }
    /// Decide on each frame and rewrite those that are forwarded.
    pub fn run(&mut self, batch: &mut [Packet<'_>]) {
        self.copies.clear();
        for chunk in batch.chunks_mut(CHUNK) {
            let pin = self.reader.pin();
            let sample = chunk_verdicts(&self.tables, &mut self.scratch, chunk, &mut self.copies);
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
            let (mut bytes, mut trapped, mut dropped) = (0, [0; 2], [0; 2]);
            let add = |to: &mut [u64; 2], bytes| {
                to[0] += 1;
                to[1] += bytes;
            };
            for p in run {
                let len = p.len() as u64;
                bytes += len;
                match p.verdict {
                    Verdict::Forward { .. } | Verdict::Flood { .. } => {}
                    Verdict::Trap(class) => {
                        add(&mut trapped, len);
                        c.traps[class as usize].add(1, len);
                    }
                    Verdict::Drop(why) => {
                        add(&mut dropped, len);
                        c.drops[why as usize].add(1, len);
                    }
                }
            }
            let rx = [run.len() as u64, bytes];
            // What is neither trapped nor dropped.
            let fwd = [rx[0] - trapped[0] - dropped[0], rx[1] - trapped[1] - dropped[1]];
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

/// Look one frame up as [`Pipeline::run`] does, and say why. The frame becomes what is sent, if it is forwarded; nothing is counted.
pub(crate) fn explain(t: &Tables, reader: &Reader, port: PortId, frame: &mut Vec<u8>, steps: &mut Vec<Raw>) -> Verdict {
    let _pin = reader.pin();
    let mut buf = with_room(frame);
    let mut h = Head::default();
    let v = match entry(t, &mut Ingress::of(t, port), &mut buf, &mut Vec::new(), &mut h, steps) {
        Err(v) => v,
        Ok(()) => {
            if let Some(lists) = t.rules.get() {
                select::select(&lists, &mut h, &buf, steps);
            }
            let (dst, src) = match h.family {
                Family::V4 => (t.routes4.lookup(h.to, h.dst4), t.routes4.lookup(h.vrf, h.src4)),
                Family::V6 => (t.routes6.lookup(h.to, parse::dst6(&h, &buf)), Leaf::NONE),
            };
            decide::forward(t, &h, dst, src, &mut buf, &mut Way::default(), steps)
        }
    };
    if let Some((_, sent)) = v.sent(&buf) {
        *frame = sent.to_vec();
    }
    v
}

/// The verdicts of up to [`CHUNK`] frames. Returns one destination that was forwarded.
fn chunk_verdicts(
    t: &Tables,
    s: &mut Scratch,
    chunk: &mut [Packet<'_>],
    copies: &mut Vec<Copy>,
) -> Option<(TableId, u32, u128)> {
    let Scratch { heads, todo4, todo6, live, dst, src, rest } = s;
    let (mut n4, mut n6) = (0, 0);
    let mut ingress = Ingress::of(t, chunk.first()?.port);
    let rules = t.rules.get();
    bridge::prefetch(t, chunk);
    for (i, (p, h)) in chunk.iter_mut().zip(heads.iter_mut()).enumerate() {
        if p.port != ingress.port {
            ingress = Ingress::of(t, p.port);
        }
        match entry(t, &mut ingress, p.buf, copies, h, &mut ()) {
            Err(v) => p.verdict = v,
            Ok(()) => {
                if let Some(lists) = &rules {
                    select::select(lists, h, p.buf, &mut ());
                }
                match h.family {
                    Family::V4 => {
                        dst[i] = t.routes4.start(h.to, h.dst4);
                        src[i] = t.routes4.start(h.vrf, h.src4);
                    }
                    Family::V6 => dst[i] = t.routes6.start(h.to, parse::dst6(h, p.buf)),
                }
                // Without a branch that no one could foretell.
                let six = usize::from(h.family == Family::V6);
                todo4[n4] = i as u8;
                todo6[n6] = i as u8;
                n4 += 1 - six;
                n6 += six;
            }
        }
    }
    // The last frame that was forwarded.
    let mut last = None;
    let mut way = Way::default();
    for &i in &todo4[..n4] {
        let i = usize::from(i);
        let h = &heads[i];
        let d = t.routes4.finish(h.to, h.dst4, dst[i]);
        let s = t.routes4.finish(h.vrf, h.src4, src[i]);
        chunk[i].verdict = decide::forward(t, h, d, s, chunk[i].buf, &mut way, &mut ());
        if matches!(chunk[i].verdict, Verdict::Forward { .. }) {
            last = Some(i);
        }
    }
    let sample = last.map(|i| (TableId::Route4, heads[i].to, u128::from(heads[i].dst4)));
    if n6 == 0 {
        return sample;
    }
    let todo6 = &todo6[..n6];
    for &i in todo6 {
        let i = usize::from(i);
        (dst[i], rest[i]) = t.routes6.root_cell(heads[i].to, parse::dst6(&heads[i], chunk[i].buf), dst[i]);
    }
    // Level by level, each over all that were not at their leaf before.
    live[..n6].copy_from_slice(todo6);
    let mut n = n6;
    for _ in 0..lpm6::STEPS {
        let mut left = 0;
        for k in 0..n {
            let i = live[k];
            let at = usize::from(i);
            if dst[at] & NODE != 0 {
                (dst[at], rest[at]) = t.routes6.step(dst[at], rest[at]);
                live[left] = i;
                left += 1;
            }
        }
        n = left;
        if n == 0 {
            break;
        }
    }
    (last, way) = (None, Way::default());
    for &i in todo6 {
        let i = usize::from(i);
        let h = &heads[i];
        let d = t.routes6.end(h.to, || parse::dst6(h, chunk[i].buf), dst[i]);
        chunk[i].verdict = decide::forward(t, h, d, Leaf::NONE, chunk[i].buf, &mut way, &mut ());
        if matches!(chunk[i].verdict, Verdict::Forward { .. }) {
            last = Some(i);
        }
    }
    sample.or_else(|| last.map(|i| (TableId::Route6, heads[i].to, parse::dst6(&heads[i], chunk[i].buf))))
}

/// A verdict that gives the frame to the kernel.
pub(crate) fn trap<T>(c: TrapClass, note: &mut impl Note) -> Result<T, Verdict> {
    note.note(|| Raw::Trap(c));
    Err(Verdict::Trap(c))
}
