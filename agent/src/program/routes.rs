//! One route table of one virtual router: what the chip acknowledged, what is under way, and right-or-punt where the table is full.
//!
//! A route that found no room is *guarded* by the nearest shorter prefix that the chip holds, and a guarded prefix is programmed
//! as a trap (see `guards`): so nothing that belongs to the missing route is forwarded by a shorter one. Where the chip
//! holds no shorter prefix the lookup misses, which traps as well. Knows nothing of kernels: `want` says what a
//! prefix should be.

use std::collections::{BTreeMap, VecDeque};

use hal::{AnyKey, Family, Fwd, Nanos, Prefix, Reason, Record, RouteKey, TrapClass, V4, V6};

use super::guards::Guards;
use super::ids::Ids;
use super::slot::{Packed, Slot};
use super::small::{Failure, PATIENT, back_off};
use crate::arena::Arena;

/// A family that has a route table.
pub trait RouteFamily: Family {
    /// The record of one route.
    fn record(key: RouteKey<Self>, fwd: Fwd) -> Record;
    /// Its key.
    fn key(key: RouteKey<Self>) -> AnyKey;
}

impl RouteFamily for V4 {
    fn record(key: RouteKey<V4>, fwd: Fwd) -> Record {
        Record::Route4(key, fwd)
    }
    fn key(key: RouteKey<V4>) -> AnyKey {
        AnyKey::Route4(key)
    }
}

impl RouteFamily for V6 {
    fn record(key: RouteKey<V6>, fwd: Fwd) -> Record {
        Record::Route6(key, fwd)
    }
    fn key(key: RouteKey<V6>) -> AnyKey {
        AnyKey::Route6(key)
    }
}

/// What is under way on one route.
#[derive(Clone, Copy, Debug)]
pub struct Sent<F: Family> {
    /// Which.
    pub prefix: Prefix<F>,
    /// Number of its slot, which stays until the answer.
    slot: u32,
    /// To what; nothing for a remove.
    pub to: Packed,
}

/// What the chip makes of a prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// Neither there nor missed.
    Absent,
    /// Found no room.
    NoRoom,
    /// A trap, since a longer prefix found no room.
    Guard,
    /// The chip refused the verdict: a trap instead, or nothing.
    Refused(Reason),
    /// As acknowledged.
    Standing(Fwd),
}

/// One route table.
#[derive(Debug)]
pub struct Routes<F: Family> {
    arena: Arena<Slot<F>>,
    /// How many routes the chip holds of each length.
    lens: Vec<u32>,
    dirty: VecDeque<Prefix<F>>,
    /// To be looked at again when anything is answered.
    parked: Vec<Prefix<F>>,
    guards: Guards<F>,
    failed: BTreeMap<Prefix<F>, Failure<Packed>>,
    retries: BTreeMap<Nanos, Vec<Prefix<F>>>,
    /// Those of the absent whose try was put off, not refused for want of room; and whether that is expected to pass soon.
    put_off: BTreeMap<Prefix<F>, bool>,
    /// The chip said that the table is full: new prefixes are not even tried until something is removed.
    full: bool,
    /// How many were removed since.
    room: u32,
    /// The last of the absent that was given a try.
    tried: Option<Prefix<F>>,
    pending: usize,
    /// Where the walk over the arena stands, if one is under way.
    walk: Option<u32>,
}

impl<F: Family> Default for Routes<F> {
    fn default() -> Self {
        Routes {
            arena: Arena::default(),
            lens: vec![0; usize::from(F::BITS) + 1],
            dirty: VecDeque::new(),
            parked: Vec::new(),
            guards: Guards::default(),
            failed: BTreeMap::new(),
            retries: BTreeMap::new(),
            put_off: BTreeMap::new(),
            full: false,
            room: 0,
            tried: None,
            pending: 0,
            walk: None,
        }
    }
}

/// Prefixes looked up together before they are compiled.
const WARM: usize = 64;
/// Absent routes that are looked at in one pass when their guard moves.
const STEP: usize = 4096;
const NO_ROOM: Packed = Packed::trap(TrapClass::NoRoom);
const REFUSED: Packed = Packed::trap(TrapClass::Punt);

