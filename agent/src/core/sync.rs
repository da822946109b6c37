//! Dumps and fences: how the mirror comes to agree with the kernel at the start, after an overrun, and when it is in doubt.
//!
//! One dump is under way at a time. What fails or is interrupted is asked for again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hal::Nanos;

use super::{Core, SECOND};
use crate::input::{DumpKind, Output};
use crate::mirror::Mirror;

/// A dump that says nothing for this long is asked for again.
const DUMP_PATIENCE: Nanos = 30 * SECOND;
/// A fence that does not come for this long is sent again.
const FENCE_PATIENCE: Nanos = 3 * SECOND;
/// How long an inferred purge waits for others before a dump confirms it.
const CONFIRM: Nanos = SECOND;
/// Pause before an interrupted dump is repeated: from 10 ms, doubling, to 1 s.
fn pause(tries: u32) -> Nanos {
    (10_000_000u64 << tries.min(7)).min(SECOND)
}

/// Whom a dump is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    /// The mirror.
    Live,
    /// A mirror made for a comparison.
    Shadow,
}

#[derive(Debug)]
struct Current {
    id: u64,
    kind: DumpKind,
    target: Target,
    heard: Nanos,
}

/// State of dumps.
#[derive(Default)]
pub(super) struct Sync {
    queue: VecDeque<(Target, DumpKind)>,
    current: Option<Current>,
    not_before: Nanos,
    tries: u32,
    /// All kinds have been read once.
    pub first: bool,
    /// A dump of all kinds is under way.
    pub full: bool,
    /// The mirror of a comparison.
    pub shadow: Option<Box<Mirror>>,
    /// Kinds that a dump should confirm, and when.
    confirm: BTreeSet<DumpKind>,
    confirm_at: Nanos,
    /// Fences that are out, and the mirror's epoch when each was sent.
    fences: BTreeMap<u64, u64>,
    /// The fence that closes the last dump, and when it was sent.
    closing: Option<(u64, Nanos)>,
}

impl Sync {
    /// Whether the mirror is being brought up to date by dumps.
    pub fn live(&self) -> bool {
        self.full
            || self.queue.iter().any(|(t, _)| *t == Target::Live)
            || self.current.as_ref().is_some_and(|c| c.target == Target::Live)
    }
    /// Whether dumps for a comparison are under way.
    pub fn shadowing(&self) -> bool {
        self.queue.iter().any(|(t, _)| *t == Target::Shadow)
            || self.current.as_ref().is_some_and(|c| c.target == Target::Shadow)
    }
    pub fn deadline(&self) -> Option<Nanos> {
        let dump = match &self.current {
            Some(c) => Some(c.heard + DUMP_PATIENCE),
            None => (!self.queue.is_empty()).then_some(self.not_before),
        };
        let confirm = (!self.confirm.is_empty()).then_some(self.confirm_at);
        let closing = self.closing.map(|(_, at)| at + FENCE_PATIENCE);
        [dump, confirm, closing].into_iter().flatten().min()
    }
    fn ask(&mut self, target: Target, kind: DumpKind) {
        if !self.queue.contains(&(target, kind)) {
            self.queue.push_back((target, kind));
        }
    }
}

impl Core {
    /// Read all of the kernel's state into the running mirror.
    pub(super) fn resync(&mut self) {
        self.totals.resyncs += 1;
        self.sync.full = true;
        self.mirror.distrust();
        for kind in DumpKind::ALL {
            self.sync.ask(Target::Live, kind);
        }
    }

    /// Read all of the kernel's state into a mirror of its own.
    pub(super) fn shadow(&mut self) {
        self.drop_shadow();
        self.sync.shadow = Some(Box::new(self.mirror.shadow()));
        for kind in DumpKind::ALL {
            self.sync.ask(Target::Shadow, kind);
        }
    }

    pub(super) fn drop_shadow(&mut self) {
        self.sync.shadow = None;
        self.sync.queue.retain(|(t, _)| *t != Target::Shadow);
        if self.sync.current.as_ref().is_some_and(|c| c.target == Target::Shadow) {
            self.sync.current = None;
        }
    }

    pub(super) fn overrun(&mut self) {
        self.totals.overruns += 1;
        self.sync.fences.clear();
        self.sync.closing = None;
        self.void_fences();
        self.void_check();
        // A dump that is under way began before the loss.
        if let Some(c) = self.sync.current.take() {
            self.abort(&c);
        }
        self.resync();
    }

    fn abort(&mut self, c: &Current) {
        if c.target == Target::Live {
            self.mirror.dump_end(c.kind, false);
        }
    }

