//! A million IPv4 routes through the agent's core, as notifications in random order: first with a chip that says yes to everything, then
//! with the simulated one in the same thread: `cargo bench -p virga`. The rest of a switch is four ports with an address each.
//!
//! No harness: one figure a line, under a minute in all. Not for behaviour: that is `core/tests.rs`.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use hal::{Backend, FromChip, Hello, Mac, PortEntry, PortId, Profile, Record, Rejected, TableId, ToChip};
use sim_asic::SimChip;
use virga::core::{Core, CoreConfig};
use virga::input::{DumpKind, Input, Output, Reply, Request};
use virga::netlink::build::{Builder, push_attr};
use virga::netlink::{nlm, rtm};
use virga::policy::Polled;

const ROUTES: u32 = 1_000_000;
const PORTS: u32 = 4;
/// Bytes of messages in one read of the monitor socket.
const READ: usize = 8 << 10;

fn link(i: u32) -> Vec<u8> {
    let mut head = vec![0, 0, 1, 0];
    head.extend(i.to_ne_bytes());
    head.extend(0x11043u32.to_ne_bytes());
    head.extend(0u32.to_ne_bytes());
    let mut inet6 = Vec::new();
    push_attr(&mut inet6, 2, &[0u32, 64, 1500].map(u32::to_ne_bytes).concat());
    let mut spec = Vec::new();
    push_attr(&mut spec, 10, &inet6);
    let name = format!("swp{i}\0");
    Builder::new(16, 0, &head)
        .attr(3, name.as_bytes())
        .attr(1, &mac(i).0)
        .u32(4, 1500)
        .attr(33, &[1])
        .attr(26, &spec)
        .done()
}

fn mac(i: u32) -> Mac {
    Mac([2, 0, 0, 0, 0, i as u8])
}

fn rule(family: u8, priority: u32, table: u8) -> Vec<u8> {
    let b = Builder::new(32, 0, &[family, 0, 0, 0, table, 0, 0, 1, 0, 0, 0, 0]).u32(15, table.into());
    let b = b.u32(14, u32::MAX).attr(21, &[2]);
    if priority == 0 { b.done() } else { b.u32(6, priority).done() }
}

fn dump(kind: DumpKind) -> Vec<u8> {
    let ports = 1..=PORTS;
    match kind {
        DumpKind::Link => ports.flat_map(link).collect(),
        DumpKind::Netconf => ports
            .map(|i| i as i32)
            .chain([-1])
            .flat_map(|i| Builder::new(80, 0, &[2]).u32(1, i as u32).u32(2, 1).u32(3, 0).u32(6, 0).done())
            .collect(),
        DumpKind::Addr => ports
            .flat_map(|i| {
                let own = Ipv4Addr::new(10, 200, i as u8, 1);
                let head = [[2, 24, 0x80, 0], i.to_ne_bytes()].concat();
                Builder::new(20, 0, &head).addr(1, own.into()).addr(2, own.into()).done()
            })
            .collect(),
        DumpKind::Rule => {
            [rule(2, 0, 255), rule(2, 32766, 254), rule(2, 32767, 253), rule(10, 0, 255), rule(10, 32766, 254)].concat()
        }
        DumpKind::Neigh | DumpKind::NextHop | DumpKind::Route4 | DumpKind::Route6 | DumpKind::List6 => Vec::new(),
    }
}

/// A /24 by one of 256 gateways; odd multipliers permute, so each comes once and in no order.
fn route(i: u32) -> Vec<u8> {
    let dst = (i.wrapping_mul(0x9e37_79b1) & 0x00ff_ffff) << 8;
    let head = [2, 24, 0, 0, 254, 186, 0, 1, 0, 0, 0, 0];
    let (port, host) = (1 + i % PORTS, 2 + (i / PORTS % 64) as u8);
    Builder::new(rtm::NEWROUTE, nlm::F_CREATE | nlm::F_EXCL, &head)
        .u32(15, 254)
        .attr(1, &dst.to_be_bytes())
        .u32(6, 20)
        .attr(5, &[10, 200, port as u8, host])
        .u32(4, port)
        .done()
}

fn profile() -> Profile {
    Profile {
        name: "bench".into(),
        rifs: 64,
        neigh4: 4096,
        neigh6: 4096,
        nexthops: 4096,
        groups: 4096,
        group_members: 64,
        routes4: 1 << 21,
        routes6: 1 << 16,
        vrfs: 1,
        frame: 9234,
    }
}

fn ports() -> Vec<(PortId, PortEntry)> {
    let entry = |i: u32| PortEntry {
        name: format!("swp{i}"),
        ifindex: i,
        netns: 1,
        mac: mac(i),
        mtu: 1500,
        admin: true,
        link: true,
        wire: "none".into(),
        fault: None,
    };
    (1..=PORTS).map(|i| (PortId(i - 1), entry(i))).collect()
}

