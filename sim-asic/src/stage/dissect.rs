//! The fields of a packet's headers, inner ones included, as the kernel's flow dissector finds them: what multipath hash policies 2
//! and 3 choose a member by (`__skb_flow_dissect` in `net/core/flow_dissector.c`).
//!
//! Opened are IP in IP, in all four combinations, and GRE of version 0 that carries IP; fragments are not. What the kernel may open
//! otherwise is not guessed at.

use super::parse::{be16, be32, be128};

/// What is found. Addresses, label and ports are those of the innermost header that has any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Fields {
    /// Whether the addresses are IPv6's.
    pub six: bool,
    pub src: u128,
    pub dst: u128,
    /// The last header's protocol number.
    pub proto: u8,
    /// IPv6 flow label, 0 for none.
    pub label: u32,
    pub ports: [u16; 2],
    /// Whether a tunnel's header was met.
    pub tunnel: bool,
}

const IPIP: u8 = 4;
const IP6: u8 = 41;
const GRE: u8 = 47;
const MPLS: u8 = 137;
/// Headers that are looked at. The kernel goes on to 15.
const HEADERS: usize = 12;

/// The fields of an IP packet without padding, `six` for IPv6; up to the first tunnel's header where `outer` says so. `None`: it has
/// headers that are truncated or that the kernel may read otherwise.
pub(super) fn fields(ip: &[u8], six: bool, outer: bool) -> Option<Fields> {
    let mut f = Fields { six, ..Fields::default() };
    let mut at = 0;
    // An IP header is next, and not another of those that follow one.
    let mut head = true;
    for _ in 0..HEADERS {
        let b = ip.get(at..)?;
        if head {
            head = false;
            if f.six {
                let b = b.get(..40)?;
                (f.src, f.dst, f.proto) = (be128(b, 8), be128(b, 24), b[6]);
                let label = be32(b, 0) & 0xf_ffff;
                if label != 0 {
                    f.label = label;
                }
                at += 40;
            } else {
                let b = b.get(..20)?;
                let len = usize::from(b[0] & 15) * 4;
                if len < 20 {
                    return None;
                }
                (f.src, f.dst, f.proto) = (be32(b, 12).into(), be32(b, 16).into(), b[9]);
                // An offset, or more fragments to come.
                if be16(b, 6) & 0x3fff != 0 {
                    return Some(f);
                }
                at += len;
            }
            continue;
        }
        match f.proto {
            0 | 43 | 60 if f.six => {
                let b = b.first_chunk::<2>()?;
                f.proto = b[0];
                at += (usize::from(b[1]) + 1) * 8;
            }
            44 if f.six => {
                f.proto = b.first_chunk::<8>()?[0];
                return Some(f);
            }
            IPIP | IP6 | GRE if outer => {
                f.tunnel = true;
                return Some(f);
            }
            p @ (IPIP | IP6) => {
                (f.tunnel, f.six, head) = (true, p == IP6, true);
            }
            GRE => {
                let b = b.first_chunk::<4>()?;
                let flags = be16(b, 0);
                // Checksum, key, sequence number (RFC 2784, RFC 2890): each a word. Nothing else may be set.
                if flags & !0xb000 != 0 {
                    return None;
                }
                f.six = match be16(b, 2) {
                    0x0800 => false,
                    0x86dd => true,
                    _ => return None,
                };
                at += 4 + 4 * flags.count_ones() as usize;
                (f.tunnel, head) = (true, true);
            }
            MPLS => return None,
            p => {
                f.ports = ports(p, b);
                return Some(f);
            }
        }
    }
    None
}

/// Ports of TCP, UDP, DCCP, SCTP and UDP-Lite, and the index of ESP, at the start of `b`; that of AH is not taken.
fn ports(proto: u8, b: &[u8]) -> [u16; 2] {
    match (proto, b.first_chunk::<4>()) {
        (6 | 17 | 33 | 50 | 132 | 136, Some(p)) => [be16(p, 0), be16(p, 2)],
        _ => [0; 2],
    }
}
