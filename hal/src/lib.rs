//! The contract between Virga's agent and a forwarding chip.
//!
//! A chip is a set of typed [tables]. The agent chooses the keys; it sets and removes entries in
//! batches, and reads back what is programmed. There is nothing else: no handles, no calls per feature.
//!
//! # The laws
//! The conformance suite (`conformance.rs`) holds every backend to them.
//!
//! * **(a)** Overwriting an existing key never fails for want of room, unless a group wants more buckets than it had.
//! * **(b)** Overwriting with *trap* never fails at all, nor does remove; removing a key that others refer to makes those
//!   trap ([`TrapClass::Dangling`], or [`TrapClass::Glean`] and [`TrapClass::Unresolved`] for a neighbour) until it is set
//!   again. [`Reason::Busy`] is never the answer to either.
//! * **(c)** A rejected set leaves the old entry as it was.
//! * **(d)** A set that refers to a missing key is rejected with [`Reason::MissingRef`] naming it. A next hop's neighbour is not
//!   such a reference: without an adjacency it traps.
//! * **(e)** An empty table means trap.
//! * **(f)** The chip's boot id changes when it restarts; its tables are then empty.
//! * **(g)** "Applied" means that packets already see it; within a batch, operations take effect in order, and the rest of
//!   a batch stands when one is rejected.
//!
//! * **(h)** A resilient group's buckets are the chip's own, and table `bucket` shows them. A packet's hash says which bucket it is in,
//!   and that leads to one member. A member's share is its part of the buckets by weight: those up to `w` of `W` have the first
//!   `B·w/W` of `B`, rounded to the nearest number. When a set is done, no bucket leads to what is no member. Besides what leads
//!   there no bucket moves but from a member that has more than its share to one that has less: at once when no packet
//!   was in it for [`Resilient::idle`]; when it falls idle; and when that imbalance has lasted for [`Resilient::unbalanced`].
//!   Another number of buckets may move any. A bucket that falls due moves within a second; time is told by [`Backend::poll`].
//!
//! A *trap* in laws (a) and (b) is [`Fwd::Trap`], [`NextHopEntry::Trap`], an empty [`GroupEntry`], and a [`RifEntry`] with
//! `ingress4`, `ingress6` and `egress` off.

pub mod bus;
pub mod chip;
pub mod conformance;
pub mod ip;
pub mod profile;
pub mod tables;

pub use bus::{BusError, Conn, FromChip, Hello, ToChip};
pub use chip::{Backend, Count, Counters, Event, Nanos, Op, PortCounters, Reason, Rejected, Usage};
pub use ip::{Addr, Family, Mac, Prefix, V4, V6};
pub use profile::Profile;
pub use tables::*;
