//! From bytes to a line for people, and to what kind of frame it is.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hal::Mac;

use super::{SENTINEL, marker, network};

/// A frame that a switch sends by itself, not because one was to be forwarded.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Chatter {
    /// What it is.
    pub kind: &'static str,
    /// What it is about.
    pub target: Option<IpAddr>,
    /// The VLAN tags that it bears.
    pub tags: Vec<u8>,
}

fn be16(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(b.get(at..at + 2)?.try_into().ok()?))
}

fn a4(b: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(b.get(at..at + 4)?).ok()?))
}

fn a6(b: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(b.get(at..at + 16)?).ok()?))
}

/// The upper-layer protocol of an IPv6 packet and where it begins; `None` behind a fragment's start or where it is cut.
fn upper(p: &[u8]) -> Option<(u8, usize)> {
    let (mut proto, mut at) = (*p.get(6)?, 40);
    loop {
        match proto {
            0 | 43 | 60 => {
                proto = *p.get(at)?;
                at += 8 * (usize::from(*p.get(at + 1)?) + 1);
            }
            44 => {
                if be16(p, at + 2)? & 0xfff8 != 0 {
                    return None;
                }
                proto = *p.get(at)?;
                at += 8;
            }
            _ => return Some((proto, at)),
        }
    }
}

/// What a frame is, if it is chatter: ARP, ND, MLD, IGMP.
pub fn chatter(frame: &[u8]) -> Option<Chatter> {
    let (at, t) = network(frame)?;
    let p = frame.get(at..)?;
    let tags = frame.get(12..at - 2)?.to_vec();
    match t {
        0x0806 => {
            let (spa, tpa) = (a4(p, 14)?, a4(p, 24)?);
            let (kind, target) = match be16(p, 6)? {
                1 => ("arp-request", tpa),
                2 => ("arp-reply", spa),
                _ => ("arp-other", tpa),
            };
            Some(Chatter { kind, target: Some(target.into()), tags })
        }
        0x0800 if *p.get(9)? == 2 => Some(Chatter { kind: "igmp", target: a4(p, 16).map(IpAddr::from), tags }),
        0x86dd => {
            let (proto, at) = upper(p)?;
            let q = p.get(at..)?;
            if proto != 58 {
                return None;
            }
            let target = a6(q, 8).map(IpAddr::from);
            let kind = match q.first()? {
                130..=132 | 143 => return Some(Chatter { kind: "mld", target: None, tags }),
                133 => return Some(Chatter { kind: "rs", target: None, tags }),
                134 => return Some(Chatter { kind: "ra", target: None, tags }),
                135 => "ns",
                136 => "na",
                137 => "nd-redirect",
                _ => return None,
            };
            Some(Chatter { kind, target, tags })
        }
        _ => None,
    }
}

/// The multicast groups that a host says it listens to, when it was asked: the current-state records of an MLDv2 report (RFC 3810,
/// section 5.2.12). Records of changes are not among them: of a group that is soon left again they may never be sent.
pub fn groups(frame: &[u8]) -> Vec<IpAddr> {
    let mut out = Vec::new();
    let _ = reported(frame, &mut out);
    out
}

fn reported(frame: &[u8], out: &mut Vec<IpAddr>) -> Option<()> {
    let (at, 0x86dd) = network(frame)? else { return None };
    let p = frame.get(at..)?;
    let (58, at) = upper(p)? else { return None };
    let q = p.get(at..)?;
    let (143, mut at) = (*q.first()?, 8) else { return None };
    for _ in 0..be16(q, 6)? {
        // MODE_IS_INCLUDE, MODE_IS_EXCLUDE
        if matches!(*q.get(at)?, 1 | 2) {
            out.push(a6(q, at + 4)?.into());
        }
        at += 20 + usize::from(be16(q, at + 2)?) * 16 + usize::from(*q.get(at + 1)?) * 4;
    }
    Some(())
}

/// The frame in one line.
pub fn decode(frame: &[u8]) -> String {
    let mut out = String::new();
    let _ = ethernet(frame, &mut out);
    if let Some(id) = marker(frame) {
        let _ = write!(out, " #{id}");
    }
    let _ = write!(out, " [{}]", frame.len());
    out
}

