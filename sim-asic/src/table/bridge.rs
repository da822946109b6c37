//! Bridges as readers see them: FIDs, their ports, who is a member of what, and the stations.
//!
//! Members of a FID are bits in words of their own: each bit counts by itself, so that no reader needs all of them at one time. What a
//! frame's fields are is `stage::bridge`'s.

use hal::{Mac, PortId, Profile, StpState};

use super::fdb::Fdb;
use super::indices;
use crate::sync::{Epochs, Records, Words32, Words64};

/// VIDs of a bridge port.
const VIDS: usize = 4096;

/// A FID, as a word: 0 for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fid(u32);

impl Fid {
    const PRESENT: u32 = 1 << 31;
    const UNKNOWN: u32 = 1 << 30;
    const BROADCAST: u32 = 1 << 29;
    const MULTICAST: u32 = 1 << 28;

    pub(crate) fn new(e: &hal::FidEntry, tag: u32) -> Fid {
        let flag = |on, bit| if on { bit } else { 0 };
        Fid(Self::PRESENT
            | flag(e.unknown, Self::UNKNOWN)
            | flag(e.broadcast, Self::BROADCAST)
            | flag(e.multicast, Self::MULTICAST)
            | tag & 0xffff)
    }
    /// Its tag, as [`super::takers::TagWord`] has it; 0: none.
    #[inline(always)]
    pub(crate) fn tag(self) -> u32 {
        self.0 & 0xffff
    }
    #[inline(always)]
    pub(crate) fn floods(self, what: Flooded) -> bool {
        self.0
            & match what {
                Flooded::Unknown => Self::UNKNOWN,
                Flooded::Broadcast => Self::BROADCAST,
                Flooded::Multicast => Self::MULTICAST,
            }
            != 0
    }
}

/// What is flooded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flooded {
    Unknown,
    Broadcast,
    Multicast,
}

/// A bridge port, as its words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BridgePort([u64; 2]);

macro_rules! flags {
    ($($bit:literal $name:ident $method:ident;)*) => {
        impl BridgePort {
            $(
                const $name: u64 = 1 << $bit;
                #[inline(always)]
                pub(crate) fn $method(&self) -> bool {
                    self.0[0] & Self::$name != 0
                }
            )*
        }
    };
}

flags! {
    1 INGRESS ingress;
    2 EGRESS egress;
    3 LEARNING learning;
    4 ISOLATED isolated;
    5 HAIRPIN hairpin;
    6 AWARE aware;
    7 AD ad;
    14 CONTROL control_learning;
}

impl BridgePort {
    const PRESENT: u64 = 1;
    const HAS_UNTAGGED: u64 = 1 << 13;

    pub(crate) fn new(e: &hal::BridgePortEntry, untagged: Option<u32>) -> BridgePort {
        let flag = |on, bit| if on { bit } else { 0 };
        let flags = Self::PRESENT
            | flag(e.ingress, Self::INGRESS)
            | flag(e.egress, Self::EGRESS)
            | flag(e.learning, Self::LEARNING)
            | flag(e.control_learning, Self::CONTROL)
            | flag(e.isolated, Self::ISOLATED)
            | flag(e.hairpin, Self::HAIRPIN)
            | flag(e.tpid.is_some(), Self::AWARE)
            | flag(e.tpid == Some(hal::Tpid::Dot1ad), Self::AD)
            | flag(e.unknown, Self::flood(Flooded::Unknown))
            | flag(e.broadcast, Self::flood(Flooded::Broadcast))
            | flag(e.multicast, Self::flood(Flooded::Multicast))
            | state_bits(e.state) << 11
            | flag(untagged.is_some(), Self::HAS_UNTAGGED)
            | u64::from(untagged.unwrap_or(0)) << 16;
        BridgePort([flags, u64::from(e.port.0) | u64::from(e.longest) << 32])
    }
    const fn flood(what: Flooded) -> u64 {
        1 << (8 + what as u32)
    }
    #[inline(always)]
    pub(crate) fn port(&self) -> PortId {
        PortId(self.0[1] as u32)
    }
    #[inline(always)]
    pub(crate) fn longest(&self) -> u32 {
        (self.0[1] >> 32) as u32
    }
    #[inline(always)]
    pub(crate) fn state(&self) -> StpState {
        bits_state(self.0[0] >> 11)
    }
    #[inline(always)]
    pub(crate) fn floods(&self, what: Flooded) -> bool {
        self.0[0] & Self::flood(what) != 0
    }
    /// Index of the FID of its untagged frames.
    #[inline(always)]
    pub(crate) fn untagged(&self) -> Option<u32> {
        (self.0[0] & Self::HAS_UNTAGGED != 0).then_some((self.0[0] >> 16) as u32 & 0xf_ffff)
    }
}

fn state_bits(s: StpState) -> u64 {
    match s {
        StpState::Blocking => 0,
        StpState::Learning => 1,
        StpState::Forwarding => 2,
    }
}

#[inline(always)]
fn bits_state(bits: u64) -> StpState {
    match bits & 3 {
        0 => StpState::Blocking,
        1 => StpState::Learning,
        _ => StpState::Forwarding,
    }
}

/// How a port is a member of a FID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Membership {
    pub(crate) tagged: bool,
    pub(crate) state: StpState,
}

