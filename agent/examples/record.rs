//! Records what this kernel says over netlink, as the corpus that the decoders are tested with:
//! `cargo run --example record -- DIR`, then `tests/vm/run target/debug/examples/record DIR` for a kernel that has everything.
//!
//! Carries out `agent/tests/corpus/commands` in a network namespace of its own, listens to all that is announced, dumps all that
//! is asked for, and writes one message of each shape (type, family and attributes, whatever their values) to
//! `DIR/PROTOCOL-RELEASE.bin`: whole messages, one after the other, each padded to four bytes.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use netlink_sys::{Socket, SocketAddr};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use virga::input::DumpKind;
use virga::netlink::build::{Builder, dump};
use virga::netlink::{Attrs, Message, messages};

/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// The last multicast group of `NETLINK_ROUTE` that is asked for (`RTNLGRP_STATS`).
const GROUPS: u32 = 36;

fn open(protocol: i32) -> Result<Socket> {
    let mut s = Socket::new(protocol as isize)?;
    s.bind_auto()?;
    s.connect(&SocketAddr::new(0, 0))?;
    s.set_rx_buf_sz(8 << 20)?;
    s.set_non_blocking(true)?;
    Ok(s)
}

/// All that waits in the socket.
fn read(s: &Socket) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buf = vec![0; 1 << 18];
    loop {
        let mut room = &mut buf[..];
        match s.recv(&mut room, 0) {
            Ok(n) => all.extend_from_slice(&buf[..n]),
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(_) => return all,
        }
        all.resize(all.len().next_multiple_of(4), 0);
    }
}

/// Attributes in `b`, down to a few levels, without their values.
fn shape(b: &[u8], depth: u32) -> Option<String> {
    let all: Vec<_> = Attrs(b).collect::<Result<_, _>>().ok()?;
    let one = |a: &virga::netlink::attr::Attr<'_>| {
        let inner = (depth < 4 && a.data.len() >= 8).then(|| shape(a.data, depth + 1)).flatten();
        format!("{}{}", a.kind, inner.map_or(String::new(), |i| format!("({i})")))
    };
    Some(all.iter().map(one).collect::<Vec<_>>().join(","))
}

fn shape_of(protocol: &str, m: &Message<'_>) -> String {
    let fixed = match (protocol, m.kind) {
        ("route", 16..=19) => 16,
        ("route", 24..=35) => 12,
        ("route", 36..=47) => 20,
        ("route", _) => 8,
        ("xfrm", _) => 168,
        _ => 4,
    };
    let own = m.body.get(fixed..).and_then(|b| shape(b, 0)).unwrap_or_else(|| format!("{} bytes", m.body.len()));
    format!("{} {:?} {own}", m.kind, &m.body.get(..2))
}

/// Requests, in order of what is made of them.
fn asked() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let route = |kind, fixed: &[u8]| Builder::new(kind, DUMP, fixed);
    let mut requests: Vec<Vec<u8>> = DumpKind::ALL.into_iter().flat_map(dump).collect();
    let bridge: [u8; 16] = [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    requests.push(route(18, &[0; 16]).done());
    // The bridge's links with their VLANs (RTEXT_FILTER_BRVLAN), its FDB, MDB and VLANs; qdiscs, classes, filters.
    requests.push(route(18, &bridge).u32(29, 2).done());
    requests.push(route(30, &bridge[..12]).done());
    requests.push(route(86, &bridge[..8]).done());
    requests.push(route(114, &bridge[..8]).done());
    for kind in [38, 42] {
        requests.push(route(kind, &[0; 20]).done());
    }
    for ifindex in 2..24u32 {
        for parent in [0xffff_fff2u32, 0xffff_fff3] {
            let head = [0, ifindex, 0, parent, 0].map(u32::to_ne_bytes).concat();
            requests.push(route(46, &head).done());
        }
    }
    // Exceptions (RTM_F_CLONED), neighbour tables, next-hop buckets, statistics.
    requests.push(route(26, &[2, 0, 0, 0, 254, 0, 0, 0, 0, 2, 0, 0]).done());
    requests.push(route(66, &[0; 4]).done());
    requests.push(route(118, &[0; 8]).done());
    let nft = [4u16, 1, 7, 10, 19, 23].map(|n| route(10 << 8 | n, &[0; 4]).done()).to_vec();
    let get = |kind| Builder::new(kind, 5, &[0; 4]).done();
    let mut generation = vec![get(10 << 8 | 16)];
    generation.extend(nft);
    vec![("route", requests), ("netfilter", generation), ("xfrm", vec![route(0x15, &[]).done(), get(0x25), get(0x28)])]
}

/// A line that this kernel, or this machine, refuses is passed over.
fn run(line: &str) -> Result<()> {
    Command::new("sh").args(["-c", line]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    Ok(())
}

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).context("which directory?")?;
    // SAFETY: there is one thread only, and no descriptor table is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("no network namespace of its own")?;
    let monitor = open(libc::NETLINK_ROUTE)?;
    for g in 1..=GROUPS {
        // Not every kernel has all.
        let _ = monitor.add_membership(g);
    }
    let mut heard = Vec::new();
    for line in include_str!("../tests/corpus/commands").lines().filter(|l| !l.starts_with('#')) {
        run(line)?;
        heard.extend(read(&monitor));
    }
    // For what dumps of IPv6 routes leave out.
    std::fs::write(Path::new(&dir).join("ipv6_route"), std::fs::read("/proc/thread-self/net/ipv6_route")?)?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release: String = release.split('.').take(2).collect::<Vec<_>>().join(".");
    let numbers = [libc::NETLINK_ROUTE, libc::NETLINK_NETFILTER, libc::NETLINK_XFRM];
    for ((protocol, requests), number) in asked().into_iter().zip(numbers) {
        let mut all = if protocol == "route" { std::mem::take(&mut heard) } else { Vec::new() };
        if let Ok(s) = open(number) {
            for r in requests {
                s.send(&r, 0)?;
                // Answers are there when the request has been sent; each read has the kernel go on with the dump.
                all.extend(read(&s));
            }
        }
        let (mut seen, mut out) = (BTreeSet::new(), Vec::new());
        let mut rest = &all[..];
        while let Some(Ok(m)) = messages(rest).next() {
            let len = (16 + m.body.len()).next_multiple_of(4).min(rest.len());
            let (whole, behind) = rest.split_at(len);
            rest = behind;
            if m.kind >= 16 && seen.insert(shape_of(protocol, &m)) {
                out.extend_from_slice(whole);
            }
        }
        ensure!(rest.is_empty(), "what was read of {protocol} is not whole messages");
        let path = Path::new(&dir).join(format!("{protocol}-{release}.bin"));
        std::fs::write(&path, &out)?;
        println!("{}: {} messages, {} bytes", path.display(), seen.len(), out.len());
    }
    Ok(())
}
