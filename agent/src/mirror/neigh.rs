//! Neighbours, but for those that the kernel makes up.

use std::net::IpAddr;

use super::types::Neigh;
use super::{IFF_LOOPBACK, IFF_NOARP, Mirror, NTF_EXT_MANAGED, NUD_INCOMPLETE, NUD_NOARP, NUD_PERMANENT};

/// `NUD_VALID` (`net/neighbour.h`): PERMANENT, NOARP, REACHABLE, PROBE, STALE, DELAY.
const VALID: u16 = 0xde;

/// Whether the kernel, where it chooses a member of a multipath by neighbours, takes one with that neighbour: one that it knows
/// nothing of counts (kernel-facts 30).
fn good(n: Option<&Neigh>) -> bool {
    n.is_none_or(|n| n.state & VALID != 0)
}

impl Mirror {
    /// Forget unresolved neighbours that `live` knows nothing of: the kernel does not announce that it begins to ask for one, nor
    /// that one was made failed by hand. Where it chooses by neighbours, one unknown is trapped, and it decides. And remember the tables
    /// and rules that `live` does ([`Mirror::has_own`], [`Mirror::has_default4`]; which device a rule is about may not show any more).
    pub fn overlook(&mut self, live: &Mirror) {
        self.n4.retain(|k, n| n.state & VALID != 0 || live.n4.contains_key(k));
        self.n6.retain(|k, n| n.state & VALID != 0 || live.n6.contains_key(k));
        self.ctx.own_tables.extend(&live.ctx.own_tables);
        self.ctx.default4 |= live.ctx.default4;
        self.aliased.extend(live.aliased.intersection(&self.rules).cloned());
    }

    /// As `good`, of the neighbour of that address.
    pub fn good(&self, ifindex: u32, a: IpAddr) -> bool {
        good(self.neighbour(ifindex, a))
    }

    /// Entries that the kernel makes up for itself and never announces (kernel-facts 16).
    pub(super) fn made_up(&self, ifindex: u32, a: IpAddr, n: &Neigh) -> bool {
        n.state == NUD_NOARP
            && (a.is_multicast()
                || n.mac.is_none_or(|m| !m.is_unicast())
                || self.ctx.links.get(&ifindex).is_some_and(|l| l.flags & (IFF_LOOPBACK | IFF_NOARP) != 0))
    }

    pub(super) fn neigh_new(&mut self, i: u32, a: IpAddr, n: Neigh) {
        let old = match a {
            IpAddr::V4(a) => self.n4.get(&(i, a)),
            IpAddr::V6(a) => self.n6.get(&(i, a)),
        };
        // The kernel takes NUD_PERMANENT away from what it is asked to use or manage; an operator's own change never leads there.
        let asked = |n: &Neigh| {
            n.state & NUD_PERMANENT == 0 && (n.flags_ext & NTF_EXT_MANAGED != 0 || n.state <= NUD_INCOMPLETE)
        };
        if let Some(o) = old.filter(|o| o.state & NUD_PERMANENT != 0 && o.mac.is_some() && asked(&n)) {
            self.dirt.usurped.push((i, a, o.clone()));
        }
        if good(old) != good(Some(&n)) {
            self.ctx.neigh_turned(i, a);
        }
        match a {
            IpAddr::V4(a) => {
                if self.n4.insert((i, a), n.clone()).as_ref() != Some(&n) {
                    self.dirt.neighs4.insert((i, a));
                }
            }
            IpAddr::V6(a) => {
                if self.n6.insert((i, a), n.clone()).as_ref() != Some(&n) {
                    self.dirt.neighs6.insert((i, a));
                }
            }
        }
    }

    pub(super) fn neigh_gone(&mut self, i: u32, a: IpAddr) {
        self.seen.neighs.remove(&(i, a));
        if !self.good(i, a) {
            self.ctx.neigh_turned(i, a);
        }
        match a {
            IpAddr::V4(a) => {
                if self.n4.remove(&(i, a)).is_some() {
                    self.dirt.neighs4.insert((i, a));
                }
            }
            IpAddr::V6(a) => {
                if self.n6.remove(&(i, a)).is_some() {
                    self.dirt.neighs6.insert((i, a));
                }
            }
        }
    }
}