    /// Kinds of which the mirror is in doubt, and kinds that it would like to see confirmed.
    pub(super) fn want_dumps(&mut self, wanted: &BTreeSet<DumpKind>, confirm: &BTreeSet<DumpKind>) {
        for kind in wanted {
            self.sync.ask(Target::Live, *kind);
        }
        if self.sync.confirm.is_empty() && !confirm.is_empty() {
            self.sync.confirm_at = self.now + CONFIRM;
        }
        self.sync.confirm.extend(confirm);
    }

    /// Send a fence; its answer comes behind everything that the kernel said before.
    pub(super) fn send_fence(&mut self) -> u64 {
        let id = self.id();
        self.sync.fences.insert(id, self.mirror.epoch());
        // One that is lost is never taken out.
        while self.sync.fences.len() > 64 {
            self.sync.fences.pop_first();
        }
        self.out.push_back(Output::Fence { id });
        id
    }

    /// A fence is back: the mirror may forget doubts about dumps that ended before it was sent.
    pub(super) fn fence_closes(&mut self, id: u64) {
        if let Some(epoch) = self.sync.fences.remove(&id) {
            self.mirror.fence(epoch);
        }
        self.sync.closing.take_if(|(i, _)| *i == id);
    }

    pub(super) fn sync_work(&mut self) {
        if let Some(c) = &self.sync.current
            && self.now >= c.heard + DUMP_PATIENCE
        {
            tracing::warn!(kind = ?c.kind, "the kernel's answer to a dump does not come; it is asked again");
            if let Some(c) = self.sync.current.take() {
                self.abort(&c);
                self.sync.queue.push_front((c.target, c.kind));
            }
        }
        if self.now >= self.sync.confirm_at {
            for kind in core::mem::take(&mut self.sync.confirm) {
                self.sync.ask(Target::Live, kind);
            }
        }
        if self.sync.closing.is_some_and(|(_, at)| self.now >= at + FENCE_PATIENCE) {
            let id = self.send_fence();
            self.sync.closing = Some((id, self.now));
        }
        // A dump of routes begins when the sweep before it is over, which may take many inputs.
        let sweeping = self.mirror_busy && self.sync.queue.front().is_some_and(|(t, _)| *t == Target::Live);
        if self.sync.current.is_none()
            && !sweeping
            && self.now >= self.sync.not_before
            && let Some((target, kind)) = self.sync.queue.pop_front()
        {
            let id = self.id();
            match (target, &mut self.sync.shadow) {
                (Target::Shadow, None) => return,
                (Target::Shadow, Some(m)) => m.dump_begin(kind),
                (Target::Live, _) => self.mirror.dump_begin(kind),
            }
            self.sync.current = Some(Current { id, kind, target, heard: self.now });
            self.out.push_back(Output::Dump { id, kind });
        }
    }

    pub(super) fn dump_part(&mut self, id: u64, kind: DumpKind, seq: u64, buf: &[u8]) {
        let Some(c) = self.sync.current.as_mut().filter(|c| c.id == id && c.kind == kind) else { return };
        c.heard = self.now;
        match (c.target, &mut self.sync.shadow) {
            (Target::Live, _) => self.mirror.dump(kind, seq, buf),
            (Target::Shadow, Some(m)) => m.dump(kind, seq, buf),
            (Target::Shadow, None) => {}
        }
    }

    pub(super) fn dump_end(&mut self, id: u64, kind: DumpKind, complete: bool) {
        let Some(c) = self.sync.current.take_if(|c| c.id == id && c.kind == kind) else { return };
        match (c.target, &mut self.sync.shadow) {
            (Target::Live, _) => self.mirror.dump_end(kind, complete),
            (Target::Shadow, Some(m)) => m.dump_end(kind, complete),
            (Target::Shadow, None) => {}
        }
        if !complete {
            self.sync.tries += 1;
            self.sync.not_before = self.now + pause(self.sync.tries);
            self.sync.queue.retain(|q| *q != (c.target, kind));
            self.sync.queue.push_front((c.target, kind));
            return;
        }
        self.sync.tries = 0;
        // What it leaves open is asked for before all counts as read.
        self.take_dirt();
        if c.target == Target::Live && !self.sync.queue.iter().any(|(t, _)| *t == Target::Live) {
            if !self.sync.first {
                self.sync.first = true;
                tracing::info!("the kernel's state has been read");
            }
            self.sync.full = false;
            let id = self.send_fence();
            self.sync.closing = Some((id, self.now));
            self.judge();
            self.fresh.look();
        }
    }
}
