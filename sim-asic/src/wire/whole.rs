//! Makes frames whole before the pipeline sees them: completes partial checksums and cuts GSO super-frames into the
//! frames that a wire would have carried (kernel-facts 40). Pure; what it can't do for certain it refuses.

use smallvec::SmallVec;

use crate::pool::Parts;

/// What came with a frame: a `virtio_net_hdr` (`linux/virtio_net.h`) in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meta {
    /// Where the sum starts in the frame, and where in what follows it is to be put.
    pub csum: Option<(u16, u16)>,
    /// What kind of super-frame it is.
    pub gso: Gso,
    /// Payload bytes of each part but the last.
    pub size: u16,
}

/// Kinds of super-frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Gso {
    /// None: an ordinary frame.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams of one size (`UDP_SEGMENT`), over either.
    Udp,
    /// One that is not known here.
    Other(u8),
}

/// It can't be made whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a frame that can be made whole")]
pub struct Bad;

impl Meta {
    /// Bytes of `struct virtio_net_hdr`.
    pub const LEN: usize = 10;

    /// From the bytes of a `virtio_net_hdr` in the machine's byte order.
    pub fn parse(h: &[u8; Self::LEN]) -> Meta {
        let n = |i: usize| u16::from_ne_bytes([h[i], h[i + 1]]);
        Meta {
            csum: (h[0] & 1 /* VIRTIO_NET_HDR_F_NEEDS_CSUM */ != 0).then(|| (n(6), n(8))),
            // 0x80 is VIRTIO_NET_HDR_GSO_ECN: CWR is on the first part only, which holds for every TCP frame cut here.
            gso: match h[1] & 0x7f {
                0 => Gso::None,
                1 => Gso::Tcp4,
                4 => Gso::Tcp6,
                5 => Gso::Udp,
                other => Gso::Other(other),
            },
            size: n(4),
        }
    }
}

/// Sum of the bytes as 16-bit words (RFC 1071), folded, in the machine's byte order.
fn sum(b: &[u8], start: u64) -> u64 {
    let mut chunks = b.chunks_exact(4);
    let mut s = start;
    for c in &mut chunks {
        s += u64::from(u32::from_ne_bytes([c[0], c[1], c[2], c[3]]));
    }
    let mut last = [0; 4];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    s + u64::from(u32::from_ne_bytes(last))
}

fn fold(mut s: u64) -> [u8; 2] {
    while s >> 16 != 0 {
        s = (s & 0xffff) + (s >> 16);
    }
    (!(s as u16)).to_ne_bytes()
}

/// The checksum of `b` with a pseudo-header whose sum is `start`, as wire bytes.
fn checksum(b: &[u8], start: u64) -> [u8; 2] {
    fold(sum(b, start))
}

/// CRC32c (RFC 9260, appendix A), bit by bit: partial ones are rare.
fn crc32c(b: &[u8]) -> u32 {
    !b.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 != 0 { (c >> 1) ^ 0x82f6_3b78 } else { c >> 1 })
    })
}

const IPIP: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IP6IP: u8 = 41;
const GRE: u8 = 47;
const SCTP: u8 = 132;

const ETHERTYPE_IP4: u16 = 0x0800;
const ETHERTYPE_IP6: u16 = 0x86dd;
/// Ethernet in GRE or Geneve.
const ETHERTYPE_TEB: u16 = 0x6558;

/// Where the IP header and what it carries begin.
struct Layers {
    v6: bool,
    ip: usize,
    proto: u8,
    payload: usize,
}

fn layers(f: &[u8]) -> Option<Layers> {
    let mut at = 12;
    let mut ethertype = u16::from_be_bytes(*f.get(at..)?.first_chunk()?);
    while matches!(ethertype, 0x8100 | 0x88a8 | 0x9100) {
        at += 4;
        ethertype = u16::from_be_bytes(*f.get(at..)?.first_chunk()?);
    }
    let ip = at + 2;
    let h = f.get(ip..)?;
    match (ethertype, h.first()? >> 4) {
        (0x0800, 4) => {
            let len = usize::from(h[0] & 15) * 4;
            if len < 20 || h.len() < len || (h[6] & 0x3f, h[7]) != (0, 0) {
                return None; // too short, or a fragment
            }
            Some(Layers { v6: false, ip, proto: h[9], payload: ip + len })
        }
        (0x86dd, 6) => {
            let (mut next, mut p) = (*h.get(6)?, 40);
            while matches!(next, 0 | 43 | 60) {
                let x = h.get(p..)?.first_chunk::<2>()?;
                next = x[0];
                p += usize::from(x[1]) * 8 + 8;
            }
            (h.len() >= p).then_some(Layers { v6: true, ip, proto: next, payload: ip + p })
        }
        _ => None,
    }
}

