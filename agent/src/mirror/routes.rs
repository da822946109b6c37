//! Routes of one family: what a notification or a dump does to the aliases of a prefix, and the sweeps.
//!
//! The kernel's own rules stand in `list`; here is when they apply, and what to do when a message can't be true: the prefix
//! is *undecided* until a dump says how it is.

use std::collections::{BTreeMap, BTreeSet};

use hal::{Addr, Prefix};
use smallvec::SmallVec;

use super::ctx::{Ctx, HOST};
use super::list::{self, Change, Outcome};
use super::table::{Aliases, Table, state};
use super::types::{Alias, NhSet};
use super::{MirrorFamily, TABLE_DEFAULT, TABLE_LOCAL};
use crate::netlink::route::{self, RouteMsg};

/// What a sweep is to do; one walk does all.
struct Sweep<F: MirrorFamily> {
    table: u32,
    at: u32,
    /// Remove what the dump of this generation did not name.
    unseen: Option<u32>,
    /// Prefixes of the local table that came or went: other tables' below them change their verdict (kernel-facts 22).
    covers: Vec<Prefix<F>>,
}

/// Steps of a lookup that are taken for all messages before the next.
#[derive(Clone, Copy)]
pub(super) enum Warm {
    /// Where in the index.
    Glance,
    /// What is there.
    Find,
}

/// See the module.
pub struct Routes<F: MirrorFamily> {
    pub(super) tables: BTreeMap<u32, Table<F>>,
    generation: u32,
    dumping: bool,
    /// Reader's stamp at the request of the running dump: what was read before is in it.
    dump_seq: u64,
    /// As above, of the last dump that was completed.
    applied_until: u64,
    /// A notification may be in the last dump already: from its begin until a fence that was sent after its end.
    window: bool,
    /// Count of dump ends when this family's last one ended.
    ended: u64,
    run: Option<(u32, Prefix<F>, Aliases)>,
    sweep: Option<Sweep<F>>,
    /// Something to sweep came up since the sweep began.
    again: bool,
    covers: Vec<Prefix<F>>,
    /// Ask for a dump: a prefix is undecided.
    pub(super) wanted: bool,
    /// Prefixes that are undecided now.
    pub(super) undecided: BTreeSet<(u32, Prefix<F>)>,
    /// Notifications may have been missed: what the next dump shows may not be all.
    pub(super) distrust: bool,
    /// Prefixes of which a dump may have hidden routes, to be looked up in the kernel's other list.
    unlisted: BTreeSet<(u32, Prefix<F>)>,
    /// Prefixes of which it has.
    pub(super) hidden: BTreeSet<(u32, Prefix<F>)>,
    /// What that list has of them, by metric.
    listed: BTreeMap<(Prefix<F>, u32), usize>,
    /// A line of it that has come in part.
    line: Vec<u8>,
}

impl<F: MirrorFamily> Default for Routes<F> {
    fn default() -> Self {
        Routes {
            tables: BTreeMap::new(),
            generation: 1,
            dumping: false,
            dump_seq: 0,
            applied_until: 0,
            window: false,
            ended: 0,
            run: None,
            sweep: None,
            again: false,
            covers: Vec::new(),
            wanted: false,
            undecided: BTreeSet::new(),
            distrust: true,
            unlisted: BTreeSet::new(),
            hidden: BTreeSet::new(),
            listed: BTreeMap::new(),
            line: Vec::new(),
        }
    }
}

impl<F: MirrorFamily> Routes<F> {
    /// The aliases of `p` that live, in the kernel's order of search.
    pub(super) fn aliases(&self, ctx: &Ctx, table: u32, p: Prefix<F>) -> Aliases {
        let Some(t) = self.tables.get(&table) else { return Aliases::new() };
        t.find(p).map_or_else(Aliases::new, |i| live(ctx, &t.aliases(i)))
    }

