//! A million routes through the agent, as notifications in random order: `cargo bench -p virga --bench routes [-- CASE]`.
//!
//! One figure a line, under a minute in all; each case is a process of its own, so that memory is the case's alone. Times
//! are those that the thread ran, so that a busy machine does not spoil them. "Without decoding" is the whole less the decoder
//! alone in the same process. Not for behaviour: that is `core/tests.rs`.

mod kernel;

use std::collections::VecDeque;
use std::process::{Command, ExitCode};
use std::time::Duration;

use hal::{
    Backend, Event, Family, FromChip, Hello, PortEntry, PortId, Profile, Record, Rejected, TableId, ToChip, V4, V6,
};
use sim_asic::SimChip;
use virga::core::{Core, CoreConfig};
use virga::input::{Input, Output, Reply, Request};
use virga::mirror::{Mirror, MirrorFamily};
use virga::netlink::{Unknowns, messages, route};
use virga::policy::Polled;

use kernel::{PORTS, Say, mac, message, port_of, reads};

const ROUTES: u32 = 1_000_000;

fn profile() -> Profile {
    Profile {
        name: "bench".into(),
        fids: 16,
        bridge_ports: 16,
        fdb: 64,
        rifs: 64,
        neigh4: 4096,
        neigh6: 4096,
        nexthops: 4096,
        groups: 4096,
        group_members: 64,
        buckets: 0,
        routes4: 1 << 21,
        routes6: 1 << 21,
        vrfs: 1,
        rules: 0,
        frame: 9234,
    }
}

fn port(i: u32, up: bool) -> (PortId, PortEntry) {
    let e = PortEntry::sound(format!("swp{i}"), i, 1, mac(i));
    (PortId(i - 1), PortEntry { admin: up, link: up, ..e })
}

/// Time that this thread has run.
fn ran() -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec, to the place that it is given.
    let error = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    assert_eq!(error, 0, "no clock of a thread");
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// What a case has measured since the last look.
#[derive(Default)]
struct Seen {
    ops: usize,
    /// Longest call into the core, and what it was.
    worst: (Duration, &'static str),
    /// Time in the core.
    core: Duration,
    /// Time in the chip.
    chip: Duration,
}

/// The agent's core with whatever stands for chip and kernel.
struct World {
    core: Core,
    /// `None`: everything is taken and forgotten.
    chip: Option<SimChip>,
    now: u64,
    todo: VecDeque<Output>,
    seen: Seen,
    settled: bool,
}

impl World {
    fn new(chip: Option<SimChip>) -> World {
        let cfg = CoreConfig { audit: 0, refresh: 0, ..CoreConfig::new(1) };
        let core = Core::new(cfg);
        let mut w = World { core, chip, now: 1, todo: VecDeque::new(), seen: Seen::default(), settled: false };
        w.input("start", Input::Tick);
        let hello = w.chip(ToChip::Hello { version: hal::bus::VERSION });
        w.input("hello", Input::Chip(hello.expect("a chip says hello")));
        w.work();
        w
    }

    fn input(&mut self, what: &'static str, i: Input) {
        self.now += 1000;
        let begin = ran();
        self.core.handle(self.now, i);
        let took = ran() - begin;
        self.seen.core += took;
        if took > self.seen.worst.0 {
            self.seen.worst = (took, what);
        }
        while let Some(o) = self.core.next() {
            self.todo.push_back(o);
        }
    }

    fn work(&mut self) {
        loop {
            while let Some(o) = self.todo.pop_front() {
                self.answer(o);
            }
            if self.core.deadline().is_none_or(|d| d > self.now) {
                return;
            }
            self.input("tick", Input::Tick);
        }
    }

