//! Neighbours that hardware uses are kept fresh in the kernel: gateways are *managed*, hosts that packets hit are probed.
//!
//! The kernel does not see the packets that hardware forwards, and would let what they use grow stale unseen. Gateways of
//! programmed groups carry `NTF_EXT_MANAGED`; hosts get `NTF_USE` when the chip marks them as hit (kernel-facts 18, 37).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use hal::{AnyKey, Nanos, NextHopEntry, TableId, V4, V6};

use super::{Core, SECOND};
use crate::compile::group::IFF_UP;
use crate::compile::neigh::nud;
use crate::input::Output;
use crate::mirror::Neigh;

/// `linux/neighbour.h`, `linux/rtnetlink.h`, `linux/netlink.h`
const RTM_NEWNEIGH: u16 = 28;
const NLM_F_CREATE: u16 = 0x400;
const NDA_DST: u16 = 1;
const NDA_FLAGS_EXT: u16 = 15;
const NTF_USE: u8 = 0x01;
const NTF_EXT_LEARNED: u8 = 0x10;
const NTF_EXT_MANAGED: u32 = 1;

/// How long a managed neighbour that the kernel does not take is left alone: from 1 s, doubling, to 32 s.
fn pause(tries: u32) -> Nanos {
    SECOND << tries.min(5)
}
/// An answer that does not come for this long is given up on.
const PATIENCE: Nanos = 10 * SECOND;

type Key = (u32, IpAddr);

#[derive(Debug, Default)]
struct Managed {
    asked: Option<Nanos>,
    tries: u32,
}

/// State of all this.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    /// Gateways in use, that should be managed.
    managed: BTreeMap<Key, Managed>,
    /// Something changed about gateways, links or neighbours.
    look: bool,
    /// Operations acknowledged by the chip when gateways were last counted.
    counted: u64,
    /// When to look again anyway.
    again: Option<Nanos>,
    /// Requests that wait for their turn, and those whose answer is due.
    queue: VecDeque<Vec<u8>>,
    waiting: BTreeMap<u64, (Nanos, Key)>,
    probed: BTreeMap<Key, Nanos>,
    /// Requests that may go out now, in thousandths.
    tokens: u64,
    /// When that was last counted; `None` before the first time.
    refilled: Option<Nanos>,
    /// When the chip was last asked for hit marks; `None` while an answer is due.
    asked: Option<Nanos>,
    asking: bool,
}

impl Fresh {
    pub fn look(&mut self) {
        self.look = true;
    }
    pub fn neigh_changed(&mut self, ifindex: u32, addr: IpAddr) {
        if self.managed.contains_key(&(ifindex, addr)) {
            self.look = true;
        }
    }
    /// Whether the kernel owes an answer.
    pub fn asking(&self) -> bool {
        !self.waiting.is_empty()
    }
    /// How many gateways are held.
    pub fn held(&self) -> usize {
        self.managed.len()
    }
}

/// `RTM_NEWNEIGH`; the edge fills in sequence number and `NLM_F_REQUEST | NLM_F_ACK`.
fn message(nl_flags: u16, (ifindex, addr): Key, flags: u8, ext: u32) -> Vec<u8> {
    let (family, dst): (u8, Vec<u8>) = match addr {
        IpAddr::V4(a) => (libc::AF_INET as u8, a.octets().to_vec()),
        IpAddr::V6(a) => (libc::AF_INET6 as u8, a.octets().to_vec()),
    };
    let mut m = vec![0; 16];
    m[4..6].copy_from_slice(&RTM_NEWNEIGH.to_ne_bytes());
    m[6..8].copy_from_slice(&nl_flags.to_ne_bytes());
    m.extend([family, 0, 0, 0]);
    m.extend(ifindex.to_ne_bytes());
    m.extend([0, 0, flags, 0]);
    m.extend((4 + dst.len() as u16).to_ne_bytes());
    m.extend(NDA_DST.to_ne_bytes());
    m.extend(dst);
    m.extend(8u16.to_ne_bytes());
    m.extend(NDA_FLAGS_EXT.to_ne_bytes());
    m.extend(ext.to_ne_bytes());
    let len = m.len() as u32;
    m[..4].copy_from_slice(&len.to_ne_bytes());
    m
}

