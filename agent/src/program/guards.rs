//! Which routes found no room, and which prefixes are traps because of them.
//!
//! A route that is absent from the chip adds one to the *guard* of the nearest shorter prefix that the chip holds. When a
//! prefix comes between or goes, what it guards has to move; that may be all routes that there are, so it goes in steps, and
//! a prefix stays guarded as long as a walk under it is under way. So at any time an absent route is guarded by the
//! nearest prefix that stands. Knows nothing of slots: `cover` says which prefix that is.

use core::ops::Bound::{Excluded, Included, Unbounded};
use std::collections::{BTreeMap, BTreeSet};

use hal::{Family, Prefix};

/// A walk over the absent routes under a prefix.
#[derive(Clone, Copy, Debug)]
struct Walk<F: Family> {
    /// The prefix is about to go, and gives up what it guards. Else it has come, and takes what shorter ones guard.
    leaves: bool,
    /// The last one that was looked at.
    at: Prefix<F>,
}

/// See the module.
#[derive(Debug)]
pub struct Guards<F: Family> {
    /// Routes that found no room, and the prefix that guards each.
    absent: BTreeMap<Prefix<F>, Option<Prefix<F>>>,
    /// How many each guards.
    counts: BTreeMap<Prefix<F>, u32>,
    walks: BTreeMap<Prefix<F>, Walk<F>>,
    /// Prefixes that have given up all that they guarded and stand, as traps, until they are removed.
    given: BTreeSet<Prefix<F>>,
    /// Prefixes that became guarded, to be looked at before all others.
    raised: Vec<Prefix<F>>,
    /// Prefixes that may not be guarded any more.
    lifted: Vec<Prefix<F>>,
}

impl<F: Family> Default for Guards<F> {
    fn default() -> Self {
        Guards {
            absent: BTreeMap::new(),
            counts: BTreeMap::new(),
            walks: BTreeMap::new(),
            given: BTreeSet::new(),
            raised: Vec::new(),
            lifted: Vec::new(),
        }
    }
}

