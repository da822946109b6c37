//! Which injected frame one that left descends from: by the marker in its payload or, where that was cut off, by its headers.
//!
//! What is right about a descendant is `compare`'s and `flows`'.

use std::collections::BTreeMap;

use crate::frame::{self, addresses, marker};
use crate::scenario::Send;

/// The injected frame that `f` descends from: as it was passed on, a fragment of it, or what the switch answered and quotes it.
pub fn origin<'a>(f: &[u8], sends: &BTreeMap<u32, &'a Send>) -> Option<&'a Send> {
    if let Some(id) = marker(f) {
        return sends.get(&id).copied();
    }
    let (at, t) = frame::network(f)?;
    let p = f.get(at..)?;
    let like = |p: &[u8]| sends.values().rev().find(|s| same_packet(p, s)).copied();
    like(p).or_else(|| like(quoted(p, t)?))
}

/// Whether `f` is an injected frame passed on, rather than something that the switch made itself.
pub fn passed_on(f: &[u8], sends: &BTreeMap<u32, &Send>) -> bool {
    let from = addresses(f);
    from.is_some() && origin(f, sends).is_some_and(|s| addresses(&s.bytes) == from)
}

/// Where the packet in `p` has its payload, and its protocol. IPv6's extension headers count as payload.
pub fn payload(p: &[u8]) -> Option<(usize, u8)> {
    match p.first()? >> 4 {
        4 => Some((usize::from(p[0] & 15).max(5) * 4, *p.get(9)?)),
        6 => Some((40, *p.get(6)?)),
        _ => None,
    }
}

/// The packet that an ICMP error of that EtherType quotes.
pub fn quoted(p: &[u8], ethertype: u16) -> Option<&[u8]> {
    let (at, proto) = payload(p)?;
    let error = match (ethertype, proto, p.get(at)?) {
        (0x0800, 1, kind) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (0x86dd, 58, kind) => matches!(kind, 1..=4),
        _ => false,
    };
    p.get(at + 8..).filter(|_| error)
}

/// Whether `p` may be the packet of an injected frame, a fragment of it or a beginning. IPv4 tells by the identification, which is the
/// frame's number unless the scenario says otherwise; IPv6, which routers do not fragment, by the payload.
fn same_packet(p: &[u8], s: &Send) -> bool {
    let Some((at, t)) = frame::network(&s.bytes) else { return false };
    let sent = &s.bytes[at..];
    let same = |r: std::ops::Range<usize>| p.get(r.clone()).is_some_and(|b| sent.get(r) == Some(b));
    match t {
        0x0800 => same(4..6) && same(9..10) && same(12..20),
        0x86dd => {
            let n = p.len().min(sent.len());
            same(4..7) && same(8..40) && p[40..n] == sent[40..n]
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(id: u32, text: &str) -> Send {
        let bytes = frame::build(text, &frame::Context { port: 1, id }).unwrap();
        Send { port: 1, id, text: text.into(), bytes, expect: None }
    }

    #[test]
    fn what_lost_its_marker_is_known_by_its_headers() {
        let all = [
            send(1, "10.0.1.2>10.0.2.2 udp 1>2 len=0"),
            send(2, "10.0.1.2>10.0.2.2 size=1400"),
            send(3, "2001:db8:1::2>2001:db8:2::2 echo tlen=10"),
            send(4, "2001:db8:1::2>2001:db8:2::2 echo tlen=12"),
        ];
        let sends: BTreeMap<u32, &Send> = all.iter().map(|s| (s.id, s)).collect();
        let of = |f: &[u8]| origin(f, &sends).map(|s| s.id);
        assert_eq!(of(&all[0].bytes), Some(1));
        // The second fragment of the second frame, as the kernel makes it.
        let mut second = all[1].bytes.clone();
        second.drain(34..1014);
        second[20..22].copy_from_slice(&122u16.to_be_bytes());
        assert_eq!((of(&second), passed_on(&second, &sends)), (Some(2), true));
        for (i, len) in [(2, 64), (3, 66)] {
            assert_eq!(of(&all[i].bytes[..len]), Some(i as u32 + 1));
            assert!(passed_on(&all[i].bytes[..len], &sends));
        }
    }

    #[test]
    fn an_error_descends_from_what_it_quotes() {
        let s = send(7, "10.0.1.2>10.0.2.2 udp 1>2 len=0");
        let sends = BTreeMap::from([(7, &s)]);
        let mut error = send(9, "10.0.1.1>10.0.1.2 icmp=3/1 len=0").bytes;
        error.extend(&s.bytes[14..42]);
        assert_eq!(origin(&error, &sends).map(|s| s.id), Some(7));
        assert!(!passed_on(&error, &sends), "the switch made it");
        error[34] = 8;
        assert_eq!(origin(&error, &sends), None, "a request quotes nothing");
    }
}
