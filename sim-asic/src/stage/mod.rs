//! The forwarding pipeline: parse, check, look up, rewrite. Pure: a batch of frames in, a verdict for each out.
//!
//! Reading frames, sending them, policing traps and talking to the kernel is `worker`'s.

use hal::{DropReason, PortId, TrapClass};

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
