//! Devices and next-hop objects on them, and what dies with them: what the kernel removes without a word is removed here.

use std::net::IpAddr;

use super::ctx::{Ctx, IFF_UP};
use super::sets::Fate;
use super::types::Link;
use super::{IFF_LOOPBACK, IFF_LOWER_UP, IFF_NOARP, IFF_RUNNING, Mirror};
use crate::input::DumpKind;
use crate::netlink::{AF_INET, AF_INET6};

impl Mirror {
    pub(super) fn sweep(&mut self, family: u8) {
        if family == AF_INET { self.r4.sweep_dead() } else { self.r6.sweep_dead() }
    }

    pub(super) fn fate(&mut self, family: u8, ifindex: u32, fate: Fate, seq: u64) {
        if self.ctx.fate(family, ifindex, fate, seq) {
            self.sweep(family);
        }
    }

    /// A change of the MTU is announced before IPv6 has followed it, and not again (seen on 6.18).
    pub(super) fn follow_mtu(&mut self, l: &mut Link) {
        /// `IPV6_MIN_MTU` (RFC 8200, section 5): below it IPv6 leaves the device.
        const MIN: u32 = 1280;
        if let Some(old) = self.ctx.links.get(&l.ifindex).filter(|o| o.mtu != l.mtu)
            && (l.mtu6.is_some() || old.mtu < MIN)
        {
            l.mtu6 = (l.mtu >= MIN).then_some(l.mtu);
        } else if l.mtu6.is_some_and(|m| m != l.mtu) {
            // Set apart by a sysctl, or a message that a dump has overtaken.
            self.dirt.wanted.insert(DumpKind::Link);
        }
    }

    pub(super) fn link_new(&mut self, seq: u64, l: Link) {
        let old = self.ctx.links.insert(l.ifindex, l.clone());
        if old.as_ref() == Some(&l) {
            return;
        }
        if old.as_ref().is_some_and(|o| Link { port: l.port.clone(), ..o.clone() } == l) {
            self.dirt.bridge_ports.insert(l.ifindex);
            return;
        }
        self.enslaved(l.ifindex, old.as_ref().and_then(|o| o.master), l.master);
        self.stacked(l.ifindex, old.as_ref().and_then(|o| o.lower), l.lower);
        self.dirt.links.insert(l.ifindex);
        let stands =
            |l: &Link| (l.lower, l.stacked, l.bridge.as_ref().map(|b| (b.filtering, b.tpid, l.flags & IFF_UP)));
        self.dirt.stacks |= old.as_ref().map(stands) != Some(stands(&l));
        let Some(old) = old else { return };
        let i = l.ifindex;
        let runs = |l: &Link| l.flags & IFF_UP != 0 && l.carrier;
        if l.master.is_some() && runs(&old) && !runs(&l) {
            // By a port's state alone the kernel forgets nothing (`br_stp_disable_port`).
            self.dirt.forgets.insert((i, None));
        }
        if l.bridge.is_some() && old.flags & IFF_UP != 0 && l.flags & IFF_UP == 0 {
            let ports: Vec<_> = self.bridge_ports(i).map(|p| (p, None)).collect();
            self.dirt.forgets.extend(ports);
        }
        if (old.mtu, old.mtu6) != (l.mtu, l.mtu6) {
            self.mtu6_changed();
        }
        let up = |l: &Link| l.flags & IFF_UP != 0;
        let ready = |l: &Link| up(l) && l.flags & IFF_RUNNING != 0;
        // A device that is put into a VRF or taken out is cycled by the kernel, and its routes go (kernel-facts 8).
        let vrf = |m: Option<u32>| m.filter(|m| self.ctx.links.get(m).is_none_or(|m| m.kind == "vrf"));
        if vrf(old.master) != vrf(l.master) {
            self.fate(AF_INET, i, Fate::Forced, seq);
            self.fate(AF_INET6, i, Fate::Forced, seq);
            self.ctx.confirm.extend([DumpKind::Route4, DumpKind::Route6]);
        }
        if up(&old) && !up(&l) {
            // Kernel-facts 1 and 7. IPv6 announces what it removes, unless it is told not to.
            self.fate(AF_INET, i, Fate::Down, seq);
            self.fate(AF_INET6, i, Fate::Forced, seq);
            self.proxies.retain(|(d, _)| *d != i);
            for id in self.ctx.objects.on(i) {
                self.object_gone(seq, id);
                self.ctx.confirm.insert(DumpKind::NextHop);
            }
        }
        if !up(&old) && up(&l) {
            self.fate(AF_INET, i, Fate::Live, seq);
        }
        // IPv6 waits for the link to be ready.
        if !ready(&old) && ready(&l) {
            self.fate(AF_INET6, i, Fate::Live, seq);
            // Kept IPv6 addresses (kernel-facts 21) may come back unannounced.
            self.ctx.confirm.insert(DumpKind::Addr);
        }
        let carrier = |l: &Link| l.flags & (IFF_RUNNING | IFF_LOWER_UP) != 0;
        if !carrier(&old) && carrier(&l) {
            for f in Ctx::FAMILIES {
                if self.ctx.ignores_linkdown(f, i) {
                    self.ask_dead(f, i);
                }
            }
        }
        let flapped = carrier(&old) && !carrier(&l) || old.carrier_down != l.carrier_down;
        if up(&l) && flapped && !self.ctx.objects.on(i).is_empty() {
            // Kernel-facts 2 and 10: objects go if the kernel has noticed, and a flap that it has not stays unseen.
            self.dirt.wanted.insert(DumpKind::NextHop);
            self.ask_routes();
        }
        if old.flags & (IFF_NOARP | IFF_LOOPBACK) != l.flags & (IFF_NOARP | IFF_LOOPBACK) {
            self.dirt.wanted.insert(DumpKind::Neigh);
        }
    }

