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
    /// What of the innermost headers counts besides, under policy 3.
    inner: Option<Part>,
    /// Where this does not know the input to the last bit: the frame's number, so that it is alone.
    alone: u32,
}

/// `fib_multipath_hash_policy` of a family, with `fib_multipath_hash_fields`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// 0 to 3.
    pub number: u8,
    /// `FIB_MULTIPATH_HASH_FIELD_*`, which count under 3.
    pub fields: u16,
}

/// What the flow dissector finds, or what of it counts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct Part {
    /// Of which family its addresses are.
    six: bool,
    pair: [Vec<u8>; 2],
    proto: u8,
    label: u32,
    ports: [u16; 2],
    /// A tunnel was opened, or stands next.
    tunnel: bool,
}

impl Part {
    /// What stands in the packet `p`, to the bottom of the tunnels that are opened (IP in IP, plain GRE) or, with `outer`, before
    /// the first one. `None`: it is not known here to the last bit.
    fn of(p: &[u8], outer: bool) -> Option<Part> {
        let six = p.first()? >> 4 == 6;
        let (at, len, next, mut head) = if six { (8, 16, 6, 40) } else { (12, 4, 9, usize::from(p[0] & 15) * 4) };
        let addr = |i: usize| Some(p.get(at + i * len..at + i * len + len)?.to_vec());
        let mut f = Part { six, pair: [addr(0)?, addr(1)?], proto: *p.get(next)?, ..Part::default() };
        if six {
            f.label = u32::from_be_bytes(p.get(..4)?.try_into().ok()?) & 0xf_ffff;
            while matches!(f.proto, 43 | 60) {
                f.proto = *p.get(head)?;
                head += (usize::from(*p.get(head + 1)?) + 1) * 8;
            }
            if f.proto == 44 {
                f.proto = *p.get(head)?;
                return p.get(head..head + 8).map(|_| f);
            }
        } else if be16(p, 6) & 0x3fff != 0 {
            return Some(f);
        }
        let body = p.get(head..)?;
        let inside = match f.proto {
            4 | 41 | 47 if outer => {
                return Some(Part { tunnel: true, ..f });
            }
            4 | 41 => body,
            47 if be16(body, 0) & !0x2000 == 0 => body.get(if body.first()? & 0x20 == 0 { 4 } else { 8 }..)?,
            6 | 17 => return body.get(..4).map(|b| Part { ports: [be16(b, 0), be16(b, 2)], ..f }),
            0 | 33 | 47 | 50 | 51 | 132 | 136 | 137 => return None,
            _ => return Some(f),
        };
        let named = match f.proto {
            4 => 4,
            41 => 6,
            _ if be16(body, 2) == 0x800 => 4,
            _ if be16(body, 2) == 0x86dd => 6,
            _ => return None,
        };
        if inside.first()? >> 4 != named {
            return None;
        }
        let mut inner = Part::of(inside, false)?;
        if inner.label == 0 {
            inner.label = f.label;
        }
        Some(Part { tunnel: true, ..inner })
    }

