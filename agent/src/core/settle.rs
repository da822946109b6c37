//! Settled: the chip holds all that the kernel knew when asked, and the other way round. A fence over the monitor socket, then a reading
//! of what is polled, then an answer of the chip's, behind what it has to say of stations, then nothing dirty, nothing in flight, and every port's carrier as the chip has it.

use hal::Nanos;

use super::{Core, SECOND};
use crate::compile::group::IFF_UP;

/// A fence or a reading that does not come for this long is asked for again.
const PATIENCE: Nanos = 3 * SECOND;

/// What is to happen then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Then {
    /// Answer the operator.
    Reply(u64),
    /// Go on with the comparison.
    Check,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The mirror is being dumped into.
    Sync,
    /// The fence is out.
    Fence { id: u64, since: Nanos },
    /// A reading is asked for; `polls` had been read before.
    Poll { polls: u64, since: Nanos },
    /// The chip was asked.
    Chip { id: u64, since: Nanos },
    /// All news is in.
    Quiet,
}

/// One wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Job {
    then: Then,
    stage: Stage,
}

impl Job {
    pub fn reply(&self) -> Option<u64> {
        match self.then {
            Then::Reply(id) => Some(id),
            Then::Check => None,
        }
    }
}

impl Core {
    pub(super) fn settle(&mut self, id: u64) {
        self.settle_then(Then::Reply(id));
    }

    pub(super) fn settle_then(&mut self, then: Then) {
        self.jobs.push(Job { then, stage: Stage::Sync });
    }

    pub(super) fn void_fences(&mut self) {
        for j in &mut self.jobs {
            j.stage = Stage::Sync;
        }
    }

    pub(super) fn fence_came(&mut self, id: u64) {
        self.fence_closes(id);
        let mut asked = false;
        for j in &mut self.jobs {
            if matches!(j.stage, Stage::Fence { id: i, .. } if i == id) {
                j.stage = Stage::Poll { polls: self.polls, since: self.now };
                asked = true;
            }
        }
        if asked {
            self.poll();
        }
        self.check_fence_came(id);
    }

    pub(super) fn chip_told_all(&mut self, id: u64) {
        for j in self.jobs.iter_mut().filter(|j| matches!(j.stage, Stage::Chip { id: i, .. } if i == id)) {
            j.stage = Stage::Quiet;
        }
    }

    pub(super) fn settle_deadline(&self) -> Option<Nanos> {
        let at = |j: &Job| match j.stage {
            Stage::Fence { since, .. } | Stage::Poll { since, .. } | Stage::Chip { since, .. } => {
                Some(since + PATIENCE)
            }
            Stage::Sync | Stage::Quiet => None,
        };
        self.jobs.iter().filter_map(at).min()
    }

    pub(super) fn settle_work(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let mut jobs = core::mem::take(&mut self.jobs);
        let quiet = self.waits_for().is_none();
        let mut fence = None;
        jobs.retain_mut(|j| {
            match j.stage {
                Stage::Sync if !self.sync.live() && self.sync.first => {
                    let id = *fence.get_or_insert_with(|| self.send_fence());
                    j.stage = Stage::Fence { id, since: self.now };
                }
                Stage::Fence { since, .. } if self.now >= since + PATIENCE => j.stage = Stage::Sync,
                Stage::Poll { polls, .. } if self.polls > polls => {
                    // One that is not there has nothing to say, and is read when it comes.
                    let id = self.ask_news();
                    j.stage = id.map_or(Stage::Quiet, |id| Stage::Chip { id, since: self.now });
                }
                Stage::Poll { since, .. } | Stage::Chip { since, .. } if self.now >= since + PATIENCE => {
                    j.stage = Stage::Sync;
                }
                Stage::Quiet if quiet => {
                    match j.then {
                        Then::Reply(id) => self.reply_json(id, serde_json::json!({"settled": true})),
                        Then::Check => self.check_settled(),
                    }
                    return false;
                }
                _ => {}
            }
            true
        });
        // A stage may have been reached whose condition holds already.
        let again = jobs.iter().any(|j| j.stage == Stage::Quiet) && quiet;
        jobs.append(&mut self.jobs);
        self.jobs = jobs;
        if again {
            self.settle_work();
        }
    }

    /// What keeps the chip from holding all that the mirror knows; `None` if nothing does.
    pub(super) fn waits_for(&self) -> Option<String> {
        if !self.sync.first || self.sync.live() {
            return Some("the kernel's state is being read".into());
        }
        if let Some(why) = self.chip.absent() {
            return Some(why);
        }
        if self.polled.is_none() {
            return Some("the kernel's policy is being read".into());
        }
        if self.polled.as_ref().is_some_and(|p| p.ports != self.port_refs) {
            return Some("the kernel's policy for the ports is being read".into());
        }
        if self.mirror_busy || self.mirror.prefixes_dirty() || self.walks.busy() || !self.program.settled() {
            return Some("the chip is being programmed".into());
        }
        if !self.stations.settled() {
            return Some("the kernel is told of stations".into());
        }
        if self.fresh.asking() {
            return Some("the kernel is asked for neighbours".into());
        }
        for (i, (_, p)) in self.ports.iter() {
            let Some(link) = self.mirror.link(i) else {
                return Some(format!("the kernel has not announced device {i} of port {}", p.name));
            };
            let up = link.flags & IFF_UP != 0;
            if p.fault.is_none() && (p.admin != up || p.link != (up && link.carrier)) {
                return Some(format!("chip and kernel do not agree yet on the carrier of {}", link.name));
            }
        }
        None
    }
}
