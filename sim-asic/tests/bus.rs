//! The bus against bytes that are nearly right: the conformance suite's operations, encoded, mutated and sent. A frame is decoded or
//! refused, the chip takes or refuses what came of it, and stays a chip that can be dumped and that packets go through.
//!
//! `VIRGA_SEED` repeats a run.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use hal::bus::{AgentConn, ChipConn, Conn};
use hal::{
    AnyKey, Backend, BusError, Counters, Event, Nanos, Op, PortEntry, PortId, Profile, Reason, Record, TableId, ToChip,
    Usage,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sim_asic::SimChip;

fn chip() -> SimChip {
    let profile = Profile {
        name: "fuzz".into(),
        fids: 16,
        bridge_ports: 16,
        fdb: 64,
        rifs: 8,
        neigh4: 16,
        neigh6: 16,
        nexthops: 16,
        groups: 8,
        group_members: 8,
        buckets: 0,
        routes4: 64,
        routes6: 64,
        vrfs: 2,
        rules: 8,
        frame: 9216,
    };
    let mut chip = SimChip::with_seed(profile, 4, 7);
    for n in 0..4 {
        let e = PortEntry::sound(format!("swp{n}"), n + 1, 1, hal::Mac([2, 0, 0, 0, 0, n as u8]));
        chip.set_port(PortId(n), PortEntry { admin: true, link: true, ..e });
    }
    chip
}

/// Writes down what it is asked for.
struct Noting(SimChip, Arc<Mutex<Vec<Op>>>);

impl Backend for Noting {
    fn profile(&self) -> &Profile {
        self.0.profile()
    }
    fn apply(&mut self, op: &Op) -> Result<(), Reason> {
        self.1.lock().unwrap().push(op.clone());
        self.0.apply(op)
    }
    fn dump(&self, table: TableId, cursor: u64, max: usize, out: &mut Vec<Record>) -> Option<u64> {
        self.0.dump(table, cursor, max, out)
    }
    fn active(&mut self, table: TableId, cursor: u64, max: usize, out: &mut Vec<AnyKey>) -> Option<u64> {
        self.0.active(table, cursor, max, out)
    }
    fn poll(&mut self, now: Nanos, events: &mut Vec<Event>) {
        self.0.poll(now, events);
    }
    fn counters(&self) -> Counters {
        self.0.counters()
    }
    fn usage(&self) -> Vec<Usage> {
        self.0.usage()
    }
}

/// What the conformance suite asks of a chip: every table, entries of every kind.
fn real() -> Vec<Op> {
    let all = Arc::new(Mutex::new(Vec::new()));
    hal::conformance::all(&|| Box::new(Noting(chip(), all.clone())));
    let all = all.lock().unwrap();
    all.clone()
}

fn encoded(m: &ToChip) -> Vec<u8> {
    let (a, mut b) = UnixStream::pair().unwrap();
    let mut c: AgentConn = Conn::new(a).unwrap();
    c.send(m).unwrap();
    drop(c);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut b, &mut bytes).unwrap();
    bytes
}

/// What a chip's end makes of a frame's bytes.
fn received(bytes: &[u8]) -> Result<Vec<ToChip>, BusError> {
    let (mut a, b) = UnixStream::pair().unwrap();
    let mut c: ChipConn = Conn::new(b).unwrap();
    a.write_all(bytes).unwrap();
    drop(a);
    let mut out = Vec::new();
    loop {
        match c.recv() {
            Ok(Some(m)) => out.push(m),
            Ok(None) | Err(BusError::Closed) => return Ok(out),
            Err(e) => return Err(e),
        }
    }
}

fn sound(chip: &mut SimChip) {
    for t in TableId::ALL {
        let (mut seen, mut cursor) = (Vec::new(), Some(0));
        while let Some(c) = cursor {
            cursor = chip.dump(*t, c, 7, &mut seen);
        }
        assert!(seen.iter().all(|r| r.table() == *t));
        chip.active(*t, 0, 100, &mut Vec::new());
    }
    let mut frame = vec![2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 9, 8, 0, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0];
    frame.extend([10, 0, 0, 2, 10, 0, 1, 2]);
    let mut pipe = chip.pipeline();
    pipe.run(&mut [sim_asic::Packet::new(PortId(0), &mut sim_asic::with_room(&frame))]);
}

#[test]
fn frames_that_are_nearly_right_are_taken_or_refused() {
    let ops = real();
    assert!(ops.len() > 1000);
    let frames: Vec<Vec<u8>> = ops
        .chunks(9)
        .step_by(1 + ops.len() / 9 / 2000)
        .map(|ops| encoded(&ToChip::Batch { id: 1, ops: ops.to_vec() }))
        .chain([
            encoded(&ToChip::Hello { version: 1 }),
            encoded(&ToChip::Dump { id: 3, table: TableId::Route6, cursor: 1 << 40 }),
            encoded(&ToChip::Active { id: 4, table: TableId::Neigh4, cursor: 9 }),
            encoded(&ToChip::Stats { id: 5 }),
        ])
        .collect();
    let seed = std::env::var("VIRGA_SEED").ok().and_then(|s| s.parse::<u64>().ok());
    let seed = seed.unwrap_or_else(|| std::process::id().into());
    println!("VIRGA_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_ne_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config { cases: 100_000, failure_persistence: None, ..Config::default() };
    let edits = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..4u8), 1..6);
    let chip = Mutex::new((chip(), 0u32));
    let done = TestRunner::new_with_rng(config, rng).run(&(any::<proptest::sample::Index>(), edits), |(n, edits)| {
        let mut f = frames[n.index(frames.len())].clone();
        for (at, to, how) in edits {
            // Behind the length, which is made true again.
            let at = 4 + at.index(f.len() - 4);
            match how {
                0 => f[at] = to,
                1 => f[at] ^= 1 << (to & 7),
                2 => f.truncate(at + 1),
                _ => f.insert(at, to),
            }
        }
        let len = (f.len() as u32 - 4).to_le_bytes();
        f[..4].copy_from_slice(&len);
        let Ok(messages) = received(&f) else { return Ok(()) };
        let mut guard = chip.lock().unwrap();
        let (chip, n) = &mut *guard;
        for m in messages {
            prop_assert_eq!(&received(&encoded(&m)).unwrap(), &[m.clone()][..], "it does not come back as it was");
            match m {
                ToChip::Batch { ops, .. } => ops.iter().for_each(|op| drop(chip.apply(op))),
                ToChip::Dump { table, cursor, .. } => drop(chip.dump(table, cursor, 100, &mut Vec::new())),
                ToChip::Active { table, cursor, .. } => drop(chip.active(table, cursor, 100, &mut Vec::new())),
                ToChip::Hello { .. } | ToChip::Stats { .. } => {}
            }
        }
        *n += 1;
        if n.is_multiple_of(64) {
            sound(chip);
        }
        Ok(())
    });
    if let Err(e) = done {
        panic!("VIRGA_SEED={seed}: {e}");
    }
    let (mut chip, _) = chip.into_inner().unwrap();
    sound(&mut chip);
    // And it is still a chip.
    for t in TableId::ALL.iter().filter(|t| **t != TableId::Port) {
        let mut all = Vec::new();
        chip.dump(*t, 0, 1 << 20, &mut all);
        for r in all {
            assert_eq!(chip.apply(&Op::Remove(r.key())), Ok(()));
        }
    }
}
