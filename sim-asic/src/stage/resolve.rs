//! From a route's verdict to an adjacency and the interface that the packet leaves by, with the checks of that interface.

use hal::{PortId, TrapClass};

use super::decide::dropped;
use super::parse::{Family, Head, dst6};
use super::{Verdict, hash, trap};
use crate::table::group::{Choice, Next};
use crate::table::neigh::Neighs;
use crate::table::takers::TagWord;
use crate::table::{Egress, Hop, Leaf, Tables, word_mac};
use crate::trace::{Note, Raw};

/// How a packet leaves.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) port: PortId,
    /// MACs in the low 48 bits: bytes one by one would cost a frame several times as much.
    pub(super) src: u64,
    pub(super) dst: u64,
    pub(super) tags: TagWord,
}

/// Through which adjacency the last packets of a chunk went, for those behind them that match the same route: trains of
/// packets of one flow are what most traffic is made of. Of one chunk and family only, so that no change is seen late.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way {
    /// The last route's leaf, 0 for none.
    leaf: u32,
    /// Where it leads to, if it is one adjacency for all packets; looked up when a route comes a second time.
    to: Option<Adjacency>,
    /// Bytes of the longest packet that the route allows.
    mtu: u32,
}

/// An adjacency with the interface that it is on.
#[derive(Clone, Copy, Debug)]
struct Adjacency {
    index: u32,
    rif: Egress,
    mac: Option<u64>,
}

#[inline(always)]
pub(super) fn resolve(
    t: &Tables,
    h: &Head,
    leaf: Leaf,
    buf: &[u8],
    way: &mut Way,
    note: &mut impl Note,
) -> Result<Out, Verdict> {
    match leaf.hop() {
        Hop::Trap(c) => trap(c, note),
        Hop::Drop(d) => dropped(d, note),
        Hop::Connected(rif) => connected(t, h, (rif, u32::MAX), buf, note),
        Hop::Group(g) => {
            let again = way.leaf == leaf.0;
            if let Some(a) = &way.to
                && again
            {
                return out(t, h, (a, way.mtu), TrapClass::Unresolved, note);
            }
            let (choice, mtu) = t.groups.get(g);
            *way = Way { leaf: leaf.0, to: None, mtu };
            let (next, only) = match choice {
                Choice::Absent => return trap(TrapClass::Dangling, note),
                Choice::Empty => return trap(TrapClass::Punt, note),
                Choice::One(next) => (next, true),
                Choice::Several { at, len } => {
                    let Some(hash) = hash::packet(t, h, buf) else { return trap(TrapClass::Hash, note) };
                    let member = t.groups.member(at, len, hash);
                    note.note(|| Raw::Member { hash, member: member as u32, of: len });
                    (t.groups.next(at, member), false)
                }
                Choice::Buckets { at, len } => {
                    let Some(hash) = hash::packet(t, h, buf) else { return trap(TrapClass::Hash, note) };
                    let (bucket, next) = t.groups.bucket(at, len, hash);
                    note.note(|| Raw::Bucket { hash, bucket, of: len });
                    (next, false)
                }
            };
            note.note(|| Raw::NextHop(next));
            let (neighs, slot) = match Next::from_word(t.nexthops.get(next as usize)) {
                Next::Absent => return trap(TrapClass::Dangling, note),
                Next::Trap(c) => return trap(c, note),
                Next::Drop(d) => return dropped(d, note),
                Next::Connected(rif) => return connected(t, h, (rif, mtu), buf, note),
                Next::Neigh4(slot) => (&t.neigh4, slot),
                Next::Neigh6(slot) => (&t.neigh6, slot),
            };
            let Some(a) = adjacency(t, neighs, slot) else { return trap(TrapClass::Dangling, note) };
            let out = out(t, h, (&a, mtu), TrapClass::Unresolved, note)?;
            neighs.hit(slot);
            if again && only {
                way.to = Some(a);
            }
            Ok(out)
        }
    }
}

/// To the packet's own destination on an interface.
#[inline(always)]
fn connected(t: &Tables, h: &Head, (rif, mtu): (u32, u32), buf: &[u8], note: &mut impl Note) -> Result<Out, Verdict> {
    let (neighs, addr) = match h.family {
        Family::V4 => (&t.neigh4, u128::from(h.dst4)),
        Family::V6 => (&t.neigh6, dst6(h, buf)),
    };
    if t.egress(rif).is_none() {
        return trap(TrapClass::Dangling, note);
    }
    let Some(slot) = neighs.find(rif, addr) else { return trap(TrapClass::Glean, note) };
    let Some(a) = adjacency(t, neighs, slot) else { return trap(TrapClass::Dangling, note) };
    let out = out(t, h, (&a, mtu), TrapClass::Glean, note)?;
    neighs.hit(slot);
    Ok(out)
}

#[inline(always)]
fn adjacency(t: &Tables, neighs: &Neighs, slot: u32) -> Option<Adjacency> {
    let index = neighs.rif(slot);
    Some(Adjacency { index, rif: t.egress(index)?, mac: neighs.mac(slot) })
}

/// Through an adjacency, with the bytes that the route allows; without a MAC it is trapped as `missing`.
#[inline(always)]
fn out(
    t: &Tables,
    h: &Head,
    (a, most): (&Adjacency, u32),
    missing: TrapClass,
    note: &mut impl Note,
) -> Result<Out, Verdict> {
    note.note(|| Raw::Adjacency { rif: a.index, mac: a.mac.map(word_mac) });
    let Some(mac) = a.mac else { return trap(missing, note) };
    if !a.rif.open() {
        return trap(TrapClass::EgressClosed, note);
    }
    if a.index == h.rif && !(h.family == Family::V4 && a.rif.same4()) {
        return trap(TrapClass::SameInterface, note);
    }
    let mtu = if h.family == Family::V4 { a.rif.mtu4() } else { a.rif.mtu6() };
    if h.len > mtu.min(most) {
        return trap(TrapClass::Mtu, note);
    }
    if !t.link(a.rif.port()) {
        return elsewhere(t, h.len, a.rif, mac, note);
    }
    Ok(Out { port: a.rif.port(), src: a.rif.mac(), dst: mac, tags: a.rif.tags() })
}

/// By an interface on a FID, which is none of a port with link.
#[cold]
fn elsewhere(t: &Tables, len: u32, rif: Egress, mac: u64, note: &mut impl Note) -> Result<Out, Verdict> {
    let Some(fid) = rif.fid() else { return trap(TrapClass::PortDown, note) };
    let (port, tags) = super::bridge::egress(t, fid, word_mac(mac), len, note)?;
    Ok(Out { port, src: rif.mac(), dst: mac, tags })
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
    t.groups.nexts(group).any(through)
}
