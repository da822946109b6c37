//! Makes frames whole before the pipeline sees them: completes partial checksums and cuts GSO super-frames into the
//! frames that a wire would have carried (kernel-facts 40). Pure; what it can't do for certain it refuses.

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

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

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

/// Cut a super-frame; `tag` (TPID and TCI) goes behind the MAC addresses of each part.
///
/// # Errors
/// [`Bad`]: a kind or an encapsulation that is not known here. Nothing was pushed.
pub fn segment(f: &[u8], meta: Meta, tag: Option<[u8; 4]>, parts: &mut Parts<'_>) -> Result<(), Bad> {
    let l = layers(f).ok_or(Bad)?;
    let want = match meta.gso {
        Gso::Tcp4 if !l.v6 => TCP,
        Gso::Tcp6 if l.v6 => TCP,
        Gso::Udp => UDP,
        _ => return Err(Bad),
    };
    // Where the sum starts elsewhere, the packet to be cut is inside another one.
    if l.proto != want || meta.size == 0 || meta.csum.is_some_and(|(s, _)| usize::from(s) != l.payload) {
        return Err(Bad);
    }
    let head = l.payload
        + match want {
            TCP => usize::from(f.get(l.payload + 12).ok_or(Bad)? >> 4) * 4,
            _ => 8,
        };
    // A part has to have a length that an IP header can say.
    let longest = usize::from(meta.size).min(f.len().saturating_sub(head)) + head - l.ip;
    if longest > 0xffff || head < l.payload + 8 || (want == TCP && head < l.payload + 20) || head >= f.len() {
        return Err(Bad);
    }
    let (macs, rest) = f[..head].split_at(12);
    let tag = tag.as_ref().map_or(&[][..], |t| &t[..]);
    let size = usize::from(meta.size);
    let count = (f.len() - head).div_ceil(size);
    let (ip, payload) = (l.ip + tag.len(), l.payload + tag.len());
    let no_sum = want == UDP && meta.csum.is_none() && !l.v6 && f[l.payload + 6..l.payload + 8] == [0, 0];
    let id = u16::from_be_bytes([f[l.ip + 4], f[l.ip + 5]]);
    let seq = u32::from_be_bytes([f[l.payload + 4], f[l.payload + 5], f[l.payload + 6], f[l.payload + 7]]);
    for (i, chunk) in f[head..].chunks(size).enumerate() {
        let p = parts.push(&[macs, tag, rest, chunk]);
        let ip_len = (p.len() - ip) as u16;

        let pseudo = if l.v6 {
            p[ip + 4..ip + 6].copy_from_slice(&(ip_len - 40).to_be_bytes());
            sum(&p[ip + 8..ip + 40], 0)
        } else {
            p[ip + 2..ip + 4].copy_from_slice(&ip_len.to_be_bytes());
            p[ip + 4..ip + 6].copy_from_slice(&id.wrapping_add(i as u16).to_be_bytes());
            p[ip + 10..ip + 12].fill(0);
            let c = checksum(&p[ip..payload], 0);
            p[ip + 10..ip + 12].copy_from_slice(&c);
            sum(&p[ip + 12..ip + 20], 0)
        };
        let upper = (p.len() - payload) as u16;
        let pseudo = sum(&[0, want], sum(&upper.to_be_bytes(), pseudo));
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
            p[payload + 4..payload + 6].copy_from_slice(&upper.to_be_bytes());
            payload + 6
        };
        p[field..field + 2].fill(0);
        if !no_sum {
            let mut c = checksum(&p[payload..], pseudo);
            if want == UDP && c == [0, 0] {
                c = [0xff; 2];
            }
            p[field..field + 2].copy_from_slice(&c);
        }
    }
    Ok(())
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
                f = tcp4(200);
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
    }
}