/// Complete a partial checksum: the field holds the pseudo-header's sum so far.
///
/// # Errors
/// [`Bad`]: the checksum would be outside of the frame.
pub fn complete(f: &mut [u8], (start, offset): (u16, u16)) -> Result<(), Bad> {
    let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
    // SCTP's sum is a CRC, which the header does not say; its field is the one at 8 of an SCTP packet.
    if offset == 8 && layers(f).is_some_and(|l| l.proto == SCTP && l.payload == start) {
        f.get_mut(at..at + 4).ok_or(Bad)?.fill(0);
        let crc = crc32c(&f[start..]);
        f[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        return Ok(());
    }
    if at + 2 > f.len() {
        return Err(Bad);
    }
    let mut c = checksum(&f[start..], 0);
    if offset == 6 && c == [0, 0] {
        c = [0xff; 2]; // UDP: 0 means "none" (RFC 768)
    }
    f[at..at + 2].copy_from_slice(&c);
    Ok(())
}

/// A header with a length or a sum that each part needs anew, and where it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Header {
    Ip4(usize),
    Ip6(usize),
    /// And whether it has a sum.
    Udp(usize, bool),
    Gre(usize, bool),
}

/// The headers from the first IP header to the one that is cut behind, which begins at `to`.
struct Way<'a> {
    f: &'a [u8],
    to: usize,
    headers: SmallVec<[Header; 8]>,
}

impl Way<'_> {
    fn at16(&self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes(*self.f.get(at..)?.first_chunk()?))
    }

    fn ethernet(&mut self, at: usize) -> Option<u8> {
        let mut at = at + 12;
        while matches!(self.at16(at)?, 0x8100 | 0x88a8 | 0x9100) {
            at += 4;
        }
        self.by_ethertype(self.at16(at)?, at + 2)
    }

    fn by_ethertype(&mut self, ethertype: u16, at: usize) -> Option<u8> {
        match ethertype {
            ETHERTYPE_IP4 => self.ip4(at),
            ETHERTYPE_IP6 => self.ip6(at),
            ETHERTYPE_TEB => self.ethernet(at),
            _ => None,
        }
    }

    fn ip4(&mut self, at: usize) -> Option<u8> {
        let h = self.f.get(at..)?.first_chunk::<20>()?;
        let len = usize::from(h[0] & 15) * 4;
        // Not a fragment. Of a packet longer than its header can say (BIG TCP) the length is 0.
        let whole = matches!(usize::from(u16::from_be_bytes([h[2], h[3]])), 0) || self.is_rest(at, 2, 0);
        if h[0] >> 4 != 4 || len < 20 || (h[6] & 0x3f, h[7]) != (0, 0) || !whole {
            return None;
        }
        self.headers.push(Header::Ip4(at));
        self.upper(h[9], at + len)
    }

    fn ip6(&mut self, at: usize) -> Option<u8> {
        let h = self.f.get(at..)?.first_chunk::<40>()?;
        if h[0] >> 4 != 6 || !([h[4], h[5]] == [0, 0] || self.is_rest(at, 4, 40)) {
            return None;
        }
        self.headers.push(Header::Ip6(at));
        let (mut next, mut p) = (h[6], at + 40);
        while matches!(next, 0 | 43 | 60) {
            let x = self.f.get(p..)?.first_chunk::<2>()?;
            next = x[0];
            p += usize::from(x[1]) * 8 + 8;
        }
        self.upper(next, p)
    }

    /// Whether the length in the header says that the packet ends with the frame.
    fn is_rest(&self, at: usize, field: usize, besides: usize) -> bool {
        let said = self.at16(at + field).map_or(0, usize::from);
        at + besides + said == self.f.len()
    }

    fn upper(&mut self, proto: u8, at: usize) -> Option<u8> {
        // More headers than that no packet of the kernel has.
        if at == self.to || self.headers.len() > 8 {
            return (at == self.to).then_some(proto);
        }
        match proto {
            IPIP => self.ip4(at),
            IP6IP => self.ip6(at),
            GRE => self.gre(at),
            UDP => self.udp(at),
            _ => None,
        }
    }

    /// RFC 2784, RFC 2890. With sequence numbers the kernel makes no super-frames.
    fn gre(&mut self, at: usize) -> Option<u8> {
        let (flags, ethertype) = (self.at16(at)?, self.at16(at + 2)?);
        if flags & !0xa000 != 0 {
            return None;
        }
        let sum = flags & 0x8000 != 0;
        self.headers.push(Header::Gre(at, sum));
        let key = flags & 0x2000 != 0;
        self.by_ethertype(ethertype, at + 4 + 4 * usize::from(sum) + 4 * usize::from(key))
    }

    /// What is in UDP, no port says for certain. But that the headers lead to the very place where the kernel says that
    /// the cut packet begins, with lengths that agree, does.
    fn udp(&mut self, at: usize) -> Option<u8> {
        let h = self.f.get(at..)?.first_chunk::<16>()?;
        self.headers.push(Header::Udp(at, [h[6], h[7]] != [0, 0]));
        match h[8] {
            // VXLAN (RFC 7348), also with a group policy.
            0x08 | 0x88 if h[15] == 0 && (h[8] & 0x80 != 0 || h[9..12] == [0; 3]) => self.ethernet(at + 16),
            // Geneve (RFC 8926), version 0.
            v if v >> 6 == 0 && h[15] == 0 => {
                self.by_ethertype(u16::from_be_bytes([h[10], h[11]]), at + 16 + usize::from(v & 0x3f) * 4)
            }
            v if v >> 4 == 4 => self.ip4(at + 8),
            v if v >> 4 == 6 => self.ip6(at + 8),
            _ => None,
        }
    }
}

