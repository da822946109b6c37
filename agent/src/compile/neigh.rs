//! The `neigh4` and `neigh6` tables: kernel neighbours on ports that the kernel itself would send to.

use hal::NeighEntry;

use super::{Facts, Why};
use crate::mirror::Neigh;

/// `NUD_*` (`linux/neighbour.h`).
pub mod nud {
    /// `NUD_INCOMPLETE`
    pub const INCOMPLETE: u16 = 0x01;
    /// `NUD_REACHABLE`
    pub const REACHABLE: u16 = 0x02;
    /// `NUD_STALE`
    pub const STALE: u16 = 0x04;
    /// `NUD_DELAY`
    pub const DELAY: u16 = 0x08;
    /// `NUD_PROBE`
    pub const PROBE: u16 = 0x10;
    /// `NUD_FAILED`
    pub const FAILED: u16 = 0x20;
    /// `NUD_NOARP`
    pub const NOARP: u16 = 0x40;
    /// `NUD_PERMANENT`
    pub const PERMANENT: u16 = 0x80;
    /// The states in which the kernel sends to the neighbour (kernel-facts 16).
    pub const USABLE: u16 = REACHABLE | STALE | DELAY | PROBE | NOARP | PERMANENT;
}

/// `NTF_PROXY` (`linux/neighbour.h`)
const NTF_PROXY: u8 = 0x08;

/// What the chip should hold for a neighbour on the device of that index.
pub fn neigh(f: &Facts<'_>, ifindex: u32, n: &Neigh) -> Result<NeighEntry, Why> {
    if !f.ports.has(ifindex) {
        return Err(Why::NotPort(ifindex));
    }
    if n.flags & NTF_PROXY != 0 {
        return Err(Why::Proxy);
    }
    if n.state & nud::USABLE == 0 {
        return Err(Why::Unresolved);
    }
    match n.mac {
        Some(mac) if mac.is_unicast() => Ok(NeighEntry { mac }),
        _ => Err(Why::NoUnicastMac),
    }
}
