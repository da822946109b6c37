//! The parser: from bytes to what the lookups need, or to the class that a frame is trapped by.
//!
//! All that the kernel would check in a header before it looks up a route is checked here. Extension headers are walked
//! only where a hash needs them (`hash`).

use hal::{DropReason, TrapClass, Urpf};

use super::{Ingress, ROOM, Verdict, trap};
use crate::table::takers::TagWord;
use crate::table::{Rif, Tables};
use crate::trace::{Note, Raw};

/// Length of an Ethernet header without tags.
pub(crate) const ETH: usize = 14;
const IP4: usize = 20;
/// Version 4, and a header without options.
const PLAIN4: u8 = 0x45;
const IP6: usize = 40;

const ETHERTYPE_IP4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
const ETHERTYPE_IP6: u16 = 0x86dd;
/// Hop-by-hop options and ICMPv6 as IPv6 next headers (RFC 8200, RFC 4443).
const HOP_BY_HOP: u8 = 0;
const ICMP6: u8 = 58;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Family {
    #[default]
    V4,
    V6,
}

/// A packet that may be forwarded, if tables say so.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Head {
    pub(crate) family: Family,
    /// Whether the interface forwards the family.
    pub(crate) enabled: bool,
    pub(crate) urpf: Urpf,
    /// Whether source or destination is of special use: if not to the switch itself, the kernel has to judge.
    pub(crate) special: bool,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// Index of the interface that it came in by.
    pub(crate) rif: u32,
    /// The virtual router that it came in by.
    pub(crate) vrf: u32,
    /// Where the IP packet begins in the buffer.
    pub(crate) at: u32,
    /// The one that its destination is looked up in.
    pub(crate) to: u32,
    /// The class that a rule of policy routing traps it by.
    pub(crate) ruled: Option<TrapClass>,
    /// Whose route has fewer bits than this is trapped, says a rule.
    pub(crate) shortest: u8,
    /// Bytes of the IP packet; the frame holds all of them.
    pub(crate) len: u32,
    /// Addresses of an IPv4 packet.
    pub(crate) src4: u32,
    pub(crate) dst4: u32,
}

impl Head {
    /// Whether anything is said of it that may trap it, wherever it goes.
    #[inline(always)]
    pub(super) fn odd(&self) -> bool {
        self.special | !self.enabled | self.ruled.is_some() | (self.shortest != 0)
    }
}

pub(crate) fn be16(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).map_or(0, |s| u16::from_be_bytes([s[0], s[1]]))
}

pub(crate) fn be32(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).and_then(|s| s.try_into().ok()).map_or(0, u32::from_be_bytes)
}

pub(crate) fn be128(b: &[u8], at: usize) -> u128 {
    b.get(at..at + 16).and_then(|s| s.try_into().ok()).map_or(0, u128::from_be_bytes)
}

/// Source address of a packet whose [`Head`] says IPv6.
#[inline(always)]
pub(crate) fn src6(h: &Head, buf: &[u8]) -> u128 {
    be128(buf, h.at as usize + 8)
}

/// Destination address of a packet whose [`Head`] says IPv6.
#[inline(always)]
pub(crate) fn dst6(h: &Head, buf: &[u8]) -> u128 {
    be128(buf, h.at as usize + 24)
}

/// Parse and check a frame that came in by a port. What is found is written where it is kept, once.
#[inline(always)]
pub(super) fn frame(
    t: &Tables,
    ingress: &mut Ingress,
    buf: &[u8],
    head: &mut Head,
    note: &mut impl Note,
) -> Result<(), Verdict> {
    let Some((front, ip)) = buf.split_at_checked(ROOM + ETH) else { return drop(DropReason::Runt, note) };
    let eth = &front[ROOM..];
    if ETH + ip.len() > t.frame {
        return drop(DropReason::Giant, note);
    }
    let ethertype = be16(eth, 12);
    if ethertype != ETHERTYPE_IP4 {
        if ethertype != ETHERTYPE_IP6 {
            return other(t, ingress, &buf[ROOM..], ethertype, head, note);
        }
        solicitation(ethertype, ip, note)?;
    }
    let Some((index, rif)) = &ingress.rif else { return trap(TrapClass::NoRif, note) };
    note.note(|| Raw::Ingress(*index));
    if eth[..6] != rif.mac {
        return beside(t, ingress, eth, ethertype, ip, head, note);
    }
    *head = packet(eth, ethertype, ip, ETH, (*index, rif), note)?;
    Ok(())
}