    /// The fields of these bits, in the order in which the kernel sorts them.
    fn chosen(&self, bits: u16) -> Part {
        let on = |bit: u16| bits & 1 << bit != 0;
        let [a, b] = &self.pair;
        let addr = |a: &Vec<u8>, on| if on { a.clone() } else { vec![0; a.len()] };
        let mut pair = [addr(a, on(0)), addr(b, on(1))];
        pair.sort();
        let port = |i: usize, on| if on { self.ports[i] } else { 0 };
        Part {
            six: self.six,
            pair,
            proto: if on(2) { self.proto } else { 0 },
            label: if on(3) && self.six { self.label } else { 0 },
            ports: sorted([port(0, on(4)), port(1, on(5))]),
            tunnel: false,
        }
    }
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
fn flow(s: &Send, policies: [Policy; 2]) -> Option<Flow> {
    let (at, _) = frame::network(&s.bytes)?;
    let p = s.bytes.get(at..)?;
    let [src, to] = pair(p)?;
    let six = to.is_ipv6();
    let Policy { number: policy, fields } = policies[usize::from(six)];
    let mut f = Flow { to, pair: sorted([src, to]), proto: 0, label: 0, ports: [0; 2], inner: None, alone: 0 };
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
        (2, _) => match Part::of(p, false) {
            // What is inside is all that counts.
            Some(found) => {
                let bits = if found.six { 0b1111 } else { 0b11 };
                f.pair = [to; 2];
                f.inner = Some(found.chosen(bits));
            }
            None => f.alone = s.id,
        },
        (3, _) => match Part::of(p, true).zip(Part::of(p, false)) {
            Some((outer, inner)) => {
                let o = outer.chosen(fields & 0x3f);
                f.pair = [to; 2];
                (f.proto, f.label, f.ports) = (o.proto, o.label, o.ports);
                // Both parts in one.
                let i = if outer.tunnel { inner.chosen(fields >> 6) } else { Part::default() };
                f.inner =
                    Some(Part { pair: [o.pair.concat(), [i.pair.concat(), format!("{i:?}").into()].concat()], ..i });
            }
            None => f.alone = s.id,
        },
        (1, true) if next == 44 => f.proto = *p.get(head)?,
        _ => f.alone = s.id,
    }
    Some(f)
}

/// Where a packet went: port and destination MAC.
type Way = (usize, Vec<u8>);

