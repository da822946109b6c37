//! Writer's side of virtual routers: the contract's number → the number of a root in the LPMs, for as long as anything is in it.
//!
//! The default one has its root for ever. A root that nothing needs any more is another's once no reader can see it.

use hal::VrfId;
use hashbrown::HashMap;

use super::ids::Recycler;
use crate::sync::Epochs;

/// What the tables have for a virtual router that has no root: every lookup there misses.
pub(crate) const NOWHERE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Vrfs {
    /// Root, and how many open interfaces and routes are in it. The default one is not here.
    known: HashMap<VrfId, (u32, u32)>,
    names: Vec<VrfId>,
    recycler: Recycler,
}

impl Vrfs {
    /// At most `vrfs` at a time, the default one among them.
    pub(crate) fn new(vrfs: u32) -> Self {
        let recycler = Recycler::new(vrfs.saturating_sub(1));
        Vrfs { known: HashMap::new(), names: vec![VrfId(0); vrfs.max(1) as usize], recycler }
    }
    /// Its root, if it has one.
    #[inline]
    pub(crate) fn find(&self, id: VrfId) -> Option<u32> {
        if id.0 == 0 { Some(0) } else { self.known.get(&id).map(|(root, _)| *root) }
    }
    /// Whose root that is.
    pub(crate) fn name(&self, root: u32) -> VrfId {
        self.names.get(root as usize).copied().unwrap_or_default()
    }
    /// Something more is in it. `None`: there is no root left.
    #[inline]
    pub(crate) fn hold(&mut self, id: VrfId, epochs: &Epochs) -> Option<u32> {
        if id.0 == 0 {
            return Some(0);
        }
        if let Some((root, held)) = self.known.get_mut(&id) {
            *held += 1;
            return Some(*root);
        }
        let root = self.recycler.take(epochs)? + 1;
        self.known.insert(id, (root, 1));
        self.names[root as usize] = id;
        Some(root)
    }
    /// Something less is.
    #[inline]
    pub(crate) fn release(&mut self, id: VrfId, epochs: &Epochs) {
        if id.0 == 0 {
            return;
        }
        if let Some((root, held)) = self.known.get_mut(&id) {
            *held -= 1;
            if *held == 0 {
                self.recycler.retire(*root - 1, epochs);
                self.known.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_go_round() {
        let (mut v, e) = (Vrfs::new(3), Epochs::default());
        let (a, b, c) = (VrfId(10), VrfId(u32::MAX), VrfId(12));
        assert_eq!(v.hold(VrfId(0), &e), Some(0));
        let (x, y) = (v.hold(a, &e).unwrap(), v.hold(b, &e).unwrap());
        assert!(x != y && x.min(y) == 1 && x.max(y) == 2);
        assert_eq!((v.hold(c, &e), v.hold(a, &e)), (None, Some(x)));
        v.release(a, &e);
        assert_eq!((v.find(a), v.name(x), v.hold(c, &e)), (Some(x), a, None));
        v.release(a, &e);
        assert_eq!((v.find(a), v.find(b)), (None, Some(y)));
        assert_eq!((v.hold(c, &e), v.name(x)), (Some(x), c));
        assert_eq!(Vrfs::new(1).hold(a, &e), None);
    }
}
