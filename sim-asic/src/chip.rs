//! The simulated chip's side of the contract: the one writer of its tables.
//!
//! Readers are [`Pipeline`]s. No I/O here: ports and their state are told by [`SimChip::set_port`].

use std::sync::Arc;

use hal::{AnyKey, Backend, Counters, Event, Nanos, Op, PortEntry, PortId, Profile, Reason, Record, TableId, Usage};

use crate::counters::{AllCounters, WorkerCounters};
use crate::stage::Pipeline;

/// The writer of a simulated chip's tables.
#[derive(Debug)]
pub struct SimChip {
    profile: Profile,
    ports: Vec<Option<PortEntry>>,
    events: Vec<Event>,
    counters: AllCounters,
}

impl SimChip {
    /// A chip with that many ports and empty tables: everything is trapped. Memory for all tables is reserved here.
    pub fn new(profile: Profile, ports: usize) -> Self {
        SimChip { profile, ports: vec![None; ports], events: Vec::new(), counters: AllCounters::default() }
    }
    /// A reader of the tables, for one worker thread.
    pub fn pipeline(&self) -> Pipeline {
        Pipeline::new(self.worker_counters())
    }
    /// Counters for a thread that has no pipeline of its own.
    pub fn worker_counters(&self) -> Arc<WorkerCounters> {
        self.counters.worker(self.ports.len())
    }
    /// Say what a port is now. A change is reported as [`Event::Port`]; a port without link gets no frames.
    pub fn set_port(&mut self, id: PortId, entry: PortEntry) {
        let Some(slot) = self.ports.get_mut(id.0 as usize) else { return };
        if slot.as_ref() != Some(&entry) {
            *slot = Some(entry.clone());
            self.events.push(Event::Port(Record::Port(id, entry)));
        }
    }
}

impl Backend for SimChip {
    fn profile(&self) -> &Profile {
        &self.profile
    }
    fn apply(&mut self, op: &Op) -> Result<(), Reason> {
        match op.key() {
            AnyKey::Port(_) => Err(Reason::ReadOnly(TableId::Port)),
            k => match op {
                Op::Set(_) => Err(Reason::TableFull { table: k.table(), capacity: 0 }),
                Op::Remove(_) => Ok(()),
            },
        }
    }
    fn dump(&self, table: TableId, cursor: u64, max: usize, out: &mut Vec<Record>) -> Option<u64> {
        if table != TableId::Port {
            return None;
        }
        let rest = self.ports.iter().enumerate().skip(cursor as usize);
        out.extend(rest.take(max).filter_map(|(i, p)| Some(Record::Port(PortId(i as u32), p.clone()?))));
        let next = cursor.saturating_add(max as u64);
        (next < self.ports.len() as u64).then_some(next)
    }
    fn active(&mut self, _: TableId, _: u64, _: usize, _: &mut Vec<AnyKey>) -> Option<u64> {
        None
    }
    fn poll(&mut self, _: Nanos, events: &mut Vec<Event>) {
        events.append(&mut self.events);
    }
    fn counters(&self) -> Counters {
        self.counters.sum(self.ports.len())
    }
    fn usage(&self) -> Vec<Usage> {
        let used = |t| if t == TableId::Port { self.ports.iter().flatten().count() as u32 } else { 0 };
        TableId::ALL
            .iter()
            .map(|&table| Usage { table, used: used(table), capacity: self.profile.capacity(table) })
            .collect()
    }
}
