//! Addresses of this machine, and the routes that go with the last one of a device or with a preferred source.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Mirror;
use super::ctx::IFF_UP;
use super::sets::Fate;
use super::types::{AddrEntry, AddrKey};
use crate::input::DumpKind;
use crate::netlink::{AF_INET, AF_INET6};

impl Mirror {
    pub(super) fn addr_new(&mut self, seq: u64, k: AddrKey, e: AddrEntry) {
        match self.addrs.insert(k, e) {
            Some(_) => return,
            None => self.own(&k, true),
        }
        // IPv6 may have been switched on again on the device.
        if k.local.is_ipv6() && self.ctx.addressed.get(&(k.ifindex, AF_INET6)) == Some(&1) {
            self.ask_switched(k.ifindex);
        }
        if k.local.is_ipv4() {
            // The source check asks whether the device has any.
            self.dirt.links.insert(k.ifindex);
        }
        // A first address brings dead members on the device back (kernel-facts 4).
        if k.local.is_ipv4() && self.ctx.links.get(&k.ifindex).is_some_and(|l| l.flags & IFF_UP != 0) {
            self.fate(AF_INET, k.ifindex, Fate::Live, seq);
        }
    }

    pub(super) fn addr_gone(&mut self, seq: u64, k: &AddrKey) {
        self.seen.addrs.remove(k);
        if self.addrs.remove(k).is_none() {
            return;
        }
        self.own(k, false);
        self.dirt.links.insert(k.ifindex);
        let left = self.addrs.keys().any(|o| o.ifindex == k.ifindex && o.local.is_ipv4() == k.local.is_ipv4());
        match k.local {
            IpAddr::V4(a) => {
                self.dirt.links.insert(k.ifindex);
                let home = self.ctx.home(k.ifindex);
                let elsewhere = self.addrs.keys().any(|o| o.local == k.local && self.ctx.home(o.ifindex) == home);
                if !elsewhere && self.ctx.source_gone(home, a, seq) {
                    self.sweep(AF_INET);
                }
                if !left {
                    self.fate(AF_INET, k.ifindex, Fate::Forced, seq);
                }
            }
            // IPv6 may have been switched off on the device: its multipath members are dead then, and nothing says so.
            IpAddr::V6(_) if !left => self.ask_switched(k.ifindex),
            IpAddr::V6(_) => {}
        }
    }

    /// IPv6 may have been switched on or off on the device, which nothing announces as such.
    fn ask_switched(&mut self, ifindex: u32) {
        if self.ctx.up(ifindex) && self.ctx.sets.multipath_on(AF_INET6, ifindex) {
            self.dirt.wanted.insert(DumpKind::Route6);
        }
    }

    /// Somebody who reads sysctls saw that IPv6 was switched on or off on a device (`disable_ipv6`): its addresses may stay or
    /// come back, and its routes' members live or die, unannounced.
    pub fn ipv6_switched(&mut self) {
        self.dirt.wanted.extend([DumpKind::Addr, DumpKind::Route6]);
    }

    pub(super) fn own(&mut self, k: &AddrKey, came: bool) {
        fn count<A: Ord + Copy>(map: &mut BTreeMap<A, u32>, a: A, came: bool) -> bool {
            let n = map.entry(a).or_default();
            *n = if came { *n + 1 } else { n.saturating_sub(1) };
            let edge = *n == u32::from(came);
            if *n == 0 {
                map.remove(&a);
            }
            edge
        }
        let family = if k.local.is_ipv4() { AF_INET } else { AF_INET6 };
        count(&mut self.ctx.addressed, (k.ifindex, family), came);
        match k.local {
            IpAddr::V4(a) => {
                if count(&mut self.own4, a, came) {
                    self.dirt.own4.insert(a);
                }
            }
            IpAddr::V6(a) => {
                if count(&mut self.own6, a, came) {
                    self.dirt.own6.insert(a);
                }
            }
        }
    }
}