fn ethernet(f: &[u8], out: &mut String) -> Option<()> {
    let m = |at: usize| -> Option<Mac> { Some(Mac(f.get(at..at + 6)?.try_into().ok()?)) };
    let (Some(dst), Some(src)) = (m(0), m(6)) else {
        out.push_str("runt");
        return None;
    };
    let _ = write!(out, "{src}>{dst}");
    let mut at = 12;
    while let Some(t @ (0x8100 | 0x88a8)) = be16(f, at) {
        let _ = write!(out, " vlan {:x}.{}", t, be16(f, at + 2)?);
        at += 4;
    }
    let t = be16(f, at)?;
    let p = f.get(at + 2..)?;
    match t {
        0x0800 => ip4(p, out),
        0x86dd => ip6(p, out),
        0x0806 => {
            let op = match be16(p, 6)? {
                1 => "request",
                2 => "reply",
                _ => "other",
            };
            let _ = write!(out, " arp {op} {}>{}", a4(p, 14)?, a4(p, 24)?);
            Some(())
        }
        SENTINEL => {
            out.push_str(" sentinel");
            Some(())
        }
        _ => {
            let _ = write!(out, " type {t:#06x}");
            Some(())
        }
    }
}

fn ip4(p: &[u8], out: &mut String) -> Option<()> {
    let _ = write!(out, " {}>{} ttl {}", a4(p, 12)?, a4(p, 16)?, p.get(8)?);
    let ihl = usize::from(p.first()? & 15) * 4;
    let frag = be16(p, 6)?;
    let _ = write!(out, " id {} len {}", be16(p, 4)?, be16(p, 2)?);
    if p[1] != 0 {
        let _ = write!(out, " tos {:#x}", p[1]);
    }
    if ihl != 20 || p[0] >> 4 != 4 {
        let _ = write!(out, " ver/ihl {:#x}", p[0]);
    }
    for (bit, name) in [(0x8000, " evil"), (0x4000, " df"), (0x2000, " mf")] {
        if frag & bit != 0 {
            out.push_str(name);
        }
    }
    if frag & 0x1fff != 0 {
        let _ = write!(out, " off {}", (frag & 0x1fff) * 8);
    }
    if super::checksum(&[p.get(..ihl.max(20))?]) != 0 {
        out.push_str(" bad-sum");
    }
    if frag & 0x1fff != 0 {
        let _ = write!(out, " proto {}", p[9]);
        return Some(());
    }
    layer4(p[9], p.get(ihl..)?, out)
}

fn ip6(p: &[u8], out: &mut String) -> Option<()> {
    let _ = write!(out, " {}>{} hop {} len {}", a6(p, 8)?, a6(p, 24)?, p.get(7)?, be16(p, 4)?);
    let word = u32::from_be_bytes(p.get(..4)?.try_into().ok()?);
    if word & 0xf_ffff != 0 {
        let _ = write!(out, " flow {:#x}", word & 0xf_ffff);
    }
    if p[6] != 58 && p[6] != 17 && p[6] != 6 {
        let _ = write!(out, " next {}", p[6]);
    }
    let (proto, at) = upper(p)?;
    layer4(proto, p.get(at..)?, out)
}

fn layer4(proto: u8, q: &[u8], out: &mut String) -> Option<()> {
    match proto {
        17 => drop(write!(out, " udp {}>{}", be16(q, 0)?, be16(q, 2)?)),
        6 => drop(write!(out, " tcp {}>{} flags {:#x}", be16(q, 0)?, be16(q, 2)?, q.get(13)?)),
        1 => {
            let _ = write!(out, " icmp {}/{}", q.first()?, q.get(1)?);
            if matches!(q[0], 3 | 5 | 11 | 12) {
                let _ = write!(out, " rest {:08x} (", u32::from_be_bytes(q.get(4..8)?.try_into().ok()?));
                let _ = ip4(q.get(8..)?, out);
                out.push(')');
            }
        }
        58 => {
            let _ = write!(out, " icmp6 {}/{}", q.first()?, q.get(1)?);
            match q[0] {
                1..=4 => {
                    let _ = write!(out, " rest {:08x} (", u32::from_be_bytes(q.get(4..8)?.try_into().ok()?));
                    let _ = ip6(q.get(8..)?, out);
                    out.push(')');
                }
                135..=137 => drop(write!(out, " {}", a6(q, 8)?)),
                _ => {}
            }
        }
        _ => drop(write!(out, " proto {proto}")),
    }
    Some(())
}

/// Bytes in rows of 32, with `other`'s differing bytes marked by a row of carets below.
pub fn hexdump(frame: &[u8], other: Option<&[u8]>) -> String {
    let mut out = String::new();
    for (row, bytes) in frame.chunks(32).enumerate() {
        let _ = write!(out, "      {:04x} ", row * 32);
        let mut marks = String::new();
        for (i, b) in bytes.iter().enumerate() {
            let gap = if i % 4 == 0 { " " } else { "" };
            let _ = write!(out, "{gap}{b:02x}");
            let differs = other.is_some_and(|o| o.get(row * 32 + i) != Some(b));
            let _ = write!(marks, "{gap}{}", if differs { "^^" } else { "  " });
        }
        out.push('\n');
        if marks.contains('^') {
            let _ = writeln!(out, "           {}", marks.trim_end());
        }
    }
    out
}