    /// Members on the device may have been shown dead for its link or for good: now a dump tells.
    pub(super) fn ask_dead(&mut self, family: u8, ifindex: u32) {
        if self.ctx.sets.multipath_on(family, ifindex) {
            self.dirt.wanted.insert(if family == AF_INET { DumpKind::Route4 } else { DumpKind::Route6 });
            self.ctx.stats.undecided += 1;
        }
    }

    /// Routes of next-hop objects may have gone unseen: only a dump tells.
    pub(super) fn ask_routes(&mut self) {
        if self.ctx.objects.iter().any(|o| self.ctx.sets.object_used(o.id)) {
            self.dirt.wanted.extend([DumpKind::Route4, DumpKind::Route6]);
            self.ctx.stats.undecided += 1;
        }
    }

    pub(super) fn link_gone(&mut self, seq: u64, i: u32) {
        self.seen.links.remove(&i);
        let Some(gone) = self.ctx.links.remove(&i) else { return };
        self.enslaved(i, gone.master, None);
        self.stacked(i, gone.lower, None);
        self.dirt.links.insert(i);
        self.dirt.stacks = true;
        self.bridge_gone(i);
        for id in self.ctx.objects.on(i) {
            self.object_gone(seq, id);
        }
        for k in self.addrs.keys().copied().filter(|k| k.ifindex == i).collect::<Vec<_>>() {
            self.addr_gone(seq, &k);
        }
        self.fate(AF_INET, i, Fate::Gone, seq);
        self.fate(AF_INET6, i, Fate::Gone, seq);
        for a in self.n4.keys().filter(|k| k.0 == i).map(|k| IpAddr::V4(k.1)).collect::<Vec<_>>() {
            self.neigh_gone(i, a);
        }
        for a in self.n6.keys().filter(|k| k.0 == i).map(|k| IpAddr::V6(k.1)).collect::<Vec<_>>() {
            self.neigh_gone(i, a);
        }
        self.proxies.retain(|(d, _)| *d != i);
        for f in Ctx::FAMILIES {
            self.netconf_gone(f, i as i32);
        }
    }

    pub(super) fn object_gone(&mut self, seq: u64, id: u32) {
        self.seen.objects.remove(&id);
        if self.ctx.object_gone(id, seq) {
            self.sweep(AF_INET);
            self.sweep(AF_INET6);
        }
    }
}