impl Core {
    fn neigh_of(&self, (ifindex, addr): Key) -> Option<&Neigh> {
        match addr {
            IpAddr::V4(a) => self.mirror.neigh::<V4>(ifindex, a),
            IpAddr::V6(a) => self.mirror.neigh::<V6>(ifindex, a),
        }
    }

    pub(super) fn fresh_deadline(&self) -> Option<Nanos> {
        if !self.programming() {
            return None;
        }
        let refresh = match self.fresh.asked {
            _ if self.cfg.refresh == 0 || self.fresh.asking => None,
            Some(at) => Some(at + self.cfg.refresh),
            None => Some(0),
        };
        let queue = (!self.fresh.queue.is_empty())
            .then(|| self.fresh.refilled.unwrap_or(0) + SECOND / u64::from(self.cfg.probes.max(1)));
        let waiting = self.fresh.waiting.values().map(|(at, _)| at + PATIENCE).min();
        [refresh, queue, waiting, self.fresh.again].into_iter().flatten().min()
    }

    pub(super) fn fresh_work(&mut self) {
        if !self.programming() {
            return;
        }
        let now = self.now;
        self.fresh.waiting.retain(|_, (at, _)| now < *at + PATIENCE);
        if self.cfg.refresh != 0 && !self.fresh.asking && self.fresh.asked.is_none_or(|at| now >= at + self.cfg.refresh)
        {
            self.fresh.asking = true;
            self.fresh.asked = Some(now);
            self.ask_active(TableId::Neigh4, 0);
            self.ask_active(TableId::Neigh6, 0);
        }
        // Which gateways are in use is counted when the chip is at rest, not for each of a burst of routes.
        if self.fresh.counted != self.program.totals.acked && self.program.in_flight() == 0 {
            self.fresh.counted = self.program.totals.acked;
            self.count_gateways();
        }
        if core::mem::take(&mut self.fresh.look) || self.fresh.again.is_some_and(|at| now >= at) {
            self.hold_gateways();
        }
        self.send_requests();
    }

    fn count_gateways(&mut self) {
        let gateway = |e: &NextHopEntry| match e {
            NextHopEntry::Ip(rif, gw) => Some((rif.0, *gw)),
            _ => None,
        };
        let used: BTreeSet<Key> = self.program.ids.nexthops().filter_map(|(_, e)| gateway(e)).collect();
        let gone: Vec<Key> = self.fresh.managed.keys().filter(|k| !used.contains(*k)).copied().collect();
        for k in gone {
            let ours = self.fresh.managed.remove(&k).is_some_and(|m| m.asked.is_some());
            // `NTF_USE` alone takes `NTF_EXT_MANAGED` away; without `NLM_F_CREATE` it does not bring back a dead entry.
            if ours
                && let Some(n) = self.neigh_of(k)
                && n.flags_ext & NTF_EXT_MANAGED != 0
                && n.state & (nud::PERMANENT | nud::NOARP) == 0
            {
                let m = message(0, k, NTF_USE | (n.flags & NTF_EXT_LEARNED), 0);
                self.fresh.queue.push_back(m);
            }
        }
        for k in used {
            self.fresh.managed.entry(k).or_default();
        }
        self.fresh.look = true;
    }

    /// Have the kernel manage each gateway in use that it does not.
    fn hold_gateways(&mut self) {
        let mut ask = Vec::new();
        let mut again: Option<Nanos> = None;
        for (k, m) in &self.fresh.managed {
            let up = self.mirror.link(k.0).is_some_and(|l| l.flags & IFF_UP != 0 && l.carrier);
            let held = self.neigh_of(*k).is_some_and(|n| {
                // The kernel would take `NUD_PERMANENT` away from the operator's entry.
                n.flags_ext & NTF_EXT_MANAGED != 0 || n.state & (nud::PERMANENT | nud::NOARP) != 0
            });
            if held || !up {
                continue;
            }
            match m.asked {
                Some(at) if self.now < at + pause(m.tries) => {
                    let due = at + pause(m.tries);
                    again = Some(again.map_or(due, |a| a.min(due)));
                }
                _ => ask.push(*k),
            }
        }
        for k in ask {
            let learned = self.neigh_of(k).map_or(0, |n| n.flags & NTF_EXT_LEARNED);
            self.fresh.queue.push_back(message(NLM_F_CREATE, k, learned, NTF_EXT_MANAGED));
            if let Some(m) = self.fresh.managed.get_mut(&k) {
                m.asked = Some(self.now);
                m.tries += 1;
                let due = self.now + pause(m.tries);
                again = Some(again.map_or(due, |a| a.min(due)));
            }
        }
        self.fresh.again = again;
    }

