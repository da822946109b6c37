//! What the chip acknowledged of one of the smaller tables, and what is under way there. Routes are in `routes.rs`.

use core::hash::{BuildHasher, Hash};
use std::collections::{BTreeMap, BTreeSet};

use hal::{AnyKey, Nanos, Op, Reason, Table};

use crate::arena::Fixed;

/// Why the chip does not hold what it should.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure<E> {
    /// The entry that it did not take.
    pub rejected: E,
    /// Its own words.
    pub why: Reason,
    /// How often.
    pub tries: u32,
    /// When it is tried again; `None`: when room appears or something changes.
    pub retry: Option<Nanos>,
}

/// So many tries are a delay; after them what was refused is replaced by a trap, and tried on in the background.
pub const PATIENT: u32 = 5;

/// Delay before try number `tries`: from 10 ms, doubling, to 5 s; a little more or less by key, so that what failed
/// together does not come back in step.
pub fn back_off(tries: u32, key: impl Hash) -> Nanos {
    let spread = Fixed.hash_one(key) % 4_000_000;
    (10_000_000u64 << tries.min(9)).min(5_000_000_000) + spread
}

#[derive(Clone, Debug)]
struct Slot<E> {
    acked: Option<E>,
    /// What is under way: a set, or (`Some(None)`) a remove.
    pending: Option<Option<E>>,
    again: bool,
    failed: Option<Failure<E>>,
}

impl<E> Slot<E> {
    fn unplaced(&self) -> bool {
        self.acked.is_none() && self.failed.as_ref().is_some_and(|f| f.retry.is_none())
    }
}

impl<E> Default for Slot<E> {
    fn default() -> Self {
        Slot { acked: None, pending: None, again: false, failed: None }
    }
}

/// One table.
#[derive(Debug)]
pub struct Small<T: Table> {
    slots: BTreeMap<T::Key, Slot<T::Entry>>,
    dirty: BTreeSet<T::Key>,
    retries: BTreeMap<Nanos, Vec<T::Key>>,
    pending: usize,
    /// Keys that the chip refused at some time and that are not known to be fine since.
    failures: BTreeSet<T::Key>,
    /// How many entries there were when what had found no room was last tried again, and when that was.
    last_room: Option<(usize, Nanos)>,
}

/// See [`Small::room`].
const PATIENCE: Nanos = 5_000_000_000;

impl<T: Table> Default for Small<T> {
    fn default() -> Self {
        Small {
            slots: BTreeMap::new(),
            dirty: BTreeSet::new(),
            retries: BTreeMap::new(),
            pending: 0,
            failures: BTreeSet::new(),
            last_room: None,
        }
    }
}

/// What became of an acknowledged or refused operation.
#[derive(Debug)]
pub struct Outcome<E> {
    /// What stood before, where it does not stand any more.
    pub replaced: Option<E>,
    /// What was asked for and refused.
    pub refused: Option<E>,
    /// Whether dependents have to be looked at: an entry has come, gone or failed.
    pub changed: bool,
}

