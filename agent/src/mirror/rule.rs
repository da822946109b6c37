//! Policy rules: whether they are the kernel's own, in its order, where a VRF's table comes in, and what others reach.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Mirror, MirrorFamily, Rule, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use crate::input::DumpKind;
use crate::netlink::AF_INET;

/// When the kernel looks up the table of the VRF that a packet came in by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum VrfOrder {
    /// Behind table local: as long as no rule was moved.
    LocalFirst,
    /// Before table local.
    VrfFirst,
    /// Not at all, or behind table main.
    #[default]
    Never,
}

/// Which forwarded packets a rule may be about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Any of the family.
    All,
    /// Those that come in by that device, or leave by it: the kernel looks a packet's source up as if it came in by the
    /// device that it is to leave by (`__fib_validate_source`).
    Link(u32),
    /// Those to addresses under that prefix, and for the same reason those from there.
    To(IpAddr, u8),
}

/// A rule that is not one of the kernel's own, or one of these that is missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Odd {
    /// What it may be about.
    pub reach: Reach,
    /// One sentence.
    pub why: String,
    /// The rule, where it comes in behind table local and before table main, and no other has its priority.
    pub rule: Option<Rule>,
    /// It comes in before the tables of VRFs.
    pub before_vrfs: bool,
}

impl Odd {
    fn plain(reach: Reach, why: String) -> Odd {
        Odd { reach, why, rule: None, before_vrfs: true }
    }
}

/// The rules of a family, judged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// What has a say besides the kernel's own rules.
    pub odd: Vec<Odd>,
    /// Where VRFs' tables come in.
    pub vrf: VrfOrder,
}

/// `FR_ACT_TO_TBL`, `FR_ACT_NOP` (`linux/fib_rules.h`).
const TO_TABLE: u8 = 1;
const NOP: u8 = 3;

impl Mirror {
    /// The rules of a family against the kernel's own: tables local, main and, for IPv4, default, in that order, each looked up
    /// by every packet. Looking one up again later changes nothing.
    pub fn rules<F: MirrorFamily>(&self) -> Rules {
        let mut want =
            if F::AF == AF_INET { &[TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT][..] } else { &[TABLE_LOCAL, TABLE_MAIN] };
        let mut rules = Rules::default();
        let mut seen: Vec<u32> = Vec::new();
        let mut last = None;
        let of_priority = |n| self.rules.iter().filter(|(f, r)| *f == F::AF && r.priority == n).count();
        for (_, r) in self.rules.iter().filter(|(f, _)| *f == F::AF) {
            let why = || format!("{} rule of priority {} is not one of the kernel's own", F::NAME, r.priority);
            if !(r.plain && r.action == TO_TABLE && (r.l3mdev || own(r.table))) {
                // Behind table main it is about packets to which table main leads nowhere, and those are trapped; but their sources are not.
                if seen.contains(&TABLE_MAIN) && !(r.action == TO_TABLE && self.ctx.own_tables.contains(&r.table)) {
                    continue;
                }
                let between =
                    seen.contains(&TABLE_LOCAL) && !seen.contains(&TABLE_MAIN) && of_priority(r.priority) == 1;
                rules.odd.extend(self.reach::<F>(r).map(|reach| Odd {
                    reach,
                    why: why(),
                    rule: between.then(|| r.clone()),
                    before_vrfs: rules.vrf == VrfOrder::Never,
                }));
                continue;
            }
            // Which of two of one priority comes first is not visible.
            let tied = last.replace(r.priority) == Some(r.priority);
            if tied {
                rules.odd.push(Odd::plain(Reach::All, why()));
            } else if r.l3mdev {
                if rules.vrf == VrfOrder::Never && !seen.contains(&TABLE_MAIN) {
                    rules.vrf = if seen.contains(&TABLE_LOCAL) { VrfOrder::LocalFirst } else { VrfOrder::VrfFirst };
                }
            } else if want.first() == Some(&r.table) {
                seen.push(r.table);
                want = &want[1..];
            } else if !seen.contains(&r.table) {
                rules.odd.extend(self.reach::<F>(r).map(|reach| Odd::plain(reach, why())));
            }
        }
        let missing = |t| format!("{} rule that looks up table {t} is missing or out of order", F::NAME);
        rules.odd.extend(want.iter().map(|t| Odd::plain(Reach::All, missing(t))));
        rules
    }