impl<F: RouteFamily> Routes<F> {
    /// Look at that prefix again.
    pub fn touch(&mut self, p: Prefix<F>) {
        self.dirty.push_back(p);
    }
    /// Look at everything that the chip holds again, in chunks.
    pub fn touch_all(&mut self) {
        self.walk = Some(0);
    }
    /// As [`Routes::touch_all`], and at what found no room or was refused as well.
    pub fn touch_everything(&mut self) {
        self.touch_all();
        let mut last = None;
        while let Some(p) = self.guards.after(last) {
            self.dirty.push_back(p);
            last = Some(p);
        }
        self.dirty.extend(self.failed.keys());
    }
    /// Room appeared in the chip's table.
    pub fn freed(&mut self) {
        if self.guards.is_empty() {
            self.full = false;
        } else {
            self.room += 1;
        }
    }
    /// How many wait to be looked at.
    pub fn backlog(&self) -> usize {
        self.dirty.len()
    }
    /// Whether nothing is left to look at.
    pub fn clean(&self) -> bool {
        self.dirty.is_empty()
            && self.walk.is_none()
            && self.guards.still()
            && (self.room == 0 || self.guards.is_empty())
    }
    /// Whether nothing is under way, nor a retry expected to help.
    pub fn idle(&self) -> bool {
        self.pending == 0
            && self.parked.is_empty()
            && !self.put_off.values().any(|soon| *soon)
            && self.failed.values().all(|f| f.retry.is_none() || f.tries > PATIENT)
    }
    /// When the next retry is due.
    pub fn deadline(&self) -> Option<Nanos> {
        self.retries.keys().next().copied()
    }
    /// How many the chip holds.
    pub fn len(&self) -> usize {
        self.lens.iter().map(|n| *n as usize).sum()
    }
    /// Whether the chip holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// How many found no room, and how many prefixes are traps because of them.
    pub fn starved(&self) -> (usize, usize) {
        (self.guards.len(), self.guards.guarding())
    }
    /// What the chip refused for another reason than room.
    pub fn refused(&self) -> impl Iterator<Item = (Prefix<F>, &Reason)> {
        self.failed.iter().map(|(p, f)| (*p, &f.why))
    }
    /// What the chip acknowledged.
    pub fn acked(&self, p: Prefix<F>) -> Option<Fwd> {
        self.get(p).and_then(|s| s.acked().fwd())
    }
    /// What the chip makes of the prefix.
    pub fn state(&self, p: Prefix<F>) -> State {
        if self.guards.absent(p) {
            return State::NoRoom;
        }
        if let Some(f) = self.failed.get(&p) {
            return State::Refused(f.why.clone());
        }
        match self.acked(p) {
            Some(Fwd::Trap(TrapClass::NoRoom)) if self.guards.guarded(p) => State::Guard,
            Some(f) => State::Standing(f),
            None => State::Absent,
        }
    }
    /// The slots from number `from` on, at most `max` numbers, and where to go on; `None` at the end.
    fn live(&self, from: u32, max: u32) -> (impl Iterator<Item = &Slot<F>>, Option<u32>) {
        let end = self.arena.end();
        let to = end.min(from.saturating_add(max));
        ((from..to).map(|i| self.arena.slot(i)).filter(|s| s.live()), (to < end).then_some(to))
    }
    fn get(&self, p: Prefix<F>) -> Option<&Slot<F>> {
        self.arena.find(p).map(|i| self.arena.slot(i))
    }
    fn forget(&mut self, i: u32) {
        self.arena.slot_mut(i).die();
        self.arena.remove(i);
    }
    /// Take over what the chip says it holds.
    pub fn load(&mut self, p: Prefix<F>, fwd: Fwd, ids: &mut Ids) {
        let (i, _) = self.arena.entry(p, || Slot::new(p));
        let new = Packed::from(fwd);
        let old = self.arena.slot_mut(i).set_acked(new);
        ids.hold(new.group());
        ids.release(old.group());
        if !old.is_some() {
            self.lens[usize::from(p.len())] += 1;
        }
    }
    /// The chip, as an audit saw, holds `fwd` at that prefix, whatever was acknowledged.
    pub fn correct(&mut self, p: Prefix<F>, fwd: Option<Fwd>, ids: &mut Ids) {
        let found = self.arena.find(p);
        if !found.is_some_and(|i| self.arena.slot(i).busy()) {
            match fwd {
                Some(f) => {
                    self.load(p, f, ids);
                    if found.is_none() {
                        self.guards.comes(p);
                    }
                }
                None => {
                    if let Some(i) = found {
                        let old = self.arena.slot(i).acked();
                        self.forget(i);
                        self.gone(p, old, ids);
                        self.guards.goes(p);
                    }
                }
            }
            self.pass_on();
        }
        self.touch(p);
    }