/// Where a jumbo payload option (RFC 2675) stands that the kernel puts into IPv6 super-frames of more than 64 KiB, for itself.
fn jumbo(f: &[u8]) -> Option<usize> {
    let l = layers(f)?;
    let at = l.ip + 40;
    let (h, x) = (f.get(l.ip..)?.first_chunk::<40>()?, f.get(at..)?.first_chunk::<8>()?);
    (l.v6 && h[4..7] == [0; 3] && x[1..4] == [0, 0xc2, 4]).then_some(at)
}

/// Cut a super-frame; `tag` (TPID and TCI) goes behind the MAC addresses of each part. Tunnels around it are cut along:
/// every part gets all headers, each with its length and sum.
///
/// # Errors
/// [`Bad`]: a kind or an encapsulation that is not known here. Nothing was pushed.
pub fn segment(f: &[u8], meta: Meta, tag: Option<[u8; 4]>, parts: &mut Parts<'_>) -> Result<(), Bad> {
    if let Some(at) = jumbo(f) {
        // No part needs it.
        let mut short = [&f[..at], &f[at + 8..]].concat();
        short[at - 34] = f[at];
        let csum = meta.csum.map(|(start, offset)| (start.wrapping_sub(8), offset));
        return segment(&short, Meta { csum, ..meta }, tag, parts);
    }
    let to = match meta.csum {
        Some((start, _)) => usize::from(start),
        // It is not inside of another packet, then.
        None => layers(f).ok_or(Bad)?.payload,
    };
    let mut way = Way { f, to, headers: SmallVec::new() };
    let proto = way.ethernet(0).ok_or(Bad)?;
    let inner = way.headers.iter().rev().find(|h| matches!(h, Header::Ip4(_) | Header::Ip6(_))).copied().ok_or(Bad)?;
    let want = match (meta.gso, inner) {
        (Gso::Tcp4, Header::Ip4(_)) | (Gso::Tcp6, Header::Ip6(_)) => TCP,
        (Gso::Udp, _) => UDP,
        _ => return Err(Bad),
    };
    if proto != want || meta.size == 0 {
        return Err(Bad);
    }
    let head = to
        + match want {
            TCP => usize::from(f.get(to + 12).ok_or(Bad)? >> 4) * 4,
            _ => 8,
        };
    let outer = way.headers.first().map_or(0, |h| h.at());
    // A part has to have a length that an IP header can say.
    let longest = usize::from(meta.size).min(f.len().saturating_sub(head)) + head - outer;
    if longest > 0xffff || head < to + 8 || (want == TCP && head < to + 20) || head >= f.len() {
        return Err(Bad);
    }
    let (macs, rest) = f[..head].split_at(12);
    let tag = tag.as_ref().map_or(&[][..], |t| &t[..]);
    let size = usize::from(meta.size);
    let count = (f.len() - head).div_ceil(size);
    let no_sum = want == UDP && meta.csum.is_none() && matches!(inner, Header::Ip4(_)) && f[to + 6..to + 8] == [0, 0];
    let seq = u32::from_be_bytes([f[to + 4], f[to + 5], f[to + 6], f[to + 7]]);
    let payload = to + tag.len();
    for (i, chunk) in f[head..].chunks(size).enumerate() {
        let p = parts.push(&[macs, tag, rest, chunk]);
        // From the inside out: a sum is over what is within.
        let field = if want == TCP {
            p[payload + 4..payload + 8].copy_from_slice(&seq.wrapping_add((i * size) as u32).to_be_bytes());
            if i > 0 {
                p[payload + 13] &= !0x80; // CWR
            }
            if i + 1 < count {
                p[payload + 13] &= !(0x01 | 0x08); // FIN, PSH
            }
            payload + 16
        } else {
            let len = (p.len() - payload) as u16;
            p[payload + 4..payload + 6].copy_from_slice(&len.to_be_bytes());
            payload + 6
        };
        p[field..field + 2].fill(0);
        if !no_sum {
            transport(p, inner.at() + tag.len(), inner, payload, field, want);
        }
        for (n, h) in way.headers.iter().enumerate().rev() {
            let at = h.at() + tag.len();
            let len = p.len() - at;
            match *h {
                Header::Ip4(_) => {
                    let id = u16::from_be_bytes([p[at + 4], p[at + 5]]);
                    p[at + 2..at + 4].copy_from_slice(&(len as u16).to_be_bytes());
                    p[at + 4..at + 6].copy_from_slice(&id.wrapping_add(i as u16).to_be_bytes());
                    p[at + 10..at + 12].fill(0);
                    let end = at + usize::from(p[at] & 15) * 4;
                    let c = checksum(&p[at..end], 0);
                    p[at + 10..at + 12].copy_from_slice(&c);
                }
                Header::Ip6(_) => p[at + 4..at + 6].copy_from_slice(&((len - 40) as u16).to_be_bytes()),
                Header::Udp(_, sum) => {
                    p[at + 4..at + 6].copy_from_slice(&(len as u16).to_be_bytes());
                    let ip = way.headers.get(n.wrapping_sub(1));
                    if let (true, Some(ip)) = (sum, ip) {
                        p[at + 6..at + 8].fill(0);
                        transport(p, ip.at() + tag.len(), *ip, at, at + 6, UDP);
                    }
                }
                Header::Gre(_, sum) if sum => {
                    p[at + 4..at + 6].fill(0);
                    let c = checksum(&p[at..], 0);
                    p[at + 4..at + 6].copy_from_slice(&c);
                }
                Header::Gre(..) => {}
            }
        }
    }
    Ok(())
}

