//! One routing table: prefixes with their aliases in an arena, so that no insert ever waits for a large structure to grow.
//! Knows nothing of what aliases mean.

use hal::{Family, Prefix};
use smallvec::SmallVec;

use super::types::{Alias, NhRef, RouteFlags};
use crate::arena::{self, Arena, Chunks};

/// Aliases of a prefix, in the order in which the kernel searches them.
pub type Aliases = SmallVec<[Alias; 1]>;

/// Bits of [`Slot::state`].
pub(super) mod state {
    /// Holds a prefix.
    pub const USED: u8 = 1;
    /// Holds an alias, or more.
    pub const FULL: u8 = 2;
    /// They stand aside.
    pub const ASIDE: u8 = 4;
    /// In the dirty list.
    pub const DIRTY: u8 = 8;
    /// The mirror can't tell what the kernel has here.
    pub const UNDECIDED: u8 = 16;
    /// A notification came in this generation.
    pub const TOUCHED: u8 = 32;
    /// A dump named it in this generation.
    pub const SEEN: u8 = 64;
    /// Aliases went by a purge, or by a replacement that may have been in a dump already: positions are doubtful to older
    /// messages.
    pub const PARTIAL: u8 = 128;
}
use state::{ASIDE, DIRTY, FULL, UNDECIDED, USED};

/// A prefix and its one plain alias, small: there may be millions. What does not fit stands aside.
pub(super) struct Slot<F: Family> {
    pub key: Prefix<F>,
    kind: u8,
    proto: u8,
    scope: u8,
    flags: u8,
    pub state: u8,
    rest: u16,
    metric: u32,
    /// The next-hop set; with [`state::ASIDE`] the number of the list that holds all aliases.
    to: u32,
    /// Generation in which it was last dumped or touched.
    pub generation: u32,
}

impl<F: Family> arena::Slot for Slot<F> {
    type Family = F;
    #[inline]
    fn key(&self) -> Prefix<F> {
        self.key
    }
}

impl<F: Family> Slot<F> {
    fn new(key: Prefix<F>) -> Self {
        Slot {
            key,
            kind: 0,
            proto: 0,
            scope: 0,
            flags: 0,
            state: USED,
            rest: 0,
            metric: 0,
            to: u32::MAX,
            generation: 0,
        }
    }
    #[inline]
    fn alias(&self) -> Alias {
        Alias {
            nh: NhRef(self.to),
            metric: self.metric,
            kind: self.kind,
            tos: 0,
            proto: self.proto,
            scope: self.scope,
            flags: RouteFlags(self.flags.into()),
            rest: self.rest.into(),
        }
    }
    /// Keep the alias here, if it fits.
    #[inline]
    fn take(&mut self, a: &Alias) -> bool {
        let (Ok(flags), Ok(rest), 0) = (u8::try_from(a.flags.0), u16::try_from(a.rest), a.tos) else { return false };
        (self.to, self.metric, self.rest, self.flags) = (a.nh.0, a.metric, rest, flags);
        (self.kind, self.proto, self.scope) = (a.kind, a.proto, a.scope);
        true
    }
}

pub(super) struct Table<F: Family> {
    slots: Arena<Slot<F>>,
    /// Prefixes of each length.
    lens: [u32; 129],
    /// A bit for each length below 128 that there is.
    short: u128,
    /// Lists of aliases that do not fit into a slot.
    aside: Chunks<Aliases>,
    pub dirty: Vec<u32>,
}

impl<F: Family> Default for Table<F> {
    fn default() -> Self {
        Table { slots: Arena::default(), lens: [0; 129], short: 0, aside: Chunks::default(), dirty: Vec::new() }
    }
}

/// The bit of a prefix length; none for 128 and more.
#[inline]
fn bit(len: u8) -> u128 {
    1u128.checked_shl(len.into()).unwrap_or(0)
}

