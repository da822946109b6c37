//! Frames as text: the notation of scenario files, markers to recognise a frame's descendants, and decoding for display.
//!
//! Not a general packet library: it writes what a test wants to send, well-formed or not, and reads what a switch sent back.
//!
//! # Notation
//! One frame is a line of words. The first says what it is, the rest change defaults, in any order:
//!
//! ```text
//! 10.0.1.2>10.0.2.2                       UDP in IPv4, TTL 64, to the MAC of the port that it goes into
//! 10.0.1.2>10.0.2.2 tcp 1000>80 ttl=1     other protocols: udp, tcp, echo, echo-reply, icmp=TYPE/CODE, proto=NUMBER
//! 2001:db8:1::2>2001:db8:2::2 hop=1       the same for IPv6
//! 10.0.1.2>10.0.2.2 icmp=3/1 quote=10.0.2.2>10.0.1.2   an ICMP error that quotes a packet: UDP unless words follow, behind commas
//! 10.0.1.2>10.0.1.1 icmp=3/4 rest=1000 quote=10.0.1.1>10.9.0.1,echo-reply   rest=: the second word, an MTU or a gateway
//! 10.0.1.2>10.0.2.2 in=10.1.0.1>10.2.0.1,udp   a packet in IP; gre=10.1.0.1>10.2.0.1 with key=7: in GRE; deeper ones behind semicolons
//! fe80::2>ff02::1 ns=2001:db8:1::1        ns=, na= TARGET, rs, ra, mld: neighbour discovery and MLD
//! arp req 10.0.1.2>10.0.1.1               ARP: req or rep, sender>target; sha=MAC tha=MAC
//! eth 0x88cc len=30                       any EtherType (below 0x600: an 802.3 length)
//! hex 02000000000102000000010208004500    raw bytes, spaces allowed
//! ```
//!
//! Ethernet: `dst=` and `src=` (a MAC, `swp2` for a port's, `h3` for host 3 of the ingress port, `bcast`), `vlan=100`,
//! `vlan=88a8.100,200`, `mpls=16/17` (labels, the outermost first), `pad=60` (zeros up to that frame length), `trunc=20` (cut there), `at=14:4f00` (overwrite bytes; last).
//! IP: `ttl=`/`hop=`, `tos=`, `flow=`, `id=`, `df`, `mf`, `off=` (bytes; IPv6: adds a fragment header, as `mf` does), `opts=HEX` (IPv4
//! options, padded to four bytes), `ext=hbh,dst,rt0,frag` (IPv6 extension headers; `ra` is hop-by-hop with router alert), `ver=`, `ihl=`,
//! `tlen=` (the length field), `sum=bad`. Transport: `sum4=bad` or `sum4=0`, `flags=` (TCP, hexadecimal). `len=` is the
//! payload's length, `size=` the IP packet's. The payload begins with the [marker].

mod build;
mod decode;

use std::net::IpAddr;

use hal::Mac;

pub use build::build;
pub use decode::{Chatter, chatter, decode, groups, hexdump};

/// What stands at the start of each payload, followed by the frame's number.
pub const MAGIC: [u8; 4] = *b"VRGA";

/// EtherType of the harness's own frames, which tell it that all before them has been dealt with (IEEE 802, local experimental 1).
pub const SENTINEL: u16 = 0x88b5;

/// Where a frame is to go: what its defaults depend on.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The port whose wire it is sent into, from 1.
    pub port: usize,
    /// Its number, which its payload carries.
    pub id: u32,
}

/// The MAC address of switch port `n`.
pub fn port_mac(n: usize) -> Mac {
    Mac([2, 0, 0, 0, 0, n as u8])
}

/// The MAC address of host `h` behind port `n`.
pub fn host_mac(n: usize, h: usize) -> Mac {
    Mac([2, 0, 0, 0, n as u8, h as u8])
}

/// The number of the injected frame that `frame` descends from, if it carries one's payload or quotes it.
pub fn marker(frame: &[u8]) -> Option<u32> {
    let at = frame.windows(4).position(|w| w == MAGIC)?;
    let id = frame.get(at + 4..at + 8)?;
    Some(u32::from_be_bytes(id.try_into().ok()?))
}

/// Where the network header begins and what EtherType it has, behind any VLAN tags.
pub fn network(frame: &[u8]) -> Option<(usize, u16)> {
    let mut at = 12;
    loop {
        let t = u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?);
        match t {
            0x8100 | 0x88a8 => at += 4,
            _ => return Some((at + 2, t)),
        }
    }
}

