//! The chip's side: its greeting, the reading of its tables, answers and events, and questions passed on to it.

use std::collections::BTreeMap;

use hal::{Event, FromChip, Hello, Kind, PortEntry, Record, TableId, ToChip};
use serde_json::{Value, json};

use super::{Core, no_profile};
use crate::input::{Output, Reply, Request};

/// How far the chip is known.
#[derive(Debug)]
enum State {
    /// Not connected; one sentence.
    Absent(String),
    /// Its tables are being read; the place in [`TableId::ALL`] and the question under way.
    Reading { table: usize, id: u64 },
    /// Known.
    Ready,
}

/// What a question to the chip is for.
#[derive(Clone, Debug)]
enum Ask {
    /// An operator's.
    Operator(u64, Request),
    /// Hit marks of that table.
    Active(TableId),
    /// A comparison.
    Check,
    /// A wait until all is settled: what the chip had to say before is in with the answer.
    Settle,
}

/// The chip.
#[derive(Debug)]
pub(super) struct Chip {
    state: State,
    asks: BTreeMap<u64, Ask>,
    pub boot_id: Option<u64>,
    /// What it says of itself.
    pub about: String,
    pub connects: u64,
}

impl Default for Chip {
    fn default() -> Self {
        Chip {
            state: State::Absent("the chip has not connected yet".into()),
            asks: BTreeMap::new(),
            boot_id: None,
            about: String::new(),
            connects: 0,
        }
    }
}

impl Chip {
    pub fn ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }
    /// Why it can't be written to.
    pub fn absent(&self) -> Option<String> {
        match &self.state {
            State::Absent(why) => Some(why.clone()),
            State::Reading { .. } => Some("the chip's tables are being read".into()),
            State::Ready => None,
        }
    }
    pub fn cancel(&mut self, operator: u64) {
        self.asks.retain(|_, a| !matches!(a, Ask::Operator(o, _) if *o == operator));
    }
    pub fn forget_check(&mut self) {
        self.asks.retain(|_, a| !matches!(a, Ask::Check));
    }
}

impl Core {
    pub(super) fn chip_said(&mut self, m: FromChip) {
        match m {
            FromChip::Hello(h) => self.hello(*h),
            FromChip::Refused(why) => self.chip_lost(why),
            FromChip::Done { id, rejected } => {
                if !self.program.done(self.now, id, rejected) && self.chip.ready() {
                    self.lost_step("an answer to a batch that is not the oldest under way");
                }
                self.bridges_answered();
            }
            FromChip::Records { id, records, next } => self.records(id, records, next),
            FromChip::Active { id, keys, next } => {
                if let Some(Ask::Active(table)) = self.chip.asks.remove(&id) {
                    self.active(&keys);
                    match next {
                        Some(cursor) => self.ask_active(table, cursor),
                        None => self.active_done(),
                    }
                }
            }
            FromChip::Stats { id, counters, usage } => {
                let (operator, request) = match self.chip.asks.remove(&id) {
                    Some(Ask::Operator(operator, request)) => (operator, request),
                    Some(Ask::Settle) => return self.chip_told_all(id),
                    _ => return,
                };
                let json = match request {
                    Request::Counters => super::show::counters(self, &counters),
                    _ => super::show::resources(self, &usage),
                };
                self.reply_json(operator, json);
            }
            FromChip::Event(Event::Port(Record::Port(id, entry))) => {
                let old = self.table_ports.insert(id, PortEntry::clone(&entry));
                if old.as_ref() != Some(&*entry) && self.chip.ready() {
                    self.count_ports();
                }
            }
            FromChip::Event(e @ (Event::Learned(..) | Event::Aged(_) | Event::FdbLost)) => self.stations_said(e),
            FromChip::Event(Event::Port(other)) => {
                tracing::warn!(table = %other.table(), "the chip reports as a port what is none");
            }
        }
    }

    fn hello(&mut self, h: Hello) {
        if self.chip.boot_id != Some(h.boot_id) {
            tracing::info!(chip = h.profile.name, "a chip that started anew, or is new to this agent");
        }
        self.chip.boot_id = Some(h.boot_id);
        self.chip.about = h.about;
        self.chip.connects += 1;
        self.profile = h.profile;
        self.policy_known = false;
        self.read_chip();
    }

    /// The conversation with the chip is not what it should be: read what it holds, and go on from there.
    fn lost_step(&mut self, what: &str) {
        self.repaired(format!("the conversation with the chip: {what}"));
        self.read_chip();
    }

    /// An audit found entries missing: what the chip holds is read anew.
    pub(super) fn reread_chip(&mut self) {
        if self.chip.ready() {
            self.read_chip();
        }
    }

    fn read_chip(&mut self) {
        self.program.reset();
        self.stations.reset();
        self.walks.clear();
        self.drop_asks("the chip is being read anew");
        self.void_check();
        self.table_ports.clear();
        self.read_table(0, 0);
    }