impl<F: Family> Guards<F> {
    /// How many routes are absent.
    pub fn len(&self) -> usize {
        self.absent.len()
    }
    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.absent.is_empty()
    }
    /// How many prefixes guard any.
    pub fn guarding(&self) -> usize {
        self.counts.len()
    }
    /// Whether `p` is absent.
    #[inline]
    pub fn absent(&self, p: Prefix<F>) -> bool {
        self.absent.contains_key(&p)
    }
    /// The first absent one, or the first after `p`.
    pub fn after(&self, p: Option<Prefix<F>>) -> Option<Prefix<F>> {
        let from = p.map_or(Unbounded, Excluded);
        self.absent.range((from, Unbounded)).next().map(|(p, _)| *p)
    }
    /// Whether `p` has to be a trap.
    #[inline]
    pub fn guarded(&self, p: Prefix<F>) -> bool {
        self.counts.contains_key(&p) || self.walks.contains_key(&p) || self.given.contains(&p)
    }
    /// Whether an absent one is under `p`.
    #[inline]
    pub fn any_under(&self, p: Prefix<F>) -> bool {
        !self.absent.is_empty() && self.absent.range((Excluded(p), Included(Prefix::host(p.last())))).next().is_some()
    }
    /// Whether `p` is giving up what it guards, or has: nothing new is to be guarded by it.
    #[inline]
    pub fn leaves(&self, p: Prefix<F>) -> bool {
        self.given.contains(&p) || self.walks.get(&p).is_some_and(|w| w.leaves)
    }
    /// Whether all walks have come to their end.
    pub fn still(&self) -> bool {
        self.walks.is_empty()
    }

    fn raise(&mut self, by: Option<Prefix<F>>, n: u32) {
        if let Some(c) = by
            && n > 0
        {
            let count = self.counts.entry(c).or_default();
            *count += n;
            if *count == n {
                self.raised.push(c);
            }
        }
    }

    fn lift(&mut self, by: Option<Prefix<F>>, n: u32) {
        if let Some(c) = by
            && let Some(count) = self.counts.get_mut(&c)
        {
            *count = count.saturating_sub(n);
            if *count == 0 {
                self.counts.remove(&c);
                self.lifted.push(c);
            }
        }
    }

    /// `p` found no room, and `by` is the nearest that stands.
    pub fn add(&mut self, p: Prefix<F>, by: Option<Prefix<F>>) {
        if let Some(old) = self.absent.insert(p, by) {
            self.lift(old, 1);
        }
        self.raise(by, 1);
    }

    /// `p` is absent no more. Whether it was.
    pub fn remove(&mut self, p: Prefix<F>) -> bool {
        let Some(by) = self.absent.remove(&p) else { return false };
        self.lift(by, 1);
        true
    }

    /// `p` stands, or is to stand after all, as a trap if anything absent is under it: it is to guard that.
    pub fn comes(&mut self, p: Prefix<F>) {
        let left = self.given.remove(&p);
        if self.any_under(p) {
            self.walks.insert(p, Walk { leaves: false, at: p });
        } else if self.walks.remove(&p).is_some() || left {
            self.lifted.push(p);
        }
    }

    /// `p` is to go: the next shorter one is to guard what it guards. Whether it may go now; if not, it is named by
    /// [`Guards::changed`] when it may.
    pub fn goes(&mut self, p: Prefix<F>) -> bool {
        if self.given.contains(&p) || !self.guarded(p) {
            return true;
        }
        if !self.leaves(p) {
            self.walks.insert(p, Walk { leaves: true, at: p });
        }
        false
    }

    /// `p` does not stand any more, or is being removed.
    pub fn gone(&mut self, p: Prefix<F>) {
        self.given.remove(&p);
    }

    /// Go on with the walks, past up to `max` absent ones. `cover` gives the longest prefix that is shorter than a given one,
    /// stands and does not leave.
    pub fn walk(&mut self, mut max: usize, cover: impl Fn(&Self, Prefix<F>) -> Option<Prefix<F>>) {
        while max > 0 {
            let Some((&p, &Walk { leaves, at })) = self.walks.first_key_value() else { return };
            max -= 1;
            if leaves && !self.counts.contains_key(&p) {
                self.end(p, true);
                continue;
            }
            let to = if leaves { cover(self, p) } else { Some(p) };
            let theirs = |by: Option<Prefix<F>>| match leaves {
                true => by == Some(p),
                false => by.is_none_or(|c| c.len() < p.len()),
            };
            let (mut seen, mut last) = (0, at);
            // How many came from where: runs, since neighbours mostly have the same guard.
            let (mut moved, mut from) = (0, Vec::<(Option<Prefix<F>>, u32)>::new());
            let under = self.absent.range_mut((Excluded(at), Included(Prefix::host(p.last()))));
            for (a, by) in under.take(max) {
                (seen, last) = (seen + 1, *a);
                if theirs(*by) {
                    match from.last_mut() {
                        Some((c, n)) if c == by => *n += 1,
                        _ => from.push((*by, 1)),
                    }
                    *by = to;
                    moved += 1;
                }
            }
            self.raise(to, moved);
            for (c, n) in from {
                self.lift(c, n);
            }
            if seen < max {
                self.end(p, leaves);
            } else if let Some(w) = self.walks.get_mut(&p) {
                w.at = last;
            }
            max -= seen;
        }
    }

    fn end(&mut self, p: Prefix<F>, leaves: bool) {
        self.walks.remove(&p);
        if leaves {
            self.given.insert(p);
        }
        self.lifted.push(p);
    }

    /// Prefixes that became guarded since last asked, and those that may not be any more.
    pub fn changed(&mut self) -> (impl Iterator<Item = Prefix<F>> + '_, impl Iterator<Item = Prefix<F>> + '_) {
        (self.raised.drain(..), self.lifted.drain(..))
    }
}

#[cfg(test)]
#[path = "guards_test.rs"]
mod tests;