    /// Whether a prefix of `table`, `p` itself or a shorter one, holds `p`.
    pub(super) fn covered(&self, ctx: &Ctx, table: u32, p: Prefix<F>) -> bool {
        let Some(t) = self.tables.get(&table) else { return false };
        t.lens(p.len()).any(|l| {
            t.find(p.shortened(l))
                .is_some_and(|i| t.slot(i).state & state::UNDECIDED != 0 || t.aliases(i).iter().any(|a| alive(ctx, a)))
        })
    }

    /// Look up the prefix of a route message, whatever it says, and forget it: see `Mirror::warm`.
    #[inline]
    pub(super) fn warm(&self, body: &[u8], step: Warm) -> u32 {
        let Some((table, p)) = route::peek::<F>(body) else { return 0 };
        let Some(t) = self.tables.get(&table) else { return 0 };
        match step {
            Warm::Glance => t.glance(p),
            Warm::Find => t.find(p).unwrap_or(0),
        }
    }

    pub(super) fn notify(&mut self, ctx: &mut Ctx, seq: u64, m: &RouteMsg<F>, flags: u16, delete: bool) {
        if seq <= self.applied_until {
            ctx.stats.superseded += 1;
            return;
        }
        let generation = self.generation;
        let window = self.window;
        let t = self.tables.entry(m.table).or_default();
        let i = if delete && !self.dumping {
            let Some(i) = t.find(m.prefix) else {
                ctx.stats.absent += 1;
                return;
            };
            i
        } else {
            t.entry(m.prefix)
        };
        if self.dumping
            && t.slot(i).generation == generation
            && t.slot(i).state & state::SEEN != 0
            && seq <= self.dump_seq
        {
            ctx.stats.superseded += 1;
            return;
        }
        let old = t.aliases(i);
        let mut new = live(ctx, &old);
        let partial = t.slot(i).state & state::PARTIAL != 0;
        let mut set_partial = new.len() < old.len() && !new.is_empty();
        let mut odd = false;
        if delete {
            match F::delete(ctx, &mut new, m) {
                Outcome::Exact => {}
                Outcome::Absent => ctx.stats.absent += 1,
                Outcome::Odd => odd = !window,
                Outcome::Ask => odd = true,
                Outcome::First => {}
            }
            // The hidden route lives on.
            odd |= self.hidden.contains(&(m.table, m.prefix));
            // What stood first when the replacement came may have been another (see PARTIAL).
            odd |= window && partial && new.is_empty();
        } else {
            let born = ctx.resolve(m, seq);
            note_own(ctx, m);
            let alias = Alias {
                nh: born.nh,
                metric: m.metric,
                kind: list::kind(m),
                tos: m.tos,
                proto: m.proto,
                scope: m.scope,
                flags: m.flags,
                rest: ctx.rests.intern(m.rest.as_deref(), m.table),
            };
            let change = Change { alias, multipath: m.multipath, flags, stillborn: born.stillborn };
            let outcome = F::insert(ctx, &mut new, &change);
            match outcome {
                Outcome::Exact => {}
                // Not first in what the kernel still has, but in what it had when it said so: then it is first here too,
                // unless something has been purged or replayed in between.
                Outcome::First => {
                    odd |= partial && seq < ctx.last_purge;
                    set_partial |= window;
                }
                Outcome::Absent => odd |= !window && !partial && seq >= ctx.last_purge,
                Outcome::Odd => odd |= !window,
                Outcome::Ask => odd = true,
            }
            if born.stillborn {
                ctx.stats.stillborn += 1;
                set_partial |= !new.is_empty();
            }
        }
        let s = t.slot_mut(i);
        if s.generation != generation {
            s.generation = generation;
            s.state &= !state::SEEN;
        }
        s.state |= state::TOUCHED;
        if set_partial {
            s.state |= state::PARTIAL;
        } else if !window && seq >= ctx.last_purge {
            s.state &= !state::PARTIAL;
        }
        if odd {
            self.undecide(ctx, m.table, i);
        }
        self.put(ctx, m.table, i, &old, &new);
    }