    fn answer(&mut self, o: Output) {
        match o {
            Output::Dump { id, kind } => {
                self.input("dump", Input::Dump { id, kind, seq: 0, buf: kernel::dump(kind) });
                self.input("dump's end", Input::DumpEnd { id, kind, complete: true });
            }
            Output::Request { id, .. } => self.input("ack", Input::Ack { id, errno: 0, message: String::new() }),
            Output::Fence { id } => self.input("fence", Input::Fence { id }),
            Output::Poll { ports } => {
                let sysctls = ports.iter().map(|p| (format!("ipv6/conf/{}/mtu", p.name), "1500".into())).collect();
                self.input("policy", Input::Polled(Box::new(Polled { ports, sysctls, ..Polled::default() })));
            }
            Output::Reply { reply, .. } => self.settled = matches!(reply, Reply::Json(_)),
            Output::Chip(m) => {
                let begin = ran();
                let answer = self.chip(m);
                self.seen.chip += ran() - begin;
                if let Some(a) = answer {
                    self.input("chip's answer", Input::Chip(a));
                }
            }
        }
    }

    fn chip(&mut self, m: ToChip) -> Option<FromChip> {
        Some(match (m, &mut self.chip) {
            (ToChip::Hello { .. }, _) => FromChip::Hello(Box::new(Hello {
                version: hal::bus::VERSION,
                boot_id: 1,
                profile: profile(),
                about: String::new(),
            })),
            (ToChip::Batch { id, ops }, chip) => {
                self.seen.ops += ops.len();
                let rejected = chip.as_mut().map_or(Vec::new(), |c| {
                    let refused = |(i, op)| Some(Rejected { op: i as u32, why: c.apply(op).err()? });
                    ops.iter().enumerate().filter_map(refused).collect()
                });
                FromChip::Done { id, rejected }
            }
            (ToChip::Dump { id, table: TableId::Port, .. }, None) => {
                let records = (1..=PORTS).map(|i| port(i, true)).map(|(id, e)| Record::Port(id, Box::new(e))).collect();
                FromChip::Records { id, records, next: None }
            }
            (ToChip::Dump { id, .. }, None) => FromChip::Records { id, records: Vec::new(), next: None },
            (ToChip::Dump { id, table, cursor }, Some(c)) => {
                let mut records = Vec::new();
                let next = c.dump(table, cursor, hal::bus::BATCH, &mut records);
                FromChip::Records { id, records, next }
            }
            (ToChip::Active { id, .. }, _) => FromChip::Active { id, keys: Vec::new(), next: None },
            (ToChip::Stats { id }, _) => {
                FromChip::Stats { id, counters: Default::default(), usage: Default::default() }
            }
        })
    }

    /// Hand over these reads and wait for the chip to hold all of it. Prints what it took for `routes` of them.
    fn measure(&mut self, name: &str, routes: u32, reads: &[Vec<u8>], before: impl FnOnce(&mut World)) -> Seen {
        self.seen = Seen::default();
        self.settled = false;
        before(self);
        for buf in reads {
            // What the edge does: read into a buffer of its own.
            let (seq, buf) = (self.now, buf.clone());
            self.input("routes", Input::Monitor { seq, buf });
            self.work();
        }
        self.input("settle", Input::Request { id: 1, request: Request::Settle });
        self.work();
        assert!(self.settled, "{name}: it did not settle");
        let seen = std::mem::take(&mut self.seen);
        println!("{name}: {:.2} M routes/s, {} operations", rate(routes, seen.core), seen.ops);
        println!("{name}: worst single input {:.2} ms ({})", seen.worst.0.as_secs_f64() * 1e3, seen.worst.1);
        seen
    }

    /// A port's device goes down or comes up, in the kernel and in the chip.
    fn set_port(&mut self, i: u32, up: bool) {
        let seq = self.now;
        self.input("link", Input::Monitor { seq, buf: kernel::link(i, up) });
        let (id, e) = port(i, up);
        self.input("port", Input::Chip(FromChip::Event(Event::Port(Record::Port(id, Box::new(e))))));
        self.work();
    }
}

/// Millions a second.
fn rate(n: u32, t: Duration) -> f64 {
    f64::from(n) / t.as_secs_f64() / 1e6
}

/// A line of `/proc/self/status`, in bytes.
fn status(what: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(what)?.strip_prefix(':'));
    line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default() * 1024.0
}