    fn read_table(&mut self, table: usize, cursor: u64) {
        let id = self.id();
        // Of what the chip alone knows, its ports and stations matter to others.
        let ours = |t: &TableId| t.kind() != Kind::Learned || matches!(t, TableId::Port | TableId::Fdb);
        let skipped = TableId::ALL.iter().skip(table).take_while(|t| !ours(t)).count();
        let table = table + skipped;
        match TableId::ALL.get(table) {
            Some(t) => {
                self.chip.state = State::Reading { table, id };
                self.out.push_back(Output::Chip(ToChip::Dump { id, table: *t, cursor }));
            }
            None => {
                self.chip.state = State::Ready;
                self.program.touch_all();
                self.touch_bridges();
                self.touch_neighs();
                self.count_ports();
                self.program.recompile_routes = true;
                tracing::info!(
                    routes4 = self.program.route4.len(),
                    routes6 = self.program.route6.len(),
                    "the chip's tables have been read"
                );
            }
        }
    }

    fn records(&mut self, id: u64, records: Vec<Record>, next: Option<u64>) {
        if let State::Reading { table, id: reading } = self.chip.state {
            if id == reading {
                for r in records {
                    match r {
                        Record::Port(k, e) => drop(self.table_ports.insert(k, *e)),
                        Record::Fdb(k, p) => self.stations.load(k, p),
                        r => self.program.load(r),
                    }
                }
                match next {
                    Some(cursor) => self.read_table(table, cursor),
                    None => self.read_table(table + 1, 0),
                }
            }
            return;
        }
        match self.chip.asks.remove(&id) {
            Some(Ask::Operator(operator, request)) => {
                let row = |r: &Record| match (&request, r) {
                    (Request::Buckets { .. }, Record::Bucket(k, e)) => super::show::nexthop::bucket(self, *k, *e),
                    _ => Some(record(r)),
                };
                let rows: Vec<Value> = records.iter().filter_map(row).collect();
                let json = Value::Array(rows).to_string();
                self.out.push_back(Output::Reply { id: operator, reply: Reply::Page { json, next } });
            }
            Some(Ask::Check) => self.check_records(records, next),
            Some(Ask::Active(_) | Ask::Settle) | None => {}
        }
    }

    pub(super) fn chip_lost(&mut self, why: String) {
        self.chip.state = State::Absent(format!("the chip is not connected: {why}"));
        self.program.reset();
        self.stations.reset();
        self.walks.clear();
        self.drop_asks("the chip is not connected");
        self.void_check();
        self.profile = no_profile();
        self.table_ports.clear();
        self.ports = Default::default();
        self.vrfs_look = true;
        self.fresh.look();
    }

    fn drop_asks(&mut self, why: &str) {
        for a in core::mem::take(&mut self.chip.asks).into_values() {
            if let Ask::Operator(id, _) = a {
                self.reply_error(id, why);
            }
        }
        self.active_done();
    }

    pub(super) fn ask_chip(&mut self, operator: u64, request: Request) {
        if let Some(why) = self.chip.absent() {
            return self.reply_error(operator, why);
        }
        let id = self.id();
        let ask = match &request {
            Request::Table { name, cursor } => match TableId::by_name(name) {
                Some(table) => ToChip::Dump { id, table, cursor: *cursor },
                None => return self.reply_error(operator, format!("the chip has no table {name:?}")),
            },
            Request::Buckets { cursor } => ToChip::Dump { id, table: TableId::Bucket, cursor: *cursor },
            _ => ToChip::Stats { id },
        };
        self.chip.asks.insert(id, Ask::Operator(operator, request));
        self.out.push_back(Output::Chip(ask));
    }

    pub(super) fn ask_active(&mut self, table: TableId, cursor: u64) {
        let id = self.id();
        self.chip.asks.insert(id, Ask::Active(table));
        self.out.push_back(Output::Chip(ToChip::Active { id, table, cursor }));
    }

    /// Have the chip say all that it has to say; its answer's number. `None`: it is not there.
    pub(super) fn ask_news(&mut self) -> Option<u64> {
        if self.chip.absent().is_some() {
            return None;
        }
        let id = self.id();
        self.chip.asks.insert(id, Ask::Settle);
        self.out.push_back(Output::Chip(ToChip::Stats { id }));
        Some(id)
    }

    pub(super) fn ask_check(&mut self, table: TableId, cursor: u64) {
        let id = self.id();
        self.chip.asks.insert(id, Ask::Check);
        self.out.push_back(Output::Chip(ToChip::Dump { id, table, cursor }));
    }
}

/// One row of `table show`.
fn record(r: &Record) -> Value {
    match r {
        Record::Port(k, e) => json!({"key": k, "entry": e}),
        Record::Switch(_, e) => json!({"entry": e}),
        Record::Fid(k, e) => json!({"key": k, "entry": e}),
        Record::BridgePort(k, e) => json!({"key": k, "entry": e}),
        Record::FidMember(k, e) => json!({"key": k, "entry": e}),
        Record::Rif(k, e) => json!({"key": k, "entry": e}),
        Record::FdbStatic(k, e) => json!({"key": k, "entry": e}),
        Record::Fdb(k, e) => json!({"key": k, "entry": e}),
        Record::Neigh4(k, e) => json!({"key": k, "entry": e}),
        Record::Neigh6(k, e) => json!({"key": k, "entry": e}),
        Record::NextHop(k, e) => json!({"key": k, "entry": e}),
        Record::Group(k, e) => json!({"key": k, "entry": e}),
        Record::Route4(k, e) => json!({"key": k, "entry": e}),
        Record::Route6(k, e) => json!({"key": k, "entry": e}),
        Record::Bucket(k, e) => json!({"key": k, "entry": e}),
    }
}