    fn undecide(&mut self, ctx: &mut Ctx, table: u32, i: u32) {
        let Some(t) = self.tables.get_mut(&table) else { return };
        let s = t.slot_mut(i);
        if s.state & state::UNDECIDED == 0 {
            s.state |= state::UNDECIDED;
            ctx.stats.undecided += 1;
            tracing::debug!("{}: undecided in table {table}", s.key);
            let key = s.key;
            t.mark(i);
            self.undecided.insert((table, key));
            if table == TABLE_LOCAL {
                self.cover(key);
            }
        }
        self.wanted = true;
    }

    /// Store a changed list, keep the counts of users, mark what depends on it.
    fn put(&mut self, ctx: &mut Ctx, table: u32, i: u32, old: &[Alias], new: &[Alias]) {
        let Some(t) = self.tables.get_mut(&table) else { return };
        if old != new {
            for a in new {
                ctx.sets.hold(a.nh);
            }
            for a in old {
                ctx.sets.release(a.nh);
            }
            t.store(i, new);
            if new.is_empty() && !(self.hidden.is_empty() && self.unlisted.is_empty()) {
                let key = t.slot(i).key;
                self.hidden.remove(&(table, key));
                self.unlisted.remove(&(table, key));
            }
            t.mark(i);
            // RTN_UNICAST, RTN_LOCAL: those that a gateway may be reached by.
            let narrow = |l: &[Alias]| l.iter().any(|a| a.scope >= HOST && matches!(a.kind, 1 | 2));
            if F::BITS == 32 && narrow(old) != narrow(new) {
                let key = t.slot(i).key;
                ctx.narrow_new(table, key.addr().number() as u32, key.len(), narrow(new));
            }
            if table == TABLE_LOCAL && old.is_empty() != new.is_empty() {
                let key = t.slot(i).key;
                self.cover(key);
            }
        } else if new.is_empty() && !self.dumping {
            t.vacuum(i);
        }
    }

    /// A prefix of the local table came or went.
    fn cover(&mut self, p: Prefix<F>) {
        let mut below = false;
        for (_, t) in self.tables.iter_mut().filter(|(t, _)| **t != TABLE_LOCAL) {
            below |= t.len() > 0;
            if p.len() == F::BITS
                && let Some(i) = t.find(p)
            {
                t.mark(i);
            }
        }
        if p.len() < F::BITS && below {
            self.covers.push(p);
            self.again = true;
        }
    }

    /// A next-hop set or a preferred source died: its routes are to be swept.
    pub(super) fn sweep_dead(&mut self) {
        self.again = true;
    }

    pub(super) fn dump_begin(&mut self, ctx: &mut Ctx) {
        while self.work(ctx, usize::MAX) {}
        self.generation += 1;
        self.dumping = true;
        self.window = true;
        self.dump_seq = 0;
        for a in self.run.take().map(|(_, _, run)| run).unwrap_or_default() {
            ctx.sets.release(a.nh);
        }
        self.wanted = false;
    }

    pub(super) fn dump(&mut self, ctx: &mut Ctx, seq: u64, m: &RouteMsg<F>) {
        if !self.dumping {
            return;
        }
        self.dump_seq = seq;
        if self.run.as_ref().is_none_or(|(t, p, _)| *t != m.table || *p != m.prefix) {
            self.commit(ctx);
            self.run = Some((m.table, m.prefix, Aliases::new()));
        }
        let born = ctx.resolve(m, seq);
        if born.stillborn {
            // The dump is older than a purge that has been carried out, or so it seems: ask again.
            F::confirm(ctx);
            return;
        }
        note_own(ctx, m);
        let alias = Alias {
            nh: born.nh,
            metric: m.metric,
            kind: list::kind(m),
            tos: m.tos,
            proto: m.proto,
            scope: m.scope,
            flags: m.flags,
            rest: ctx.rests.intern(m.rest.as_deref(), m.table),
        };
        if let Some((_, _, run)) = &mut self.run {
            // Held until the commit: what has no user may be cleared away between two parts of the dump.
            ctx.sets.hold(alias.nh);
            run.push(alias);
        }
    }