/// The agent's core with whatever stands for chip and kernel.
struct World {
    core: Core,
    /// `None`: everything is taken and forgotten.
    chip: Option<SimChip>,
    now: u64,
    todo: VecDeque<Output>,
    ops: usize,
    /// Longest call into the core, and what it was.
    worst: (Duration, &'static str),
    /// Time in the chip, which is not the agent's.
    in_chip: Duration,
    settled: bool,
}

impl World {
    fn input(&mut self, what: &'static str, i: Input) {
        self.now += 1000;
        let begin = Instant::now();
        self.core.handle(self.now, i);
        let took = begin.elapsed();
        if took > self.worst.0 {
            self.worst = (took, what);
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
                self.input("dump", Input::Dump { id, kind, seq: 0, buf: dump(kind) });
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
                let begin = Instant::now();
                let answer = self.chip(m);
                self.in_chip += begin.elapsed();
                if let Some(a) = answer {
                    self.input("chip's answer", Input::Chip(a));
                }
            }
        }
    }

    fn chip(&mut self, m: ToChip) -> Option<FromChip> {
        Some(match (m, &mut self.chip) {
            (ToChip::Hello { .. }, _) => {
                FromChip::Hello(Box::new(Hello { version: hal::bus::VERSION, boot_id: 1, profile: profile() }))
            }
            (ToChip::Batch { id, ops }, chip) => {
                self.ops += ops.len();
                let rejected = chip.as_mut().map_or(Vec::new(), |c| {
                    let refused = |(i, op)| Some(Rejected { op: i as u32, why: c.apply(op).err()? });
                    ops.iter().enumerate().filter_map(refused).collect()
                });
                FromChip::Done { id, rejected }
            }
            (ToChip::Dump { id, table: TableId::Port, .. }, None) => {
                let records = ports().into_iter().map(|(id, e)| Record::Port(id, e)).collect();
                FromChip::Records { id, records, next: None }
            }
            (ToChip::Dump { id, .. }, None) => FromChip::Records { id, records: Vec::new(), next: None },
            (ToChip::Dump { id, table, cursor }, Some(c)) => {
                let mut records = Vec::new();
                let next = c.dump(table, cursor, hal::bus::BATCH, &mut records);
                FromChip::Records { id, records, next }
            }
            (ToChip::Active { id, .. }, _) => FromChip::Active { id, keys: Vec::new(), next: None },
            (ToChip::Stats { .. }, _) => return None,
        })
    }
}

/// Resident bytes of this process.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|p| p.parse::<f64>().ok()).unwrap_or_default() * 4096.0
}

fn run(name: &str, chip: Option<SimChip>, reads: &[Vec<u8>]) {
    let cfg = CoreConfig { audit: 0, refresh: 0, ..CoreConfig::new(1) };
    let mut w = World {
        core: Core::new(cfg),
        chip,
        now: 1,
        todo: VecDeque::new(),
        ops: 0,
        worst: (Duration::ZERO, "nothing"),
        in_chip: Duration::ZERO,
        settled: false,
    };
    w.input("start", Input::Tick);
    let hello = w.chip(ToChip::Hello { version: hal::bus::VERSION });
    w.input("hello", Input::Chip(hello.expect("a chip says hello")));
    w.work();
    (w.ops, w.worst, w.in_chip) = (0, (Duration::ZERO, "nothing"), Duration::ZERO);
    let before = resident();
    let begin = Instant::now();
    for (seq, buf) in (1..).zip(reads) {
        w.input("routes", Input::Monitor { seq, buf: buf.clone() });
        w.work();
    }
    w.input("settle", Input::Request { id: 1, request: Request::Settle });
    w.work();
    let took = begin.elapsed();
    assert!(w.settled, "{name}: it did not settle");
    assert!(w.ops >= ROUTES as usize, "{name}: {} operations", w.ops);
    let agent = took - w.in_chip;
    let rate = |t: Duration| f64::from(ROUTES) / t.as_secs_f64() / 1e6;
    println!("{name}: {:.2} M routes/s, of which the agent alone {:.2} M/s", rate(took), rate(agent));
    println!("{name}: worst single input {:.2} ms ({})", w.worst.0.as_secs_f64() * 1e3, w.worst.1);
    println!("{name}: {:.0} resident bytes a route, {} operations", (resident() - before) / f64::from(ROUTES), w.ops);
}

fn main() {
    let mut reads = vec![Vec::new()];
    for i in 0..ROUTES {
        if reads.last().is_some_and(|r: &Vec<u8>| r.len() >= READ) {
            reads.push(Vec::new());
        }
        if let Some(r) = reads.last_mut() {
            r.extend(route(i));
        }
    }
    run("null chip", None, &reads);
    let mut sim = SimChip::with_seed(profile(), PORTS as usize, 1);
    for (id, e) in ports() {
        sim.set_port(id, e);
    }
    run("simulated chip", Some(sim), &reads);
}
