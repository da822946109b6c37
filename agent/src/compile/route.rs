//! The `route4` and `route6` tables: which of the kernel's routes of a prefix wins, and what becomes of it.
//!
//! A prefix that the kernel has is never left out, else a shorter one would forward its packets: what hardware can't carry
//! is a trap at that prefix. A verdict does not depend on links, neighbours or policy. `ignore_routes_with_linkdown` needs
//! no care: what would leave by a port without link is trapped by the chip, and the kernel looks further by itself.

use hal::{Addr, DropReason, Prefix, RifId, TrapClass, VrfId};

use super::vrf::DEFAULT;
use super::{Facts, Why};
use crate::mirror::{Alias, MirrorFamily, NhRef, NhSet, RouteFlags, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use crate::policy::Scope;

/// `RTN_*` (`linux/rtnetlink.h`)
pub mod rtn {
    /// `RTN_UNICAST`
    pub const UNICAST: u8 = 1;
    /// `RTN_LOCAL`
    pub const LOCAL: u8 = 2;
    /// `RTN_BROADCAST`
    pub const BROADCAST: u8 = 3;
    /// `RTN_ANYCAST`
    pub const ANYCAST: u8 = 4;
    /// `RTN_MULTICAST`
    pub const MULTICAST: u8 = 5;
    /// `RTN_BLACKHOLE`
    pub const BLACKHOLE: u8 = 6;
    /// `RTN_UNREACHABLE`
    pub const UNREACHABLE: u8 = 7;
    /// `RTN_PROHIBIT`
    pub const PROHIBIT: u8 = 8;
    /// `RTN_THROW`
    pub const THROW: u8 = 9;
}

/// A verdict in the kernel's terms: the group of a set is named by `program`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// By the group of that set.
    Set(NhRef),
    /// To the destination itself.
    Connected(RifId),
    /// To the kernel.
    Trap(TrapClass),
    /// Nowhere.
    Drop(DropReason),
}

/// The verdict on a prefix, and why hardware does not carry it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decided {
    /// What the chip should do.
    pub verdict: Verdict,
    /// Why not more.
    pub why: Option<Why>,
}

fn trap(class: TrapClass, why: Why) -> Decided {
    Decided { verdict: Verdict::Trap(class), why: Some(why) }
}

fn punt(why: Why) -> Decided {
    trap(TrapClass::Punt, why)
}

/// What the chip should hold for `p` in that virtual router; `None` if the kernel has nothing there.
pub fn route<F: MirrorFamily>(f: &Facts<'_>, vrf: VrfId, p: Prefix<F>) -> Option<Decided> {
    if !f.vrfs.has(vrf) {
        return None;
    }
    let tables = f.vrfs.tables::<F>(vrf);
    // The kernel refuses own addresses as a source whatever the state of their device (kernel-facts 28), and routes them
    // to itself as long as they have their local route: both are a trap. In a VRF it goes by the routes alone.
    if p.len() == F::BITS && F::BITS == 32 && vrf == DEFAULT && f.mirror.owns(p.addr()) {
        return Some(trap(TrapClass::ToUs, Why::ToUs));
    }
    // What the kernel learned of one destination (a path MTU, a redirect) goes before its routes.
    if p.len() == F::BITS
        && let Some(found) = f.gate.closed(&[Scope::Host(vrf.0, p.addr().ip())])
    {
        return Some(punt(Why::Policy(found.why.clone())));
    }
    // Not a mere punt: what comes from there is looked up by the same rules.
    if let Some(found) = f.gate.over(p) {
        return Some(trap(TrapClass::ToUs, Why::Policy(found.why.clone())));
    }
    if f.mirror.undecided(&tables, p) {
        return Some(punt(Why::Undecided));
    }
    if f.mirror.hidden(&tables, p) {
        return Some(punt(Why::Hidden));
    }
    let local_first = tables.first() == Some(&TABLE_LOCAL);
    if local_first && let Some(first) = f.mirror.aliases::<F>(TABLE_LOCAL, p).first() {
        return Some(match first.kind {
            rtn::LOCAL | rtn::ANYCAST => trap(TrapClass::ToUs, Why::ToUs),
            rtn::BROADCAST => trap(TrapClass::Broadcast, Why::Broadcast),
            rtn::MULTICAST => trap(TrapClass::Multicast, Why::Multicast),
            _ => punt(Why::TableLocal),
        });
    }
    let own = f.mirror.aliases::<F>(if vrf == DEFAULT { TABLE_MAIN } else { vrf.0 }, p);
    if own.is_empty() {
        if vrf != DEFAULT {
            return None;
        }
        let default = f.mirror.aliases::<F>(TABLE_DEFAULT, p);
        return (!default.is_empty()).then(|| no_source(punt(Why::TableDefault), &default));
    }
    if local_first && f.mirror.under_local(p) {
        // Not a mere punt: where table local wins, the kernel refuses these addresses as a source, too.
        return Some(trap(TrapClass::ToUs, Why::UnderLocal));
    }
    Some(no_source(winner::<F>(f, vrf, &own), &own))
}

