//! Stations of bridges: from (FID, MAC) to what becomes of frames to it, and when one last came from it.
//!
//! Buckets of four cells, one cache line each; a station is in one of two buckets, or in a small overflow. Readers take no lock. All who
//! write, the chip's writer and each worker that learns, hold the [`Learner`]; a cell that was emptied is filled again when no reader
//! can still be at it. Which FIDs and ports there are is `bridge`'s.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hal::{Mac, TrapClass};

use super::{mac_word, trap_class, word_mac};
use crate::sync::{Epochs, Words32, Words64};

/// Cells of a bucket: key and value each.
const CELLS: usize = 4;
/// Cells of the overflow.
const SPILL: usize = 64;
/// Milliseconds of a tick of the chip's clock for stations.
pub(crate) const TICK: u64 = 250;
/// News that wait for the chip's writer at most.
const NEWS: usize = 65_536;

/// No station, and a cell that may not be filled yet. Neither is a key: both have group or zero addresses.
const FREE: u64 = 0;
const GONE: u64 = u64::MAX;

/// What is known of a station.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    /// Learned at that bridge port.
    Learned(u32),
    /// At that bridge port, by the agent's word.
    Port(u32),
    /// The router interface's.
    Route(u32),
    Trap(TrapClass),
}

const INDEX: u32 = (1 << 20) - 1;

impl Known {
    fn word(self) -> u32 {
        let (kind, value) = match self {
            Known::Learned(p) => (1, p),
            Known::Port(p) => (2, p),
            Known::Route(r) => (3, r),
            Known::Trap(c) => (4, c as u32),
        };
        kind << 28 | value & INDEX
    }
    #[inline(always)]
    fn from_word(w: u32) -> Known {
        match w >> 28 {
            1 => Known::Learned(w & INDEX),
            2 => Known::Port(w & INDEX),
            3 => Known::Route(w & INDEX),
            _ => Known::Trap(trap_class(w & INDEX)),
        }
    }
}

/// Where a station stands, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    cell: u32,
    word: u64,
}

impl Found {
    #[inline(always)]
    pub(crate) fn known(self) -> Known {
        Known::from_word(self.word as u32)
    }
}

/// What happened to learned stations, with the tables' indices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// It is at that port now.
    At(u32, Mac, u32),
    /// It was forgotten.
    Gone(u32, Mac),
}

/// What those who write share.
#[derive(Debug, Default)]
pub(crate) struct Learner {
    learned: u32,
    fixed: u32,
    /// Cells that were emptied, and since when.
    emptied: VecDeque<(u64, u32)>,
    news: VecDeque<News>,
    lost: bool,
    /// Rung when there is news where there was none.
    bell: Option<OwnedFd>,
}

#[derive(Debug)]
pub(crate) struct Fdb {
    /// Key and value of each cell.
    words: Words64,
    /// The first word of the first bucket.
    first: usize,
    buckets: usize,
    seed: u64,
    capacity: u32,
    /// How many cells of the overflow were ever used.
    spilled: Words32,
    /// Ticks since the chip's start.
    clock: Words32,
    learner: Mutex<Learner>,
    epochs: Epochs,
}

/// Key of a station in a FID, whose index has 16 bits.
#[inline(always)]
fn key(fid: u32, mac: Mac) -> u64 {
    u64::from(fid) << 48 | mac_word(mac)
}

fn station(key: u64) -> (u32, Mac) {
    ((key >> 48) as u32, Mac(word_mac(key)))
}

impl Fdb {
    /// FIDs have indices below this.
    pub(crate) const FIDS: u32 = 1 << 16;

