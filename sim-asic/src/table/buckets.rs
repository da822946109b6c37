//! Writer's side of resilient groups (law h): which bucket leads where, when it was last used, and when it moves. Where buckets
//! stand in the pool that readers see is handed out here, too. No time is read here: `look` is told it.

use std::collections::BTreeMap;

use hal::{Nanos, Resilient};
use hashbrown::HashMap;

use super::group::Groups;
use crate::sync::Epochs;

const MS: Nanos = 1_000_000;
/// How often marks are taken: so many times in the time after which a bucket is idle, within these bounds.
const LOOKS: Nanos = 4;
const OFTEN: Nanos = 100 * MS;
const SELDOM: Nanos = 1000 * MS;
/// In [`Layout::used`]: no packet since it moved, so that it is idle whatever the time.
const FRESH: Nanos = 1 << 63;
/// In [`Layout::leads`]: nowhere yet.
const NOWHERE: u32 = u32::MAX;

/// A member's part.
#[derive(Clone, Copy, Debug)]
struct Share {
    next: u32,
    wants: u32,
    has: u32,
}

/// The buckets of one group.
#[derive(Debug)]
struct Layout {
    at: u32,
    spec: Resilient,
    shares: Vec<Share>,
    /// The next hop of each bucket.
    leads: Vec<u32>,
    /// When each was last seen in use, or moved.
    used: Vec<Nanos>,
    /// Since when a member has less than its share.
    since: Option<Nanos>,
    /// When marks are taken next.
    due: Nanos,
}

/// The parts of members with these weights in so many buckets (`nh_res_group_rebalance`); one named twice has one part.
fn shares(members: &[(u32, u32)], buckets: u16) -> Vec<Share> {
    let sum = members.iter().map(|(_, w)| u64::from(*w)).sum::<u64>().max(1);
    let (mut up_to, mut before) = (0, 0);
    let mut out: Vec<Share> = Vec::with_capacity(members.len());
    let mut places = HashMap::new();
    for &(next, weight) in members {
        up_to += u64::from(weight);
        let end = ((u128::from(buckets) * u128::from(up_to) * 2 + u128::from(sum)) / (2 * u128::from(sum))) as u32;
        let wants = end - before;
        before = end;
        let place = *places.entry(next).or_insert(out.len());
        match out.get_mut(place) {
            Some(s) => s.wants += wants,
            None => out.push(Share { next, wants, has: 0 }),
        }
    }
    out
}

impl Layout {
    /// Take the marks of packets that came by.
    fn look(&mut self, now: Nanos, groups: &Groups) {
        for (bucket, used) in (self.at..).zip(&mut self.used) {
            if groups.take_hit(bucket) {
                *used = now;
            }
        }
        self.due = now + (self.spec.idle.saturating_mul(MS) / LOOKS).clamp(OFTEN, SELDOM);
    }

    fn idle(&self, used: Nanos, now: Nanos) -> bool {
        used & FRESH != 0 || now.saturating_sub(used) >= self.spec.idle.saturating_mul(MS)
    }

