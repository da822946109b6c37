//! The kernel's side: requests, the monitor with its fence, dumps.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use virga::edge::nl::{NLM_F_DUMP_INTR, Socket};
use virga::input::DumpKind;
use virga::mirror::Mirror;
use virga::netlink::{MONITOR_GROUPS, build, messages, nlm, rtm};

/// Sockets into the namespace that we are in.
pub struct Kernel {
    request: Socket,
    monitor: Socket,
    dump: Socket,
    number: u32,
    /// The reader's stamp.
    pub seq: u64,
    buf: Vec<u8>,
}

/// A message of the monitor with its stamp.
pub type Stamped = (u64, Vec<u8>);

fn socket() -> io::Result<Socket> {
    let s = Socket::open()?;
    s.receive_buffer(8 << 20)?;
    s.read_timeout(Duration::from_secs(10))?;
    Ok(s)
}

impl Kernel {
    pub fn open() -> io::Result<Kernel> {
        let monitor = socket()?;
        for g in MONITOR_GROUPS {
            monitor.subscribe(g)?;
        }
        Ok(Kernel { request: socket()?, monitor, dump: socket()?, number: 0, seq: 0, buf: vec![0; 1 << 16] })
    }

    fn numbered(&mut self, mut m: Vec<u8>, flags: u16) -> Vec<u8> {
        self.number += 1;
        let f = u16::from_ne_bytes([m[6], m[7]]) | flags | nlm::F_REQUEST;
        m[6..8].copy_from_slice(&f.to_ne_bytes());
        m[8..12].copy_from_slice(&self.number.to_ne_bytes());
        m
    }

    /// Carry out a request; the kernel's errno, 0 for success.
    pub fn request(&mut self, m: Vec<u8>) -> io::Result<i32> {
        let m = self.numbered(m, nlm::F_ACK);
        self.request.send(&m, 0)?;
        loop {
            let n = self.request.recv(&mut self.buf)?;
            for m in messages(&self.buf[..n]).flatten() {
                if m.kind == nlm::ERROR && m.seq == self.number {
                    return Ok(-i32::from_ne_bytes(*m.body.first_chunk().ok_or(io::ErrorKind::InvalidData)?));
                }
            }
        }
    }

    /// All that the kernel has said up to now.
    pub fn news(&mut self) -> io::Result<VecDeque<Stamped>> {
        let fence = self.numbered(build::fence(), nlm::F_ACK);
        self.monitor.send(&fence, 0)?;
        let mut out = VecDeque::new();
        loop {
            let n = self.monitor.recv(&mut self.buf)?;
            for m in messages(&self.buf[..n]).flatten() {
                if m.kind == nlm::ERROR && m.seq == self.number {
                    return Ok(out);
                }
            }
            self.seq += 1;
            out.push_back((self.seq, self.buf[..n].to_vec()));
        }
    }

    /// The parts of a dump, and whether it was of one state.
    pub fn dump(&mut self, kind: DumpKind) -> io::Result<(Vec<Vec<u8>>, bool)> {
        let (mut parts, mut whole) = (Vec::new(), true);
        if kind == DumpKind::List6 {
            return Ok((vec![std::fs::read("/proc/thread-self/net/ipv6_route")?], true));
        }
        for request in build::dump(kind) {
            let request = self.numbered(request, 0);
            self.dump.send(&request, 0)?;
            'part: loop {
                let n = self.dump.recv(&mut self.buf)?;
                let mut end = false;
                for m in messages(&self.buf[..n]).flatten() {
                    whole &= m.flags & NLM_F_DUMP_INTR == 0;
                    end |= m.kind == nlm::DONE || m.kind == nlm::ERROR;
                }
                parts.push(self.buf[..n].to_vec());
                if end {
                    break 'part;
                }
            }
        }
        Ok((parts, whole))
    }

    /// Dump one kind into a mirror, until it came uninterrupted.
    pub fn fill(&mut self, m: &mut Mirror, kind: DumpKind) -> io::Result<()> {
        loop {
            m.dump_begin(kind);
            let seq = self.seq;
            let (parts, whole) = self.dump(kind)?;
            for p in parts {
                m.dump(kind, seq, &p);
            }
            m.dump_end(kind, whole);
            while m.work(64) {}
            if whole {
                return Ok(());
            }
        }
    }

    /// A mirror made from dumps alone.
    pub fn fresh(&mut self) -> io::Result<Mirror> {
        let mut m = Mirror::new();
        for kind in DumpKind::ALL {
            self.fill(&mut m, kind)?;
        }
        if m.take_dirt().wanted.contains(&DumpKind::List6) {
            self.fill(&mut m, DumpKind::List6)?;
        }
        Ok(m)
    }
}

/// Whether a message of the monitor is about a route, and so goes into the low queue.
pub fn low(buf: &[u8]) -> bool {
    messages(buf).flatten().all(|m| matches!(m.kind, rtm::NEWROUTE | rtm::DELROUTE))
}
