//! From a route's verdict to an adjacency and the interface that the packet leaves by, with the checks of that interface.

use hal::{PortId, TrapClass};

use super::decide::dropped;
use super::parse::{Family, Head, dst6};
use super::{Verdict, hash, trap};
use crate::table::group::{Choice, Next};
use crate::table::neigh::Neighs;
use crate::table::{Hop, Tables};
use crate::trace::{Note, Raw};

/// How a packet leaves.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) port: PortId,
    pub(super) src: [u8; 6],
    pub(super) dst: [u8; 6],
}

#[inline(always)]
pub(super) fn resolve(t: &Tables, h: &Head, hop: Hop, frame: &[u8], note: &mut impl Note) -> Result<Out, Verdict> {
    match hop {
        Hop::Trap(c) => trap(c, note),
        Hop::Drop(d) => dropped(d, note),
        Hop::Connected(rif) => connected(t, h, rif, frame, note),
        Hop::Group(g) => {
            let next = match t.groups.get(g) {
                Choice::Absent => return trap(TrapClass::Dangling, note),
                Choice::Empty => return trap(TrapClass::Punt, note),
                Choice::One(next) => next,
                Choice::Buckets { at, len } => {
                    let hash = hash::packet(t, h, frame);
                    let bucket = (u64::from(hash) * u64::from(len)) >> 32;
                    note.note(|| Raw::Bucket { hash, bucket: bucket as u32, of: len });
                    t.groups.bucket(at + bucket as usize)
                }
            };
            note.note(|| Raw::NextHop(next));
            match Next::from_word(t.nexthops.get(next as usize)) {
                Next::Absent => trap(TrapClass::Dangling, note),
                Next::Trap(c) => trap(c, note),
                Next::Drop(d) => dropped(d, note),
                Next::Connected(rif) => connected(t, h, rif, frame, note),
                Next::Neigh4(slot) => through(t, h, &t.neigh4, slot, TrapClass::Unresolved, note),
                Next::Neigh6(slot) => through(t, h, &t.neigh6, slot, TrapClass::Unresolved, note),
            }
        }
    }
}

/// To the packet's own destination on an interface.
#[inline(always)]
fn connected(t: &Tables, h: &Head, rif: u32, frame: &[u8], note: &mut impl Note) -> Result<Out, Verdict> {
    let (neighs, addr) = match h.family {
        Family::V4 => (&t.neigh4, u128::from(h.dst4)),
        Family::V6 => (&t.neigh6, dst6(frame)),
    };
    if t.rif(rif).is_none() {
        return trap(TrapClass::Dangling, note);
    }
    match neighs.find(rif, addr) {
        Some(slot) => through(t, h, neighs, slot, TrapClass::Glean, note),
        None => trap(TrapClass::Glean, note),
    }
}

/// Through an adjacency; without a MAC it is trapped as `missing`.
#[inline(always)]
fn through(
    t: &Tables,
    h: &Head,
    neighs: &Neighs,
    slot: u32,
    missing: TrapClass,
    note: &mut impl Note,
) -> Result<Out, Verdict> {
    let index = neighs.rif(slot);
    let Some(rif) = t.rif(index) else { return trap(TrapClass::Dangling, note) };
    let mac = neighs.mac(slot);
    note.note(|| Raw::Adjacency { rif: index, mac });
    let Some(mac) = mac else { return trap(missing, note) };
    if !rif.egress {
        return trap(TrapClass::EgressClosed, note);
    }
    if index == h.rif {
        return trap(TrapClass::SameInterface, note);
    }
    let mtu = if h.family == Family::V4 { rif.mtu4 } else { rif.mtu6 };
    if h.len > mtu {
        return trap(TrapClass::Mtu, note);
    }
    if !t.link(rif.port) {
        return trap(TrapClass::PortDown, note);
    }
    neighs.hit(slot);
    Ok(Out { port: rif.port, src: rif.mac, dst: mac })
}

/// Whether any member of a group leads to a neighbour through an interface that `wanted` takes.
#[inline(never)]
pub(super) fn unicast(t: &Tables, group: u32, wanted: impl Fn(u32) -> bool) -> bool {
    let through = |next: u32| match Next::from_word(t.nexthops.get(next as usize)) {
        Next::Neigh4(s) => wanted(t.neigh4.rif(s)),
        Next::Neigh6(s) => wanted(t.neigh6.rif(s)),
        Next::Connected(rif) => wanted(rif),
        Next::Absent | Next::Trap(_) | Next::Drop(_) => false,
    };
    match t.groups.get(group) {
        Choice::Absent | Choice::Empty => false,
        Choice::One(next) => through(next),
        Choice::Buckets { at, len } => (at..at + len as usize).any(|i| through(t.groups.bucket(i))),
    }
}