impl Header {
    fn at(self) -> usize {
        match self {
            Header::Ip4(at) | Header::Ip6(at) | Header::Udp(at, _) | Header::Gre(at, _) => at,
        }
    }
}

/// Write the sum of what begins at `from`, `field` being 0, with the pseudo-header of the IP header `kind` at `ip`.
fn transport(p: &mut [u8], ip: usize, kind: Header, from: usize, field: usize, proto: u8) {
    let addrs = if matches!(kind, Header::Ip6(_)) { ip + 8..ip + 40 } else { ip + 12..ip + 20 };
    let len = (p.len() - from) as u16;
    let pseudo = sum(&[0, proto], sum(&len.to_be_bytes(), sum(&p[addrs], 0)));
    let mut c = checksum(&p[from..], pseudo);
    if proto == UDP && c == [0, 0] {
        c = [0xff; 2];
    }
    p[field..field + 2].copy_from_slice(&c);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;
    use proptest::prelude::*;

    fn tcp4(payload: usize) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
        f.extend(((40 + payload) as u16).to_be_bytes());
        f.extend([0xff, 0xfe, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        f.extend([0, 80, 0, 81, 0xff, 0xff, 0xff, 0, 0, 0, 0, 9, 0x50, 0x99, 1, 0, 0, 0, 0, 0]);
        f.extend((0..payload).map(|i| i as u8));
        f
    }

    fn v6(next: u8, upper: &[u8], payload: usize) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0];
        f.extend(((upper.len() + payload) as u16).to_be_bytes());
        f.extend([next, 64]);
        f.extend([0xfd; 16].iter().chain(&[0xfe; 16]));
        f.extend(upper);
        f.extend((0..payload).map(|i| i as u8));
        f
    }

    fn cut(f: &[u8], meta: Meta, tag: Option<[u8; 4]>) -> Result<Vec<Vec<u8>>, Bad> {
        let mut pool = Pool::new();
        pool.slot(0)[..f.len()].copy_from_slice(f);
        let (frame, mut parts) = pool.cut(0, f.len());
        segment(frame, meta, tag, &mut parts)?;
        Ok(pool.frames().map(<[u8]>::to_vec).collect())
    }

    /// Whether the transport checksum of an untagged frame is right, computed the plain way.
    fn right(f: &[u8]) -> bool {
        let l = layers(f).unwrap();
        let (src_dst, upper) = (if l.v6 { &f[l.ip + 8..l.ip + 40] } else { &f[l.ip + 12..l.ip + 20] }, &f[l.payload..]);
        let mut all = src_dst.to_vec();
        all.extend((upper.len() as u32).to_be_bytes());
        all.extend([0, 0, 0, l.proto]);
        all.extend(upper);
        let words = |b: &[u8]| {
            let mut s = b.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum::<u32>();
            while s > 0xffff {
                s = (s & 0xffff) + (s >> 16);
            }
            s
        };
        words(&all) == 0xffff && (l.v6 || words(&f[l.ip..l.payload]) == 0xffff)
    }

    #[test]
    fn tcp_over_ipv4_is_cut_as_the_kernel_does() {
        let f = tcp4(3000);
        let meta = Meta { csum: Some((34, 16)), gso: Gso::Tcp4, size: 1448 };
        let parts = cut(&f, meta, None).unwrap();
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [1502, 1502, 158]);
        assert!(parts.iter().all(|p| right(p)));
        // id and sequence number go on, and wrap; CWR on the first, FIN and PSH on the last.
        assert_eq!(parts.iter().map(|p| [p[18], p[19]]).collect::<Vec<_>>(), [[0xff, 0xfe], [0xff, 0xff], [0, 0]]);
        assert_eq!(parts[1][38..42], (0xffff_ff00_u32.wrapping_add(1448)).to_be_bytes());
        assert_eq!(parts.iter().map(|p| p[47]).collect::<Vec<_>>(), [0x90, 0x10, 0x19]);
        let data: Vec<u8> = parts.iter().flat_map(|p| p[54..].to_vec()).collect();
        assert_eq!(data, f[54..]);
        let tagged = cut(&f, meta, Some([0x81, 0, 0x20, 7])).unwrap();
        for (t, p) in tagged.iter().zip(&parts) {
            assert_eq!(t[12..16], [0x81, 0, 0x20, 7]);
            assert_eq!([&t[..12], &t[16..]].concat(), *p);
        }
    }

    #[test]
    fn tcp_and_udp_over_ipv6_and_unknown_kinds() {
        let tcp = [0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 9, 0x50, 0x18, 1, 0, 0, 0, 0, 0];
        let parts = cut(&v6(6, &tcp, 2500), Meta { csum: None, gso: Gso::Tcp6, size: 1200 }, None).unwrap();
        assert_eq!(parts.len(), 3);
        assert!(parts.iter().all(|p| right(p)));
        let parts = cut(
            &v6(17, &[0, 1, 0, 2, 0, 0, 0, 0], 2500),
            Meta { csum: Some((54, 6)), gso: Gso::Udp, size: 1000 },
            None,
        );
        let parts = parts.unwrap();
        assert_eq!(parts.iter().map(|p| p.len() - 62).collect::<Vec<_>>(), [1000, 1000, 500]);
        assert!(parts.iter().all(|p| right(p)));
        let f = tcp4(3000);
        for bad in [
            Meta { csum: Some((34, 16)), gso: Gso::Tcp6, size: 1448 },
            Meta { csum: Some((84, 16)), gso: Gso::Tcp4, size: 1448 },
            Meta { csum: Some((34, 16)), gso: Gso::Tcp4, size: 0 },
            Meta { csum: None, gso: Gso::Other(3), size: 1448 },
        ] {
            assert_eq!(cut(&f, bad, None), Err(Bad));
        }
    }

    /// A TCP packet of 3,000 bytes of payload, from its IP header on.
    fn inner(v6: bool) -> Vec<u8> {
        let tcp = [0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 9, 0x50, 0x18, 1, 0, 0, 0, 0, 0];
        if v6 { super::tests::v6(6, &tcp, 3000)[14..].to_vec() } else { tcp4(3000)[14..].to_vec() }
    }

    fn ip4_around(proto: u8, upper: &[u8]) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
        f.extend(((20 + upper.len()) as u16).to_be_bytes());
        f.extend([0, 7, 0x40, 0, 64, proto, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        f.extend(upper);
        f
    }

    /// What is sent through the tunnels known here, by hand: outer protocol, bytes before the inner IP header.
    fn tunnels(v6: bool) -> Vec<(&'static str, u8, Vec<u8>)> {
        let (ethertype, udp) = (if v6 { [0x86, 0xdd] } else { [8, 0] }, [0x12, 0x34, 0x12, 0xb5, 0, 0]);
        let mac: Vec<u8> = [&[2, 9, 9, 9, 9, 9, 2, 8, 8, 8, 8, 8][..], &ethertype].concat();
        let with = |parts: &[&[u8]]| -> Vec<u8> { parts.concat() };
        vec![
            ("ipip", if v6 { IP6IP } else { IPIP }, vec![]),
            ("gre", GRE, with(&[&[0, 0], &ethertype])),
            ("gre with key and sum", GRE, with(&[&[0xa0, 0], &ethertype, &[9, 9, 0, 0, 0, 0, 0, 5]])),
            ("gretap", GRE, with(&[&[0, 0, 0x65, 0x58], &mac])),
            ("vxlan", UDP, with(&[&udp, &[0, 0], &[8, 0, 0, 0, 0, 0, 42, 0], &mac])),
            ("vxlan with sum", UDP, with(&[&udp, &[9, 9], &[8, 0, 0, 0, 0, 0, 42, 0], &mac])),
            ("geneve with an option", UDP, with(&[&udp, &[9, 9], &[2, 0, 0x65, 0x58, 0, 0, 42, 0], &[1; 8], &mac])),
            ("foo over udp", UDP, with(&[&udp, &[9, 9]])),
        ]
    }

    fn ones(b: &[u8]) -> [u8; 2] {
        checksum(b, 0)
    }

    #[test]
    fn tunnels_are_cut_with_what_they_carry() {
        for v6 in [false, true] {
            for (name, proto, before) in tunnels(v6) {
                let packet = inner(v6);
                let f = ip4_around(proto, &[&before[..], &packet].concat());
                let start = 34 + before.len() + if v6 { 40 } else { 20 };
                let gso = if v6 { Gso::Tcp6 } else { Gso::Tcp4 };
                let meta = Meta { csum: Some((start as u16, 16)), gso, size: 1400 };
                let parts = cut(&f, meta, None).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!(parts.len(), 3, "{name}");
                let mut data = Vec::<u8>::new();
                for (i, p) in parts.iter().enumerate() {
                    let at = 34 + before.len();
                    assert_eq!(ones(&p[14..34]), [0, 0], "{name}: sum of the outer header");
                    assert_eq!(u16::from_be_bytes([p[16], p[17]]) as usize, p.len() - 14, "{name}: outer length");
                    assert_eq!([p[18], p[19]], [0, 7 + i as u8], "{name}: outer id");
                    let mut alone = f[..12].to_vec();
                    alone.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
                    alone.extend(&p[at..]);
                    assert!(right(&alone), "{name}: inner sums");
                    if proto == UDP {
                        assert_eq!(u16::from_be_bytes([p[38], p[39]]) as usize, p.len() - 34, "{name}: UDP length");
                        if before[6..8] == [0, 0] {
                            assert_eq!(p[40..42], [0, 0], "{name}: no sum stays none");
                        } else {
                            assert!(right(p), "{name}: UDP sum");
                        }
                    }
                    if before.starts_with(&[0xa0]) {
                        assert_eq!(ones(&p[34..]), [0, 0], "{name}: GRE sum");
                    }
                    data.extend(&p[start + 20..]);
                }
                assert_eq!(data, f[start + 20..], "{name}");
                // With a start elsewhere, or a length that does not agree, it is not what it seems.
                let elsewhere = Meta { csum: Some((start as u16 - 4, 16)), ..meta };
                assert_eq!(cut(&f, elsewhere, None), Err(Bad), "{name}");
                let longer = [&f[..], &[0]].concat();
                assert_eq!(cut(&longer, meta, None), Err(Bad), "{name}");
            }
        }
    }

    #[test]
    fn frames_of_more_than_64_kib_are_cut() {
        let tcp = [0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 9, 0x50, 0x18, 1, 0, 0, 0, 0, 0];
        let mut plain = v6(6, &tcp, 100_000);
        plain[18..20].fill(0);
        // As older kernels have it, with an option that says the length.
        let mut with = plain.clone();
        with[20] = 0;
        with.splice(54..54, [6, 0, 0xc2, 4].into_iter().chain(100_020_u32.to_be_bytes()));
        let mut four = tcp4(100_000);
        four[16..18].fill(0);
        for (f, start, gso) in [(plain, 54, Gso::Tcp6), (with, 62, Gso::Tcp6), (four, 34, Gso::Tcp4)] {
            let parts = cut(&f, Meta { csum: Some((start, 16)), gso, size: 1400 }, None).unwrap();
            assert_eq!(parts.len(), 72);
            assert!(parts.iter().all(|p| right(p)));
            let head = parts[0].len() - 1400;
            let data: Vec<u8> = parts.iter().flat_map(|p| p[head..].to_vec()).collect();
            assert_eq!(data, f[f.len() - 100_000..]);
        }
    }

    #[test]
    fn partial_checksums_are_completed() {
        let mut f = tcp4(101);
        // The field holds the folded sum of the pseudo-header, not inverted.
        let pseudo = sum(&[0, 6], sum(&121_u16.to_be_bytes(), sum(&f[26..34], 0)));
        let seed = fold(pseudo).map(|b| !b);
        f[50..52].copy_from_slice(&seed);
        let ip = checksum(&f[14..34], 0);
        f[24..26].copy_from_slice(&ip);
        complete(&mut f, (34, 16)).unwrap();
        assert!(right(&f));
        assert_eq!(complete(&mut f, (34, 0xffff)), Err(Bad));
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn never_panics(mut f in proptest::collection::vec(any::<u8>(), 0..200), cut_at in 0usize..300, gso in 0u8..7,
                        size in 0u16..100, csum in proptest::option::of((0u16..220, 0u16..220)), template in any::<bool>()) {
            if template {
                let all = tunnels(cut_at % 2 == 0);
                let (_, proto, before) = &all[usize::from(size) % all.len()];
                f = ip4_around(*proto, &[&before[..], &inner(cut_at % 2 == 0)].concat());
                f.truncate(cut_at);
            }
            let mut h = [0; 10];
            h[1] = gso;
            h[4..6].copy_from_slice(&size.to_ne_bytes());
            let meta = Meta { csum, ..Meta::parse(&h) };
            let _ = cut(&f, meta, None);
            if let Some(c) = csum {
                let _ = complete(&mut f, c);
            }
        }

        /// Headers with some bytes wrong: what is cut all the same keeps its payload, and no part is longer than the first.
        #[test]
        fn what_is_cut_keeps_its_payload(kind in 0usize..8, v6: bool, size in 64u16..1500, tag: bool,
                                         edits in proptest::collection::vec((0usize..120, any::<u8>()), 0..4)) {
            let (_, proto, before) = tunnels(v6).swap_remove(kind);
            let start = 34 + before.len() + if v6 { 40 } else { 20 };
            let mut f = ip4_around(proto, &[&before[..], &inner(v6)].concat());
            for (at, to) in edits {
                f[at] = to;
            }
            let gso = if v6 { Gso::Tcp6 } else { Gso::Tcp4 };
            let meta = Meta { csum: Some((start as u16, 16)), gso, size };
            let Ok(parts) = cut(&f, meta, tag.then_some([0x81, 0, 0, 7])) else { return Ok(()) };
            let head = parts[0].len() - usize::from(size);
            let data: Vec<u8> = parts.iter().flat_map(|p| p[head..].to_vec()).collect();
            let added = if tag { 4 } else { 0 };
            prop_assert!(f.ends_with(&data) && data.len() + head == f.len() + added);
            prop_assert!(parts.iter().all(|p| p.len() <= parts[0].len() && p[..12] == f[..12]));
        }
    }
}