/// Where a punted route may be the switch's own, or leave that to another table, its addresses are none that a host can have: the kernel refuses them as a source.
fn no_source(d: Decided, routes: &[Alias]) -> Decided {
    let own = |a: &Alias| matches!(a.kind, rtn::LOCAL | rtn::BROADCAST | rtn::ANYCAST | rtn::MULTICAST | rtn::THROW);
    match d.verdict {
        Verdict::Trap(TrapClass::Punt) if routes.iter().any(own) => {
            Decided { verdict: Verdict::Trap(TrapClass::ToUs), ..d }
        }
        _ => d,
    }
}

fn winner<F: MirrorFamily>(f: &Facts<'_>, vrf: VrfId, own: &[Alias]) -> Decided {
    if own.iter().any(|a| a.tos != 0) {
        return punt(Why::Tos);
    }
    // First of the lowest metric: the order within a metric is the kernel's.
    let Some(best) = own.iter().min_by_key(|a| a.metric) else { return punt(Why::Unknown) };
    if F::BITS == 128 && own.iter().filter(|a| a.metric == best.metric).count() > 1 {
        return punt(Why::SameMetric);
    }
    // A route that may vanish unannounced, or that serves some packets only, makes what stands behind it uncertain too.
    if let Some(a) = own.iter().find(|a| a.flags.any(SELECTIVE)) {
        return punt(flag(a.flags));
    }
    // Preference chooses among routes of one metric, so that it matters to siblings alone, of which one's is shown.
    let only = |a: &Alias| !matches!(f.mirror.nhset(a.nh), NhSet::Inline(h) if h.len() > 1);
    if best.flags != RouteFlags::default() && !(best.flags == RouteFlags::PREF && only(best)) {
        return punt(flag(best.flags));
    }
    match best.kind {
        rtn::UNICAST => unicast(f, best),
        // VRFs come with rules, which end at a blackhole.
        rtn::BLACKHOLE if F::BITS == 32 && vrf == DEFAULT && f.mirror.has_default4() => {
            trap(TrapClass::Unreachable, Why::BehindDefault)
        }
        rtn::BLACKHOLE => Decided { verdict: Verdict::Drop(DropReason::Blackhole), why: None },
        rtn::UNREACHABLE | rtn::PROHIBIT => trap(TrapClass::Unreachable, Why::Unreachable),
        rtn::THROW => punt(Why::Throw),
        rtn::LOCAL | rtn::ANYCAST => trap(TrapClass::ToUs, Why::ToUs),
        rtn::BROADCAST => trap(TrapClass::Broadcast, Why::Broadcast),
        rtn::MULTICAST => trap(TrapClass::Multicast, Why::Multicast),
        t => punt(Why::Type(t)),
    }
}

const SELECTIVE: RouteFlags =
    RouteFlags(RouteFlags::EXPIRES.0 | RouteFlags::SOURCE.0 | RouteFlags::SELECTOR.0 | RouteFlags::UNKNOWN.0);

fn flag(flags: RouteFlags) -> Why {
    [
        (RouteFlags::EXPIRES, Why::Expires),
        (RouteFlags::SOURCE, Why::Source),
        (RouteFlags::SELECTOR, Why::Selector),
        (RouteFlags::METRICS, Why::Metrics),
        (RouteFlags::PREF, Why::Pref),
        (RouteFlags::VEILED, Why::Veiled),
    ]
    .into_iter()
    .find_map(|(f, why)| flags.any(f).then_some(why))
    .unwrap_or(Why::Unknown)
}

fn unicast(f: &Facts<'_>, a: &Alias) -> Decided {
    match f.mirror.nhset(a.nh) {
        // What becomes of it is the object's, so that its change moves no route.
        NhSet::Object(_) => Decided { verdict: Verdict::Set(a.nh), why: None },
        NhSet::Inline(hops) => match &hops[..] {
            [] => punt(Why::NoMember),
            [h] if h.encap => punt(Why::Encap),
            [h] if !f.ports.has(h.ifindex) => punt(Why::NotPort(h.ifindex)),
            [h] if h.via.is_none() && f.mirror.nhset_mtu(a.nh) == 0 => {
                Decided { verdict: Verdict::Connected(RifId(h.ifindex)), why: None }
            }
            _ => Decided { verdict: Verdict::Set(a.nh), why: None },
        },
    }
}