/// What a front-panel port is to bridges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bridged {
    /// No port of any.
    No,
    /// That bridge port.
    As(u32),
    /// Two at once: nobody's.
    Disputed,
}

#[derive(Debug)]
pub(crate) struct Bridges {
    fids: Words32,
    ports: Records<2>,
    /// By front-panel port: bridge port plus one, 0: none, [`DISPUTED`].
    of: Words32,
    /// By bridge port and VID: FID plus one, and above it the state there; 0: no member.
    vlans: Words32,
    /// By FID and bridge port: a member that the tree lets forward, and one that gets frames tagged.
    forwards: Words64,
    tagged: Words64,
    /// Words of a FID in these.
    width: usize,
    pub(crate) fdb: Fdb,
}

const DISPUTED: u32 = u32::MAX;
const FID_BITS: u32 = 20;

impl Bridges {
    pub(crate) fn new(p: &Profile, ports: usize, seed: u64, epochs: &Epochs) -> Self {
        let (fids, own) = (indices(p.fids) as usize, indices(p.bridge_ports) as usize);
        let width = own.div_ceil(64);
        Bridges {
            fids: Words32::new(fids),
            ports: Records::new(own),
            of: Words32::new(ports),
            vlans: Words32::new(own * VIDS),
            forwards: Words64::new(fids * width),
            tagged: Words64::new(fids * width),
            width,
            fdb: Fdb::new(p.fdb, seed, epochs),
        }
    }
    #[inline(always)]
    pub(crate) fn fid(&self, i: u32) -> Option<Fid> {
        Some(Fid(self.fids.get(i as usize))).filter(|f| f.0 != 0)
    }
    pub(crate) fn set_fid(&self, i: u32, f: Option<Fid>) {
        self.fids.set(i as usize, f.map_or(0, |f| f.0));
    }
    #[inline(always)]
    pub(crate) fn port(&self, i: u32) -> Option<BridgePort> {
        self.ports.get(i as usize).filter(|w| w[0] != 0).map(BridgePort)
    }
    pub(crate) fn set_port(&self, i: u32, p: Option<BridgePort>) {
        self.ports.set(i as usize, p.map_or([0; 2], |p| p.0));
    }
    #[inline(always)]
    pub(crate) fn of(&self, port: PortId) -> Bridged {
        match self.of.get(port.0 as usize) {
            0 => Bridged::No,
            DISPUTED => Bridged::Disputed,
            n => Bridged::As(n - 1),
        }
    }
    pub(crate) fn set_of(&self, port: PortId, b: Bridged) {
        let word = match b {
            Bridged::No => 0,
            Bridged::As(n) => n + 1,
            Bridged::Disputed => DISPUTED,
        };
        self.of.set(port.0 as usize, word);
    }
    /// The FID of a bridge port's frames with that VID, and the state of the port in it.
    #[inline(always)]
    pub(crate) fn vlan(&self, port: u32, vid: u16) -> Option<(u32, StpState)> {
        let w = self.vlans.get(port as usize * VIDS + usize::from(vid & 0xfff));
        Some(((w & ((1 << FID_BITS) - 1)).checked_sub(1)?, bits_state(u64::from(w >> FID_BITS))))
    }
    pub(crate) fn set_vlan(&self, port: u32, vid: u16, to: Option<(u32, StpState)>) {
        let word = to.map_or(0, |(fid, state)| (fid + 1) | (state_bits(state) as u32) << FID_BITS);
        self.vlans.set(port as usize * VIDS + usize::from(vid & 0xfff), word);
    }
    fn bit(&self, fid: u32, port: u32) -> (usize, u64) {
        (fid as usize * self.width + port as usize / 64, 1 << (port % 64))
    }
    pub(crate) fn set_member(&self, fid: u32, port: u32, m: Option<Membership>) {
        let (at, bit) = self.bit(fid, port);
        let put =
            |words: &Words64, on: bool| words.set(at, if on { words.get(at) | bit } else { words.get(at) & !bit });
        // Never forwards without its tag.
        let forwards = m.is_some_and(|m| m.state == StpState::Forwarding);
        if !forwards {
            put(&self.forwards, false);
        }
        put(&self.tagged, m.is_some_and(|m| m.tagged));
        if forwards {
            put(&self.forwards, true);
        }
    }
    /// Whether the FID's frames may leave by the bridge port, and then whether tagged.
    #[inline(always)]
    pub(crate) fn leaves(&self, fid: u32, port: u32) -> Option<bool> {
        let (at, bit) = self.bit(fid, port);
        (self.forwards.get(at) & bit != 0).then(|| self.tagged.get(at) & bit != 0)
    }
    /// The bridge ports that the FID's frames may leave by.
    pub(crate) fn members(&self, fid: u32) -> impl Iterator<Item = u32> + '_ {
        (0..self.width).flat_map(move |w| {
            let mut bits = self.forwards.get(fid as usize * self.width + w);
            core::iter::from_fn(move || {
                let n = bits.checked_ilog2()?;
                bits &= !(1 << n);
                Some(w as u32 * 64 + n)
            })
        })
    }
    /// As [`Fdb::learn`], while the bridge port and the FID are there.
    #[cold]
    pub(crate) fn learn(&self, fid: u32, mac: Mac, port: u32) -> bool {
        self.fdb.learn(fid, mac, port, || self.port(port).is_some() && self.fid(fid).is_some())
    }
}
