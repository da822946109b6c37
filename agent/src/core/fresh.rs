//! Neighbours that hardware uses are kept fresh in the kernel: gateways are *managed*, hosts that packets hit are probed.
//!
//! The kernel does not see the packets that hardware forwards, and would let what they use grow stale unseen. Gateways of
//! programmed groups carry `NTF_EXT_MANAGED`; hosts get `NTF_USE` when the chip marks them as hit (kernel-facts 18, 37).
//!
//! A gateway is managed only while hardware forwards packets of a family to it. Where the kernel forwards alone its choice of
//! route can depend on what it knows of neighbours (IPv6 routes with forwarding off), and asking for them would change it. Where
//! it chooses members of a group by that, one that it knows nothing of is left to the first packet that needs it. What we manage bears [`PROTOCOL`], so that a later run of the agent can tell it
//! from what others manage, and let go of it.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use hal::{AnyKey, Nanos, TableId, V4, V6};

use super::{Core, SECOND};
use crate::compile;
use crate::compile::group::IFF_UP;
use crate::compile::neigh::nud;
use crate::input::Output;
use crate::mirror::Neigh;
use crate::netlink::build::{Builder, push_attr};

/// `linux/neighbour.h`, `linux/rtnetlink.h`, `linux/netlink.h`
const RTM_NEWNEIGH: u16 = 28;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_PROTOCOL: u16 = 12;
const NDA_FLAGS_EXT: u16 = 15;
const NTF_USE: u8 = 0x01;
const NTF_EXT_LEARNED: u8 = 0x10;
const NTF_EXT_MANAGED: u32 = 1;

/// Who made a neighbour entry (`NDA_PROTOCOL`), as `rtm_protocol` says it of routes: a number that nobody else is known to use.
const PROTOCOL: u8 = 118;

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
    /// Whether an entry may be made where there is none.
    make: bool,
}

/// State of all this.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    /// Gateways in use, that should be managed.
    managed: BTreeMap<Key, Managed>,
    /// To be let go of when the kernel says that it manages them (the answer to our asking may be on its way), and since when.
    leaving: BTreeMap<Key, Nanos>,
    /// What an earlier run of the agent left managed has been looked for.
    inherited: bool,
    /// Something changed about gateways, links or neighbours.
    look: bool,
    /// Changes of next hops, and answers of the chip but for routes, when gateways were last counted.
    counted: u64,
    /// When to look again anyway.
    again: Option<Nanos>,
    /// Requests that wait for their turn, and those whose answer is due.
    queue: VecDeque<Vec<u8>>,
    waiting: BTreeMap<u64, (Nanos, Key)>,
    probed: BTreeMap<Key, Nanos>,
    /// When each neighbour was last asked for, whatever for.
    recent: BTreeMap<Key, Nanos>,
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
        let key = (ifindex, addr);
        self.look |= self.managed.contains_key(&key) || self.leaving.contains_key(&key);
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

/// What a request to the kernel is made of, besides the neighbour's name.
#[derive(Clone, Copy, Default)]
struct Ask {
    create: bool,
    /// `NTF_*`
    flags: u8,
    /// `NTF_EXT_*`
    ext: Option<u32>,
    /// Whether to mark it as ours.
    mark: bool,
}