    /// All that the dump says of one prefix is there.
    fn commit(&mut self, ctx: &mut Ctx) {
        let Some((table, p, run)) = self.run.take() else { return };
        let held: SmallVec<[_; 2]> = run.iter().map(|a| a.nh).collect();
        let generation = self.generation;
        let t = self.tables.entry(table).or_default();
        let i = t.entry(p);
        let old = t.aliases(i);
        let ours = live(ctx, &old);
        let s = t.slot_mut(i);
        let current = s.generation == generation;
        let mut new = run;
        list::keep::<F>(ctx, &ours, &mut new);
        if current && s.state & state::TOUCHED != 0 {
            s.state |= state::SEEN;
            if list::same(ctx, &ours, &new) {
                new = ours;
                self.decide(table, i);
            } else if let ([a], [b]) = (&ours[..], &new[..])
                && list::same_key::<F>(a, b)
                && s.state & state::UNDECIDED == 0
            {
                // One is newer than the other; if it is the dump, the message is on its way.
                new = ours;
            } else {
                new = ours;
                self.undecide(ctx, table, i);
            }
        } else {
            if current && s.state & state::SEEN != 0 {
                // IPv6 names the routes of a prefix with different source prefixes apart.
                let mut whole = Aliases::from_slice(&ours);
                whole.extend(new);
                whole.sort_by(F::search);
                new = whole;
            } else if list::same(ctx, &ours, &new) {
                new = ours;
            }
            s.generation = generation;
            s.state = s.state & !(state::TOUCHED | state::PARTIAL) | state::SEEN;
            self.decide(table, i);
        }
        let several = |l: &[Alias]| F::BITS == 128 && l.iter().any(|a| members(ctx, a) > 1);
        let hidden = self.hidden.contains(&(table, p));
        if several(&new) && (hidden || self.distrust || !several(&old)) {
            self.unlisted.insert((table, p));
        } else if hidden && !several(&new) {
            self.reveal(table, p);
        }
        self.put(ctx, table, i, &old, &new);
        for nh in held {
            ctx.sets.release(nh);
        }
    }

    fn decide(&mut self, table: u32, i: u32) {
        let Some(t) = self.tables.get_mut(&table) else { return };
        let s = t.slot_mut(i);
        if s.state & state::UNDECIDED != 0 {
            s.state &= !state::UNDECIDED;
            let key = s.key;
            t.mark(i);
            self.undecided.remove(&(table, key));
            if table == TABLE_LOCAL {
                self.cover(key);
            }
        }
    }

    pub(super) fn dump_end(&mut self, ctx: &mut Ctx, complete: bool, epoch: u64) {
        if !self.dumping {
            return;
        }
        self.commit(ctx);
        self.dumping = false;
        self.ended = epoch;
        if !complete {
            self.wanted = true;
            return;
        }
        self.applied_until = self.applied_until.max(self.dump_seq);
        self.distrust = false;
        self.start(Some(self.generation));
    }

    /// Whether the kernel's other list is to be read: see [`Routes::list_end`].
    pub(super) fn wants_list(&self) -> bool {
        !self.unlisted.is_empty()
    }

    /// That list is about to be read.
    pub(super) fn list_begin(&mut self) {
        self.listed.clear();
        self.line.clear();
    }

