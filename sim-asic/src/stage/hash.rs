//! The multipath hash: which member of a group a packet takes.
//!
//! Its inputs are those of the kernel's `fib_multipath_hash` and `rt6_multipath_hash`, or fewer, so that packets that the
//! kernel keeps together stay together; what these are in a tunnel finds `dissect`. Addresses and ports count without order, as in the kernel's consistent flow keys:
//! an ICMP error quotes the packet it is about, and takes the path of the answers to that packet.

use hal::{HashPolicy, hash_field};

use super::dissect::{Fields, fields};
use super::parse::{Family, Head, be16, be32, dst6, src6};
use crate::table::Tables;

const ICMP: u8 = 1;
const ICMP6: u8 = 58;
const FRAGMENT: u8 = 44;
/// Headers that the kernel's dissector takes in one packet (`MAX_FLOW_DISSECT_HDRS`).
const HEADERS: usize = 15;

#[inline(always)]
fn mix(a: u64, b: u64) -> u64 {
    let m = u128::from(a) * u128::from(b);
    m as u64 ^ (m >> 64) as u64
}

/// What is hashed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Keys {
    /// The lesser address first.
    addrs: [u128; 2],
    proto: u8,
    /// IPv6 flow label.
    label: u32,
    /// The lesser port first.
    ports: [u16; 2],
}

impl Keys {
    fn between(a: u128, b: u128) -> Keys {
        Keys { addrs: [a.min(b), a.max(b)], ..Keys::default() }
    }
    fn hash(&self, seed: u64) -> u32 {
        let [a, b] = self.addrs;
        let rest = u64::from(self.proto) << 52 | u64::from(self.label) << 32;
        let rest = rest | u64::from(self.ports[0]) << 16 | u64::from(self.ports[1]);
        let mut h = mix(seed ^ a as u64, 0x9e37_79b9_7f4a_7c15 ^ b as u64);
        if (a | b) >> 64 != 0 {
            h = mix(h ^ (a >> 64) as u64, 0xc2b2_ae3d_27d4_eb4f ^ (b >> 64) as u64);
        }
        h = mix(h ^ rest, 0xd6e8_feb8_6659_fd93);
        (mix(h ^ seed.rotate_left(32), 0xa076_1d64_78bd_642f) >> 32) as u32
    }
}

/// The hash of a parsed packet; `None` where it depends on headers that are not followed here.
#[inline(never)]
pub(super) fn packet(t: &Tables, h: &Head, buf: &[u8]) -> Option<u32> {
    let six = h.family == Family::V6;
    // The packet alone, without padding.
    let ip = buf.get(h.at as usize..).and_then(|ip| ip.get(..h.len as usize)).unwrap_or(&[]);
    let keys = match (h.family, t.policy(six)) {
        (Family::V4, HashPolicy::L3) => l3_4(h, ip),
        (Family::V4, HashPolicy::L4) => l4_4(h, ip),
        (Family::V6, HashPolicy::L3) => l3_6(Keys::between(src6(h, buf), dst6(h, buf)), ip),
        (Family::V6, HashPolicy::L4) => l4_6(Keys::between(src6(h, buf), dst6(h, buf)), ip),
        (_, HashPolicy::Inner) => return inner(ip, six).map(|k| k.hash(t.seed)),
        (_, HashPolicy::Fields(bits)) => return chosen(ip, six, bits, t.seed),
    };
    Some(keys.hash(t.seed))
}

/// Policy 2: what is innermost, as policy 0 has it of a packet that is no tunnel's.
#[cold]
fn inner(ip: &[u8], six: bool) -> Option<Keys> {
    let f = fields(ip, six, false)?;
    let keys = Keys::between(f.src, f.dst);
    Some(if f.six { Keys { proto: f.proto, label: f.label, ..keys } } else { keys })
}

/// Policy 3: two hashes in one, of the outer headers and of the innermost ones.
#[cold]
fn chosen(ip: &[u8], six: bool, bits: u16, seed: u64) -> Option<u32> {
    let outer = fields(ip, six, true)?;
    let hash = some(&outer, bits).hash(seed);
    let bits = bits >> hash_field::INNER;
    if bits == 0 || !outer.tunnel {
        return Some(hash);
    }
    let inner = some(&fields(ip, six, false)?, bits).hash(seed);
    let both = mix(seed ^ (u64::from(hash) << 32 | u64::from(inner)), 0x9e37_79b9_7f4a_7c15);
    Some((mix(both ^ seed.rotate_left(32), 0xa076_1d64_78bd_642f) >> 32) as u32)
}