/// Flows of a step whose packets left one world by several members of a multipath route, in sentences. `by_chip` says for which frames the
/// chip's own hash decides: of one flow it hands some to the kernel for their own sake (with options, say, or in by an interface of which it
/// knows less), and each of the two keeps to a choice of its own (DESIGN, promise 1: which member). Which member the chip's hash chose is not
/// known here, so that packets are only held against others that each member suits as well.
pub fn torn(
    done: &Done,
    step: &[Send],
    sends: &BTreeMap<u32, &Send>,
    snapshot: impl FnOnce() -> anyhow::Result<Snapshot>,
    by_chip: impl Fn(&Send) -> bool,
) -> anyhow::Result<Vec<String>> {
    let mut ways: BTreeMap<u32, BTreeSet<Way>> = BTreeMap::new();
    for (port, frames) in (1..).zip(&done.left) {
        for f in frames.iter().filter(|f| passed_on(f, sends)) {
            // What a bridge passes on keeps its sender, and was never routed.
            let routed = |s: &&Send| f.get(6..12) != s.bytes.get(6..12);
            if let (Some(s), Some(mac)) = (origin(f, sends).filter(routed), f.get(..6)) {
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
        let several = |packets: &[&(&Send, &BTreeSet<Way>)]| {
            packets.iter().flat_map(|(_, w)| *w).collect::<BTreeSet<_>>().len() > 1
        };
        let torn = several(&packets.iter().collect::<Vec<_>>()) && snap.keeps_flows(f.to) && {
            let members = snap.members(f.to);
            // A member that is too narrow, or on the port that it came by, has the chip hand it over.
            let unfit = |s: &Send| -> Vec<bool> {
                members.iter().map(|m| s.bytes.len() as u64 > m.mtu + 14 || m.port == s.port).collect()
            };
            let mut alike: BTreeMap<_, Vec<_>> = BTreeMap::new();
            packets.iter().for_each(|p| alike.entry((by_chip(p.0), unfit(p.0))).or_default().push(p));
            alike.values().any(|p| several(p))
        };
        if torn {
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
        with(text, policies.map(|number| Policy { number, fields: 0 }))
    }

    fn with(text: &str, policies: [Policy; 2]) -> Flow {
        let bytes = frame::build(text, &frame::Context { port: 1, id: 3 }).unwrap();
        flow(&Send { port: 1, id: 3, text: text.into(), bytes, expect: None }, policies).unwrap()
    }

    #[test]
    fn chip_and_slow_path_choose_for_themselves() {
        use crate::oracle::compare::tests::configuration;
        let send = |id, words: &str| {
            let bytes = frame::build(&format!("10.0.1.2>10.9.0.1 {words}"), &frame::Context { port: 1, id }).unwrap();
            Send { port: 1, id, text: words.into(), bytes, expect: None }
        };
        let torn = |all: &[Send; 3], ways: [usize; 3], mtu: u64, slow: &[u32]| {
            let mut done = Done { left: vec![Vec::new(); 5], ..Done::default() };
            for (s, p) in all.iter().zip(ways) {
                let mut routed = s.bytes.clone();
                routed[6..12].copy_from_slice(&frame::port_mac(p).0);
                done.left[p - 1].push(routed);
            }
            let sends = all.iter().map(|s| (s.id, s)).collect();
            let mut snap = configuration();
            snap.narrow_to(2, mtu);
            !super::torn(&done, all, &sends, || Ok(snap), |s| !slow.contains(&s.id)).unwrap().is_empty()
        };
        let with_options = [send(1, "udp"), send(2, "opts=94040000"), send(3, "tcp")];
        let torn1 = |ways, slow| torn(&with_options, ways, 1500, slow);
        assert!(!torn1([2, 3, 2], &[2]), "the kernel has that with options");
        assert!(torn1([2, 3, 2], &[]));
        assert!(torn1([2, 3, 4], &[2]) && torn1([2, 3, 4], &[2, 3]), "neither tears one of its own");
        assert!(!torn1([3, 3, 3], &[]));
        let with_a_long_one = [send(1, "udp"), send(2, "size=1300"), send(3, "tcp")];
        let torn2 = |ways, mtu| torn(&with_a_long_one, ways, mtu, &[]);
        assert!(!torn2([2, 3, 2], 1280), "it does not fit the member that the others took");
        assert!(torn2([2, 3, 2], 1300) && torn2([2, 3, 4], 1280));
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
        let ipip = "in=10.5.0.1>10.6.0.1,udp,1>2";
        let same2 = [
            ("10.0.1.2>10.9.0.1 udp 1>2", "10.0.1.2>10.9.0.1 tcp 3>4"),
            (&*format!("10.0.1.2>10.9.0.1 {ipip}"), "10.0.1.3>10.9.0.1 in=10.6.0.1>10.5.0.1,tcp"),
            (&*format!("10.0.1.2>10.9.0.1 {ipip}"), "10.0.1.3>10.9.0.1 gre=10.5.0.1>10.6.0.1,tcp key=7"),
            ("10.0.1.2>10.9.0.1 in=10.5.0.1>10.6.0.1 mf", "10.0.1.2>10.9.0.1 udp"),
        ];
        for (a, b) in same2 {
            assert_eq!(key(a, [2, 2]), key(b, [2, 2]), "{a}, {b}");
        }
        let apart2 = [
            ("10.0.1.2>10.9.0.1 in=10.5.0.1>10.6.0.1", "10.0.1.2>10.9.0.1 in=10.5.0.1>10.6.0.2"),
            ("2001:db8::2>2001:db8:9::1 flow=1", "2001:db8::2>2001:db8:9::1 flow=2"),
        ];
        for (a, b) in apart2 {
            assert_ne!(key(a, [2, 2]), key(b, [2, 2]), "{a}, {b}");
        }
        for (fields, a, b, same) in [
            (0b11, "10.0.1.2>10.9.0.1 udp 1>2", "10.0.1.2>10.9.0.1 udp 3>2", true),
            (0b10011, "10.0.1.2>10.9.0.1 udp 1>2", "10.0.1.2>10.9.0.1 udp 3>2", false),
            (0b10, "10.0.1.2>10.9.0.1 in=10.5.0.1>10.6.0.1", "10.0.1.3>10.9.0.1 in=10.5.0.2>10.6.0.1", true),
            (1 << 6, "10.0.1.2>10.9.0.1 in=10.5.0.1>10.6.0.1", "10.0.1.3>10.9.0.1 in=10.5.0.2>10.6.0.1", false),
            (1 << 7, "10.0.1.2>10.9.0.1 in=10.5.0.1>10.6.0.1", "10.0.1.3>10.9.0.1 in=10.5.0.2>10.6.0.1", true),
        ] {
            let policy = [Policy { number: 3, fields }; 2];
            assert_eq!(with(a, policy) == with(b, policy), same, "{fields:b} {a}, {b}");
        }
        for (a, b, p) in apart {
            assert_ne!(key(a, p), key(b, p), "{a}, {b}");
        }
    }
}