    /// The kernel has a rule, or has one no more.
    pub(super) fn rule_said(&mut self, rule: (u8, Rule), lost: (bool, bool), there: bool, dumped: bool) {
        if there {
            // The kernel finds a device by any name that it has when the rule is made, and keeps to that device.
            let names = [(&rule.1.iif, lost.0), (&rule.1.oif, lost.1)];
            let main = |n: &String| n == "lo" || self.ctx.links.values().any(|l| l.name == *n);
            if names.into_iter().any(|(n, lost)| !lost && n.as_ref().is_some_and(|n| !main(n))) {
                self.dirt.rules |= self.aliased.insert(rule.clone());
            }
            let dumped_twice = !self.seen.rules.insert(rule.clone()) && dumped;
            let new = self.rules.insert(rule.clone());
            self.dirt.rules |= new;
            if dumped_twice || !(new || dumped) {
                self.seen.twins.insert(rule.clone());
                self.twins.insert(rule);
            }
        } else if self.twins.contains(&rule) {
            // Whether it was the last one a dump tells.
            self.dirt.wanted.insert(DumpKind::Rule);
        } else {
            self.seen.rules.remove(&rule);
            self.aliased.remove(&rule);
            self.dirt.rules |= self.rules.remove(&rule);
        }
    }

    /// Tables that rules beyond the kernel's own look up: whether they hold anything decides over what the rules reach.
    pub fn rule_tables(&self) -> BTreeSet<u32> {
        let always = |r: &Rule| r.plain && matches!(r.table, TABLE_LOCAL | TABLE_MAIN);
        let other = |r: &Rule| r.action == TO_TABLE && !r.l3mdev && !always(r);
        self.rules.iter().filter(|(_, r)| other(r)).map(|(_, r)| r.table).collect()
    }

    /// Whether table default has, or has had, an IPv4 route. The kernel makes the table for the first one and keeps it: until the first rule beyond
    /// its own it looks there for whatever table main has no way for, and a blackhole is none (`fib_lookup`).
    pub fn has_default4(&self) -> bool {
        self.ctx.default4
    }

    /// Whether a table other than local has, or has had, a route of a kind that no source may have: local, broadcast, anycast, multicast.
    pub fn has_own(&self, table: u32) -> bool {
        self.ctx.own_tables.contains(&table)
    }

    /// Which forwarded packets a rule may be about; `None`: none. What it selects by besides only makes them fewer.
    fn reach<F: MirrorFamily>(&self, r: &Rule) -> Option<Reach> {
        // Looking up what holds nothing is going on with the next rule, and so is doing nothing.
        let empty = || self.tables::<F>().all(|(t, _)| t != r.table);
        if r.action == NOP || r.action == TO_TABLE && !r.l3mdev && empty() {
            return None;
        }
        if r.invert {
            return Some(Reach::All);
        }
        // A mark is given by hooks alone, which close the gate themselves.
        if r.marked {
            return None;
        }
        if self.aliased.contains(&(F::AF, r.clone())) {
            return Some(Reach::All);
        }
        let device = |name: &str| self.links().find(|l| l.name == name);
        if let Some(name) = &r.oif {
            // Forwarded packets are bound to no device but, so to speak, to the VRF that they came in by.
            let vrf = device(name).filter(|l| l.kind == "vrf")?;
            return Some(Reach::Link(vrf.ifindex));
        }
        // The loopback device stands for what the switch sends itself; one that is not there selects nothing.
        let iif = match &r.iif {
            Some(name) if name == "lo" => return None,
            Some(name) => Some(device(name)?.ifindex),
            None => None,
        };
        match (r.to, iif) {
            (Some((a, len)), _) if len > 0 => Some(Reach::To(a, len)),
            (_, Some(i)) => Some(Reach::Link(i)),
            _ => Some(Reach::All),
        }
    }
}

/// One of the tables that the kernel's own rules look up.
fn own(table: u32) -> bool {
    matches!(table, TABLE_LOCAL | TABLE_MAIN | TABLE_DEFAULT)
}
