//! Policy routing: which virtual router a packet's destination is looked up in.
//!
//! What the kernel's flow dissector would find behind extension headers is not looked for: where a rule wants it, the packet is trapped.

use hal::TrapClass;

use super::parse::{Family, Head, be16, dst6, src6};
use crate::table::rules::{Act, Lists, Match};
use crate::trace::{Note, Raw};

/// Hop-by-hop, routing, fragment, ESP, AH, destination options, mobility, HIP, Shim6 (IANA, IPv6 extension header types). ESP and AH are such
/// that the dissector finds ports in them.
const EXTENSIONS: [u8; 9] = [0, 43, 44, 50, 51, 60, 135, 139, 140];
const AH: u8 = 51;
const ESP: u8 = 50;

/// Protocol and ports, as far as rules ask for them.
struct Deep {
    proto: u8,
    ports: Option<(u16, u16)>,
}

/// Hold a packet of the default virtual router against the list of its family.
pub(super) fn select(lists: &Lists, h: &mut Head, buf: &[u8], note: &mut impl Note) {
    if h.vrf != 0 {
        return;
    }
    let (list, src, dst) = match h.family {
        Family::V4 => (&lists.v4, h.src4.into(), h.dst4.into()),
        Family::V6 => (&lists.v6, src6(h, buf), dst6(h, buf)),
    };
    let mut deep = None;
    for (n, m) in list.iter().enumerate() {
        if m.iif.is_some_and(|i| i != h.rif)
            || src & m.src.1 != m.src.0
            || dst & m.dst.1 != m.dst.0
            || m.tos.is_some_and(|(value, mask)| tos(h, buf) & mask != value)
        {
            continue;
        }
        let act = if m.deep() {
            match deep.get_or_insert_with(|| dissect(h, buf)) {
                Some(d) if !matches(m, d) => continue,
                Some(_) => m.act,
                // Whether it matches can't be told.
                None => Act::Trap(TrapClass::Punt),
            }
        } else {
            m.act
        };
        note.note(|| Raw::Rule(n as u32));
        match act {
            Act::Root { root, shortest } => (h.to, h.shortest) = (root, shortest),
            Act::Trap(c) => h.ruled = Some(c),
        }
        return;
    }
}

/// TOS byte or traffic class.
fn tos(h: &Head, buf: &[u8]) -> u8 {
    let first = be16(buf, h.at as usize);
    match h.family {
        Family::V4 => first as u8,
        Family::V6 => (first >> 4) as u8,
    }
}

fn matches(m: &Match, d: &Deep) -> bool {
    let within = |range: Option<(u16, u16)>, port: fn((u16, u16)) -> u16| match (range, d.ports) {
        (None, _) => true,
        (Some((from, to)), Some(ports)) => (from..=to).contains(&port(ports)),
        (Some(_), None) => false,
    };
    m.proto.is_none_or(|p| p == d.proto) && within(m.sport, |p| p.0) && within(m.dport, |p| p.1)
}

/// `None` where the kernel's dissector looks deeper than we do.
fn dissect(h: &Head, buf: &[u8]) -> Option<Deep> {
    // The packet alone, without padding.
    let ip = buf.get(h.at as usize..(h.at + h.len) as usize).unwrap_or(&[]);
    let (proto, at, whole) = match h.family {
        // No options here: the parser traps them. A fragment, the first included, has no ports.
        Family::V4 => (*ip.get(9)?, 20, be16(ip, 6) & 0x3fff == 0),
        Family::V6 => (*ip.get(6)?, 40, true),
    };
    if matches!(proto, ESP | AH) || h.family == Family::V6 && EXTENSIONS.contains(&proto) {
        return None;
    }
    // TCP, UDP, DCCP, SCTP, UDP-Lite.
    let ported = whole && matches!(proto, 6 | 17 | 33 | 132 | 136);
    let ports = ported.then(|| ip.get(at..at + 4)).flatten().map(|p| (be16(p, 0), be16(p, 2)));
    Some(Deep { proto, ports })
}
