//! Policy routing: the list of each family as readers see it. A packet's own fields are `stage::select`'s.
//!
//! Almost no switch has any, so that a reader asks one word for each chunk of frames; where there are some it takes the whole list for
//! the chunk.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hal::TrapClass;

/// What a rule does, with the tables' own indices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Act {
    /// The destination is looked up in the virtual router of that root; a route of fewer bits than `shortest` traps.
    Root {
        root: u32,
        shortest: u8,
    },
    Trap(TrapClass),
}

/// A rule, ready to be held against a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Match {
    /// Index of the interface; `None`: any.
    pub(crate) iif: Option<u32>,
    /// Address and mask.
    pub(crate) src: (u128, u128),
    pub(crate) dst: (u128, u128),
    /// Value and mask of the byte.
    pub(crate) tos: Option<(u8, u8)>,
    pub(crate) proto: Option<u8>,
    pub(crate) sport: Option<(u16, u16)>,
    pub(crate) dport: Option<(u16, u16)>,
    pub(crate) act: Act,
}

impl Match {
    /// Whether it looks behind the IP header.
    pub(crate) fn deep(&self) -> bool {
        self.proto.is_some() || self.sport.is_some() || self.dport.is_some()
    }
}

/// Both lists.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Lists {
    pub(crate) v4: Vec<Match>,
    pub(crate) v6: Vec<Match>,
}

#[derive(Debug, Default)]
pub(crate) struct Rules {
    any: AtomicBool,
    lists: RwLock<Arc<Lists>>,
}

impl Rules {
    /// The lists, if there is a rule in any.
    #[inline(always)]
    pub(crate) fn get(&self) -> Option<Arc<Lists>> {
        if self.any.load(Ordering::Acquire) { Some(self.taken()) } else { None }
    }
    #[cold]
    fn taken(&self) -> Arc<Lists> {
        Arc::clone(&self.lists.read().unwrap_or_else(PoisonError::into_inner))
    }
    pub(crate) fn set(&self, lists: Lists) {
        let any = !(lists.v4.is_empty() && lists.v6.is_empty());
        *self.lists.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(lists);
        self.any.store(any, Ordering::Release);
    }
}
