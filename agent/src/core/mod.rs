//! The agent's brain: takes inputs one by one, keeps the mirror, brings the chip there. No I/O, no clock, no threads:
//! what it says to the world comes out of [`Core::next`], and the same inputs give the same outputs.

use std::collections::VecDeque;

use hal::Nanos;
use serde::{Deserialize, Serialize};

use crate::input::{DumpKind, Input, Output, Reply};

/// What the core is told once, at its start.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CoreConfig {
    /// Inode of the network namespace that the agent mirrors; ports elsewhere are left alone.
    pub netns: u64,
    /// How often everything is compared afresh in the background; 0 for never.
    pub audit: Nanos,
    /// How often the chip is asked which neighbours packets used; 0 for never.
    pub refresh: Nanos,
    /// How many neighbours are probed a second at most.
    pub probes: u32,
}

impl CoreConfig {
    /// The defaults, for the namespace of that inode.
    pub fn new(netns: u64) -> Self {
        const S: Nanos = 1_000_000_000;
        CoreConfig { netns, audit: 60 * S, refresh: 5 * S, probes: 200 }
    }
}

/// The core. Feed it with [`Core::handle`], drain [`Core::next`] after each, and call `handle` with [`Input::Tick`] when
/// [`Core::deadline`] has passed.
#[derive(Debug)]
pub struct Core {
    cfg: CoreConfig,
    out: VecDeque<Output>,
    started: bool,
}

impl Core {
    /// A core that knows nothing yet. Its first deadline is at once. The monitor socket must be subscribed already, so
    /// that nothing is missed between the dumps and the notifications.
    pub fn new(cfg: CoreConfig) -> Self {
        Core { cfg, out: VecDeque::new(), started: false }
    }

    /// Take one input at the time `now`, which never runs backwards. Takes a bounded time; what is left is done in the
    /// following calls, and the deadline is then at once.
    pub fn handle(&mut self, _now: Nanos, input: Input) {
        if !self.started {
            self.started = true;
            tracing::debug!(netns = self.cfg.netns, "start");
            self.out.push_back(Output::Dump { id: 1, kind: DumpKind::Link });
            self.out.push_back(Output::Poll { ports: Vec::new() });
        }
        if let Input::Request { id, .. } = input {
            self.out.push_back(Output::Reply { id, reply: Reply::Error("the core is not built yet".into()) });
        }
    }

    /// What the edge is to do next.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When `handle` wants to be called again at the latest; a time that has passed means at once.
    pub fn deadline(&self) -> Option<Nanos> {
        (!self.started).then_some(0)
    }
}