    /// Have buckets move that have to or may.
    fn balance(&mut self, now: Nanos, groups: &Groups) {
        let places: HashMap<u32, usize> = self.shares.iter().zip(0..).map(|(s, i)| (s.next, i)).collect();
        self.shares.iter_mut().for_each(|s| s.has = 0);
        for next in &self.leads {
            if let Some(s) = places.get(next).and_then(|i| self.shares.get_mut(*i)) {
                s.has += 1;
            }
        }
        let lacks = |s: &Share| s.has < s.wants;
        let mut takers: Vec<usize> = (0..self.shares.len()).filter(|i| lacks(&self.shares[*i])).collect();
        if takers.is_empty() {
            self.since = None;
            return;
        }
        let since = *self.since.get_or_insert(now);
        let forced = self.spec.unbalanced > 0 && now - since > self.spec.unbalanced.saturating_mul(MS);
        let mut turn = 0;
        // First those that lead to no member, then idle ones, then those that can't wait any longer.
        for pass in 0..if forced { 3 } else { 2 } {
            for b in 0..self.leads.len() {
                let from = places.get(&self.leads[b]).copied();
                let moves = match from {
                    None => true,
                    Some(i) => {
                        let over = self.shares[i].has > self.shares[i].wants;
                        over && (pass == 2 || pass == 1 && self.idle(self.used[b], now))
                    }
                };
                if takers.is_empty() {
                    self.since = None;
                    return;
                }
                if !moves {
                    continue;
                }
                turn = if turn + 1 < takers.len() { turn + 1 } else { 0 };
                let to = takers[turn];
                if let Some(i) = from {
                    self.shares[i].has -= 1;
                }
                self.shares[to].has += 1;
                self.leads[b] = self.shares[to].next;
                self.used[b] = now | FRESH;
                let bucket = self.at + b as u32;
                groups.set_bucket(bucket, self.leads[b]);
                groups.take_hit(bucket);
                if !lacks(&self.shares[to]) {
                    takers.swap_remove(turn);
                }
            }
        }
        if takers.is_empty() {
            self.since = None;
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Buckets {
    used: u32,
    /// Free ones: where, and how many.
    free: BTreeMap<u32, u32>,
    layouts: BTreeMap<u32, Layout>,
    now: Nanos,
    /// When the next layout is.
    due: Nanos,
}

impl Buckets {
    pub(crate) fn new(capacity: u32) -> Self {
        let free = (capacity > 0).then_some((0, capacity)).into_iter().collect();
        Buckets { used: 0, free, layouts: BTreeMap::new(), now: 0, due: Nanos::MAX }
    }
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    /// Whether a group, there or not, finds room for that many.
    pub(crate) fn has_room(&self, group: Option<u32>, count: u16) -> bool {
        let has = group.and_then(|g| self.layouts.get(&g)).map_or(0, |l| l.leads.len());
        usize::from(count) <= has || self.free.values().any(|n| *n >= u32::from(count))
    }

    fn take(&mut self, count: u32) -> Option<u32> {
        // The smallest that is large enough, so that large ones stay.
        let (&at, &len) = self.free.iter().filter(|(_, n)| **n >= count).min_by_key(|(_, n)| **n)?;
        self.free.remove(&at);
        if len > count {
            self.free.insert(at + count, len - count);
        }
        self.used += count;
        Some(at)
    }

    /// Give back what no reader sees any more.
    fn give(&mut self, mut at: u32, mut count: u32) {
        if count == 0 {
            return;
        }
        self.used -= count;
        if let Some((&before, &n)) = self.free.range(..at).next_back()
            && before + n == at
        {
            self.free.remove(&before);
            (at, count) = (before, count + n);
        }
        if let Some(n) = self.free.remove(&(at + count)) {
            count += n;
        }
        self.free.insert(at, count);
    }

    /// Make a group resilient, with these members, none of weight 0, or change it. `None`: no room, nothing changed.
    pub(crate) fn set(
        &mut self,
        group: u32,
        spec: Resilient,
        members: &[(u32, u32)],
        mtu: u16,
        groups: &Groups,
        epochs: &Epochs,
    ) -> Option<()> {
        let count = usize::from(spec.buckets);
        // What readers may see until they see the group's word.
        let mut old = None;
        let mut l = match self.layouts.remove(&group) {
            Some(mut l) if l.leads.len() >= count => {
                old = Some((l.at + u32::from(spec.buckets), (l.leads.len() - count) as u32));
                l.leads.truncate(count);
                l.used.truncate(count);
                groups.limit(group, mtu, epochs);
                l
            }
            was => {
                let Some(at) = self.take(u32::from(spec.buckets)) else {
                    self.layouts.extend(was.map(|l| (group, l)));
                    return None;
                };
                old = was.map(|l| (l.at, l.leads.len() as u32)).or(old);
                for b in at..at + u32::from(spec.buckets) {
                    groups.take_hit(b);
                }
                let (leads, used) = (vec![NOWHERE; count], vec![self.now | FRESH; count]);
                Layout { at, spec, shares: Vec::new(), leads, used, since: None, due: 0 }
            }
        };
        l.spec = spec;
        l.shares = shares(members, spec.buckets);
        l.look(self.now, groups);
        l.balance(self.now, groups);
        let nexts: Vec<u32> = members.iter().map(|(next, _)| *next).collect();
        groups.set_buckets(group, (l.at, spec.buckets), &nexts, mtu, epochs);
        if let Some((at, n)) = old.filter(|(_, n)| *n > 0) {
            epochs.wait(epochs.retire());
            self.give(at, n);
        }
        self.due = self.due.min(l.due);
        self.layouts.insert(group, l);
        Some(())
    }

    /// The group is no longer resilient, and readers are told so.
    pub(crate) fn remove(&mut self, group: u32, epochs: &Epochs) {
        if let Some(l) = self.layouts.remove(&group) {
            epochs.wait(epochs.retire());
            self.give(l.at, l.leads.len() as u32);
        }
    }

    /// Time goes on: see who is in use, and have buckets move that are due.
    pub(crate) fn poll(&mut self, now: Nanos, groups: &Groups) {
        self.now = self.now.max(now);
        if self.now < self.due {
            return;
        }
        self.due = Nanos::MAX;
        for l in self.layouts.values_mut() {
            if self.now >= l.due {
                l.look(self.now, groups);
                if l.since.is_some() {
                    l.balance(self.now, groups);
                }
            }
            self.due = self.due.min(l.due);
        }
    }

    /// Buckets from `cursor` on, in order: group, number, next hop, milliseconds since it was in use or moved.
    pub(crate) fn page(&self, cursor: u64, max: usize, mut f: impl FnMut(u32, u16, u32, u64)) -> Option<u64> {
        let (first, mut from) = ((cursor >> 16) as u32, cursor as usize & 0xffff);
        let mut n = 0;
        for (group, l) in self.layouts.range(first..) {
            for b in if *group == first { core::mem::take(&mut from) } else { 0 }..l.leads.len() {
                if n == max {
                    return Some(u64::from(*group) << 16 | b as u64);
                }
                n += 1;
                f(*group, b as u16, l.leads[b], self.now.saturating_sub(l.used[b] & !FRESH) / MS);
            }
        }
        None
    }
}