/// A frame that is tagged, or not of IP.
#[inline(never)]
fn other(
    t: &Tables,
    ingress: &mut Ingress,
    frame: &[u8],
    ethertype: u16,
    head: &mut Head,
    note: &mut impl Note,
) -> Result<(), Verdict> {
    if is_tag(ethertype) {
        *head = tagged(t, ingress, frame, note)?;
        return Ok(());
    }
    solicitation(ethertype, &[], note)?;
    let Some((index, _)) = &ingress.rif else { return trap(TrapClass::NoRif, note) };
    note.note(|| Raw::Ingress(*index));
    trap(TrapClass::Protocol, note)
}

/// A frame to another MAC than that of the port's first interface.
#[inline(never)]
fn beside(
    t: &Tables,
    ingress: &mut Ingress,
    eth: &[u8],
    ethertype: u16,
    ip: &[u8],
    head: &mut Head,
    note: &mut impl Note,
) -> Result<(), Verdict> {
    let Some((index, rif)) = ingress.other(t, TagWord::default(), mac(eth)) else {
        return stranger(eth, TrapClass::OtherMac, note);
    };
    note.note(|| Raw::Ingress(index));
    *head = packet(eth, ethertype, ip, ETH, (index, &rif), note)?;
    Ok(())
}

pub(super) fn is_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ
}

/// The type of tags, 802.1ad's or 802.1Q's.
pub(super) fn tpid(ad: bool) -> u16 {
    if ad { ETHERTYPE_QINQ } else { ETHERTYPE_VLAN }
}

pub(super) fn mac(eth: &[u8]) -> [u8; 6] {
    eth.first_chunk().copied().unwrap_or_default()
}

/// ARP and neighbour discovery have the class that they are policed by, whomever they are addressed to.
#[inline(always)]
pub(super) fn solicitation(ethertype: u16, ip: &[u8], note: &mut impl Note) -> Result<(), Verdict> {
    if ethertype == ETHERTYPE_ARP {
        return trap(TrapClass::Arp, note);
    }
    if ethertype == ETHERTYPE_IP6 && ip.len() > IP6 && ip[6] == ICMP6 && (133..=137).contains(&ip[IP6]) {
        return trap(TrapClass::Nd, note);
    }
    Ok(())
}

/// A frame that no interface takes; `unicast` is the class of one to a single station.
pub(super) fn stranger<T>(eth: &[u8], unicast: TrapClass, note: &mut impl Note) -> Result<T, Verdict> {
    let class = match eth[0] & 1 {
        1 if eth[..6] == [0xff; 6] => TrapClass::Broadcast,
        1 => TrapClass::Multicast,
        _ => unicast,
    };
    trap(class, note)
}

/// A frame whose EtherType is that of a tag.
fn tagged(t: &Tables, ingress: &mut Ingress, frame: &[u8], note: &mut impl Note) -> Result<Head, Verdict> {
    let (mut tags, mut at) = (TagWord::default(), ETH);
    loop {
        let tpid = be16(frame, at - 2);
        if !is_tag(tpid) {
            break;
        }
        // The tag's other half, and an EtherType behind it. VID 0 is a priority alone: whose the frame is then, the kernel knows.
        let vid = be16(frame, at) & 0xfff;
        if tags.count() == 2 || frame.len() < at + 4 || vid == 0 {
            return trap(TrapClass::Vlan, note);
        }
        tags = tags.with(TagWord::tag(tpid == ETHERTYPE_QINQ, vid));
        at += 4;
    }
    let (eth, ip) = frame.split_at_checked(at).unwrap_or_default();
    let ethertype = be16(eth, at - 2);
    solicitation(ethertype, ip, note)?;
    let Some((index, rif)) = ingress.other(t, tags, mac(eth)) else { return stranger(eth, TrapClass::Vlan, note) };
    note.note(|| Raw::Ingress(index));
    if ethertype != ETHERTYPE_IP4 && ethertype != ETHERTYPE_IP6 {
        return trap(TrapClass::Protocol, note);
    }
    packet(eth, ethertype, ip, at, (index, &rif), note)
}

/// What came in for a router interface, whose payload begins `at` bytes into the frame.
pub(super) fn routed(
    eth: &[u8],
    ethertype: u16,
    ip: &[u8],
    at: usize,
    rif: (u32, &Rif),
    note: &mut impl Note,
) -> Result<Head, Verdict> {
    match ethertype {
        ETHERTYPE_IP4 | ETHERTYPE_IP6 => packet(eth, ethertype, ip, at, rif, note),
        _ if is_tag(ethertype) => trap(TrapClass::Vlan, note),
        _ => trap(TrapClass::Protocol, note),
    }
}

