//! The kernel's rules for the aliases of one prefix: where a new one goes, which one a replacement or a deletion means.
//!
//! IPv4 after `fib_table_insert` and `fib_table_delete`, IPv6 after `fib6_add_rt2node` and `ip6_route_del`
//! (kernel-facts 12 to 14).

use std::cmp::Ordering;

use hal::{V4, V6};
use smallvec::SmallVec;

use super::MirrorFamily;
use super::ctx::Ctx;
use super::table::Aliases;
use super::types::{Alias, Hop, NhRef, NhSet, RouteFlags};
use crate::netlink::nlm;
use crate::netlink::route::RouteMsg;

/// `RTN_UNICAST`, `RTN_BLACKHOLE`, `RTPROT_RA` (`linux/rtnetlink.h`).
const UNICAST: u8 = 1;
const BLACKHOLE: u8 = 6;
const RA: u8 = 9;

/// What a message did to a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// What the kernel did.
    Exact,
    /// It replaced the first of its kind, so it is right if what stood first here stood first there.
    First,
    /// It speaks of something that is not here.
    Absent,
    /// It can't be true of this list.
    Odd,
    /// It is true, and leaves open what only a dump tells.
    Ask,
}

/// A new route.
pub(super) struct Change {
    pub alias: Alias,
    pub multipath: bool,
    /// `nlmsg_flags`, which echo the request's (kernel-facts 12).
    pub flags: u16,
    /// It is to be done and then taken back: a purge has removed it since.
    pub stillborn: bool,
}

/// A route's type. A blackhole that a next-hop object leads to hides it (`RouteFlags::VEILED`): most likely it is unicast.
pub(super) fn kind<F: MirrorFamily>(m: &RouteMsg<F>) -> u8 {
    if m.object != 0 && m.kind == BLACKHOLE { UNICAST } else { m.kind }
}

/// The aliases that compete for the same place: first and one past the last.
fn range(list: &[Alias], with: impl Fn(&Alias) -> Ordering) -> (usize, usize) {
    let lo = list.partition_point(|a| with(a) == Ordering::Less);
    let hi = lo + list[lo..].partition_point(|a| with(a) == Ordering::Equal);
    (lo, hi)
}

pub(super) fn search4(a: &Alias, b: &Alias) -> Ordering {
    b.tos.cmp(&a.tos).then(a.metric.cmp(&b.metric))
}

pub(super) fn search6(a: &Alias, b: &Alias) -> Ordering {
    a.metric.cmp(&b.metric).then(a.rest.cmp(&b.rest))
}

/// Whether two aliases differ in nothing by which the kernel tells them apart.
fn identical(ctx: &Ctx, a: &Alias, b: &Alias) -> bool {
    let plain = |a: &Alias| (a.metric, a.tos, a.kind, a.proto, a.scope);
    plain(a) == plain(b) && ctx.same_rest(a.rest, b.rest) && ctx.same_hops(a.nh, b.nh)
}

/// Whether the same message could have been about either.
pub(super) fn same_key<F: MirrorFamily>(a: &Alias, b: &Alias) -> bool {
    F::search(a, b) == Ordering::Equal
}

/// What a dump can't show, and notifications told: of an IPv6 multipath route it has the metrics and preference of the first
/// sibling only, and a member that is unused for its link hides whether it is dead besides.
pub(super) fn keep<F: MirrorFamily>(ctx: &Ctx, ours: &[Alias], new: &mut Aliases) {
    for n in new.iter_mut() {
        let Some(o) = ours.iter().find(|o| same_key::<F>(o, n) && ctx.same_hops(o.nh, n.nh)) else { continue };
        if ctx.knows_more(F::AF, o.nh, n.nh) {
            n.nh = o.nh;
        }
        if F::BITS == 128 && hops(ctx, n.nh).len() > 1 {
            n.flags |= o.flags;
        }
    }
    if F::BITS == 128 {
        let several = |a: &Alias| hops(ctx, a.nh).len() > 1;
        // What could be a sibling is one, and shown; if it is not shown, it is gone.
        for o in ours.iter().filter(|o| !several(o) && !ecmp(ctx, o)) {
            if new.iter().any(|n| several(n) && same_key::<F>(n, o)) && !new.iter().any(|n| identical(ctx, n, o)) {
                let at = new.partition_point(|n| F::search(n, o) != Ordering::Greater);
                new.insert(at, *o);
            }
        }
    }
}