/// Source and destination address of the outermost IP header.
pub fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let (at, t) = network(frame)?;
    let p = frame.get(at..)?;
    let v4 = |b: &[u8]| <[u8; 4]>::try_from(b).ok().map(IpAddr::from);
    let v6 = |b: &[u8]| <[u8; 16]>::try_from(b).ok().map(IpAddr::from);
    match t {
        0x0800 => Some((v4(p.get(12..16)?)?, v4(p.get(16..20)?)?)),
        0x86dd => Some((v6(p.get(8..24)?)?, v6(p.get(24..40)?)?)),
        _ => None,
    }
}

/// Whose MAC address a frame of ARP or neighbour discovery tells: the sender's, in an advertisement or a redirect the target's.
pub fn told(frame: &[u8]) -> Option<IpAddr> {
    let (at, t) = network(frame)?;
    let p = frame.get(at..)?;
    match t {
        0x0806 => Some(IpAddr::from(<[u8; 4]>::try_from(p.get(14..18)?).ok()?)),
        0x86dd if *p.get(6)? == 58 => match *p.get(40)? {
            133..=135 => addresses(frame).map(|(from, _)| from),
            136 | 137 => Some(IpAddr::from(<[u8; 16]>::try_from(p.get(48..64)?).ok()?)),
            _ => None,
        },
        _ => None,
    }
}

/// The Internet checksum (RFC 1071) of the parts, each of even length but the last.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for p in parts {
        for c in p.chunks(2) {
            sum += u64::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(s: &str) -> Vec<u8> {
        build(s, &Context { port: 1, id: 7 }).unwrap()
    }

    #[test]
    fn defaults_are_a_whole_packet() {
        let f = frame("10.0.1.2>10.0.2.2");
        assert_eq!(f[0..6], port_mac(1).0);
        assert_eq!(f[6..12], host_mac(1, 2).0);
        assert_eq!(checksum(&[&f[14..34]]), 0, "the header's checksum is right");
        assert_eq!(f.len(), 60);
        assert_eq!(marker(&f), Some(7));
        let f = frame("2001:db8:1::2>2001:db8:2::2 tcp 5>6 hop=3");
        assert_eq!((f[14] >> 4, f[21]), (6, 3));
        assert_eq!(marker(&f), Some(7));
    }

    #[test]
    fn lengths() {
        assert_eq!(frame("10.0.1.2>10.0.2.2 size=1500").len(), 1514);
        assert_eq!(frame("2001:db8:1::2>2001:db8:2::2 size=1280 echo").len(), 1294);
        assert_eq!(frame("10.0.1.2>10.0.2.2 len=0").len(), 42);
        assert_eq!(frame("10.0.1.2>10.0.2.2 len=0 pad=60").len(), 60);
        assert_eq!(frame("10.0.1.2>10.0.2.2 trunc=20").len(), 20);
        assert_eq!(frame("10.0.1.2>10.0.2.2 vlan=5,6").len(), 68);
        assert_eq!(frame("hex 0200 0000").len(), 4);
        assert_eq!(frame("arp req 10.0.1.2>10.0.1.1").len(), 42);
    }

    #[test]
    fn nonsense_is_refused_with_a_sentence() {
        for s in [
            "",
            "10.0.1.2",
            "10.0.1.2>::1",
            "10.0.1.2>10.0.1.3 ttl=x",
            "10.0.1.2>10.0.1.3 colour=red",
            "hex 0",
            "hex zz",
        ] {
            assert!(build(s, &Context { port: 1, id: 1 }).is_err(), "{s:?}");
        }
    }

    #[test]
    fn decoding_never_panics() {
        for s in [
            "10.0.1.2>10.0.2.2 tcp",
            "10.0.1.2>10.0.2.2 icmp=3/1 quote=10.0.2.2>10.0.1.2",
            "2001:db8:1::2>2001:db8:2::2 ext=hbh,dst,rt0,frag",
            "fe80::2>ff02::1 ns=2001:db8:1::1",
            "fe80::2>ff02::16 mld",
            "10.0.1.2>224.0.0.22 proto=2",
            "arp req 10.0.1.2>10.0.1.1",
            "10.0.1.2>10.0.2.2 opts=07040400 vlan=88a8.1,2",
        ] {
            let f = frame(s);
            for n in 0..=f.len() {
                let _ = (decode(&f[..n]), chatter(&f[..n]), marker(&f[..n]), addresses(&f[..n]), groups(&f[..n]));
            }
        }
    }
}
