//! Which packets the kernel must keep together: the hash input of its multipath routes, and whether a world kept to it.
//!
//! Not the hash: which member a flow takes is each world's own choice, but it makes it once (kernel-facts 31).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Done;
use super::fib::Snapshot;
use super::origin::{origin, passed_on};
use crate::frame::{self, decode};
use crate::scenario::Send;

/// What `fib_multipath_hash` and `rt6_multipath_hash` look at (`net/ipv4/route.c`, `net/ipv6/route.c`), and the destination.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Flow {
    to: IpAddr,
    /// Both addresses; those of the quoted packet in an ICMP error under policy 0. The kernel sorts them.
    pair: [IpAddr; 2],
    proto: u8,
    label: u32,
    ports: [u16; 2],
    /// Where this does not know the input to the last bit: the frame's number, so that it is alone.
    alone: u32,
}

fn be16(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).map_or(0, |s| u16::from_be_bytes([s[0], s[1]]))
}

fn sorted<T: Ord + Copy>([a, b]: [T; 2]) -> [T; 2] {
    [a.min(b), a.max(b)]
}

fn pair(p: &[u8]) -> Option<[IpAddr; 2]> {
    let a4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(p.get(at..at + 4)?).ok()?));
    let a6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(p.get(at..at + 16)?).ok()?));
    Some(match p.first()? >> 4 {
        4 => [a4(12)?, a4(16)?],
        6 => [a6(8)?, a6(24)?],
        _ => return None,
    })
}

fn ports(proto: u8, p: &[u8], at: usize) -> [u16; 2] {
    match proto {
        6 | 17 => sorted([be16(p, at), be16(p, at + 2)]),
        _ => [0; 2],
    }
}

/// The flow of an injected frame, where the multipath hash of its family has that policy.
fn flow(s: &Send, policies: [u8; 2]) -> Option<Flow> {
    let (at, _) = frame::network(&s.bytes)?;
    let p = s.bytes.get(at..)?;
    let [src, to] = pair(p)?;
    let six = to.is_ipv6();
    let policy = policies[usize::from(six)];
    let mut f = Flow { to, pair: sorted([src, to]), proto: 0, label: 0, ports: [0; 2], alone: 0 };
    let (next, head) = if six { (*p.get(6)?, 40) } else { (*p.get(9)?, usize::from(p[0] & 15) * 4) };
    let quoted = match (policy, six, next) {
        (0, false, 1) if be16(p, 6) & 0x1fff == 0 && matches!(p.get(head)?, 3 | 4 | 5 | 11 | 12) => p.get(head + 8..),
        (0, true, 58) if matches!(p.get(head)?, 1..=4) => p.get(head + 8..),
        _ => None,
    };
    match (policy, six) {
        (0, false) => f.pair = quoted.and_then(pair).map_or(f.pair, sorted),
        (0, true) => {
            let q = quoted.unwrap_or(p);
            f.pair = sorted(pair(q)?);
            f.proto = *q.get(6)?;
            f.label = u32::from_be_bytes(q.get(..4)?.try_into().ok()?) & 0xf_ffff;
        }
        (1, false) => {
            f.proto = next;
            if be16(p, 6) & 0x3fff == 0 {
                f.ports = ports(next, p, head);
            }
        }
        (1, true) if matches!(next, 6 | 17 | 58) => {
            f.proto = next;
            f.ports = ports(next, p, head);
        }
        (1, true) if next == 44 => f.proto = *p.get(head)?,
        _ => f.alone = s.id,
    }
    Some(f)
}

/// Where a packet went: port and destination MAC.
type Way = (usize, Vec<u8>);