/// `RTM_NEWNEIGH`; the edge fills in sequence number and `NLM_F_REQUEST | NLM_F_ACK`.
fn message((ifindex, addr): Key, ask: Ask) -> Vec<u8> {
    let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
    let mut fixed = [0; 12];
    fixed[0] = family;
    fixed[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    fixed[10] = ask.flags;
    let create = if ask.create { NLM_F_CREATE | NLM_F_EXCL } else { 0 };
    let mut m = Builder::new(RTM_NEWNEIGH, create, &fixed).addr(NDA_DST, addr);
    if let Some(ext) = ask.ext {
        m = m.u32(NDA_FLAGS_EXT, ext);
    }
    if ask.mark {
        m = m.attr(NDA_PROTOCOL, &[PROTOCOL]);
    }
    m.done()
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
        let again = self.fresh.again.filter(|_| self.program.in_flight() == 0);
        [refresh, queue, waiting, again].into_iter().flatten().min()
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
        let changes = self.program.totals.few + self.program.ids.nexthop_changes();
        if self.fresh.counted != changes && self.program.in_flight() == 0 {
            self.fresh.counted = changes;
            self.count_gateways();
        }
        // Not while the chip is being written: a gateway may be about to go out of use, with its neighbour gone already.
        if self.program.in_flight() == 0
            && (core::mem::take(&mut self.fresh.look) || self.fresh.again.is_some_and(|at| now >= at))
        {
            self.release();
            self.hold_gateways();
        }
        self.send_requests();
    }

    /// Whether the chip lets packets of a family in anywhere.
    fn forwards(&self, v6: bool) -> bool {
        self.program.rif.all().any(|(_, e)| if v6 { e.ingress6 } else { e.ingress4 })
    }

    /// The gateways that hardware sends packets to, and whether the kernel may be made to know one that it knows nothing of:
    /// where it chooses members by their neighbours, one that it has not tried yet counts as good.
    fn gateways(&self) -> BTreeMap<Key, bool> {
        let (open4, open6) = (self.forwards(false), self.forwards(true));
        let facts = self.facts();
        let mut out = BTreeMap::new();
        for (g, nh) in self.program.ids.groups() {
            let open = if self.mirror.nhset_is_v6(nh) { open6 } else { open4 };
            if !open || self.program.group.acked(g).is_none_or(|e| e.members.is_empty()) {
                continue;
            }
            let spec = compile::group::group(&facts, nh);
            for gw in spec.gateways {
                *out.entry(gw).or_insert(true) &= !spec.looks;
            }
        }
        out
    }

    fn count_gateways(&mut self) {
        let used = self.gateways();
        let gone: Vec<Key> = self.fresh.managed.keys().filter(|k| !used.contains_key(*k)).copied().collect();
        for k in gone {
            if self.fresh.managed.remove(&k).is_some_and(|m| m.asked.is_some()) {
                self.fresh.leaving.insert(k, self.now);
            }
        }
        if !core::mem::replace(&mut self.fresh.inherited, true) {
            let ours = |n: &Neigh| n.protocol == PROTOCOL && n.flags_ext & NTF_EXT_MANAGED != 0;
            let four =
                self.mirror.neighs::<V4>().iter().filter(|(_, n)| ours(n)).map(|((i, a), _)| (*i, IpAddr::V4(*a)));
            let six =
                self.mirror.neighs::<V6>().iter().filter(|(_, n)| ours(n)).map(|((i, a), _)| (*i, IpAddr::V6(*a)));
            for k in four.chain(six).filter(|k| !used.contains_key(k)).collect::<Vec<_>>() {
                self.fresh.leaving.insert(k, self.now);
            }
        }
        for (k, make) in used {
            self.fresh.leaving.remove(&k);
            self.fresh.managed.entry(k).or_default().make = make;
        }
        self.fresh.look = true;
    }

    /// The kernel need not keep these resolved any more. An entry that has failed stays: packets that it was asked for
    /// may have left it there without us.
    fn release(&mut self) {
        let now = self.now;
        self.fresh.leaving.retain(|_, at| now < *at + PATIENCE);
        for k in self.fresh.leaving.keys().copied().collect::<Vec<_>>() {
            if self.neigh_of(k).is_some_and(|n| n.flags_ext & NTF_EXT_MANAGED != 0) {
                self.fresh.leaving.remove(&k);
                self.release_one(k);
            }
        }
    }

    fn release_one(&mut self, k: Key) {
        let Some(n) = self.neigh_of(k) else { return };
        if n.state & (nud::PERMANENT | nud::NOARP) != 0 {
            return;
        }
        // `NTF_USE` alone takes `NTF_EXT_MANAGED` away; without `NLM_F_CREATE` it does not bring back a dead entry.
        let ask = Ask { flags: NTF_USE | (n.flags & NTF_EXT_LEARNED), ext: Some(0), ..Ask::default() };
        self.fresh.queue.push_back(message(k, ask));
    }

    /// A neighbour that was made static just before a request of ours reached the kernel has become dynamic by it: it is made
    /// static again.
    pub(super) fn restore(&mut self, k: Key, was: &Neigh) {
        let Some(mac) = was.mac.filter(|_| self.fresh.recent.get(&k).is_some_and(|at| self.now < at + PATIENCE)) else {
            return;
        };
        tracing::info!(
            "neighbour {} on device {} became static while it was asked for, and is made so again",
            k.1,
            k.0
        );
        let mut m = message(k, Ask { flags: was.flags & NTF_EXT_LEARNED, ..Ask::default() });
        m[6..8].copy_from_slice(&NLM_F_REPLACE.to_ne_bytes());
        m[24..26].copy_from_slice(&was.state.to_ne_bytes());
        push_attr(&mut m, NDA_LLADDR, &mac.0);
        let len = m.len() as u32;
        m[..4].copy_from_slice(&len.to_ne_bytes());
        self.fresh.queue.push_front(m);
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
            if held || !up || !m.make && self.neigh_of(*k).is_none() {
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
            let held = self.neigh_of(k);
            let (flags, protocol) = held.map_or((0, 0), |n| (n.flags & NTF_EXT_LEARNED, n.protocol));
            // Made if there is none and only then: the kernel would make a dynamic entry of a static one that came meanwhile.
            let create = held.is_none();
            // An entry of another maker keeps its mark.
            let mark = protocol == 0 || protocol == PROTOCOL;
            self.fresh.queue.push_back(message(k, Ask { create, flags, ext: Some(NTF_EXT_MANAGED), mark }));
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
            let key = key_of(&message);
            self.fresh.recent.insert(key, self.now);
            self.fresh.waiting.insert(id, (self.now, key));
            self.out.push_back(Output::Request { id, message });
        }
    }

    /// The kernel answered a request.
    pub(super) fn ack(&mut self, id: u64, errno: i32, message: &str) {
        if self.station_ack(id, errno, message) {
            return;
        }
        let Some((_, (ifindex, addr))) = self.fresh.waiting.remove(&id) else { return };
        // The device went down, IPv6 is off on it, or the entry came or went: news of that is on its way, or was here already.
        let off = errno == libc::EINVAL && addr.is_ipv6();
        if !off && !matches!(errno, 0 | libc::ENETDOWN | libc::ENODEV | libc::ENOENT | libc::EEXIST) {
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
                let ask = Ask { flags: NTF_USE | (n.flags & NTF_EXT_LEARNED), ext: Some(0), ..Ask::default() };
                let m = message(key, ask);
                self.fresh.probed.insert(key, self.now);
                self.fresh.queue.push_back(m);
            }
        }
    }

    pub(super) fn active_done(&mut self) {
        self.fresh.asking = false;
        let now = self.now;
        self.fresh.probed.retain(|_, at| now < *at + 60 * SECOND);
        self.fresh.recent.retain(|_, at| now < *at + PATIENCE);
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
