//! What the chip acknowledged of one route, small: there may be millions. Knows nothing of what should be there.

use hal::{DropReason, Family, Fwd, GroupId, Prefix, RifId, TrapClass};

use crate::arena;

/// A [`Fwd`] in five bytes, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Packed {
    value: u32,
    tag: u8,
}

impl Packed {
    /// Nothing programmed.
    pub const NONE: Packed = Packed { value: 0, tag: 0 };
    /// A trap.
    pub const fn trap(class: TrapClass) -> Packed {
        Packed { value: class as u32, tag: 3 }
    }
    /// As the contract has it; `None` for nothing.
    pub fn fwd(self) -> Option<Fwd> {
        let v = self.value;
        match self.tag {
            1 => Some(Fwd::Group(GroupId(v))),
            2 => Some(Fwd::Connected(RifId(v))),
            3 => TrapClass::ALL.get(v as usize).map(|c| Fwd::Trap(*c)),
            4 => DropReason::ALL.get(v as usize).map(|r| Fwd::Drop(*r)),
            _ => None,
        }
    }
    /// Whether it says anything but nothing.
    #[inline]
    pub fn is_some(self) -> bool {
        self.tag != 0
    }
    /// Whether it hands the packet to the kernel.
    pub fn is_trap(self) -> bool {
        self.tag == 3
    }
    /// The group that it refers to.
    pub fn group(self) -> Option<GroupId> {
        (self.tag == 1).then_some(GroupId(self.value))
    }
}

impl From<Fwd> for Packed {
    fn from(f: Fwd) -> Packed {
        let (tag, value) = match f {
            Fwd::Group(g) => (1, g.0),
            Fwd::Connected(r) => (2, r.0),
            Fwd::Trap(c) => (3, c as u32),
            Fwd::Drop(r) => (4, r as u32),
        };
        Packed { value, tag }
    }
}

impl From<Option<Fwd>> for Packed {
    fn from(f: Option<Fwd>) -> Packed {
        f.map_or(Packed::NONE, Packed::from)
    }
}

/// One route as the chip has it.
#[derive(Clone, Copy, Debug)]
pub struct Slot<F: Family> {
    /// Which.
    pub key: Prefix<F>,
    bits: u8,
    tag: u8,
    value: u32,
}

/// Bits of `Slot::bits`: an operation is under way, it is a remove, it is to be looked at again after it, it is held.
const BUSY: u8 = 1;
const LEAVING: u8 = 2;
const AGAIN: u8 = 4;
const LIVE: u8 = 8;

impl<F: Family> arena::Slot for Slot<F> {
    type Family = F;
    #[inline]
    fn key(&self) -> Prefix<F> {
        self.key
    }
}

impl<F: Family> Slot<F> {
    /// One of which the chip holds nothing.
    pub fn new(key: Prefix<F>) -> Self {
        Slot { key, bits: LIVE, tag: 0, value: 0 }
    }
    /// What the chip acknowledged last.
    #[inline]
    pub fn acked(&self) -> Packed {
        Packed { value: self.value, tag: self.tag }
    }
    /// The chip acknowledged that; says what stood before.
    #[inline]
    pub fn set_acked(&mut self, to: Packed) -> Packed {
        let old = self.acked();
        (self.value, self.tag) = (to.value, to.tag);
        old
    }
    /// Whether an operation on it is under way.
    #[inline]
    pub fn busy(&self) -> bool {
        self.bits & BUSY != 0
    }
    /// Whether that operation is a remove.
    #[inline]
    pub fn leaving(&self) -> bool {
        self.bits & LEAVING != 0
    }
    /// An operation, a remove or a set, begins.
    #[inline]
    pub fn begin(&mut self, leaving: bool) {
        self.bits |= BUSY | if leaving { LEAVING } else { 0 };
    }
    /// It is to be looked at again when the operation under way is answered.
    #[inline]
    pub fn look_again(&mut self) {
        self.bits |= AGAIN;
    }
    /// The operation was answered. Whether it is to be looked at again.
    #[inline]
    pub fn answered(&mut self) -> bool {
        let again = self.bits & AGAIN != 0;
        self.bits &= !(BUSY | LEAVING | AGAIN);
        again
    }
    /// Whether it is held: a slot that was forgotten can still be walked over.
    #[inline]
    pub fn live(&self) -> bool {
        self.bits & LIVE != 0
    }
    /// It is about to be forgotten.
    #[inline]
    pub fn die(&mut self) {
        self.bits = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hal::{V4, V6};

    #[test]
    fn slots_are_small() {
        assert_eq!((size_of::<Slot<V4>>(), size_of::<Slot<V6>>()), (12, 24));
    }

    #[test]
    fn every_verdict_survives_packing() {
        let mut all = vec![Fwd::Group(GroupId(u32::MAX)), Fwd::Connected(RifId(7))];
        all.extend(TrapClass::ALL.map(Fwd::Trap));
        all.extend(DropReason::ALL.map(Fwd::Drop));
        for f in all {
            assert_eq!(Packed::from(f).fwd(), Some(f));
        }
        assert_eq!(Packed::NONE.fwd(), None);
    }
}