/// Flows of a step whose packets left one world by several members of a multipath route, in sentences.
pub fn torn(
    done: &Done,
    step: &[Send],
    sends: &BTreeMap<u32, &Send>,
    snapshot: impl FnOnce() -> anyhow::Result<Snapshot>,
) -> anyhow::Result<Vec<String>> {
    let mut ways: BTreeMap<u32, BTreeSet<Way>> = BTreeMap::new();
    for (port, frames) in (1..).zip(&done.left) {
        for f in frames.iter().filter(|f| passed_on(f, sends)) {
            if let (Some(s), Some(mac)) = (origin(f, sends), f.get(..6)) {
                ways.entry(s.id).or_default().insert((port, mac.to_vec()));
            }
        }
    }
    // By destination first, which every policy knows: only where that differs is the configuration asked.
    let mut by_destination: BTreeMap<IpAddr, BTreeSet<&Way>> = BTreeMap::new();
    for s in step {
        if let (Some(w), Some((_, to))) = (ways.get(&s.id), frame::addresses(&s.bytes)) {
            by_destination.entry(to).or_default().extend(w);
        }
    }
    if by_destination.values().all(|w| w.len() < 2) {
        return Ok(Vec::new());
    }
    let snap = snapshot()?;
    let mut flows: BTreeMap<Flow, Vec<(&Send, &BTreeSet<Way>)>> = BTreeMap::new();
    for s in step {
        if let (Some(f), Some(w)) = (flow(s, snap.hash_policies()), ways.get(&s.id)) {
            flows.entry(f).or_default().push((s, w));
        }
    }
    let mut out = Vec::new();
    for (f, packets) in flows {
        let all: BTreeSet<&Way> = packets.iter().flat_map(|(_, w)| *w).collect();
        if all.len() > 1 && snap.keeps_flows(f.to) {
            let lines = packets.iter().map(|(s, w)| {
                let to: Vec<String> = w.iter().map(|(p, m)| format!("port {p} to {m:02x?}")).collect();
                format!("\n    #{} {} left by {}", s.id, decode(&s.bytes), to.join(", "))
            });
            out.push(format!(
                "packets of one flow took several members of a multipath route:{}",
                lines.collect::<String>()
            ));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str, policies: [u8; 2]) -> Flow {
        let bytes = frame::build(text, &frame::Context { port: 1, id: 3 }).unwrap();
        flow(&Send { port: 1, id: 3, text: text.into(), bytes, expect: None }, policies).unwrap()
    }

    #[test]
    fn what_belongs_together() {
        let same = [
            ("10.0.1.2>10.9.0.1 udp 1>2", "10.0.1.2>10.9.0.1 tcp 3>4 ttl=3", [0, 0]),
            ("10.0.1.2>10.9.0.1 udp 1>2 mf len=64", "10.0.1.2>10.9.0.1 off=72", [1, 1]),
            ("2001:db8::2>2001:db8:9::1 udp 1>2 mf len=64", "2001:db8::2>2001:db8:9::1 off=72", [1, 1]),
            ("10.0.1.2>10.9.0.1 udp 1>2", "10.0.1.2>10.9.0.1 udp 1>2 tos=3", [1, 1]),
        ];
        for (a, b, p) in same {
            assert_eq!(key(a, p), key(b, p), "{a}, {b}");
        }
        let apart = [
            ("10.0.1.2>10.9.0.1", "10.0.1.3>10.9.0.1", [0, 0]),
            ("10.0.1.2>10.9.0.1 udp 1>2", "10.0.1.2>10.9.0.1 udp 1>3", [1, 1]),
            ("10.0.1.2>10.9.0.1 udp 1>2 mf len=64", "10.0.1.2>10.9.0.1 udp 1>2", [1, 1]),
            ("2001:db8::2>2001:db8:9::1 flow=1", "2001:db8::2>2001:db8:9::1 flow=2", [0, 0]),
            ("2001:db8::2>2001:db8:9::1 tcp", "2001:db8::2>2001:db8:9::1 udp", [0, 0]),
            ("10.0.1.2>10.9.0.1 icmp=3/1 quote=10.9.0.1>10.0.7.7", "10.0.1.2>10.9.0.1 echo", [0, 0]),
        ];
        for (a, b, p) in apart {
            assert_ne!(key(a, p), key(b, p), "{a}, {b}");
        }
    }
}