    /// Part of `/proc/net/ipv6_route`: a line for each member of each route, of all tables. It begins with destination, its
    /// length, source, its length, gateway and metric, all hexadecimal.
    pub(super) fn list(&mut self, text: &[u8]) {
        for part in text.split_inclusive(|b| *b == b'\n') {
            self.line.extend_from_slice(part);
            if part.last() != Some(&b'\n') {
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let mut words = line.split(|b| *b == b' ').map(|w| std::str::from_utf8(w).unwrap_or_default());
            let mut hex = || u128::from_str_radix(words.next()?, 16).ok();
            let (dst, len, _, _, _, metric) = (hex(), hex(), hex(), hex(), hex(), hex());
            if let (Some(dst), Some(len), Some(metric)) = (dst, len, metric)
                && let Some(p) = Prefix::exact(F::Addr::from_number(dst), len as u8)
                && self.tables.keys().any(|t| self.unlisted.contains(&(*t, p)))
            {
                *self.listed.entry((p, metric as u32)).or_default() += 1;
            }
        }
    }

    /// The list is over. IPv6 dumps show a multipath route where they meet its first member and go on behind its last one:
    /// what stands between is left out (`fib6_dump_node`). What is listed and not shown is such a route; returns whether
    /// there is any that was not known.
    pub(super) fn list_end(&mut self, ctx: &Ctx) -> bool {
        let mut new = false;
        for (table, p) in std::mem::take(&mut self.unlisted) {
            let own = self.aliases(ctx, table, p);
            let metrics: BTreeSet<u32> = own.iter().filter(|a| members(ctx, a) > 1).map(|a| a.metric).collect();
            let fits = metrics.into_iter().all(|metric| {
                let known: usize = self
                    .tables
                    .keys()
                    .flat_map(|t| self.aliases(ctx, *t, p))
                    .filter(|a| a.metric == metric)
                    .map(|a| members(ctx, &a).max(1))
                    .sum();
                self.listed.get(&(p, metric)).copied().unwrap_or(0) == known
            });
            if fits {
                self.reveal(table, p);
            } else if self.hidden.insert((table, p)) {
                new = true;
                self.touch(table, p);
            }
        }
        self.list_begin();
        new
    }

    fn reveal(&mut self, table: u32, p: Prefix<F>) {
        if self.hidden.remove(&(table, p)) {
            self.touch(table, p);
        }
    }

    fn touch(&mut self, table: u32, p: Prefix<F>) {
        if let Some(t) = self.tables.get_mut(&table)
            && let Some(i) = t.find(p)
        {
            t.mark(i);
        }
    }

    /// A fence that was sent after `epoch` dumps had ended has come back.
    pub(super) fn fence(&mut self, epoch: u64) {
        if !self.dumping && self.ended <= epoch {
            self.window = false;
        }
    }

    fn start(&mut self, unseen: Option<u32>) {
        let covers = std::mem::take(&mut self.covers);
        self.again = false;
        self.sweep = Some(Sweep { table: 0, at: 0, unseen, covers });
    }

    /// Sweep up to `budget` slots. True while something is left.
    pub(super) fn work(&mut self, ctx: &mut Ctx, mut budget: usize) -> bool {
        while budget > 0 {
            if self.sweep.is_none() {
                if !self.again {
                    return false;
                }
                self.start(None);
            }
            let Some(mut s) = self.sweep.take() else { return false };
            let Some((&table, t)) = self.tables.range_mut(s.table..).next() else { continue };
            if table != s.table {
                (s.table, s.at) = (table, 0);
            }
            let end = t.end().min(s.at.saturating_add(u32::try_from(budget).unwrap_or(u32::MAX)));
            budget = budget.saturating_sub((end - s.at) as usize).saturating_sub(1);
            for i in s.at..end {
                self.visit(ctx, table, i, &s);
            }
            s.at = end;
            if self.tables.get(&table).is_none_or(|t| s.at >= t.end()) {
                let Some(next) = table.checked_add(1) else { continue };
                (s.table, s.at) = (next, 0);
            }
            self.sweep = Some(s);
        }
        self.sweep.is_some() || self.again
    }

    fn visit(&mut self, ctx: &mut Ctx, table: u32, i: u32, sweep: &Sweep<F>) {
        let Some(t) = self.tables.get_mut(&table) else { return };
        let s = t.slot(i);
        if s.state & state::USED == 0 {
            return;
        }
        let key = s.key;
        if sweep.unseen.is_some_and(|g| s.generation < g) {
            let old = t.aliases(i);
            self.decide(table, i);
            self.put(ctx, table, i, &old, &[]);
            return;
        }
        if sweep.unseen.is_some() && s.state & state::UNDECIDED != 0 {
            self.wanted = true;
        }
        if s.state & state::FULL == 0 {
            if !self.dumping {
                t.vacuum(i);
            }
            return;
        }
        let old = t.aliases(i);
        if old.iter().any(|a| !alive(ctx, a)) {
            let new = live(ctx, &old);
            if new.len() != old.len() {
                ctx.stats.purged += (old.len() - new.len()) as u64;
                if !new.is_empty() {
                    t.slot_mut(i).state |= state::PARTIAL;
                }
                self.put(ctx, table, i, &old, &new);
            }
        }
        if sweep.unseen.is_some()
            && let Some(t) = self.tables.get_mut(&table)
        {
            // Named by a notification alone, over ground that was not trusted: one alias is all there is; of several, who
            // knows.
            let s = t.slot(i);
            if s.state & (state::TOUCHED | state::SEEN) == state::TOUCHED && t.several(i) {
                self.undecide(ctx, table, i);
            }
        }
        if table != TABLE_LOCAL
            && sweep.covers.iter().any(|c| c.covers(key))
            && let Some(t) = self.tables.get_mut(&table)
        {
            t.mark(i);
        }
    }

    /// Take up to `max` prefixes whose verdict may have changed, each once.
    pub(super) fn drain(&mut self, max: usize, out: &mut Vec<(u32, Prefix<F>)>) {
        for (&table, t) in &mut self.tables {
            out.reserve(t.dirty.len().min(max.saturating_sub(out.len())));
            while out.len() < max {
                let Some(i) = t.dirty.pop() else { break };
                t.slot_mut(i).state &= !state::DIRTY;
                out.push((table, t.slot(i).key));
                if !self.dumping {
                    t.vacuum(i);
                }
            }
        }
    }

    pub(super) fn dirty(&self) -> bool {
        self.tables.values().any(|t| !t.dirty.is_empty())
    }

    pub(super) fn is_undecided(&self, table: u32, p: Prefix<F>) -> bool {
        self.tables.get(&table).and_then(|t| Some(t.slot(t.find(p)?).state & state::UNDECIDED != 0)).unwrap_or(false)
    }

    /// Up to `max` prefixes of `table` with what they hold, from slot `cursor` on; where to go on, `None` at the end.
    pub(super) fn page(
        &self,
        ctx: &Ctx,
        table: u32,
        cursor: u32,
        max: usize,
        out: &mut Vec<(Prefix<F>, Aliases)>,
    ) -> Option<u32> {
        let t = self.tables.get(&table)?;
        for i in cursor..t.end() {
            if out.len() >= max {
                return Some(i);
            }
            if t.slot(i).state & state::FULL != 0 {
                let list = live(ctx, &t.aliases(i));
                if !list.is_empty() {
                    out.push((t.slot(i).key, list));
                }
            }
        }
        None
    }
}

/// Members of an inline set.
fn members(ctx: &Ctx, a: &Alias) -> usize {
    match ctx.sets.get(a.nh) {
        NhSet::Inline(h) => h.len(),
        NhSet::Object(_) => 1,
    }
}

fn alive(ctx: &Ctx, a: &Alias) -> bool {
    !(ctx.sets.dead(a.nh) || ctx.rests.dead(a.rest))
}

/// What of `list` the kernel still has.
fn live(ctx: &Ctx, list: &[Alias]) -> Aliases {
    // Not `collect`, nor `clone`, which is the same: it goes alias by alias.
    let mut all = Aliases::from_slice(list);
    if !list.iter().all(|a| alive(ctx, a)) {
        all.retain(|a| alive(ctx, a));
    }
    all
}

/// Remember a table that leads to the machine itself, and that the kernel has made table default.
fn note_own<F: MirrorFamily>(ctx: &mut Ctx, m: &RouteMsg<F>) {
    /// `RTN_LOCAL` to `RTN_MULTICAST` (`linux/rtnetlink.h`).
    const OWN: core::ops::RangeInclusive<u8> = 2..=5;
    if F::BITS == 32 && m.table != TABLE_LOCAL && OWN.contains(&list::kind(m)) {
        ctx.own_tables_new |= ctx.own_tables.insert(m.table);
    }
    if F::BITS == 32 && m.table == TABLE_DEFAULT && !ctx.default4 {
        (ctx.default4, ctx.default4_new) = (true, true);
    }
}