impl<F: Family> Table<F> {
    #[inline]
    pub fn slot(&self, i: u32) -> &Slot<F> {
        self.slots.slot(i)
    }
    #[inline]
    pub fn slot_mut(&mut self, i: u32) -> &mut Slot<F> {
        self.slots.slot_mut(i)
    }
    /// Slots in use or once used: where a walk ends.
    pub fn end(&self) -> u32 {
        self.slots.end()
    }
    /// How many prefixes it holds.
    pub fn len(&self) -> usize {
        self.slots.len()
    }
    #[inline]
    pub fn find(&self, p: Prefix<F>) -> Option<u32> {
        if self.lens[usize::from(p.len())] == 0 {
            return None;
        }
        self.slots.find(p)
    }
    /// See [`Arena::glance`].
    #[inline]
    pub fn glance(&self, p: Prefix<F>) -> u32 {
        self.slots.glance(p)
    }
    /// The slot of `p`, made if missing.
    #[inline]
    pub fn entry(&mut self, p: Prefix<F>) -> u32 {
        let (i, new) = self.slots.entry(p, || Slot::new(p));
        if new {
            self.lens[usize::from(p.len())] += 1;
            self.short |= bit(p.len());
        }
        i
    }
    /// Forget an empty slot that nobody waits for.
    pub fn vacuum(&mut self, i: u32) {
        let s = self.slot_mut(i);
        if s.state & USED == 0 || s.state & (FULL | DIRTY | UNDECIDED) != 0 {
            return;
        }
        s.state = 0;
        let len = s.key.len();
        self.slots.remove(i);
        self.lens[usize::from(len)] -= 1;
        if self.lens[usize::from(len)] == 0 {
            self.short &= !bit(len);
        }
    }
    #[inline]
    pub fn aliases(&self, i: u32) -> Aliases {
        let s = self.slot(i);
        match s.state & (FULL | ASIDE) {
            FULL => SmallVec::from_buf([s.alias()]),
            0 => Aliases::new(),
            _ => Aliases::from_slice(self.aside.at(s.to)),
        }
    }
    /// Whether it holds several aliases.
    pub fn several(&self, i: u32) -> bool {
        let s = self.slot(i);
        s.state & ASIDE != 0 && self.aside.at(s.to).len() > 1
    }
    pub fn store(&mut self, i: u32, list: &[Alias]) {
        let s = self.slots.slot_mut(i);
        let had = (s.state & ASIDE != 0).then_some(s.to);
        s.state &= !(FULL | ASIDE);
        match list {
            [] => {}
            [a] if s.take(a) => s.state |= FULL,
            list => {
                s.state |= FULL | ASIDE;
                if let Some(n) = had {
                    *self.aside.at_mut(n) = list.into();
                    return;
                }
                s.to = self.aside.put(list.into());
            }
        }
        if let Some(n) = had {
            // What it held on the heap goes now, not when the number comes again.
            *self.aside.at_mut(n) = Aliases::new();
            self.aside.free(n);
        }
    }
    #[inline]
    pub fn mark(&mut self, i: u32) {
        let s = self.slot_mut(i);
        if s.state & DIRTY == 0 {
            s.state |= DIRTY;
            self.dirty.push(i);
        }
    }
    /// Lengths of prefixes present, up to `max`, short to long.
    pub fn lens(&self, max: u8) -> impl Iterator<Item = u8> + '_ {
        let mut left = self.short & bit(max.saturating_add(1)).wrapping_sub(1);
        let short = core::iter::from_fn(move || {
            let l = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            u8::try_from(l).ok().filter(|l| *l < 128)
        });
        short.chain((max >= 128 && self.lens[128] != 0).then_some(128))
    }
    /// Bytes held, roughly.
    pub fn bytes(&self) -> usize {
        self.slots.bytes() + self.aside.bytes() + self.dirty.capacity() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hal::{V4, V6};

    #[test]
    fn slots_are_small() {
        assert_eq!((size_of::<Slot<V4>>(), size_of::<Slot<V6>>()), (24, 36));
    }

    #[test]
    fn lengths_are_known() {
        let mut t = Table::<V6>::default();
        let all = [0, 1, 64, 127, 128];
        for len in all {
            t.entry(Prefix::new(std::net::Ipv6Addr::UNSPECIFIED, len));
        }
        for max in [0, 1, 63, 64, 126, 127, 128] {
            let want: Vec<u8> = all.into_iter().filter(|l| *l <= max).collect();
            assert_eq!(t.lens(max).collect::<Vec<_>>(), want, "{max}");
        }
        for i in 0..t.end() {
            t.vacuum(i);
        }
        assert_eq!(t.lens(128).count(), 0);
    }

    #[test]
    fn what_does_not_fit_stands_aside() {
        let mut t = Table::<V4>::default();
        let p = Prefix::new([10, 0, 0, 0].into(), 8);
        let plain = Alias {
            nh: NhRef(7),
            metric: u32::MAX,
            kind: 1,
            tos: 0,
            proto: 186,
            scope: 0,
            flags: RouteFlags(0),
            rest: 9,
        };
        let tos = Alias { tos: 4, ..plain };
        let rest = Alias { rest: 1 << 16, ..plain };
        let i = t.entry(p);
        for list in [&[plain][..], &[tos], &[plain, tos], &[rest, plain, tos], &[], &[rest], &[plain], &[]] {
            t.store(i, list);
            assert_eq!(t.aliases(i)[..], *list);
            assert_eq!(t.several(i), list.len() > 1);
        }
        t.vacuum(i);
        assert_eq!((t.len(), t.find(p)), (0, None));
    }
}
