//! Frames that come in by a bridge port: whose VLAN, who sent them, and by which ports they leave (IEEE 802.1Q, 8.6; in the kernel
//! `br_handle_frame` to `br_forward`). What is for a router interface goes on to `parse`.
//!
//! A frame is forwarded, flooded, trapped or dropped, never two of these: what the kernel has to see it gets whole, and sends on itself.

use hal::{DropReason, Mac, PortId, StpState, TrapClass};

use super::decide::dropped;
use super::parse::{self, ETH, Head, be16};
use super::{Packet, ROOM, Verdict, trap};
use crate::table::Tables;
use crate::table::bridge::{BridgePort, Bridged, Flooded};
use crate::table::fdb::Known;
use crate::table::takers::TagWord;
use crate::trace::{Note, Raw};

/// One of several ports that a frame leaves by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copy {
    /// Which.
    pub port: PortId,
    /// Whether with the FID's tag.
    pub tagged: bool,
}

/// A frame as its FID has it.
struct Frame {
    fid: u32,
    /// The FID's tag, as [`TagWord::tag`]; 0: none.
    tag: u32,
    /// Whether it came with such a tag, and the VID in it.
    vid: Option<u16>,
    /// Bytes, without the outermost tag.
    len: u32,
}

/// The bridge port that a frame came in by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Came {
    pub(super) index: u32,
    pub(super) port: BridgePort,
}

