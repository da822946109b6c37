//! Room for one batch of received frames: slots that a wire or a TAP reads into, and parts that super-frames are cut into.
//!
//! Made once per worker; a batch allocates nothing. Who reads and who looks at the frames is not known here.

use hal::PortId;

use crate::stage::{Packet, ROOM};

/// Frames read at once.
pub const SLOTS: usize = 32;
/// Bytes in front of a frame, for a restored VLAN tag and for those that the pipeline pushes.
pub const HEADROOM: usize = (4 + ROOM).next_multiple_of(16);
/// Longest frame on a wire: an IP packet of 65,535, its Ethernet header and tags.
pub const FRAME: usize = (65_536 + 64_usize).next_multiple_of(64);
/// Bytes of a frame that a slot takes: a super-frame as long as the kernel makes them (`GSO_MAX_SIZE`). Touched when used.
pub const SLOT: usize = (8 * 65_535 + 64_usize).next_multiple_of(64);
const STRIDE: usize = HEADROOM + SLOT;

#[derive(Clone, Copy, Debug)]
struct Frame {
    part: bool,
    at: u32,
    len: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Pool {
    slots: Box<[u8]>,
    parts: Vec<u8>,
    frames: Vec<Frame>,
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Pool {
    /// An empty one.
    pub fn new() -> Pool {
        let frames = Vec::with_capacity(4 * SLOTS);
        Pool { slots: vec![0; SLOTS * STRIDE].into(), parts: Vec::with_capacity(FRAME), frames }
    }

    /// Forget all frames.
    pub fn clear(&mut self) {
        self.parts.clear();
        self.frames.clear();
    }

    /// Frames in it.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether no frame is in it.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The room of slot `i` (below [`SLOTS`]), without headroom.
    pub fn slot(&mut self, i: usize) -> &mut [u8] {
        &mut self.slots[i * STRIDE + HEADROOM..(i + 1) * STRIDE]
    }

    /// The frame in slot `i` is `len` bytes. `i` ascends over a batch.
    pub fn keep(&mut self, i: usize, len: usize) {
        self.frames.push(Frame { part: false, at: (i * STRIDE + HEADROOM) as u32, len: len as u32 });
    }

    /// As [`Pool::keep`], with a stripped tag (TPID and TCI) put back behind the MAC addresses.
    pub fn keep_tagged(&mut self, i: usize, len: usize, tag: [u8; 4]) {
        let at = i * STRIDE + HEADROOM;
        self.slots.copy_within(at..at + 12, at - 4);
        self.slots[at + 8..at + 12].copy_from_slice(&tag);
        self.frames.push(Frame { part: false, at: (at - 4) as u32, len: len as u32 + 4 });
    }

    /// The frame in slot `i` of `len` bytes, and where its parts go.
    pub fn cut(&mut self, i: usize, len: usize) -> (&[u8], Parts<'_>) {
        let at = i * STRIDE + HEADROOM;
        (&self.slots[at..at + len], Parts { bytes: &mut self.parts, frames: &mut self.frames })
    }

    /// All frames as packets of `port`, in the order in which they came.
    pub fn packets(&mut self, port: PortId) -> Vec<Packet<'_>> {
        let (mut slots, mut parts) = (&mut self.slots[..], &mut self.parts[..]);
        let (mut slots_at, mut parts_at) = (0, 0);
        let mut out = Vec::with_capacity(self.frames.len());
        for f in &self.frames {
            let (area, base) = if f.part { (&mut parts, &mut parts_at) } else { (&mut slots, &mut slots_at) };
            // Frames ascend within their area, so each is cut off the front of what is left of it.
            let (_, rest) = core::mem::take(area).split_at_mut(f.at as usize - ROOM - *base);
            let (room, rest) = rest.split_at_mut(ROOM + f.len as usize);
            *area = rest;
            *base = (f.at + f.len) as usize;
            out.push(Packet::new(port, room));
        }
        out
    }

    /// All frames, in the order in which they came.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.frames.iter().map(|f| {
            let area: &[u8] = if f.part { &self.parts } else { &self.slots };
            &area[f.at as usize..(f.at + f.len) as usize]
        })
    }
}

/// Where the parts of a super-frame go.
#[derive(Debug)]
pub struct Parts<'a> {
    bytes: &'a mut Vec<u8>,
    frames: &'a mut Vec<Frame>,
}

impl Parts<'_> {
    /// Append a frame made of these pieces, and give it back to be completed.
    pub fn push(&mut self, pieces: &[&[u8]]) -> &mut [u8] {
        self.bytes.extend_from_slice(&[0; ROOM]);
        let at = self.bytes.len();
        for p in pieces {
            self.bytes.extend_from_slice(p);
        }
        self.frames.push(Frame { part: true, at: at as u32, len: (self.bytes.len() - at) as u32 });
        &mut self.bytes[at..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_tags() {
        let mut p = Pool::new();
        for i in 0..4 {
            p.slot(i)[..20].copy_from_slice(&[i as u8; 20]);
        }
        p.keep(0, 20);
        let (frame, mut parts) = p.cut(1, 20);
        let frame = frame.to_vec();
        parts.push(&[&frame, &[9]]);
        parts.push(&[&frame, &[8]]);
        p.keep_tagged(2, 20, [0x81, 0, 0, 5]);
        p.keep(3, 20);
        let want = [
            vec![0; 20],
            [&[1; 20][..], &[9]].concat(),
            [&[1; 20][..], &[8]].concat(),
            [&[2; 12][..], &[0x81, 0, 0, 5], &[2; 8]].concat(),
            vec![3; 20],
        ];
        assert!(p.frames().eq(want.iter().map(|w| &w[..])));
        let got: Vec<Vec<u8>> = p.packets(PortId(1)).iter().map(|p| p.frame().to_vec()).collect();
        assert_eq!(got, want);
    }
}