impl<T: Table> Small<T> {
    /// Look at that key again.
    pub fn touch(&mut self, key: T::Key) {
        self.dirty.insert(key);
    }
    /// Look at every key that the chip is known to hold or to have refused again.
    pub fn touch_all(&mut self) {
        self.dirty.extend(self.slots.keys().copied());
    }
    /// Look at those again.
    pub fn touch_if(&mut self, f: impl Fn(&T::Key) -> bool) {
        self.dirty.extend(self.slots.keys().copied().filter(|k| f(k)));
    }
    /// What the chip acknowledged.
    pub fn acked(&self, key: T::Key) -> Option<&T::Entry> {
        self.slots.get(&key).and_then(|s| s.acked.as_ref())
    }
    /// All that the chip acknowledged.
    pub fn all(&self) -> impl Iterator<Item = (T::Key, &T::Entry)> {
        self.slots.iter().filter_map(|(k, s)| Some((*k, s.acked.as_ref()?)))
    }
    /// Up to `max` keys that the chip holds, was asked to hold or refused, in order, behind `after`.
    pub fn page(&self, after: Option<T::Key>, max: usize) -> Vec<AnyKey> {
        use core::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.slots.range((from, Unbounded)).take(max).map(|(k, _)| (*k).into()).collect()
    }
    /// How many entries the chip acknowledged.
    pub fn len(&self) -> usize {
        self.slots.values().filter(|s| s.acked.is_some()).count()
    }
    /// Whether the chip acknowledged none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether an operation later in the same batch may refer to it.
    pub fn standing(&self, key: T::Key) -> bool {
        self.slots.get(&key).is_some_and(|s| match &s.pending {
            Some(p) => p.is_some(),
            None => s.acked.is_some(),
        })
    }
    /// Whether the chip holds it or is asked to.
    pub fn known(&self, key: T::Key) -> bool {
        self.slots.get(&key).is_some_and(|s| s.acked.is_some() || s.pending.is_some())
    }
    /// Why the chip does not hold what it should under that key.
    pub fn failure(&self, key: T::Key) -> Option<&Failure<T::Entry>> {
        self.slots.get(&key).and_then(|s| s.failed.as_ref())
    }
    /// Keys that the chip refused.
    pub fn failures(&self) -> impl Iterator<Item = T::Key> + '_ {
        self.failures.iter().copied()
    }
    /// Whether nothing is left to send.
    pub fn clean(&self) -> bool {
        self.dirty.is_empty()
    }
    /// Whether nothing is under way, nor a retry expected to help.
    pub fn idle(&self) -> bool {
        self.pending == 0
            && self
                .retries
                .values()
                .flatten()
                .all(|k| self.slots.get(k).and_then(|s| s.failed.as_ref()).is_none_or(|f| f.tries > PATIENT))
    }
    /// When the next retry is due.
    pub fn deadline(&self) -> Option<Nanos> {
        self.retries.keys().next().copied()
    }
    /// Take over what the chip says it holds.
    pub fn load(&mut self, key: T::Key, entry: T::Entry) {
        self.slots.entry(key).or_default().acked = Some(entry);
    }
    /// The chip, as an audit saw, holds `entry` under that key, whatever was acknowledged.
    pub fn correct(&mut self, key: T::Key, entry: Option<T::Entry>) {
        let slot = self.slots.entry(key).or_default();
        if slot.pending.is_none() {
            slot.acked = entry;
        }
        self.dirty.insert(key);
    }
    /// Nothing wants the entry that found no room any more.
    pub fn forget(&mut self, key: T::Key) {
        if !self.known(key) {
            self.slots.remove(&key);
            self.failures.remove(&key);
        }
    }
    /// Room appeared: what found none is looked at again. Says which these are. A try that ended with no more room than
    /// it began with is not repeated for a while: entries that need several places may be short of one for ever.
    pub fn room(&mut self, now: Nanos) -> Vec<T::Key> {
        if !self.starved() {
            return Vec::new();
        }
        let used = self.len();
        if self.last_room.is_some_and(|(least, at)| used >= least && now < at + PATIENCE) {
            return Vec::new();
        }
        self.last_room = Some((used, now));
        let starved: Vec<_> = self.failures.iter().copied().filter(|k| self.no_room(*k)).collect();
        for k in &starved {
            self.failures.remove(k);
            if let Some(s) = self.slots.get_mut(k) {
                s.failed = None;
            }
            self.dirty.insert(*k);
        }
        starved
    }
    fn no_room(&self, key: T::Key) -> bool {
        self.failure(key).is_some_and(|f| matches!(f.why, Reason::TableFull { .. }))
    }
    /// Whether the chip refused it for good, and holds nothing in its place.
    #[inline]
    pub fn unplaced(&self, key: T::Key) -> bool {
        // Asked for every route; as a rule nothing has failed.
        !self.failures.is_empty() && self.slots.get(&key).is_some_and(Slot::unplaced)
    }
    /// Whether something found no room.
    pub fn starved(&self) -> bool {
        self.failures.iter().any(|k| self.no_room(*k))
    }

    /// Compare what was touched with `want` and append what has to be done. `trap` is the form of an entry that the chip
    /// never refuses where one stands already; without one the entry is removed. With `keep` an entry that found no
    /// room stays on the list, whether it is still wanted or not, until there is [`Small::room`].
    pub fn plan(
        &mut self,
        now: Nanos,
        keep: bool,
        mut want: impl FnMut(T::Key, Option<&T::Entry>) -> Option<T::Entry>,
        trap: impl Fn(&T::Entry) -> Option<T::Entry>,
        sets: &mut Vec<Op>,
        removes: &mut Vec<Op>,
    ) {
        while let Some((at, keys)) = self.retries.pop_first() {
            if at > now {
                self.retries.insert(at, keys);
                break;
            }
            self.dirty.extend(keys);
        }
        for key in core::mem::take(&mut self.dirty) {
            let slot = self.slots.entry(key).or_default();
            if slot.pending.is_some() {
                slot.again = true;
                continue;
            }
            let unplaced = slot.unplaced();
            let mut w = match &slot.failed {
                Some(f) if keep && unplaced => Some(f.rejected.clone()),
                _ => want(key, slot.acked.as_ref()),
            };
            if let Some(f) = &slot.failed {
                let same = w.as_ref() == Some(&f.rejected);
                if same && f.retry.is_none_or(|at| at > now) {
                    // The refused entry must not leave an old one standing that means something else; but `Busy` is
                    // no more than a delay.
                    w = match f.why {
                        Reason::Busy if f.tries <= PATIENT => slot.acked.clone(),
                        _ => slot.acked.as_ref().and_then(&trap),
                    };
                } else if !same {
                    slot.failed = None;
                    self.failures.remove(&key);
                }
            }
            if w == slot.acked {
                if slot.acked.is_none() && slot.failed.is_none() {
                    self.slots.remove(&key);
                }
                continue;
            }
            slot.pending = Some(w.clone());
            self.pending += 1;
            match w {
                Some(e) => sets.push(Op::Set(T::record(key, e))),
                None => removes.push(Op::Remove(key.into())),
            }
        }
    }

    /// The chip answered the operation on `key` that is under way.
    pub fn done(&mut self, now: Nanos, key: T::Key, refused: Option<Reason>) -> Outcome<T::Entry> {
        let mut out = Outcome { replaced: None, refused: None, changed: false };
        let Some(slot) = self.slots.get_mut(&key) else { return out };
        let Some(asked) = slot.pending.take() else { return out };
        self.pending -= 1;
        if core::mem::take(&mut slot.again) {
            self.dirty.insert(key);
        }
        match (refused, asked) {
            (None, asked) => {
                out.changed = slot.acked.is_some() != asked.is_some();
                if let Some(f) = &slot.failed
                    && asked.as_ref() == Some(&f.rejected)
                {
                    slot.failed = None;
                    self.failures.remove(&key);
                    out.changed = true;
                }
                out.replaced = core::mem::replace(&mut slot.acked, asked);
                if slot.acked.is_none() && slot.failed.is_none() && !self.dirty.contains(&key) {
                    self.slots.remove(&key);
                }
            }
            // Law (b) says that this cannot be; a chip that breaks it is asked again until it complies.
            (Some(_), None) => {
                self.retries.entry(now + back_off(9, key)).or_default().push(key);
            }
            (Some(why), Some(e)) => {
                let tries = slot.failed.as_ref().filter(|f| f.rejected == e).map_or(0, |f| f.tries) + 1;
                let retry = match why {
                    Reason::Busy | Reason::MissingRef(_) => Some(now + back_off(tries, key)),
                    Reason::TableFull { .. } | Reason::Unsupported(_) | Reason::ReadOnly(_) => None,
                };
                if let Some(at) = retry {
                    self.retries.entry(at).or_default().push(key);
                }
                out.changed = why != Reason::Busy;
                slot.failed = Some(Failure { rejected: e.clone(), why, tries, retry });
                self.failures.insert(key);
                self.dirty.insert(key);
                out.refused = Some(e);
            }
        }
        out
    }
}