    fn gone(&mut self, p: Prefix<F>, old: Packed, ids: &mut Ids) {
        if old.is_some() {
            self.lens[usize::from(p.len())] -= 1;
            ids.release(old.group());
        }
    }

    /// The longest prefix shorter than `p` that the chip holds, that is not being removed, and that `fits`.
    fn above(&self, p: Prefix<F>, fits: impl Fn(Prefix<F>) -> bool) -> Option<Prefix<F>> {
        (0..p.len()).rev().filter(|l| self.lens[usize::from(*l)] > 0).find_map(|l| {
            let c = p.shortened(l);
            (self.get(c).is_some_and(|s| s.acked().is_some() && !s.leaving()) && fits(c)).then_some(c)
        })
    }

    /// Which prefix guards what is absent at `p`.
    fn cover(&self, p: Prefix<F>) -> Option<Prefix<F>> {
        self.above(p, |c| !self.guards.leaves(c))
    }

    /// Guards that came or went are looked at: those that came at once.
    fn pass_on(&mut self) {
        let (raised, lifted) = self.guards.changed();
        raised.for_each(|c| self.dirty.push_front(c));
        self.dirty.extend(lifted);
    }

    /// Remember a refusal. What was refused still refers to its group, which is therefore kept for the next try.
    fn fail(&mut self, p: Prefix<F>, f: Failure<Packed>, ids: &mut Ids) {
        ids.hold(f.rejected.group());
        if let Some(old) = self.failed.insert(p, f) {
            ids.release(old.rejected.group());
        }
    }

    fn unfail(&mut self, p: Prefix<F>, ids: &mut Ids) {
        if let Some(old) = self.failed.remove(&p) {
            ids.release(old.rejected.group());
        }
    }

    fn starve(&mut self, p: Prefix<F>, ids: &mut Ids) {
        self.unfail(p, ids);
        if !self.guards.absent(p) {
            let c = self.cover(p);
            self.guards.add(p, c);
            self.pass_on();
        }
    }

    fn unstarve(&mut self, p: Prefix<F>) -> bool {
        let was = self.guards.remove(p);
        self.pass_on();
        if self.put_off.remove(&p).is_some() && was {
            // The room that it was to have is another's.
            self.room += 1;
        }
        if self.guards.is_empty() {
            // Nobody waits: whether there is room, the next one will see.
            (self.full, self.room) = (false, 0);
        }
        was
    }

    /// Go on with the moves of guards.
    fn move_guards(&mut self) {
        if !self.guards.still() {
            let mut guards = core::mem::take(&mut self.guards);
            guards.walk(STEP, |g, p| self.above(p, |c| !g.leaves(c)));
            self.guards = guards;
            self.pass_on();
        }
    }

