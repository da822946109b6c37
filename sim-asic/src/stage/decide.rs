//! From routes to a verdict: the order of checks, source check, hop limit, and the rewrite once all of them have passed.
//!
//! Whatever is in doubt is trapped: the kernel decides. What a next hop leads to is `resolve`'s.

use hal::{DropReason, TrapClass, Urpf};

use super::parse::Head;
use super::resolve::{Way, resolve, unicast};
use super::{Verdict, rewrite, trap};
use crate::table::{Hop, Leaf, Tables};
use crate::trace::{Note, Raw};

/// The verdict on a parsed packet whose destination and source match these routes.
#[inline(always)]
pub(crate) fn forward(
    t: &Tables,
    h: &Head,
    dst: Leaf,
    src: Leaf,
    buf: &mut [u8],
    way: &mut Way,
    note: &mut impl Note,
) -> Verdict {
    match checked(t, h, dst, src, buf, way, note) {
        Ok(v) | Err(v) => v,
    }
}

#[inline(always)]
fn checked(
    t: &Tables,
    h: &Head,
    dst: Leaf,
    src: Leaf,
    buf: &mut [u8],
    way: &mut Way,
    note: &mut impl Note,
) -> Result<Verdict, Verdict> {
    note.note(|| Raw::Destination(dst));
    if h.odd() | !dst.forwards()
        && let Some(class) = kernels(h, dst)
    {
        return trap(class, note);
    }
    // The kernel has no source check for IPv6.
    if h.family == super::Family::V4 {
        note.note(|| Raw::Source(src, h.urpf));
        if !source(t, h, src) {
            return trap(TrapClass::Source, note);
        }
    }
    if h.ttl <= 1 {
        return trap(TrapClass::Ttl, note);
    }
    let out = resolve(t, h, dst, buf, way, note)?;
    let (grown, len) = rewrite::packet(h, &out, buf);
    note.note(|| Raw::Forward(out.port));
    Ok(Verdict::Forward { port: out.port, grown, len })
}

/// The class that a packet is trapped by whatever its source is, if it is.
#[cold]
fn kernels(h: &Head, dst: Leaf) -> Option<TrapClass> {
    match dst.hop() {
        // To the switch itself, whatever else may be said of it.
        Hop::Trap(c @ (TrapClass::ToUs | TrapClass::Broadcast | TrapClass::Multicast)) => Some(c),
        _ if h.special => Some(TrapClass::Special),
        _ if !h.enabled => Some(TrapClass::NotForwarding),
        _ if h.ruled.is_some() => h.ruled,
        Hop::Trap(c) => Some(c),
        // The kernel goes on with the next rule.
        _ if dst.len() < h.shortest => Some(TrapClass::NoRoute),
        Hop::Group(_) | Hop::Connected(_) | Hop::Drop(_) => None,
    }
}

/// Whether an IPv4 source passes (`rp_filter`; `fib_validate_source` in the kernel).
#[inline(always)]
fn source(t: &Tables, h: &Head, src: Leaf) -> bool {
    if h.urpf == Urpf::Off && src.forwards() {
        return true;
    }
    match (h.urpf, src.hop()) {
        // An address of the switch, or none that a host can have; or one of them may have found no room below this prefix.
        (_, Hop::Trap(TrapClass::ToUs | TrapClass::Broadcast | TrapClass::Multicast | TrapClass::NoRoom)) => false,
        // In a virtual router of its own the kernel looks on elsewhere, where the source may be the switch's.
        (Urpf::Off, Hop::Trap(TrapClass::NoRoute)) => h.vrf == 0,
        (Urpf::Off, _) => true,
        (Urpf::Loose, Hop::Connected(_)) => true,
        (Urpf::Strict, Hop::Connected(rif)) => rif == h.rif,
        (Urpf::Loose, Hop::Group(g)) => unicast(t, g, |_| true),
        (Urpf::Strict, Hop::Group(g)) => unicast(t, g, |rif| rif == h.rif),
        (_, Hop::Trap(_) | Hop::Drop(_)) => false,
    }
}

pub(super) fn dropped<T>(why: DropReason, note: &mut impl Note) -> Result<T, Verdict> {
    note.note(|| Raw::Drop(why));
    Err(Verdict::Drop(why))
}