/// Have the stations at hand that most frames of a chunk are from and for: those of untagged frames, if the first came in by a bridge
/// port.
#[inline(always)]
pub(super) fn prefetch(t: &Tables, chunk: &[Packet<'_>]) {
    if let Some(first) = chunk.first()
        && let Bridged::As(_) = t.bridges.of(first.port)
    {
        fetch(t, chunk);
    }
}

#[inline(never)]
fn fetch(t: &Tables, chunk: &[Packet<'_>]) {
    let mut of = (PortId(u32::MAX), None);
    for p in chunk {
        if of.0 != p.port {
            let untagged = match t.bridges.of(p.port) {
                Bridged::As(i) => t.bridges.port(i).and_then(|b| b.untagged()),
                Bridged::No | Bridged::Disputed => None,
            };
            of = (p.port, untagged);
        }
        if let (Some(fid), Some(f)) = (of.1, p.frame().first_chunk::<12>()) {
            t.bridges.fdb.prefetch(fid, Mac(parse::mac(f)));
            t.bridges.fdb.prefetch(fid, Mac(parse::mac(&f[6..])));
        }
    }
}

/// A frame that came in by a bridge port.
#[inline(never)]
pub(super) fn frame(
    t: &Tables,
    came: &Came,
    buf: &mut [u8],
    copies: &mut Vec<Copy>,
    note: &mut impl Note,
) -> Result<Head, Verdict> {
    let b = &came.port;
    let Some(frame) = buf.get(ROOM..).filter(|f| f.len() >= ETH) else { return dropped(DropReason::Runt, note) };
    if frame.len() > t.frame {
        return dropped(DropReason::Giant, note);
    }
    let (dst, src) = (Mac(parse::mac(frame)), Mac(parse::mac(&frame[6..])));
    if is_control(dst) || is_ring(frame) {
        if b.ingress() && (b.control_learning() || !is_control(dst)) {
            hear(t, came, frame, src);
        }
        return trap(TrapClass::Control, note);
    }
    if !b.ingress() {
        return trap(TrapClass::BridgeClosed, note);
    }
    // The kernel drops it (`is_valid_ether_addr`).
    if !src.is_unicast() || src == Mac([0; 6]) {
        return trap(TrapClass::Malformed, note);
    }
    if b.state() == StpState::Blocking {
        return dropped(DropReason::Stp, note);
    }
    let (f, state) = classify(t, came, frame, note)?;
    note.note(|| Raw::Fid(f.fid));
    if state == StpState::Blocking {
        return dropped(DropReason::Stp, note);
    }
    let Some(fid) = t.bridges.fid(f.fid) else { return trap(TrapClass::Dangling, note) };
    source(t, came, f.fid, src, note)?;
    if state == StpState::Learning || b.state() == StpState::Learning {
        return dropped(DropReason::Stp, note);
    }
    // No station has it; the kernel floods it as one that is not known.
    if dst == Mac([0; 6]) {
        return trap(TrapClass::Unknown, note);
    }
    if dst.is_group() {
        let what = if dst == Mac([0xff; 6]) { Flooded::Broadcast } else { Flooded::Multicast };
        if fid.floods(what) {
            return Err(flood(t, came, &f, what, buf, copies, note));
        }
        let (ethertype, ip) = inner(&f, frame);
        parse::solicitation(ethertype, ip, note)?;
        return parse::stranger(frame, TrapClass::Unknown, note);
    }
    let known = t.bridges.fdb.find(f.fid, dst).map(|s| s.known());
    note.note(|| Raw::Station(known));
    match known {
        Some(Known::Learned(to) | Known::Port(to)) => {
            let to = leave(t, Some(came), &f, to, note)?;
            note.note(|| Raw::Forward(to.port));
            let (grown, len) = dress(&f, to.tagged, buf);
            Err(Verdict::Forward { port: to.port, grown, len })
        }
        Some(Known::Route(r)) => route(t, &f, r, frame, note),
        Some(Known::Trap(c)) => {
            let (ethertype, ip) = inner(&f, frame);
            parse::solicitation(ethertype, ip, note)?;
            trap(c, note)
        }
        None if fid.floods(Flooded::Unknown) => Err(flood(t, came, &f, Flooded::Unknown, buf, copies, note)),
        None => trap(TrapClass::Unknown, note),
    }
}

/// 01:80:c2:00:00:00 to 0F.
fn is_control(dst: Mac) -> bool {
    dst.0[..5] == [0x01, 0x80, 0xc2, 0, 0] && dst.0[5] < 0x10
}

/// Frames of the Media Redundancy Protocol (IEC 62439-2) and of connectivity fault management (802.1Q, 18), behind a tag, too: the
/// kernel looks at them before all else where it takes part in these.
fn is_ring(frame: &[u8]) -> bool {
    let is = |ethertype| matches!(ethertype, 0x88e3 | 0x8902);
    let outer = be16(frame, ETH - 2);
    is(outer) || parse::is_tag(outer) && frame.len() >= ETH + 4 && is(be16(frame, ETH + 2))
}

/// EtherType and payload behind the tag of the FID's type.
fn inner<'a>(f: &Frame, frame: &'a [u8]) -> (u16, &'a [u8]) {
    let at = ETH + if f.vid.is_some() { 4 } else { 0 };
    (be16(frame, at - 2), frame.get(at..).unwrap_or_default())
}

/// Whose a frame is, and what the tree lets it do there.
fn classify(t: &Tables, came: &Came, frame: &[u8], note: &mut impl Note) -> Result<(Frame, StpState), Verdict> {
    let b = &came.port;
    let ethertype = be16(frame, ETH - 2);
    let outer = if parse::is_tag(ethertype) { 4 } else { 0 };
    let len = frame.len() as u32;
    if !b.aware() {
        let Some(fid) = b.untagged() else { return dropped(DropReason::VlanFilter, note) };
        return Ok((Frame { fid, tag: 0, vid: None, len: len - outer }, StpState::Forwarding));
    }
    let vid = if ethertype == parse::tpid(b.ad()) {
        // The tag's other half, and an EtherType behind it.
        if frame.len() < ETH + 4 {
            return trap(TrapClass::Malformed, note);
        }
        Some(be16(frame, ETH) & 0xfff)
    } else {
        None
    };
    let mut of_tag = |vid| match t.bridges.vlan(came.index, vid) {
        Some(found) => Ok(found),
        None => dropped(DropReason::VlanFilter, note),
    };
    let (fid, state) = match vid {
        Some(vid @ 1..) => of_tag(vid)?,
        _ => {
            let Some(fid) = b.untagged() else { return dropped(DropReason::VlanFilter, note) };
            let Some(tag) = t.bridges.fid(fid).map(|f| f.tag()) else { return trap(TrapClass::Dangling, note) };
            match t.bridges.vlan(came.index, tag as u16 & 0xfff) {
                Some((member, state)) if member == fid => (fid, state),
                _ => return dropped(DropReason::VlanFilter, note),
            }
        }
    };
    let tag = t.bridges.fid(fid).map_or(0, |f| f.tag());
    let len = if vid.is_some() { len - 4 } else { len };
    Ok((Frame { fid, tag, vid, len }, state))
}

/// Learn who sent a frame that is trapped whatever becomes of others (`__br_handle_local_finish`).
#[cold]
fn hear(t: &Tables, came: &Came, frame: &[u8], src: Mac) {
    if src.is_unicast()
        && came.port.state() != StpState::Blocking
        && let Ok((f, state)) = classify(t, came, frame, &mut ())
        && state != StpState::Blocking
    {
        // From elsewhere than is said of it: the kernel sees that.
        let _ = source(t, came, f.fid, src, &mut ());
    }
}

/// Learn who sent the frame, or see whether it may come from there.
#[inline(always)]
fn source(t: &Tables, came: &Came, fid: u32, src: Mac, note: &mut impl Note) -> Result<(), Verdict> {
    if !came.port.learning() {
        return Ok(());
    }
    let fdb = &t.bridges.fdb;
    let found = fdb.find(fid, src);
    match found.map(|f| (f, f.known())) {
        Some((f, Known::Learned(p))) if p == came.index => fdb.seen(f),
        Some((_, Known::Learned(_))) | None => {
            // Without room for it, it stays unknown: what is for it is flooded.
            t.bridges.learn(fid, src, came.index);
        }
        Some((_, Known::Port(p))) if p == came.index => {}
        // The kernel takes static entries along when their station shows up elsewhere, and complains about its own addresses.
        Some((_, Known::Port(_) | Known::Route(_) | Known::Trap(_))) => return trap(TrapClass::Moved, note),
    }
    Ok(())
}

/// Whether a frame may leave by a bridge port, and how. From no bridge port: from a router interface.
fn leave(t: &Tables, came: Option<&Came>, f: &Frame, to: u32, note: &mut impl Note) -> Result<Copy, Verdict> {
    let Some(p) = t.bridges.port(to) else { return trap(TrapClass::Dangling, note) };
    if reflected(came, to, &p) {
        return dropped(DropReason::Nowhere, note);
    }
    let Some(tagged) = t.bridges.leaves(f.fid, to) else { return dropped(DropReason::VlanFilter, note) };
    if p.state() != StpState::Forwarding {
        return dropped(DropReason::Stp, note);
    }
    if !p.egress() {
        return trap(TrapClass::BridgeClosed, note);
    }
    if f.len > p.longest() {
        return trap(TrapClass::Mtu, note);
    }
    if !t.link(p.port()) {
        return dropped(DropReason::LinkDown, note);
    }
    Ok(Copy { port: p.port(), tagged })
}

/// Whether it would go back where it came from, or from one isolated port to another.
fn reflected(came: Option<&Came>, to: u32, p: &BridgePort) -> bool {
    came.is_some_and(|c| c.index == to && !p.hairpin() || c.port.isolated() && p.isolated())
}

/// By all ports that take such frames.
#[inline(never)]
fn flood(
    t: &Tables,
    came: &Came,
    f: &Frame,
    what: Flooded,
    buf: &mut [u8],
    copies: &mut Vec<Copy>,
    note: &mut impl Note,
) -> Verdict {
    let first = copies.len();
    for to in t.bridges.members(f.fid) {
        let Some(p) = t.bridges.port(to) else { continue };
        if reflected(Some(came), to, &p) || p.state() != StpState::Forwarding || !p.floods(what) || !t.link(p.port()) {
            continue;
        }
        // One that the chip can't send by: then the kernel sends by all of them, or some would get the frame twice.
        if !p.egress() || f.len > p.longest() {
            copies.truncate(first);
            let class = if p.egress() { TrapClass::Mtu } else { TrapClass::BridgeClosed };
            note.note(|| Raw::Trap(class));
            return Verdict::Trap(class);
        }
        let Some(tagged) = t.bridges.leaves(f.fid, to) else { continue };
        note.note(|| Raw::Forward(p.port()));
        copies.push(Copy { port: p.port(), tagged });
    }
    let all = copies.get_mut(first..).unwrap_or_default();
    all.sort_by_key(|c| !c.tagged);
    match *all {
        [] => {
            note.note(|| Raw::Drop(DropReason::Nowhere));
            Verdict::Drop(DropReason::Nowhere)
        }
        [one] => {
            copies.truncate(first);
            let (grown, len) = dress(f, one.tagged, buf);
            Verdict::Forward { port: one.port, grown, len }
        }
        [Copy { tagged, .. }, ..] => {
            let n = all.len() as u16;
            let (grown, len) = dress(f, tagged, buf);
            Verdict::Flood { first: first as u32, copies: n, grown, len }
        }
    }
}

/// Give a frame the FID's tag or take it off, in its buffer. Returns by how many bytes it grew at its front, and its length.
fn dress(f: &Frame, tagged: bool, buf: &mut [u8]) -> (i8, u32) {
    let len = (buf.len() - ROOM) as u32;
    match (tagged && f.tag != 0, f.vid) {
        (true, None) => {
            let [tag, _] = TagWord(f.tag).wire();
            if let Some(front) = buf.get_mut(ROOM - 4..ROOM + 12) {
                front.copy_within(4.., 0);
                front[12..].copy_from_slice(&tag);
            }
            (4, len + 4)
        }
        (true, Some(vid)) => {
            // A priority tag: its priority stays (802.1Q, 6.9).
            if vid == 0
                && let Some(tci) = buf.get_mut(ROOM + ETH..).and_then(|b| b.first_chunk_mut::<2>())
            {
                let [[_, _, high, low], _] = TagWord(f.tag).wire();
                *tci = [tci[0] & 0xf0 | high, low];
            }
            (0, len)
        }
        (false, Some(_)) => {
            strip(buf, ROOM);
            (-4, len - 4)
        }
        (false, None) => (0, len),
    }
}

/// Take the tag off a frame that begins at `at`: it begins four bytes later then.
pub(super) fn strip(buf: &mut [u8], at: usize) {
    if let Some(front) = buf.get_mut(at..at + 16) {
        front.copy_within(..12, 4);
    }
}

/// A frame to a router interface on its FID.
fn route(t: &Tables, f: &Frame, index: u32, frame: &[u8], note: &mut impl Note) -> Result<Head, Verdict> {
    let (ethertype, ip) = inner(f, frame);
    parse::solicitation(ethertype, ip, note)?;
    let Some(rif) = t.rif(index) else { return trap(TrapClass::Dangling, note) };
    note.note(|| Raw::Ingress(index));
    parse::routed(frame, ethertype, ip, frame.len() - ip.len(), (index, &rif), note)
}

/// A routed packet of that many bytes leaves by a router interface on a FID: the port, and with which tags.
#[cold]
pub(super) fn egress(
    t: &Tables,
    fid: u32,
    dst: [u8; 6],
    len: u32,
    note: &mut impl Note,
) -> Result<(PortId, TagWord), Verdict> {
    let Some(entry) = t.bridges.fid(fid) else { return trap(TrapClass::Dangling, note) };
    let known = t.bridges.fdb.find(fid, Mac(dst)).map(|s| s.known());
    note.note(|| Raw::Station(known));
    let Some(Known::Learned(to) | Known::Port(to)) = known else {
        // To a station that the bridge does not know: the kernel floods it.
        return trap(TrapClass::Unknown, note);
    };
    let f = Frame { fid, tag: entry.tag(), vid: None, len: ETH as u32 + len };
    match leave(t, None, &f, to, note) {
        Ok(to) => Ok((to.port, TagWord(if to.tagged { f.tag } else { 0 }))),
        // Where none of its ports works the bridge has no carrier, and the kernel may have another route.
        Err(Verdict::Drop(DropReason::LinkDown | DropReason::Stp)) => trap(TrapClass::PortDown, note),
        Err(v) => Err(v),
    }
}
