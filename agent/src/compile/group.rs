//! The `nexthop` and `group` tables: a kernel set of next hops → members with weights, or a trap.
//!
//! Link state is not looked at beyond what makes the kernel itself leave a member out: a member whose port has no link is
//! trapped by the chip, and the kernel decides, whatever `ignore_routes_with_linkdown` says.

use std::net::IpAddr;

use hal::{NextHopEntry, RifId, TrapClass};
use smallvec::{SmallVec, smallvec};

use super::{Facts, Why};
use crate::mirror::{Hop, NhSet};

/// What a group should hold, in contents rather than names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupSpec {
    /// Members in the kernel's order, with weights. One that hardware can't serve is a trap.
    pub members: SmallVec<[(NextHopEntry, u16); 2]>,
    /// Why hardware does not carry all of it.
    pub why: Option<Why>,
}

impl GroupSpec {
    fn trap(why: Why) -> Self {
        GroupSpec { members: smallvec![(NextHopEntry::Trap(TrapClass::Punt), 1)], why: Some(why) }
    }
    /// Whether no member of it forwards.
    pub fn all_trap(&self) -> bool {
        self.members.iter().all(|(e, _)| matches!(e, NextHopEntry::Trap(_)))
    }
}

/// `IFF_UP` (`linux/if.h`)
pub const IFF_UP: u32 = 1;

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn entry(f: &Facts<'_>, h: &Hop) -> Result<NextHopEntry, Why> {
    if h.encap {
        return Err(Why::Encap);
    }
    if !f.ports.has(h.ifindex) {
        return Err(Why::NotPort(h.ifindex));
    }
    let rif = RifId(h.ifindex);
    if let Some(IpAddr::V4(gw)) = h.via
        && !h.onlink
        && f.mirror.narrow(gw)
    {
        return Err(Why::HostScope(gw));
    }
    Ok(match h.via {
        Some(gw) => NextHopEntry::Ip(rif, gw),
        None => NextHopEntry::Connected(rif),
    })
}

/// What the group of that set should hold.
pub fn group(f: &Facts<'_>, set: &NhSet) -> GroupSpec {
    let hops = match set {
        NhSet::Object(id) => return GroupSpec::trap(Why::NextHopObject(*id)),
        NhSet::Inline(hops) => hops,
    };
    // The kernel does not use dead members (kernel-facts 4, 7); if none is left the route is gone, or about to be.
    let alive: SmallVec<[&Hop; 2]> = hops.iter().filter(|h| !h.dead).collect();
    let divisor = alive.iter().fold(0, |g, h| gcd(g, h.weight.max(1))).max(1);
    let mut spec = GroupSpec { members: SmallVec::new(), why: None };
    let mut sum = 0u64;
    for h in &alive {
        let weight = h.weight.max(1) / divisor;
        sum += u64::from(weight);
        match entry(f, h) {
            Ok(e) => spec.members.push((e, weight)),
            Err(why) => {
                spec.members.push((NextHopEntry::Trap(TrapClass::Punt), weight));
                spec.why.get_or_insert(why);
            }
        }
    }
    let max = f.profile.group_members;
    if spec.members.is_empty() {
        GroupSpec::trap(Why::NoMember)
    } else if spec.all_trap() {
        GroupSpec::trap(spec.why.unwrap_or(Why::NoMember))
    } else if sum > u64::from(max) {
        GroupSpec::trap(Why::TooManyMembers(max))
    } else {
        spec
    }
}
