//! Policy routing: `ip rule`s beyond the kernel's own → the list that the chip holds packets of the default virtual router against, and
//! those that it can't express, which close what they may be about. One that selects by more than the chip can look at is a trap there.
//!
//! A rule that looks a table up becomes one that names the virtual router of that table. Where that finds nothing the kernel goes on with
//! the next rule; the chip traps.

use core::net::IpAddr;
use std::collections::BTreeSet;

use hal::{Addr, Prefix, RifId, RuleAction, TrapClass, VrfId};

use super::Ports;
use super::vrf::{DEFAULT, Place, router};
use crate::mirror::{Mirror, MirrorFamily, Odd, Rule, TABLE_LOCAL, TABLE_MAIN, VrfOrder};

/// `FR_ACT_*` (`linux/fib_rules.h`).
mod action {
    pub const TO_TABLE: u8 = 1;
    pub const BLACKHOLE: u8 = 6;
    pub const UNREACHABLE: u8 = 7;
    pub const PROHIBIT: u8 = 8;
}

/// The rules of a family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ruled<F: hal::Family> {
    /// For the chip.
    pub list: Vec<hal::Rule<F>>,
    /// What is not in the list.
    pub odd: Vec<Odd>,
    /// A rule of the list comes in before the tables of VRFs, whose packets the list is not for.
    pub before_vrfs: bool,
}

impl<F: hal::Family> Default for Ruled<F> {
    fn default() -> Self {
        Ruled { list: Vec::new(), odd: Vec::new(), before_vrfs: false }
    }
}

impl<F: MirrorFamily> Ruled<F> {
    /// As the kernel has them. `max` rules fit into the chip's list; `place` says how far it is with a virtual router.
    pub fn new(m: &Mirror, ports: &Ports, max: u32, place: impl Fn(VrfId) -> Place) -> Self {
        let rules = m.rules::<F>();
        if max == 0 {
            return Ruled { odd: rules.odd, ..Ruled::default() };
        }
        let mut r = Ruled::default();
        for odd in &rules.odd {
            match odd.rule.as_ref().and_then(|o| express(m, ports, o, rules.vrf, &place)) {
                Some(rule) => {
                    r.list.push(rule);
                    r.before_vrfs |= odd.before_vrfs;
                }
                None => r.odd.push(odd.clone()),
            }
        }
        if r.list.len() > max as usize {
            // The first of them, and the kernel decides over the rest.
            r.list.truncate(max as usize - 1);
            r.list.push(hal::Rule::all(RuleAction::Trap(TrapClass::NoRoom)));
        }
        r
    }
}

/// The tables that rules of a family would have looked up as virtual routers.
pub fn wanted<F: MirrorFamily>(m: &Mirror, ports: &Ports) -> BTreeSet<VrfId> {
    let rules = m.rules::<F>();
    let named = |o: &Odd| match express::<F>(m, ports, o.rule.as_ref()?, rules.vrf, |_| Place::Open)?.then {
        RuleAction::Vrf(v) if v != DEFAULT => Some(v),
        _ => None,
    };
    rules.odd.iter().filter_map(named).collect()
}

/// The chip's rule for one of the kernel's, or one that traps what it may be about; `None` where neither would be right.
fn express<F: MirrorFamily>(
    m: &Mirror,
    ports: &Ports,
    r: &Rule,
    order: VrfOrder,
    place: impl Fn(VrfId) -> Place,
) -> Option<hal::Rule<F>> {
    if r.invert || r.l3mdev || r.oif.is_some() {
        return None;
    }
    let prefix = |p: Option<(IpAddr, u8)>| match p {
        None => Some(Prefix::all()),
        Some((IpAddr::V4(a), len)) if F::BITS == 32 => Some(Prefix::new(F::Addr::from_number(a.to_bits().into()), len)),
        Some((IpAddr::V6(a), len)) if F::BITS == 128 => Some(Prefix::new(F::Addr::from_number(a.to_bits()), len)),
        Some(_) => None,
    };
    let iif = match &r.iif {
        None => None,
        // A port in a VRF is not what its packets come in by.
        Some(name) => {
            let l = m.links().find(|l| l.name == *name).filter(|l| ports.has(l.ifindex) && l.master.is_none())?;
            Some(RifId(l.ifindex))
        }
    };
    let then = match r.action {
        action::TO_TABLE if r.table == TABLE_LOCAL => return None,
        action::TO_TABLE if r.other => RuleAction::Trap(TrapClass::Punt),
        action::TO_TABLE if r.table == TABLE_MAIN => RuleAction::Vrf(DEFAULT),
        action::TO_TABLE => match router(r.table) {
            // Its virtual router is one with table local first.
            Some(id) if place(id) == Place::Open && order != VrfOrder::VrfFirst => RuleAction::Vrf(id),
            _ => RuleAction::Trap(TrapClass::Punt),
        },
        action::BLACKHOLE | action::UNREACHABLE | action::PROHIBIT => RuleAction::Trap(TrapClass::Unreachable),
        _ => return None,
    };
    // Sources are looked up by the rules as well: there must be none in the table that the kernel would refuse.
    if r.action == action::TO_TABLE && r.table != TABLE_MAIN && m.has_own(r.table) {
        return None;
    }
    Some(hal::Rule {
        iif,
        src: prefix(r.from)?,
        dst: prefix(r.to)?,
        tos: r.tos,
        proto: r.proto,
        sport: r.sport,
        dport: r.dport,
        shortest: r.shortest,
        then,
    })
}