fn stream(v6: bool, say: Say) -> Vec<Vec<u8>> {
    reads((0..ROUTES).map(|i| message(v6, i, say)))
}

fn decode<F: Family>(reads: &[Vec<u8>]) -> Duration {
    let begin = ran();
    let (mut sum, mut unknown) = (0u64, Unknowns::default());
    for buf in reads {
        for m in messages(buf).flatten() {
            if let Ok(Some(r)) = route::decode::<F>(m.body, &mut unknown) {
                sum += u64::from(r.metric);
            }
        }
    }
    let took = ran() - begin;
    assert_eq!(sum, u64::from(ROUTES) * 20);
    println!("decoder alone ({}): {:.1} M routes/s", F::NAME, rate(ROUTES, took));
    took
}

fn mirror<F: MirrorFamily>(reads: &[Vec<u8>], decode: Duration) {
    let mut m = Mirror::new();
    let mut out = Vec::new();
    let mut worst = Duration::ZERO;
    let mut insert = Duration::ZERO;
    for (seq, buf) in (1..).zip(reads) {
        let begin = ran();
        m.monitor(seq, buf);
        m.drain_prefixes::<F>(usize::MAX, &mut out);
        let took = ran() - begin;
        out.clear();
        insert += took;
        worst = worst.max(took);
    }
    let begin = ran();
    m.dump_begin(F::DUMP);
    for b in reads {
        m.dump(F::DUMP, u64::from(ROUTES), b);
    }
    m.dump_end(F::DUMP, true);
    while m.work(1 << 16) {}
    let dump = ran() - begin;
    println!(
        "mirror alone: {:.2} M routes/s, without decoding {:.2} M/s; a dump of the same into it {:.2} M/s",
        rate(ROUTES, insert),
        rate(ROUTES, insert.saturating_sub(decode)),
        rate(ROUTES, dump)
    );
    println!("mirror alone: worst single input {:.2} ms", worst.as_secs_f64() * 1e3);
    println!("mirror alone: {:.1} bytes a route by its own count", m.bytes() as f64 / f64::from(ROUTES));
}

/// From nothing to all routes; what it takes in memory as well.
fn fill<F: Family>(name: &str, w: &mut World, reads: &[Vec<u8>]) -> Seen {
    let decode = decode::<F>(reads);
    // Peak memory counts from here (proc(5), clear_refs).
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let before = status("VmRSS");
    let seen = w.measure(name, ROUTES, reads, |_| {});
    assert!(seen.ops >= ROUTES as usize, "{name}: {} operations", seen.ops);
    println!("{name}: without decoding {:.2} M routes/s", rate(ROUTES, seen.core.saturating_sub(decode)));
    let per = |what| (status(what) - before) / f64::from(ROUTES);
    println!("{name}: {:.0} bytes a route resident, {:.0} at the peak", per("VmRSS"), per("VmHWM"));
    seen
}

