//! The rewrite: addresses, tags, TTL and checksum. Only frames that passed every check come here.

use super::ROOM;
use super::parse::{ETH, Family, Head};
use super::resolve::Out;
use crate::table::takers::TagWord;

/// Rewrites the frame in `buf`. Returns by how many bytes it grew at its front, and its length. The EtherType stays where it is,
/// before the IP packet, and what is put in front of it ends there.
#[inline(always)]
pub(super) fn packet(h: &Head, out: &Out, buf: &mut [u8]) -> (i8, u32) {
    let sent = ((ROOM + ETH) as i8 - h.at as i8, ETH as u32 + h.len);
    // As of an Ethernet header without tags.
    let Some(frame) = buf.get_mut((h.at as usize).saturating_sub(ETH)..) else { return sent };
    match h.family {
        Family::V4 => {
            let Some(f) = frame.first_chunk_mut::<{ ETH + 20 }>() else { return sent };
            let check = ttl_decreased(u16::from_be_bytes([f[ETH + 10], f[ETH + 11]]));
            [f[ETH + 10], f[ETH + 11]] = check.to_be_bytes();
            f[ETH + 8] = h.ttl - 1;
            macs(f, out);
        }
        Family::V6 => {
            let Some(f) = frame.first_chunk_mut::<{ ETH + 40 }>() else { return sent };
            f[ETH + 7] = h.ttl - 1;
            macs(f, out);
        }
    }
    if out.tags != TagWord::default() {
        push(h, out, buf);
        let grown = 4 * out.tags.count();
        return (sent.0 + grown as i8, sent.1 + grown as u32);
    }
    sent
}

/// Both MACs, in the first 12 bytes.
#[inline(always)]
fn macs(frame: &mut [u8], out: &Out) {
    frame[..8].copy_from_slice(&(out.dst << 16 | out.src >> 32 & 0xffff).to_be_bytes());
    frame[8..12].copy_from_slice(&(out.src as u32).to_be_bytes());
}

/// MACs and tags, in front of an EtherType and a packet.
#[inline(never)]
fn push(h: &Head, out: &Out, buf: &mut [u8]) {
    let tags = 4 * out.tags.count();
    let front = (h.at as usize).checked_sub(ETH + tags).and_then(|at| buf.get_mut(at..)?.get_mut(..12 + tags));
    let Some((m, rest)) = front.and_then(|f| f.split_at_mut_checked(12)) else { return };
    macs(m, out);
    for (to, tag) in rest.chunks_exact_mut(4).zip(out.tags.wire()) {
        to.copy_from_slice(&tag);
    }
}

/// The header checksum after the TTL went down by one (RFC 1624), 0xffff never coming out of it: as `ip_decrease_ttl`.
fn ttl_decreased(check: u16) -> u16 {
    let sum = u32::from(check) + 0x0100;
    (sum + u32::from(sum >= 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header's checksum from scratch (RFC 1071).
    fn checksum(header: &[u8]) -> u16 {
        let mut s: u32 = header.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
        while s > 0xffff {
            s = (s & 0xffff) + (s >> 16);
        }
        !s as u16
    }

    #[test]
    fn every_checksum_stays_right() {
        let out = Out { port: hal::PortId(0), src: 0x0202_0202_0202, dst: 0x0404_0404_0404, tags: TagWord::default() };
        for id in 0..=u16::MAX {
            for ttl in [2u8, 3, 64, 255] {
                let mut buf = [0; ROOM + 34];
                let frame = &mut buf[ROOM..];
                frame[14] = 0x45;
                frame[17] = 20;
                frame[18..20].copy_from_slice(&id.to_be_bytes());
                frame[22] = ttl;
                let c = checksum(&frame[14..34]);
                frame[24..26].copy_from_slice(&c.to_be_bytes());
                let head = Head { ttl, len: 20, at: (ROOM + ETH) as u32, ..Head::default() };
                assert_eq!(packet(&head, &out, &mut buf), (0, 34));
                let frame = &mut buf[ROOM..];
                let got = [frame[24], frame[25]];
                [frame[24], frame[25]] = [0, 0];
                assert_eq!(frame[22], ttl - 1);
                assert_eq!(got, checksum(&frame[14..34]).to_be_bytes(), "id {id} ttl {ttl}");
            }
        }
    }
}
