//! The `nexthop` and `group` tables: a kernel set of next hops, or a next-hop object → members with weights, or a trap.
//!
//! A kernel object that is one next hop keeps its own name in the chip, so that its change is one write, whatever uses it.
//! Link state is not looked at beyond what makes the kernel itself leave a member out: a member whose port has no link is
//! trapped by the chip, and the kernel decides, whatever `ignore_routes_with_linkdown` says.

use std::net::IpAddr;

use hal::{DropReason, NextHopEntry, Resilient, RifId, TrapClass};
use smallvec::{SmallVec, smallvec};

use super::{Facts, Why};
use crate::mirror::{Hop, NhRef, NhSet, ObjectTo};

/// A member of a group, in contents rather than names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberSpec {
    /// The kernel's next-hop object behind it, by which it is named.
    pub object: Option<u32>,
    /// Where it leads. One that hardware can't serve is a trap.
    pub to: NextHopEntry,
    /// Its share, relative to the sum over the group.
    pub weight: u32,
}

/// What a group should hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupSpec {
    /// Members in the kernel's order.
    pub members: SmallVec<[MemberSpec; 2]>,
    /// Why hardware does not carry all of it.
    pub why: Option<Why>,
    /// The neighbours that hardware may send to by it: those of members that are left out for theirs as well.
    pub gateways: SmallVec<[(u32, IpAddr); 2]>,
    /// Whether the kernel chooses by what it knows of these neighbours.
    pub looks: bool,
    /// MTU in bytes of the routes that lead there, 0 for none. Longer packets are the kernel's: it fragments, answers, or lets
    /// pass where the route allows more than the interface.
    pub mtu: u16,
    /// Its buckets, if it is resilient.
    pub resilient: Option<Resilient>,
}

impl GroupSpec {
    fn trap(why: Why) -> Self {
        let member = MemberSpec { object: None, to: NextHopEntry::Trap(TrapClass::Punt), weight: 1 };
        let gateways = SmallVec::new();
        GroupSpec { members: smallvec![member], why: Some(why), gateways, looks: false, mtu: 0, resilient: None }
    }
    /// Whether no member of it forwards or drops.
    pub fn all_trap(&self) -> bool {
        self.members.iter().all(|m| matches!(m.to, NextHopEntry::Trap(_)))
    }
}

/// `IFF_UP` (`linux/if.h`)
pub const IFF_UP: u32 = 1;

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Where one next hop leads.
///
/// # Errors
/// Why hardware does not carry it.
fn hop(f: &Facts<'_>, h: &Hop) -> Result<NextHopEntry, Why> {
    if h.encap {
        return Err(Why::Encap);
    }
    if !f.ports.has(h.ifindex) {
        return Err(Why::NotPort(h.ifindex));
    }
    let rif = RifId(h.ifindex);
    if let Some(IpAddr::V4(gw)) = h.via
        && narrow(f, h)
    {
        return Err(Why::HostScope(gw));
    }
    Ok(match h.via {
        Some(gw) => NextHopEntry::Ip(rif, gw),
        None => NextHopEntry::Connected(rif),
    })
}

/// Whether the kernel may take the gateway for one of host scope.
fn narrow(f: &Facts<'_>, h: &Hop) -> bool {
    matches!(h.via, Some(IpAddr::V4(gw)) if !h.onlink && f.mirror.narrow(gw))
}

/// Where a next-hop object that is no group leads.
///
/// # Errors
/// Why hardware does not carry it.
pub fn object(f: &Facts<'_>, id: u32) -> Result<NextHopEntry, Why> {
    match f.mirror.object(id).map(|o| &o.to) {
        None => Err(Why::NextHopObject(id)),
        Some(ObjectTo::Hop(h)) => hop(f, h),
        Some(ObjectTo::Blackhole) => Ok(NextHopEntry::Drop(DropReason::Blackhole)),
        Some(ObjectTo::Group(_) | ObjectTo::Resilient(..) | ObjectTo::Other(_) | ObjectTo::Unknown) => {
            Err(Why::UnknownObject(id))
        }
    }
}

/// A member before it is known which of them the kernel chooses from.
struct Candidate<'a> {
    object: Option<u32>,
    hop: Option<&'a Hop>,
    to: Result<NextHopEntry, Why>,
    /// 0 for a dead one.
    weight: u32,
}

impl<'a> Candidate<'a> {
    fn inline(f: &Facts<'_>, h: &'a Hop) -> Self {
        if h.dead {
            return Candidate { object: None, hop: Some(h), to: Err(Why::NoMember), weight: 0 };
        }
        Candidate { object: None, hop: Some(h), to: hop(f, h), weight: h.weight.max(1).into() }
    }
    fn object(f: &Facts<'a>, id: u32, weight: u16) -> Self {
        let hop = f.mirror.object(id).and_then(|o| if let ObjectTo::Hop(h) = &o.to { Some(h) } else { None });
        Candidate { object: Some(id), hop, to: object(f, id), weight: weight.into() }
    }
}

/// Whether the kernel chooses among members by their neighbours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Looks {
    No,
    /// Where no good one follows, it takes the first good one.
    Wrapping,
    /// It looks at those that follow only.
    Ahead,
}