fn case(name: &str) -> Option<()> {
    match name {
        "mirror" => {
            let reads = stream(false, Say::New);
            let decode = decode::<V4>(&reads);
            mirror::<V4>(&reads, decode);
        }
        "ipv4" => {
            let mut w = World::new(None);
            let first = stream(false, Say::New);
            fill::<V4>("core, null chip", &mut w, &first);
            w.measure("  replacing all", ROUTES, &stream(false, Say::Replaced), |_| {});
            w.measure("  deleting all", ROUTES, &stream(false, Say::Gone), |_| {});
        }
        "ipv6" => {
            let mut w = World::new(None);
            fill::<V6>("core, null chip, IPv6", &mut w, &stream(true, Say::New));
            w.measure("  replacing all, IPv6", ROUTES, &stream(true, Say::Replaced), |_| {});
            w.measure("  deleting all, IPv6", ROUTES, &stream(true, Say::Gone), |_| {});
        }
        "flap" => {
            let mut w = World::new(None);
            let some = |port: Option<u32>| {
                let all = (0..100_000 * PORTS).filter(move |i| port.is_none_or(|p| port_of(*i) == p));
                reads(all.map(|i| message(false, i, Say::New)))
            };
            w.measure("400 k routes over four ports", 100_000 * PORTS, &some(None), |_| {});
            w.measure("  a port with 100 k falls", 100_000, &[], |w| w.set_port(1, false));
            w.measure("  it comes back, and they are added again", 100_000, &some(Some(1)), |w| w.set_port(1, true));
        }
        "objects" => {
            let ids = || 1..=kernel::OBJECTS;
            let mut w = World::new(None);
            let mut all: Vec<Vec<u8>> = reads(ids().map(|id| kernel::neigh(kernel::gateway(id, false), true)));
            all.extend(reads(ids().map(|id| kernel::neigh(kernel::gateway(id, true), true))));
            all.extend(reads(ids().map(|id| kernel::object(id, false)).chain((0..kernel::GROUPS).map(kernel::group))));
            w.measure("256 objects, 64 groups", 1, &all, |_| {});
            let routes = |only: Option<u32>| {
                let all = (0..ROUTES).filter(move |i| only.is_none_or(|o| kernel::object_of(*i) == o));
                reads(all.map(kernel::object_route))
            };
            w.measure("a million routes by objects", ROUTES, &routes(None), |_| {});
            w.measure("  an object leads elsewhere", 1, &[kernel::object(7, true)], |_| {});
            w.measure("  and back", 1, &[kernel::object(7, false)], |_| {});
            let neigh = |good| kernel::neigh(kernel::gateway(9, false), good);
            w.measure("  a gateway fails", 1, &[neigh(false)], |_| {});
            w.measure("  it answers again", 1, &[neigh(true)], |_| {});
            let of = |id| (0..ROUTES).filter(|i| kernel::object_of(*i) == id).count() as u32;
            for (name, id) in [("an object", 5), ("a group", kernel::GROUP + 3)] {
                let made =
                    if id < kernel::GROUP { kernel::object(id, false) } else { kernel::group(id - kernel::GROUP) };
                w.measure(
                    &format!("  {name} is deleted, with its {} routes", of(id)),
                    of(id),
                    &[kernel::object_gone(id)],
                    |_| {},
                );
                let mut again = vec![made];
                again.extend(routes(Some(id)));
                w.measure("  it is made again, and they are", of(id), &again, |_| {});
            }
            w.measure("  a port with a quarter of the objects falls", 1, &[], |w| w.set_port(1, false));
        }
        "full" => {
            // The default route is the only one that stands above what finds no room: it guards all of it, and goes.
            let small = Profile { routes4: 1000, ..profile() };
            let mut sim = SimChip::with_seed(small, PORTS as usize, 1);
            for (id, e) in (1..=PORTS).map(|i| port(i, true)) {
                sim.set_port(id, e);
            }
            let mut w = World::new(Some(sim));
            w.measure("a default route", 1, &[kernel::default_route(Say::New)], |_| {});
            w.measure("a million routes, room for a thousand", ROUTES, &stream(false, Say::New), |_| {});
            w.measure("  the default route goes", 1, &[kernel::default_route(Say::Gone)], |_| {});
            w.measure("  replacing all", ROUTES, &stream(false, Say::Replaced), |_| {});
            w.measure("  deleting all", ROUTES, &stream(false, Say::Gone), |_| {});
        }
        "sim" => {
            let mut sim = SimChip::with_seed(profile(), PORTS as usize, 1);
            for (id, e) in (1..=PORTS).map(|i| port(i, true)) {
                sim.set_port(id, e);
            }
            let mut w = World::new(Some(sim));
            let seen = fill::<V4>("core, simulated chip", &mut w, &stream(false, Say::New));
            println!("core, simulated chip: both {:.2} M routes/s", rate(ROUTES, seen.core + seen.chip));
        }
        _ => return None,
    }
    Some(())
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    if let [one] = &wanted[..] {
        return if case(one).is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let me = std::env::current_exe().expect("own path");
    for c in ["mirror", "ipv4", "ipv6", "flap", "objects", "full", "sim"] {
        println!("# {c}");
        let ended = Command::new(&me).arg(c).status().expect("a process for a case");
        if !ended.success() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
