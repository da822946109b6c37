//! Operations, results and events, and the trait that a chip's author writes.
//!
//! Synchronous and object-safe, with no I/O type in it; sockets are `bus.rs`.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::profile::Profile;
use crate::tables::{AnyKey, BridgePortId, DropReason, FdbKey, PortId, Record, TableId, TrapClass};

/// Time since an arbitrary start, in nanoseconds; always passed in, never read by a core.
pub type Nanos = u64;

/// One change to one entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Op {
    /// Make the entry so, whether it was there or not.
    Set(Record),
    /// Make the entry absent, whether it was there or not.
    Remove(AnyKey),
}

impl Op {
    /// The key that it changes.
    pub fn key(&self) -> AnyKey {
        match self {
            Op::Set(r) => r.key(),
            Op::Remove(k) => *k,
        }
    }
}

/// Why a chip did not take an operation; the old entry stands (law c).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Reason {
    /// No room.
    #[error("table {table} is full ({capacity} entries)")]
    TableFull {
        /// The table without room; for a resilient group it may be the buckets'.
        table: TableId,
        /// How many entries it holds.
        capacity: u32,
    },
    /// The chip has no way to express it.
    #[error("not supported by the chip: {0}")]
    Unsupported(String),
    /// It refers to an entry that is not there.
    #[error("it refers to {0}, which is not programmed")]
    MissingRef(AnyKey),
    /// Nothing changed; try again.
    #[error("the chip is busy")]
    Busy,
    /// The table is the chip's own ([`crate::Kind::Learned`]).
    #[error("table {0} is the chip's own")]
    ReadOnly(TableId),
}

/// The answer to one rejected operation of a batch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rejected {
    /// Its place in the batch, from 0.
    pub op: u32,
    /// Why.
    pub why: Reason,
}

/// What a chip reports by itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Event {
    /// A port appeared or changed: its record in the `port` table.
    Port(Record),
    /// A station was learned, or moved to that port: its record in the `fdb` table.
    Learned(FdbKey, BridgePortId),
    /// A learned station was forgotten: no frame came from it for its FID's ageing time, or its port is gone.
    Aged(FdbKey),
    /// Events about stations were lost: the `fdb` table has to be read again.
    FdbLost,
}

/// Frames and bytes. Bytes count from the Ethernet header, without checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Count {
    /// Frames.
    pub frames: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Counters of one port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PortCounters {
    /// Received from the wire.
    pub rx: Count,
    /// Sent to the wire, by hardware and by the kernel.
    pub tx: Count,
    /// Of `rx`: forwarded by the chip.
    pub forwarded: Count,
    /// Of `rx`: given to the kernel.
    pub trapped: Count,
    /// Of `tx`: came from the kernel.
    pub from_host: Count,
    /// Of `rx` and of what the kernel gave: dropped, for any reason.
    pub dropped: Count,
    /// GSO super-frames that were segmented in software.
    pub gso: u64,
    /// Partial checksums that were completed in software.
    pub csum: u64,
}

/// All counters of a chip. They start at 0 with the chip's boot id.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Per port.
    pub ports: Vec<(PortId, PortCounters)>,
    /// Per trap class: given to the kernel.
    pub traps: Vec<(TrapClass, Count)>,
    /// Per trap class: dropped by its policer or a full queue.
    pub trap_drops: Vec<(TrapClass, Count)>,
    /// Per reason: dropped.
    pub drops: Vec<(DropReason, Count)>,
}

/// How full a table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Usage {
    /// Which.
    pub table: TableId,
    /// Entries in it.
    pub used: u32,
    /// Entries it holds; `u32::MAX` if bounded by memory alone.
    pub capacity: u32,
}

/// What a chip's author writes. The laws stand in the crate's documentation.
pub trait Backend: Send {
    /// Its capacities and capabilities. Constant during a life of the chip.
    fn profile(&self) -> &Profile;
    /// Carry out one operation. When it returns, packets already see it (law g).
    ///
    /// # Errors
    /// [`Reason`]; the old entry then stands.
    fn apply(&mut self, op: &Op) -> Result<(), Reason>;
    /// Append up to `max` records of `table` to `out`, from `cursor` (0 at first). Returns where to go on, `None` at the end.
    /// What is there during the whole walk comes exactly once; what comes or goes meanwhile may or may not be seen.
    fn dump(&self, table: TableId, cursor: u64, max: usize, out: &mut Vec<Record>) -> Option<u64>;
    /// Append the keys of `table` that packets used since the last call, and clear their marks. Returns where to go on.
    fn active(&mut self, table: TableId, cursor: u64, max: usize, out: &mut Vec<AnyKey>) -> Option<u64>;
    /// Take what the chip has to report since the last call.
    fn poll(&mut self, now: Nanos, events: &mut Vec<Event>);
    /// All counters.
    fn counters(&self) -> Counters;
    /// How full each table is.
    fn usage(&self) -> Vec<Usage>;
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Set(r) => write!(f, "set {r:?}"),
            Op::Remove(k) => write!(f, "remove {k}"),
        }
    }
}