/// The fields of these bits.
fn some(f: &Fields, bits: u16) -> Keys {
    let on = |bit| u128::from(bits & bit != 0);
    let port = |bit, p: u16| if bits & bit != 0 { p } else { 0 };
    let label = if f.six && bits & hash_field::LABEL != 0 { f.label } else { 0 };
    let [a, b] = [port(hash_field::SRC_PORT, f.ports[0]), port(hash_field::DST_PORT, f.ports[1])];
    Keys {
        proto: if bits & hash_field::PROTO != 0 { f.proto } else { 0 },
        label,
        ports: [a.min(b), a.max(b)],
        ..Keys::between(f.src * on(hash_field::SRC), f.dst * on(hash_field::DST))
    }
}

/// `ip_multipath_l3_keys`.
fn l3_4(h: &Head, ip: &[u8]) -> Keys {
    let first = be16(ip, 6) & 0x1fff == 0;
    if ip.get(9) == Some(&ICMP)
        && first
        // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
        && matches!(ip.get(20), Some(3 | 4 | 5 | 11 | 12))
        && let Some(quoted) = ip.get(28..48)
    {
        return Keys::between(be32(quoted, 12).into(), be32(quoted, 16).into());
    }
    Keys::between(h.src4.into(), h.dst4.into())
}

/// The flow dissector's keys, without looking into tunnels.
fn l4_4(h: &Head, ip: &[u8]) -> Keys {
    let proto = ip.get(9).copied().unwrap_or(0);
    let mut keys = Keys { proto, ..Keys::between(h.src4.into(), h.dst4.into()) };
    // Neither an offset nor more fragments to come.
    if be16(ip, 6) & 0x3fff == 0 {
        keys.ports = ports(proto, ip, 20);
    }
    keys
}

fn label(ip: &[u8]) -> u32 {
    be32(ip, 0) & 0xf_ffff
}

/// `ip6_multipath_l3_keys`.
fn l3_6(keys: Keys, ip: &[u8]) -> Keys {
    let proto = ip.get(6).copied().unwrap_or(0);
    if proto == ICMP6
        // Destination unreachable, packet too big, time exceeded, parameter problem.
        && matches!(ip.get(40), Some(1..=4))
        && let Some(quoted) = ip.get(48..88)
    {
        let addr = |at: usize| quoted.get(at..at + 16).and_then(|a| a.try_into().ok()).map_or(0, u128::from_be_bytes);
        return Keys { proto: quoted[6], label: label(quoted), ..Keys::between(addr(8), addr(24)) };
    }
    Keys { proto, label: label(ip), ..keys }
}

/// The flow dissector's keys: behind hop-by-hop, routing and destination headers; a fragment header ends the walk.
fn l4_6(mut keys: Keys, ip: &[u8]) -> Keys {
    let mut proto = ip.get(6).copied().unwrap_or(0);
    let mut at = 40;
    for _ in 0..HEADERS {
        match (proto, ip.get(at..)) {
            (0 | 43 | 60, Some([next, len, ..])) => {
                at += (usize::from(*len) + 1) * 8;
                proto = *next;
            }
            (FRAGMENT, Some(rest)) => {
                // Truncated: what the kernel knows by then.
                keys.proto = if rest.len() < 8 { FRAGMENT } else { rest[0] };
                return keys;
            }
            _ => break,
        }
    }
    keys.proto = proto;
    keys.ports = ports(proto, ip, at);
    keys
}

/// Ports of TCP, UDP, DCCP, SCTP and UDP-Lite, and the index of ESP, at `at`.
fn ports(proto: u8, ip: &[u8], at: usize) -> [u16; 2] {
    match (proto, ip.get(at..at + 4)) {
        (6 | 17 | 33 | 50 | 132 | 136, Some(p)) => {
            let (a, b) = (be16(p, 0), be16(p, 2));
            [a.min(b), a.max(b)]
        }
        _ => [0; 2],
    }
}