    /// Compare up to `budget` prefixes with `want` and append what has to be done.
    pub fn plan(
        &mut self,
        now: Nanos,
        mut budget: usize,
        ids: &mut Ids,
        mut want: impl FnMut(Prefix<F>, &mut Ids) -> Option<Fwd>,
        sets: &mut Vec<Sent<F>>,
        removes: &mut Vec<Sent<F>>,
    ) {
        while let Some((at, keys)) = self.retries.pop_first() {
            if at > now {
                self.retries.insert(at, keys);
                break;
            }
            for p in keys {
                // The room that was meant for what was put off is offered again.
                if self.put_off.remove(&p).is_some() && self.guards.absent(p) {
                    self.room += 1;
                } else {
                    self.dirty.push_back(p);
                }
            }
        }
        self.move_guards();
        sets.reserve(budget.min(self.dirty.len()));
        let (mut warm, mut found) = (0, 0);
        while budget > 0 {
            if warm == 0 {
                // Looked up at once, so that the processor waits for memory once for many (see `Mirror::warm`).
                warm = WARM;
                found ^= self.dirty.iter().take(WARM).fold(0, |all, p| all ^ self.arena.glance(*p));
                found ^= self.dirty.iter().take(WARM).fold(0, |all, p| all ^ self.arena.find(*p).unwrap_or(0));
            }
            warm -= 1;
            let Some(p) = self.dirty.pop_front() else { break };
            budget -= 1;
            self.look(now, p, false, ids, &mut want, sets, removes);
        }
        core::hint::black_box(found);
        while budget > 0 && self.room > 0 {
            let Some(p) = self.guards.after(self.tried) else {
                // Round the corner once; what is left of the room is offered again from the start.
                if self.tried.take().is_none() {
                    self.room = 0;
                }
                continue;
            };
            self.tried = Some(p);
            self.room -= 1;
            budget -= 1;
            self.look(now, p, true, ids, &mut want, sets, removes);
        }
        if let Some(from) = self.walk
            && budget > 0
            && self.dirty.is_empty()
        {
            let (it, next) = self.live(from, u32::try_from(budget).unwrap_or(u32::MAX));
            let keys: Vec<_> = it.map(|s| s.key).collect();
            self.walk = next;
            for p in keys {
                self.look(now, p, false, ids, &mut want, sets, removes);
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn look(
        &mut self,
        now: Nanos,
        p: Prefix<F>,
        attempt: bool,
        ids: &mut Ids,
        want: &mut impl FnMut(Prefix<F>, &mut Ids) -> Option<Fwd>,
        sets: &mut Vec<Sent<F>>,
        removes: &mut Vec<Sent<F>>,
    ) {
        let found = self.arena.find(p);
        let acked = match found {
            Some(i) => {
                let s = self.arena.slot_mut(i);
                if s.busy() {
                    s.look_again();
                    return;
                }
                s.acked()
            }
            None => Packed::NONE,
        };
        let mut w = Packed::from(want(p, ids));
        if let Some(f) = self.failed.get(&p) {
            if f.rejected != w {
                self.unfail(p, ids);
            } else if f.retry.is_none_or(|at| at > now) {
                if f.why == Reason::Busy && f.tries <= PATIENT {
                    return;
                }
                w = REFUSED;
            }
        }
        if !w.is_some() {
            self.unstarve(p);
            if !acked.is_some() {
                self.guards.gone(p);
                return;
            }
            if !self.guards.goes(p) {
                // It stays, as a trap, until another guards what it does.
                if !acked.is_trap() {
                    self.send(p, found, NO_ROOM, ids, sets);
                }
                return;
            }
            if self.guards.leaves(p)
                && let Some(c) = self.above(p, |_| true)
                && self.guards.guarded(c)
            {
                // What stands above has to be a trap before this one goes; sets go before removes.
                if self.get(c).is_some_and(Slot::busy) {
                    self.parked.push(p);
                    return;
                }
                self.look(now, c, false, ids, want, sets, removes);
            }
            self.guards.gone(p);
            if let Some(i) = found {
                self.arena.slot_mut(i).begin(true);
                self.pending += 1;
                removes.push(Sent { prefix: p, slot: i, to: Packed::NONE });
            }
            return;
        }
        if !acked.is_some() && self.full && !attempt {
            self.starve(p, ids);
            return;
        }
        if self.guards.leaves(p) {
            if acked.is_some() {
                // It stays after all.
                self.guards.comes(p);
                self.pass_on();
            } else {
                self.guards.gone(p);
            }
        }
        let guarded = self.guards.guarded(p) || (!acked.is_some() && self.guards.any_under(p));
        if guarded && !w.is_trap() {
            // What was refused is not asked for now; it is again when the guard is lifted.
            self.unfail(p, ids);
            w = NO_ROOM;
        }
        if acked == w {
            return;
        }
        self.send(p, found, w, ids, sets);
    }

    /// Have the chip set `p` to `w`.
    fn send(&mut self, p: Prefix<F>, found: Option<u32>, w: Packed, ids: &mut Ids, sets: &mut Vec<Sent<F>>) {
        ids.hold(w.group());
        let i = found.unwrap_or_else(|| self.arena.entry(p, || Slot::new(p)).0);
        self.arena.slot_mut(i).begin(false);
        self.pending += 1;
        sets.push(Sent { prefix: p, slot: i, to: w });
    }

    /// The chip answered an operation.
    pub fn done(&mut self, now: Nanos, sent: Sent<F>, refused: Option<Reason>, ids: &mut Ids) {
        let p = sent.prefix;
        let i = sent.slot;
        self.dirty.extend(self.parked.drain(..));
        // It was made busy when this was sent, and nothing forgets a busy slot.
        let s = self.arena.slot_mut(i);
        debug_assert!(s.busy() && s.key == p);
        self.pending -= 1;
        if s.answered() {
            self.dirty.push_back(p);
        }
        let old = s.acked();
        match refused {
            None if sent.to.is_some() => {
                s.set_acked(sent.to);
                if !self.guards.absent(p) {
                    self.put_off.remove(&p);
                }
                ids.release(old.group());
                if self.failed.get(&p).is_some_and(|f| f.rejected == sent.to) {
                    self.unfail(p, ids);
                }
                if !old.is_some() {
                    self.lens[usize::from(p.len())] += 1;
                    if self.unstarve(p) && self.full {
                        // There was room: perhaps for more. The chip says when it is enough.
                        self.room += 2;
                    }
                    self.guards.comes(p);
                    self.pass_on();
                }
                // What it was to guard may have gone while this was under way.
                if sent.to == NO_ROOM && !self.guards.guarded(p) {
                    self.dirty.push_back(p);
                }
            }
            None => {
                self.forget(i);
                self.gone(p, old, ids);
                self.freed();
                // What found no room while the remove was under way saw no guard here; nothing is left to move.
            }
            Some(why) => {
                ids.release(sent.to.group());
                if !old.is_some() {
                    self.forget(i);
                }
                match why {
                    Reason::TableFull { .. } if !old.is_some() => {
                        self.full = true;
                        self.room = 0;
                        self.starve(p, ids);
                    }
                    why => self.refuse(now, sent, why, ids),
                }
            }
        }
    }

    fn refuse(&mut self, now: Nanos, sent: Sent<F>, why: Reason, ids: &mut Ids) {
        let p = sent.prefix;
        if self.guards.absent(p) {
            // It had its try; the trap of its guard stands meanwhile.
            let soon = why == Reason::Busy;
            self.put_off.insert(p, soon);
            self.retries.entry(now + back_off(if soon { 1 } else { 6 }, p)).or_default().push(p);
            return;
        }
        if sent.to.is_trap() && self.failed.get(&p).is_some_and(|f| f.rejected != sent.to) {
            // The stand-in for what was refused was put off.
            self.put_off.insert(p, true);
            self.retries.entry(now + back_off(1, p)).or_default().push(p);
            return;
        }
        let tries = self.failed.get(&p).filter(|f| f.rejected == sent.to).map_or(0, |f| f.tries) + 1;
        let retry = match why {
            Reason::Busy | Reason::MissingRef(_) => Some(now + back_off(tries, p)),
            // Law (b): a trap or a remove is never refused; law (a): an overwrite always has room.
            _ if !sent.to.is_some() || sent.to.is_trap() => Some(now + back_off(9, p)),
            _ => None,
        };
        if let Some(at) = retry {
            self.retries.entry(at).or_default().push(p);
        }
        self.fail(p, Failure { rejected: sent.to, why, tries, retry }, ids);
        self.dirty.push_back(p);
    }
}

#[cfg(test)]
#[path = "routes_test.rs"]
mod tests;
