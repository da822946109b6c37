//! Netconf: a message names one setting or all of them.

use super::Mirror;
use super::types::Netconf;
use crate::input::DumpKind;
use crate::netlink::object::NetconfMsg;

impl Mirror {
    pub(super) fn netconf_new(&mut self, n: &NetconfMsg, dump: bool) {
        self.seen.netconf.insert((n.family, n.ifindex));
        let old = self.ctx.netconf.get(&(n.family, n.ifindex)).copied();
        if old.is_none() && !dump && n.forwarding.is_none() {
            // One setting of what we know nothing else of.
            self.dirt.wanted.insert(DumpKind::Netconf);
        }
        let o = old.unwrap_or_default();
        let new = Netconf {
            forwarding: n.forwarding.unwrap_or(o.forwarding),
            rp_filter: n.rp_filter.unwrap_or(o.rp_filter),
            ignore_linkdown: n.ignore_linkdown.unwrap_or(o.ignore_linkdown),
        };
        if old != Some(new) {
            self.ctx.netconf.insert((n.family, n.ifindex), new);
            if o.ignore_linkdown && !new.ignore_linkdown {
                let one = u32::try_from(n.ifindex).ok();
                for i in self.ctx.links.keys().copied().filter(|i| one.is_none_or(|o| o == *i)).collect::<Vec<_>>() {
                    self.ask_dead(n.family, i);
                }
            }
            self.netconf_dirty(n.ifindex);
        }
    }

    pub(super) fn netconf_gone(&mut self, family: u8, ifindex: i32) {
        self.seen.netconf.remove(&(family, ifindex));
        if self.ctx.netconf.remove(&(family, ifindex)).is_some() {
            self.netconf_dirty(ifindex);
        }
    }

    pub(super) fn netconf_dirty(&mut self, ifindex: i32) {
        match u32::try_from(ifindex) {
            Ok(i) => {
                self.dirt.links.insert(i);
            }
            Err(_) => self.dirt.netconf = true,
        }
    }
}