/// Whether two lists say the same of forwarding, in contents and not in names.
pub(super) fn same(ctx: &Ctx, a: &[Alias], b: &[Alias]) -> bool {
    let eq = |x: &Alias, y: &Alias| {
        (x.metric, x.tos, x.kind, x.proto, x.scope, x.flags) == (y.metric, y.tos, y.kind, y.proto, y.scope, y.flags)
            && ctx.same_rest(x.rest, y.rest)
            && ctx.same_set(x.nh, y.nh)
    };
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| eq(x, y))
}

pub(super) fn insert4(ctx: &mut Ctx, list: &mut Aliases, c: &Change) -> Outcome {
    let n = c.alias;
    let (lo, hi) = range(list, |a| search4(a, &n));
    let twin = (lo..hi).find(|i| identical(ctx, &list[*i], &n));
    let mut outcome = Outcome::Exact;
    let at = if c.flags & nlm::F_REPLACE != 0 {
        match twin {
            _ if lo == hi => lo,
            Some(t) if t == lo => {
                list.remove(lo);
                lo
            }
            twin => {
                outcome = Outcome::First;
                if let Some(t) = twin {
                    outcome = Outcome::Odd;
                    list.remove(t);
                }
                list.remove(lo);
                lo
            }
        }
    } else if c.flags & nlm::F_EXCL != 0 {
        // The kernel's word that there was no other.
        list.drain(lo..hi);
        lo
    } else {
        if lo == hi {
            outcome = Outcome::Absent;
        }
        let mut end = hi;
        if let Some(t) = twin {
            outcome = Outcome::Odd;
            list.remove(t);
            end -= 1;
        }
        if c.flags & nlm::F_APPEND != 0 { end } else { lo }
    };
    if !c.stillborn {
        list.insert(at, n);
    }
    outcome
}

pub(super) fn delete4(ctx: &mut Ctx, list: &mut Aliases, m: &RouteMsg<V4>) -> Outcome {
    let gone = named(ctx, m);
    let (lo, hi) = range(list, |a| search4(a, &gone));
    if let Some(i) = (lo..hi).find(|i| identical(ctx, &list[*i], &gone)) {
        list.remove(i);
        return Outcome::Exact;
    }
    let near = list[lo..hi].iter().any(|a| ctx.same_hops(a.nh, gone.nh));
    if near { Outcome::Odd } else { Outcome::Absent }
}

/// The alias that a message describes, as it stands in the message.
fn named<F: MirrorFamily>(ctx: &mut Ctx, m: &RouteMsg<F>) -> Alias {
    // No purge is newer than this: what a deletion names is not to be purged but to be found.
    let born = ctx.resolve(m, u64::MAX);
    Alias {
        nh: born.nh,
        metric: m.metric,
        kind: kind(m),
        tos: m.tos,
        proto: m.proto,
        scope: m.scope,
        flags: m.flags,
        rest: ctx.rests.intern(m.rest.as_deref(), m.table),
    }
}

fn hops(ctx: &Ctx, nh: NhRef) -> &[Hop] {
    match ctx.sets.get(nh) {
        NhSet::Inline(h) => h,
        NhSet::Object(_) => &[],
    }
}

/// Whether the kernel makes siblings of such routes (`rt6_qualify_for_ecmp`): all that have a gateway. Those learned from
/// router advertisements have not, but user space may make routes of that protocol too: of a lone one, who knows.
fn ecmp(ctx: &Ctx, a: &Alias) -> bool {
    let h = hops(ctx, a.nh);
    !h.is_empty() && h.iter().all(|h| h.via.is_some()) && (a.proto != RA || h.len() > 1)
}