    fn send_requests(&mut self) {
        let rate = u64::from(self.cfg.probes.max(1));
        let passed = self.fresh.refilled.map_or(SECOND, |at| self.now.saturating_sub(at).min(SECOND));
        let gained = passed * rate * 1000 / SECOND;
        if gained > 0 {
            self.fresh.tokens = (self.fresh.tokens + gained).min(rate * 1000);
            self.fresh.refilled = Some(self.now);
        }
        while self.fresh.tokens >= 1000
            && let Some(message) = self.fresh.queue.pop_front()
        {
            self.fresh.tokens -= 1000;
            let id = self.id();
            self.fresh.waiting.insert(id, (self.now, key_of(&message)));
            self.out.push_back(Output::Request { id, message });
        }
    }

    /// The kernel answered a request.
    pub(super) fn ack(&mut self, id: u64, errno: i32, message: &str) {
        let Some((_, (ifindex, addr))) = self.fresh.waiting.remove(&id) else { return };
        // The device went down, or the entry is gone: news of that is on its way, or was here already.
        if !matches!(errno, 0 | libc::ENETDOWN | libc::ENODEV | libc::ENOENT) {
            self.totals.refused_requests += 1;
            self.totals.last_refusal = format!(
                "the kernel refused to keep neighbour {addr} on device {ifindex} fresh: error {errno}{}{message}",
                if message.is_empty() { "" } else { ", " }
            );
            tracing::warn!("{}", self.totals.last_refusal);
        }
    }

    /// Packets used these since the chip was last asked.
    pub(super) fn active(&mut self, keys: &[AnyKey]) {
        for k in keys {
            let (key, v6) = match k {
                AnyKey::Neigh4(k) => ((k.rif.0, IpAddr::V4(k.addr)), false),
                AnyKey::Neigh6(k) => ((k.rif.0, IpAddr::V6(k.addr)), true),
                _ => continue,
            };
            let Some(n) = self.neigh_of(key) else { continue };
            // What is reachable or being probed needs nothing, what is managed neither.
            if n.state & nud::STALE == 0 || n.flags_ext & NTF_EXT_MANAGED != 0 {
                continue;
            }
            let name = self.mirror.link(key.0).map_or("", |l| l.name.as_str());
            let base = self.polled.as_ref().and_then(|p| p.reachable_ms(name, v6)).unwrap_or(30_000);
            let half = u64::from(base) * 500_000;
            if self.fresh.probed.get(&key).is_none_or(|at| self.now >= at + half) {
                let m = message(0, key, NTF_USE | (n.flags & NTF_EXT_LEARNED), 0);
                self.fresh.probed.insert(key, self.now);
                self.fresh.queue.push_back(m);
            }
        }
    }

    pub(super) fn active_done(&mut self) {
        self.fresh.asking = false;
        let now = self.now;
        self.fresh.probed.retain(|_, at| now < *at + 60 * SECOND);
    }
}

/// Whom a message of [`message`]'s is about.
fn key_of(m: &[u8]) -> Key {
    let ifindex = m.get(20..24).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let v4 = || m.get(32..36).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(IpAddr::from);
    let v6 = || m.get(32..48).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(IpAddr::from);
    let addr = if m.get(16) == Some(&(libc::AF_INET as u8)) { v4() } else { v6() };
    (ifindex, addr.unwrap_or(IpAddr::V4(0.into())))
}