/// An IP packet to the interface's MAC, which begins `at` bytes into the frame.
#[inline(always)]
fn packet(
    eth: &[u8],
    ethertype: u16,
    ip: &[u8],
    at: usize,
    (index, rif): (u32, &Rif),
    note: &mut impl Note,
) -> Result<Head, Verdict> {
    // An interface with a group address for MAC: the kernel has none.
    if eth[0] & 1 == 1 {
        return trap(TrapClass::Multicast, note);
    }
    let head =
        Head { rif: index, vrf: rif.vrf, to: rif.vrf, urpf: rif.urpf, at: (ROOM + at) as u32, ..Head::default() };
    if ethertype == ETHERTYPE_IP4 {
        ip4(ip, Head { family: Family::V4, enabled: rif.ingress4, ..head }, note)
    } else {
        ip6(ip, Head { family: Family::V6, enabled: rif.ingress6, ..head }, note)
    }
}

fn drop<T>(why: DropReason, note: &mut impl Note) -> Result<T, Verdict> {
    note.note(|| Raw::Drop(why));
    Err(Verdict::Drop(why))
}

/// Whether a header's checksum is right (RFC 1071). Its ones' complement sum is 0xffff where that divides the sum of its words, in whatever
/// order and of 32 bits as well as of 16; a header is never all zero.
#[inline(always)]
fn sound(header: &[u8]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    words.iter().map(|w| u64::from(u32::from_ne_bytes(*w))).sum::<u64>().is_multiple_of(0xffff)
}

#[inline(always)]
fn ip4(ip: &[u8], mut head: Head, note: &mut impl Note) -> Result<Head, Verdict> {
    let Some(fixed) = ip.first_chunk::<IP4>() else { return trap(TrapClass::Malformed, note) };
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if fixed[0] != PLAIN4 || total < IP4 || total > ip.len() || !sound(fixed) {
        return trap(if options(ip) { TrapClass::Options } else { TrapClass::Malformed }, note);
    }
    head.ttl = fixed[8];
    head.len = total as u32;
    head.src4 = be32(fixed, 12);
    head.dst4 = be32(fixed, 16);
    note.note(|| Raw::Ip4 { src: head.src4.into(), dst: head.dst4.into(), ttl: head.ttl, len: head.len });
    let (src, dst) = (head.src4, head.dst4);
    if dst >> 29 == 7 {
        if dst >> 28 == 14 {
            return trap(TrapClass::Multicast, note);
        }
        if dst == u32::MAX {
            return trap(TrapClass::Broadcast, note);
        }
    }
    head.special = special4(src) | special4(dst) | (src == u32::MAX);
    Ok(head)
}

/// 0/8, 127/8, multicast. The kernel forwards 240/4 and 169.254/16, and so do we.
#[inline(always)]
fn special4(a: u32) -> bool {
    const FIRST: [bool; 256] = {
        let mut first = [false; 256];
        first[0] = true;
        first[127] = true;
        let mut n = 224;
        while n < 240 {
            first[n] = true;
            n += 1;
        }
        first
    };
    FIRST[(a >> 24) as usize]
}

/// Whether it is a good header with options, of a packet that is all there.
#[cold]
fn options(ip: &[u8]) -> bool {
    let header = ip.first().map_or(0, |b| usize::from(b & 15) * 4);
    let total = usize::from(be16(ip, 2));
    ip.first().is_some_and(|b| b >> 4 == 4)
        && header > IP4
        && (header..=ip.len()).contains(&total)
        && ip.get(..header).is_some_and(sound)
}

/// Neither source nor destination of what is forwarded: unspecified, loopback, link-local, IPv4-mapped (RFC 4291).
#[inline(always)]
fn special6(a: u128) -> bool {
    a >> 118 == 0xfe80 >> 6 || a <= 1 || a >> 32 == 0xffff
}

#[inline(always)]
fn ip6(ip: &[u8], mut head: Head, note: &mut impl Note) -> Result<Head, Verdict> {
    let Some(fixed) = ip.first_chunk::<IP6>() else { return trap(TrapClass::Malformed, note) };
    if fixed[0] >> 4 != 6 {
        return trap(TrapClass::Malformed, note);
    }
    // A jumbogram has such a header, too.
    if fixed[6] == HOP_BY_HOP {
        return trap(TrapClass::Options, note);
    }
    let total = IP6 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    if total > ip.len() {
        return trap(TrapClass::Malformed, note);
    }
    head.ttl = fixed[7];
    head.len = total as u32;
    let (src, dst) = (be128(fixed, 8), be128(fixed, 24));
    note.note(|| Raw::Ip6 { src: src.into(), dst: dst.into(), ttl: head.ttl, len: head.len });
    if dst >> 120 == 0xff {
        return trap(TrapClass::Multicast, note);
    }
    head.special = special6(src) || special6(dst) || src >> 120 == 0xff;
    Ok(head)
}