    pub(crate) fn new(capacity: u32, seed: u64, epochs: &Epochs) -> Self {
        let buckets = (capacity as usize * 2 / CELLS).max(4).next_power_of_two();
        let words = Words64::new((buckets * CELLS + SPILL) * 2 + 8);
        let first = words.first_line();
        Fdb {
            words,
            first,
            buckets,
            seed,
            capacity,
            spilled: Words32::new(1),
            clock: Words32::new(1),
            learner: Mutex::default(),
            epochs: epochs.clone(),
        }
    }
    #[inline(always)]
    fn pair(&self, key: u64) -> [usize; 2] {
        let mix = |a: u64, b: u64| {
            let m = u128::from(a) * u128::from(b);
            m as u64 ^ (m >> 64) as u64
        };
        let h = mix(mix(key ^ self.seed, 0x9e37_79b9_7f4a_7c15), 0xd6e8_feb8_6659_fd93);
        let mask = self.buckets - 1;
        [h as usize & mask, (h >> 32) as usize & mask]
    }
    #[inline(always)]
    fn at(&self, cell: usize) -> usize {
        self.first + 2 * cell
    }
    /// Say that the station is soon looked for.
    #[inline(always)]
    pub(crate) fn prefetch(&self, fid: u32, mac: Mac) {
        self.words.prefetch(self.at(self.pair(key(fid, mac))[0] * CELLS));
    }
    /// The station of that address.
    #[inline(always)]
    pub(crate) fn find(&self, fid: u32, mac: Mac) -> Option<Found> {
        let key = key(fid, mac);
        for b in self.pair(key) {
            if let Some(f) = self.scan(key, b * CELLS, CELLS) {
                return Some(f);
            }
        }
        let spilled = self.spilled.get(0) as usize;
        if spilled == 0 { None } else { self.scan(key, self.buckets * CELLS, spilled) }
    }
    #[inline(always)]
    fn scan(&self, key: u64, first: usize, cells: usize) -> Option<Found> {
        (first..first + cells)
            .find(|c| self.words.get(self.at(*c)) == key)
            .map(|c| Found { cell: c as u32, word: self.words.get(self.at(c) + 1) })
    }
    /// A frame came from it.
    #[inline(always)]
    pub(crate) fn seen(&self, f: Found) {
        let now = self.clock.get(0);
        if (f.word >> 32) as u32 != now {
            // Another may have changed it meanwhile: then that stands.
            self.words.replace(self.at(f.cell as usize) + 1, f.word, u64::from(now) << 32 | f.word & 0xffff_ffff);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Learner> {
        self.learner.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn value(&self, known: Known) -> u64 {
        u64::from(self.clock.get(0)) << 32 | u64::from(known.word())
    }
    fn set(&self, f: Found, known: Known) {
        self.words.set(self.at(f.cell as usize) + 1, self.value(known));
    }
    /// A cell for a new key: in the emptier of its buckets, or else, where it may, in the overflow.
    fn place(&self, key: u64, spill: bool) -> Option<usize> {
        let free = |first: usize, cells: usize| {
            let mut all = (first..first + cells).filter(|c| self.words.get(self.at(*c)) == FREE);
            (all.next(), all.count())
        };
        let [a, b] = self.pair(key).map(|b| free(b * CELLS, CELLS));
        let best = if b.1 > a.1 || a.0.is_none() { b.0 } else { a.0 };
        best.or_else(|| {
            if !spill {
                return None;
            }
            let base = self.buckets * CELLS;
            let (cell, _) = free(base, SPILL);
            let used = (cell? - base + 1) as u32;
            self.spilled.set(0, self.spilled.get(0).max(used));
            cell
        })
    }
    fn insert(&self, l: &mut Learner, key: u64, known: Known, spill: bool) -> bool {
        let place = self.place(key, false).or_else(|| {
            self.refill(l);
            self.place(key, spill)
        });
        let Some(cell) = place else { return false };
        // The key last: whoever sees it sees the value.
        self.words.set(self.at(cell) + 1, self.value(known));
        self.words.set(self.at(cell), key);
        true
    }
    fn empty(&self, l: &mut Learner, f: Found) {
        self.words.set(self.at(f.cell as usize), GONE);
        l.emptied.push_back((self.epochs.retire(), f.cell));
        match f.known() {
            Known::Learned(_) => l.learned -= 1,
            _ => l.fixed -= 1,
        }
    }

    /// A frame came from a station that is not known, or at another port. `there` says whether the port and the FID still are, asked
    /// when nobody else writes. Returns whether the station stands there now.
    #[cold]
    pub(crate) fn learn(&self, fid: u32, mac: Mac, port: u32, there: impl FnOnce() -> bool) -> bool {
        let mut l = self.lock();
        if !there() {
            return false;
        }
        match self.find(fid, mac) {
            Some(f) => match f.known() {
                Known::Learned(p) if p == port => return true,
                Known::Learned(_) => self.set(f, Known::Learned(port)),
                Known::Port(_) | Known::Route(_) | Known::Trap(_) => return false,
            },
            None => {
                if l.learned + l.fixed >= self.capacity
                    || !self.insert(&mut l, key(fid, mac), Known::Learned(port), true)
                {
                    return false;
                }
                l.learned += 1;
            }
        }
        l.tell(News::At(fid, mac, port));
        true
    }
    /// The agent says where a station is; one that is not learned stays as it is. `false`: no room.
    pub(crate) fn teach(&self, fid: u32, mac: Mac, port: u32) -> bool {
        let mut l = self.lock();
        match self.find(fid, mac) {
            Some(f) => {
                if let Known::Learned(_) = f.known() {
                    self.set(f, Known::Learned(port));
                }
                true
            }
            None => {
                let fits = l.learned + l.fixed < self.capacity
                    && self.insert(&mut l, key(fid, mac), Known::Learned(port), true);
                l.learned += u32::from(fits);
                fits
            }
        }
    }
    /// A station that is not learned; a learned one gives way, and where there is no room any other learned one.
    pub(crate) fn fix(&self, fid: u32, mac: Mac, known: Known) -> bool {
        let key = key(fid, mac);
        loop {
            let mut l = self.lock();
            if let Some(f) = self.find(fid, mac) {
                if let Known::Learned(_) = f.known() {
                    l.learned -= 1;
                    l.fixed += 1;
                }
                self.set(f, known);
                return true;
            }
            if l.fixed >= self.capacity {
                return false;
            }
            let full = l.learned + l.fixed >= self.capacity;
            if !full && self.insert(&mut l, key, known, false) {
                l.fixed += 1;
                return true;
            }
            let near = self.pair(key).into_iter().flat_map(|b| self.learned_cells(b * CELLS, CELLS)).next();
            if !full && near.is_none() {
                let fits = self.insert(&mut l, key, known, true);
                l.fixed += u32::from(fits);
                return fits;
            }
            let victim = near.or_else(|| self.learned_cells(0, self.cells()).next());
            let Some((f, other, whose, _)) = victim else { return false };
            self.empty(&mut l, f);
            l.tell(News::Gone(other, whose));
            // Who learns waits for the lock while others wait for it to be done with what it reads: not with the lock held.
            drop(l);
            self.epochs.wait(self.epochs.retire());
        }
    }
    /// Forget a station: a learned one, or one that is not.
    pub(crate) fn forget(&self, fid: u32, mac: Mac, learned: bool) {
        let mut l = self.lock();
        if let Some(f) = self.find(fid, mac)
            && matches!(f.known(), Known::Learned(_)) == learned
        {
            self.empty(&mut l, f);
        }
    }
    /// Forget all learned stations for which `f` says so, and tell if that is news.
    pub(crate) fn flush(&self, tell: bool, mut f: impl FnMut(u32, Mac, u32) -> bool) {
        let mut l = self.lock();
        if l.learned == 0 {
            return;
        }
        for (cell, fid, mac, port) in self.learned_cells(0, self.cells()) {
            if f(fid, mac, port) {
                self.empty(&mut l, cell);
                if tell {
                    l.tell(News::Gone(fid, mac));
                }
            }
        }
    }
    /// Forgets, among `cells` cells from `from` on, the stations that no frame came from for longer
    /// than their FID's ageing time, in ticks. Returns where to go on.
    pub(crate) fn age(&self, from: usize, cells: usize, ageing: impl Fn(u32) -> Option<u32>) -> Option<usize> {
        let now = self.clock.get(0);
        let mut l = self.lock();
        self.refill(&mut l);
        for (f, fid, mac, _) in self.learned_cells(from, cells) {
            let idle = now.wrapping_sub((f.word >> 32) as u32);
            if ageing(fid).is_none_or(|a| idle > a) {
                self.empty(&mut l, f);
                l.tell(News::Gone(fid, mac));
            }
        }
        let next = from.saturating_add(cells);
        (next < self.cells()).then_some(next)
    }
    /// What is to be rung when there is news (an eventfd): who waits for it need not look all the time.
    pub(crate) fn set_bell(&self, bell: OwnedFd) {
        self.lock().bell = Some(bell);
    }
    /// The time, in ticks.
    pub(crate) fn tick(&self, now: u32) {
        self.clock.set(0, now);
    }
    /// Cells that no reader can be at any more are free.
    fn refill(&self, l: &mut Learner) {
        while let Some((stamp, cell)) = l.emptied.front().copied()
            && self.epochs.passed(stamp)
        {
            l.emptied.pop_front();
            self.words.set(self.at(cell as usize), FREE);
        }
    }
    pub(crate) fn cells(&self) -> usize {
        self.buckets * CELLS + self.spilled.get(0) as usize
    }
    fn learned_cells(&self, from: usize, cells: usize) -> impl Iterator<Item = (Found, u32, Mac, u32)> + '_ {
        (from..from.saturating_add(cells).min(self.cells())).filter_map(|c| {
            let key = self.words.get(self.at(c));
            if key == FREE || key == GONE {
                return None;
            }
            let f = Found { cell: c as u32, word: self.words.get(self.at(c) + 1) };
            let Known::Learned(port) = f.known() else { return None };
            let (fid, mac) = station(key);
            Some((f, fid, mac, port))
        })
    }
    /// Learned stations from cell `cursor` on: FID, address, port.
    pub(crate) fn page(&self, cursor: u64, max: usize, mut f: impl FnMut(u32, Mac, u32)) -> Option<u64> {
        let from = usize::try_from(cursor).ok()?;
        for (n, (cell, fid, mac, port)) in self.learned_cells(from, self.cells()).enumerate() {
            if n == max {
                return Some(u64::from(cell.cell));
            }
            f(fid, mac, port);
        }
        None
    }
    /// How many stations are learned, and how many are not.
    pub(crate) fn used(&self) -> (u32, u32) {
        let l = self.lock();
        (l.learned, l.fixed)
    }
    /// What happened since it was last asked, and whether something of it was lost.
    pub(crate) fn news(&self) -> (VecDeque<News>, bool) {
        let mut l = self.lock();
        (std::mem::take(&mut l.news), std::mem::take(&mut l.lost))
    }
}

impl Learner {
    fn tell(&mut self, n: News) {
        if self.news.len() < NEWS {
            self.news.push_back(n);
            if let Some(bell) = self.bell.as_ref().filter(|_| self.news.len() == 1) {
                // It is full only if it was rung already.
                let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
            }
        } else {
            self.lost = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn mac(n: u32) -> Mac {
        let [_, b, c, d] = n.to_be_bytes();
        Mac([2, 0, 0, b, c, d])
    }

    #[derive(Clone, Debug)]
    enum Do {
        Learn(u32, u32, u32),
        Teach(u32, u32, u32),
        Fix(u32, u32, Known),
        Forget(u32, u32, bool),
        Flush(u32),
    }

    fn doing() -> impl Strategy<Value = Do> {
        let known = prop_oneof![
            (0..4_u32).prop_map(Known::Port),
            (0..4_u32).prop_map(Known::Route),
            Just(Known::Trap(TrapClass::ToUs))
        ];
        prop_oneof![
            6 => (0..3_u32, 0..60_u32, 0..4_u32).prop_map(|(f, m, p)| Do::Learn(f, m, p)),
            1 => (0..3_u32, 0..60_u32, 0..4_u32).prop_map(|(f, m, p)| Do::Teach(f, m, p)),
            3 => (0..3_u32, 0..60_u32, known).prop_map(|(f, m, k)| Do::Fix(f, m, k)),
            3 => (0..3_u32, 0..60_u32, any::<bool>()).prop_map(|(f, m, l)| Do::Forget(f, m, l)),
            1 => (0..4_u32).prop_map(Do::Flush),
        ]
    }

    proptest! {
        /// Against a plain map. What is learned may give way where the table is full; what is not never does.
        #[test]
        fn stations_are_those_of_a_plain_map(all in prop::collection::vec(doing(), 1..300)) {
            const CAPACITY: u32 = 48;
            let t = Fdb::new(CAPACITY, 7, &Epochs::default());
            let mut want = BTreeMap::<(u32, Mac), Known>::new();
            for d in all {
                t.age(0, 0, |_| Some(u32::MAX));
                match d {
                    Do::Learn(f, m, p) => {
                        let k = (f, mac(m));
                        let room = want.contains_key(&k) || (want.len() as u32) < CAPACITY;
                        let free = !matches!(want.get(&k), Some(Known::Port(_) | Known::Route(_) | Known::Trap(_)));
                        prop_assert_eq!(t.learn(f, mac(m), p, || true), room && free);
                        if room && free {
                            want.insert(k, Known::Learned(p));
                        }
                    }
                    Do::Teach(f, m, p) => {
                        let k = (f, mac(m));
                        let room = want.contains_key(&k) || (want.len() as u32) < CAPACITY;
                        prop_assert_eq!(t.teach(f, mac(m), p), room);
                        if room && matches!(want.get(&k), None | Some(Known::Learned(_))) {
                            want.insert(k, Known::Learned(p));
                        }
                    }
                    Do::Fix(f, m, known) => {
                        let fixed = want.values().filter(|k| !matches!(k, Known::Learned(_))).count() as u32;
                        let room = want.contains_key(&(f, mac(m))) || fixed < CAPACITY;
                        prop_assert_eq!(t.fix(f, mac(m), known), room);
                        if room {
                            want.insert((f, mac(m)), known);
                        }
                        for n in t.news().0 {
                            if let News::Gone(f, m) = n {
                                want.remove(&(f, m));
                            }
                        }
                    }
                    Do::Forget(f, m, learned) => {
                        t.forget(f, mac(m), learned);
                        if want.get(&(f, mac(m))).is_some_and(|k| matches!(k, Known::Learned(_)) == learned) {
                            want.remove(&(f, mac(m)));
                        }
                    }
                    Do::Flush(p) => {
                        t.flush(true, |_, _, at| at == p);
                        want.retain(|_, k| *k != Known::Learned(p));
                    }
                }
                let _ = t.news();
                for (f, m) in (0..3).flat_map(|f| (0..60).map(move |m| (f, mac(m)))) {
                    prop_assert_eq!(t.find(f, m).map(Found::known), want.get(&(f, m)).copied());
                }
                let learned = want.values().filter(|k| matches!(k, Known::Learned(_))).count() as u32;
                prop_assert_eq!(t.used(), (learned, want.len() as u32 - learned));
            }
            let mut seen = BTreeMap::new();
            let mut cursor = Some(0);
            while let Some(c) = cursor {
                cursor = t.page(c, 3, |f, m, p| assert_eq!(seen.insert((f, m), Known::Learned(p)), None));
            }
            want.retain(|_, k| matches!(k, Known::Learned(_)));
            prop_assert_eq!(seen, want);
        }
    }

    #[test]
    fn idle_stations_age_and_busy_ones_stay() {
        let t = Fdb::new(64, 1, &Epochs::default());
        assert!(t.learn(1, mac(1), 5, || true) && t.learn(1, mac(2), 5, || true) && t.learn(2, mac(2), 5, || true));
        assert!(!t.learn(1, mac(3), 5, || false), "a port that went meanwhile");
        let _ = t.news();
        t.tick(40);
        t.seen(t.find(1, mac(1)).unwrap());
        t.tick(41);
        let age = |fid| if fid == 1 { Some(40) } else { Some(1000) };
        t.age(0, t.cells(), age);
        assert_eq!(t.news().0, [News::Gone(1, mac(2))]);
        assert_eq!(t.find(1, mac(1)).map(Found::known), Some(Known::Learned(5)));
        t.age(0, t.cells(), |fid| (fid != 2).then_some(1000));
        assert_eq!(t.news().0, [News::Gone(2, mac(2))], "its FID is gone");
    }

    /// As many as it says, whatever the addresses.
    #[test]
    fn a_full_table_is_full() {
        for seed in 0..4 {
            let n = 16_384;
            let t = Fdb::new(n, seed, &Epochs::default());
            for i in 0..n {
                assert!(t.learn(1, mac(i), 3, || true), "station {i} of {n}");
            }
            assert!(!t.learn(1, mac(n), 3, || true));
            for i in 0..n {
                assert!(t.fix(2, mac(i), Known::Port(1)), "fixed station {i}");
            }
            assert_eq!(t.used(), (0, n));
            assert!(!t.fix(2, mac(n), Known::Port(1)));
        }
    }
}