pub(super) fn insert6(ctx: &mut Ctx, list: &mut Aliases, c: &Change) -> Outcome {
    let mut n = c.alias;
    let (lo, hi) = range(list, |a| search6(a, &n));
    let e = ecmp(ctx, &n);
    let of = |ctx: &Ctx, list: &Aliases, e: bool| (lo..hi).find(|i| ecmp(ctx, &list[*i]) == e);
    let twin = (lo..hi).find(|i| identical(ctx, &list[*i], &n));
    let mut outcome = Outcome::Exact;
    let at = if c.flags & nlm::F_REPLACE != 0 {
        match of(ctx, list, e) {
            _ if lo == hi => lo,
            target => {
                let t = target.unwrap_or(lo);
                if list[lo..hi].iter().any(|a| a.proto == RA) && hi - lo > 1 {
                    outcome = Outcome::Odd;
                } else if twin.is_none() {
                    outcome = Outcome::First;
                }
                list.remove(t);
                if let Some(i) = twin.filter(|i| *i != t) {
                    list.remove(if i > t { i - 1 } else { i });
                    if i < t { t - 1 } else { t }
                } else {
                    t
                }
            }
        }
    } else if c.flags & nlm::F_EXCL != 0 {
        list.drain(lo..hi);
        lo
    } else if e {
        // The message carries the whole list of siblings: it takes their place.
        match of(ctx, list, true) {
            Some(g) => {
                let subset = |small: &[Hop], big: &[Hop]| small.iter().all(|s| big.iter().any(|b| same_hop(s, b)));
                if !c.multipath && !subset(hops(ctx, list[g].nh), hops(ctx, n.nh)) {
                    outcome = Outcome::Odd;
                }
                // Metrics and preference are each sibling's own, and a message shows those of one.
                n.flags |= list[g].flags;
                if ctx.sets.mtu(list[g].nh) != ctx.sets.mtu(n.nh) {
                    n.flags |= RouteFlags::METRICS;
                }
                list.remove(g);
                g
            }
            None => hi,
        }
    } else {
        match twin {
            Some(t) => {
                list.remove(t);
                t
            }
            None => hi,
        }
    };
    if !c.stillborn {
        list.insert(at, n);
    }
    outcome
}

fn same_hop(a: &Hop, b: &Hop) -> bool {
    (a.ifindex, a.via) == (b.ifindex, b.via)
}

pub(super) fn delete6(ctx: &mut Ctx, list: &mut Aliases, m: &RouteMsg<V6>) -> Outcome {
    let gone = named(ctx, m);
    let (lo, hi) = range(list, |a| search6(a, &gone));
    let going: SmallVec<[Hop; 4]> = hops(ctx, gone.nh).into();
    let object = matches!(ctx.sets.get(gone.nh), NhSet::Object(_));
    let mut best = None;
    for i in lo..hi {
        let a = &list[i];
        let have = hops(ctx, a.nh);
        let whole = if object { ctx.same_hops(a.nh, gone.nh) } else { same_members(have, &going) };
        if !whole || a.kind != gone.kind || matches!(ctx.sets.get(a.nh), NhSet::Object(_)) != object {
            continue;
        }
        // Several may differ in protocol alone, which is no identity for IPv6: then the one that says the same.
        if best.is_none() || a.proto == gone.proto && a.flags == gone.flags {
            best = Some(i);
        }
    }
    if let Some(i) = best {
        list.remove(i);
        // A multipath route has hidden what else there is from dumps.
        return if going.len() > 1 && hi - lo > 1 { Outcome::Ask } else { Outcome::Exact };
    }
    if object || going.is_empty() {
        return Outcome::Absent;
    }
    // Siblings of a route that lives on (kernel-facts 14).
    for i in lo..hi {
        let a = list[i];
        let have = hops(ctx, a.nh);
        if have.len() < 2 || !going.iter().any(|g| have.iter().any(|h| same_hop(h, g))) {
            continue;
        }
        let left: SmallVec<[Hop; 1]> = have.iter().filter(|h| !going.iter().any(|g| same_hop(h, g))).copied().collect();
        list.remove(i);
        if left.is_empty() {
            return Outcome::Exact;
        }
        // Dead siblings outlive the last live one, and no message says so when their device brings them back; had the
        // deletion come before the device's fall, they would be gone.
        let dormant = left.iter().all(|h| h.dead);
        let mut left = left;
        if let [only] = &mut left[..] {
            only.weight = 1;
            only.dead = false;
        }
        let lone = left.len() == 1;
        let nh = ctx.sets.intern(crate::netlink::AF_INET6, false, 0, NhSet::Inline(left));
        list.insert(i, Alias { nh, ..a });
        if dormant || lone && (hi - lo > 1 || a.flags != RouteFlags::default()) {
            return Outcome::Ask;
        }
        return Outcome::Exact;
    }
    // Purged before the message came, most likely; where no device is down, something else went wrong.
    if lo < hi && going.iter().all(|g| ctx.up(g.ifindex)) { Outcome::Odd } else { Outcome::Absent }
}

fn same_members(a: &[Hop], b: &[Hop]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_hop(a, b))
}