/// What the group of that set should hold.
pub fn group(f: &Facts<'_>, nh: NhRef) -> GroupSpec {
    let objects =
        |members: &[(u32, u16)]| members.iter().map(|(id, weight)| Candidate::object(f, *id, *weight)).collect();
    let mut resilient = None;
    let (all, looks): (SmallVec<[Candidate<'_>; 2]>, Looks) = match f.mirror.nhset(nh) {
        // Its routes are gone in the kernel, whatever has that number now; they are being swept.
        NhSet::Object(_) if f.mirror.nhset_dead(nh) => return GroupSpec::trap(Why::NoMember),
        NhSet::Object(id) => match f.mirror.object(*id).map(|o| &o.to) {
            Some(ObjectTo::Other(_)) => return GroupSpec::trap(Why::UnknownObject(*id)),
            // The kernel does not look at their neighbours (`nexthop_select_path_res`).
            Some(ObjectTo::Resilient(members, b)) => {
                let max = f.profile.buckets;
                if u32::from(b.count) > max {
                    return GroupSpec::trap(if max == 0 { Why::Resilient(*id) } else { Why::TooManyBuckets(max) });
                }
                let ms = |hundredths: u32| u64::from(hundredths) * 10;
                let label = u64::from(*id) | u64::from(f.mirror.nhset_is_v6(nh)) << 32;
                let (idle, unbalanced) = (ms(b.idle), ms(b.unbalanced));
                resilient = Some(Resilient { buckets: b.count, idle, unbalanced, label });
                (objects(members), Looks::No)
            }
            Some(ObjectTo::Group(members)) => {
                let wraps = f.polled.is_some_and(|p| p.groups_wrap());
                let looks = if wraps { Looks::Wrapping } else { Looks::Ahead };
                (objects(members), looks)
            }
            _ => (smallvec![Candidate::object(f, *id, 1)], Looks::No),
        },
        // The kernel does not use dead members (kernel-facts 4, 7); if none is left the route is gone, or about to be.
        NhSet::Inline(hops) => {
            let looks = !f.mirror.nhset_is_v6(nh) && f.polled.is_some_and(|p| p.use_neigh());
            let looks = if looks { Looks::Wrapping } else { Looks::No };
            (hops.iter().map(|h| Candidate::inline(f, h)).collect(), looks)
        }
    };
    let Some(mtu) = f.mirror.nhset_shared_mtu(nh) else { return GroupSpec::trap(Why::SharedMtu) };
    let usable = all.iter().filter(|c| c.to.is_ok()).filter_map(|c| c.hop);
    let mut spec = GroupSpec {
        members: SmallVec::new(),
        why: None,
        gateways: usable.filter_map(|h| Some((h.ifindex, h.via?))).collect(),
        looks: looks != Looks::No && all.len() > 1,
        mtu,
        resilient,
    };
    let chosen = if spec.looks { choose(f, &all, looks) } else { all.iter().map(|c| c.weight).collect() };
    let divisor = chosen.iter().fold(0, |g, w| gcd(g, *w)).max(1);
    for (c, weight) in all.into_iter().zip(chosen).filter(|(_, w)| *w > 0) {
        let weight = weight / divisor;
        let to = c.to.unwrap_or_else(|why| {
            spec.why.get_or_insert(why);
            NextHopEntry::Trap(TrapClass::Punt)
        });
        spec.members.push(MemberSpec { object: c.object, to, weight });
    }
    let max = f.profile.group_members;
    if spec.members.is_empty() {
        GroupSpec::trap(Why::NoMember)
    } else if spec.members.len() > max as usize {
        GroupSpec::trap(Why::TooManyMembers(max))
    } else if spec.all_trap() && spec.members.iter().all(|m| m.object.is_none()) {
        GroupSpec::trap(spec.why.unwrap_or(Why::NoMember))
    } else {
        spec
    }
}

/// The shares of the members where the kernel looks at their neighbours (kernel-facts 30): one whose neighbour it has given up,
/// or is still asking for, leaves its share to the next that is good, the last ones' to the first that is good, which may
/// be a dead one. If none is, the first that is alive serves all (`nexthop_select_path_hthr`, `fib_select_multipath`).
fn choose(f: &Facts<'_>, all: &[Candidate<'_>], looks: Looks) -> SmallVec<[u32; 2]> {
    let good = |c: &Candidate<'_>| match c.hop {
        // What is not a gateway on a link has no neighbour of its own.
        Some(h) if !narrow(f, h) => h.via.is_none_or(|gw| f.mirror.good(h.ifindex, gw)),
        _ => true,
    };
    let mut shares: SmallVec<[u32; 2]> = smallvec![0; all.len()];
    let mut waiting = 0u32;
    let mut first = None;
    for ((c, share), i) in all.iter().zip(&mut shares).zip(0..) {
        waiting = waiting.saturating_add(c.weight);
        if good(c) {
            first.get_or_insert(i);
            if c.weight > 0 {
                *share = core::mem::take(&mut waiting);
            }
        }
    }
    if looks == Looks::Ahead {
        // It takes the failed one then, which has no adjacency: a trap.
        for (c, share) in all.iter().zip(&mut shares).rev().take_while(|(c, _)| !good(c)) {
            *share = c.weight;
        }
        return shares;
    }
    let last = first.or_else(|| all.iter().position(|c| c.weight > 0)).unwrap_or(0);
    if let Some(s) = shares.get_mut(last) {
        *s = s.saturating_add(waiting);
    }
    shares
}
