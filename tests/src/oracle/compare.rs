//! What counts as equal.
//!
//! Data frames are a strict multiset per port: every byte, but for [`mask`]. Chatter (what the switch says on its own: ARP,
//! ND, MLD, IGMP) is a set of (port, kind, target) in which [`explained`] lists what one side alone may say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Result;

use super::Done;
use super::fib::{Member, Snapshot};
use super::origin::{origin, passed_on, payload, quoted};
use crate::frame::{self, Chatter, addresses, chatter, checksum, decode, hexdump};
use crate::scenario::{Action, Send, Step};
use crate::world::Said;

/// One thing that is not as it should be.
#[derive(Clone, Debug)]
pub enum Difference {
    /// Data frames that left in one world only.
    Frames {
        /// Number of the frame that they descend from, if they carry it.
        id: Option<u32>,
        /// Port and bytes in the first world.
        first: Vec<(usize, Vec<u8>)>,
        /// The same in the second.
        second: Vec<(usize, Vec<u8>)>,
    },
    /// Chatter that was heard in one world only.
    Chatter {
        /// Port.
        port: usize,
        /// What.
        what: Chatter,
        /// In which world: 0 or 1.
        world: usize,
    },
    /// Anything else, in a sentence.
    Note(String),
}

impl Difference {
    /// For people; `trace` says what the chip makes of a frame.
    pub fn show(&self, sends: &BTreeMap<u32, &Send>, trace: impl Fn(&Send) -> String) -> String {
        match self {
            Difference::Note(text) => format!("  {text}\n"),
            Difference::Chatter { port, what, world } => {
                format!(
                    "  only in the {} world, port {port}: {} {:?}\n",
                    ["first", "second"][*world],
                    what.kind,
                    what.target
                )
            }
            Difference::Frames { id, first, second } => {
                let mut out = match id.and_then(|i| sends.get(&i)) {
                    Some(s) => {
                        format!("  frame #{} into port {}: {}\n    {}\n", s.id, s.port, s.text, decode(&s.bytes))
                    }
                    None => "  a frame that carries no number\n".into(),
                };
                let cap = |v: &[(usize, Vec<u8>)], other: Option<&Vec<u8>>, name: &str| {
                    let mut t = String::new();
                    if v.is_empty() {
                        t += &format!("    {name}: nothing\n");
                    }
                    for (p, f) in v.iter().take(4) {
                        t += &format!("    {name}: port {p}: {}\n{}", decode(f), hexdump(f, other.map(Vec::as_slice)));
                    }
                    if v.len() > 4 {
                        t += &format!("    {name}: and {} more\n", v.len() - 4);
                    }
                    t
                };
                out += &cap(first, second.first().map(|s| &s.1), "first world ");
                out += &cap(second, first.first().map(|s| &s.1), "second world");
                if let Some(s) = id.and_then(|i| sends.get(&i)) {
                    out += &trace(s);
                }
                out
            }
        }
    }
}

/// Blanks what may differ between two kernels that do the same. The whole list:
///
/// * The IPv4 identification of packets that the switch makes itself (and so their header checksum): the kernel draws it from counters
///   hashed with a key that each namespace makes at random.
/// * The identification in the IPv6 fragment headers of such packets, for the same reason.
fn mask(f: &[u8], sends: &BTreeMap<u32, &Send>) -> Vec<u8> {
    let mut m = f.to_vec();
    if passed_on(f, sends) {
        return m;
    }
    let Some((at, t)) = frame::network(f) else { return m };
    match t {
        0x0800 if m.len() >= at + 20 => {
            let ihl = usize::from(m[at] & 15) * 4;
            if let Some(h) = m.get_mut(at..at + ihl.max(20)) {
                // Only a right checksum is made right again: a wrong one is a difference.
                let right = checksum(&[h]) == 0;
                h[4..6].fill(0);
                if right {
                    h[10..12].fill(0);
                }
            }
        }
        0x86dd if m.get(at + 6) == Some(&44) && m.len() >= at + 48 => m[at + 44..at + 48].fill(0),
        _ => {}
    }
    m
}

/// Data frames that left, and how many of them are injected frames passed on.
pub fn tally(done: &Done, sends: &BTreeMap<u32, &Send>) -> (usize, usize) {
    let data = done.left.iter().flatten().filter(|f| chatter(f).is_none() || passed_on(f, sends));
    data.fold((0, 0), |(n, p), f| (n + 1, p + usize::from(passed_on(f, sends))))
}

/// Compares a step in two worlds. `sends` and `passed` are all injected frames up to now, and which of them were passed on in
/// either world; `snapshots` is called where only the configuration can tell.
///
/// # Errors
/// The configuration can't be read.
pub fn compare(
    step: &Step,
    done: &[Done; 2],
    sends: &BTreeMap<u32, &Send>,
    passed: &mut BTreeSet<u32>,
    snapshots: impl FnOnce() -> Result<[Snapshot; 2]>,
) -> Result<Vec<Difference>> {
    let mut out = Vec::new();
    let said = step.actions.iter().zip(done[0].said.iter().zip(&done[1].said));
    let otherwise: Vec<_> = said.filter(|(_, (a, b))| a.ok != b.ok).collect();
    // Data: what is left over of each world when equal frames have been paired off.
    let mut over: BTreeMap<(usize, Vec<u8>), (i64, Vec<u8>)> = BTreeMap::new();
    let mut talk: [BTreeSet<(usize, Chatter)>; 2] = Default::default();
    for (w, d) in done.iter().enumerate() {
        for (port, frames) in (1..).zip(&d.left) {
            for f in frames {
                if let Some(c) = chatter(f).filter(|_| !passed_on(f, sends)) {
                    talk[w].insert((port, c));
                } else {
                    let e = over.entry((port, mask(f, sends))).or_insert((0, f.clone()));
                    e.0 += if w == 0 { 1 } else { -1 };
                }
            }
        }
    }
    type Sides = [Vec<(usize, Vec<u8>)>; 2];
    let mut by_id: BTreeMap<Option<u32>, Sides> = BTreeMap::new();
    for ((port, _), (n, f)) in over {
        let side = usize::from(n < 0);
        for _ in 0..n.abs() {
            by_id.entry(origin(&f, sends).map(|s| s.id)).or_default()[side].push((port, f.clone()));
        }
    }
    for f in done.iter().flat_map(|d| d.left.iter().flatten()).filter(|f| passed_on(f, sends)) {
        passed.extend(origin(f, sends).map(|s| s.id));
    }
    talk.iter_mut().for_each(|t| t.retain(|(_, c)| !timed(c, sends)));
    let alone: Vec<(usize, usize, Chatter)> = (0..2)
        .flat_map(|w| talk[w].difference(&talk[1 - w]).map(move |(p, c)| (w, *p, c.clone())).collect::<Vec<_>>())
        .collect();
    if by_id.is_empty() && alone.is_empty() && otherwise.is_empty() {
        return Ok(out);
    }
    let snaps = snapshots()?;
    for (action, (a, b)) in otherwise {
        if !held(&snaps, action, a, b) {
            out.push(Difference::Note(format!("{action:?} ended otherwise: {a:?} against {b:?}")));
        }
    }
    // Senders whom the first world alone has told that a gateway does not answer.
    let mut told = BTreeSet::new();
    for (id, [first, second]) in by_id {
        let sent = id.and_then(|i| sends.get(&i).copied());
        if known_gateway(&snaps, &talk[0], &first, &second) {
            told.extend(sent.and_then(|s| addresses(&s.bytes)).map(|(from, _)| from));
        } else if !spent(sends, passed, sent, &first, &second)
            && !multipath(&snaps, &step.sends, sends, sent, &first, &second)
        {
            out.push(Difference::Frames { id, first, second });
        }
    }
    for (world, port, what) in alone {
        let tells = world == 0 && what.target.is_some_and(|t| told.contains(&t));
        if !tells && !explained(&snaps, sends, passed, world, port, &what) {
            out.push(Difference::Chatter { port, what, world });
        }
    }
    Ok(out)
}

/// Chatter whose moment is the kernel's own: reports of group memberships, which are asked for and compared at the end
/// (`World::query`), and redirects of IPv6 beyond what it sends at once ([`limited`]).
fn timed(c: &Chatter, sends: &BTreeMap<u32, &Send>) -> bool {
    match c.kind {
        "mld" | "igmp" => true,
        "nd-redirect" => {
            // About a destination on the link, or a gateway that packets to others have.
            let direct = packets6(sends).any(|(_, dst)| Some(dst) == c.target);
            limited(sends).any(|(_, dst)| !direct || Some(dst) == c.target)
        }
        _ => false,
    }
}

/// Sources and destinations of the IPv6 packets sent.
fn packets6(sends: &BTreeMap<u32, &Send>) -> impl Iterator<Item = (IpAddr, IpAddr)> {
    sends.values().filter_map(|s| addresses(&s.bytes)).filter(|(s, _)| s.is_ipv6())
}

/// Those for which the kernel may have stopped to send redirects. It allows each address six, as source or as destination, and then one a
/// second, with no setting for it (`inet_peer_xrlim_allow`).
fn limited(sends: &BTreeMap<u32, &Send>) -> impl Iterator<Item = (IpAddr, IpAddr)> {
    let mut peers: BTreeMap<IpAddr, u32> = BTreeMap::new();
    packets6(sends).flat_map(|(src, dst)| [src, dst]).for_each(|a| *peers.entry(a).or_default() += 1);
    packets6(sends).filter(move |(src, dst)| peers[src].max(peers[dst]) > REDIRECTS)
}

/// `XRLIM_BURST_FACTOR` (`net/ipv4/icmp.c`)
const REDIRECTS: u32 = 6;

/// Which chatter one world alone may send:
///
/// * The second world: requests for a gateway or a neighbour that it holds. The agent keeps those that hardware uses resolved
///   (DESIGN, promise 1: keep-alive requests to neighbours in use).
/// * The first world: requests for a neighbour that the second one has resolved already, for that reason.
/// * Either: requests that come of having chosen another member of a multipath route; for a gateway, or for the sender that is told
///   that nothing could be reached by it, or, of so many such answers that the kernel may have stopped ([`worn`]), that no route leads
///   there. A redirect to a member on the interface that the packet came in by. Of redirects that may have been one too many ([`limited`]): for whom it
///   is to reach, and, where it can't and the switch tells itself, for that address of its own.
fn explained(
    snaps: &[Snapshot; 2],
    sends: &BTreeMap<u32, &Send>,
    passed: &BTreeSet<u32>,
    world: usize,
    port: usize,
    c: &Chatter,
) -> bool {
    let Some(target) = c.target else { return false };
    if c.kind == "nd-redirect" {
        return snaps[world].choice(port, target);
    }
    if !is_request(c) {
        return false;
    }
    let void = |d: IpAddr| {
        let members = snaps[world].members(d);
        members.len() > 1 && members.iter().any(|m| m.void)
    };
    let mut redirected = limited(sends).map(|(src, _)| src);
    // Made of a port's MAC.
    let own = matches!(target, IpAddr::V6(a) if a.segments()[..7] == [0xfe80, 0, 0, 0, 0, 0xff, 0xfe00]);
    if c.kind == "ns" && (if own { redirected.next().is_some() } else { redirected.any(|a| a == target) }) {
        return true;
    }
    let told = |s: &&Send| addresses(&s.bytes).is_some_and(|(from, to)| from == target && void(to));
    if snaps[world].choice(port, target) || sends.values().any(told) || worn(sends, passed, u32::MAX, target) {
        return true;
    }
    match world {
        1 => snaps[1].gateway(target) || snaps[1].neighbour(port, target).is_some(),
        _ => snaps[1].neighbour(port, target).is_some_and(|n| n.mac.is_some()),
    }
}

/// Whether a command deletes the entry of a gateway that only the second world has: the agent keeps those that hardware uses resolved
/// (DESIGN, promise 1), and where the kernel alone has not been asked for them yet there is none to delete.
fn held(snaps: &[Snapshot; 2], action: &Action, first: &Said, second: &Said) -> bool {
    let Action::Command { line, .. } = action else { return false };
    let mut words = line.split_whitespace().skip_while(|w| *w != "neigh" && *w != "neighbour").skip(1);
    let target = match (words.next(), words.next()) {
        (Some("del"), Some(a)) => a.parse().ok(),
        _ => None,
    };
    target.is_some_and(|a| snaps[1].gateway(a)) && !first.ok && second.ok
}

/// Whether only the second world knew the MAC of a gateway in use, at that moment at least. It has asked for it (as [`explained`] allows), and so took an answer
/// that nobody asked for in the first, which passes over those (`arp_accept`). There the packet had the kernel ask, or it was dropped for something else.
fn known_gateway(
    snaps: &[Snapshot; 2],
    asked: &BTreeSet<(usize, Chatter)>,
    first: &[(usize, Vec<u8>)],
    second: &[(usize, Vec<u8>)],
) -> bool {
    let asks = |port, a| asked.iter().any(|(p, c)| *p == port && c.target == Some(a) && is_request(c));
    let known = |(port, f): &(usize, Vec<u8>)| {
        f.first_chunk().is_some_and(|mac| {
            snaps[1].owners(*port, hal::Mac(*mac)).any(|a| {
                let unknown = snaps[0].neighbour(*port, a).is_none_or(|n| n.mac.is_none() || !n.permanent);
                snaps[1].gateway(a) && unknown && asks(*port, a)
            })
        })
    };
    first.iter().all(|(_, f)| host_unreachable(f)) && !second.is_empty() && second.iter().all(known)
}

/// Whether it asks for a neighbour.
fn is_request(c: &Chatter) -> bool {
    matches!(c.kind, "arp-request" | "ns")
}

/// An error of the switch's own without its source, which is the kernel's choice where it has that of the way: the member's. Checksums that are
/// right go with it; a wrong one stays, and is a difference.
fn sourceless(mut f: Vec<u8>) -> Vec<u8> {
    let Some((at, t)) = frame::network(&f) else { return f };
    let Some((head, p)) = f.get_mut(at..).and_then(|p| p.split_at_mut_checked(if t == 0x0800 { 20 } else { 40 }))
    else {
        return f;
    };
    match t {
        // Its header's checksum has gone by `mask`, if it was right.
        0x0800 => head[12..16].fill(0),
        _ => {
            let len = (p.len() as u32).to_be_bytes();
            if checksum(&[&head[8..40], &len, &[0, 0, 0, 58], p]) == 0 {
                p[2..4].fill(0);
            }
            head[8..24].fill(0);
        }
    }
    f
}

/// Whether frames differ only in that each world chose another member that the multipath route allows. A member that is void
/// (without usable neighbour, or without carrier) swallows its share, or has the kernel answer that the host is unreachable. Errors of the
/// switch's own have the source that belongs to the member. What is known after the step says who has a usable neighbour, but for those
/// that a later frame of it has made known ([`unknown_yet`]). The second world may know a gateway that nobody asked for in the first.
fn multipath(
    snaps: &[Snapshot; 2],
    step: &[Send],
    sends: &BTreeMap<u32, &Send>,
    sent: Option<&Send>,
    first: &[(usize, Vec<u8>)],
    second: &[(usize, Vec<u8>)],
) -> bool {
    let s = &snaps[0];
    let to = |f: &[u8]| addresses(f).map(|(_, d)| d);
    // Where tags end and the EtherType begins.
    let tagged = |f: &[u8]| frame::network(f).map_or(12, |(at, _)| at - 2);
    let ends = sent.and_then(|s| addresses(&s.bytes));
    let own_error = |f: &[u8]| error(f).is_some() && !passed_on(f, sends);
    let strip = |v: &[(usize, Vec<u8>)]| {
        let part = |f: &Vec<u8>| {
            let m = mask(f, sends);
            let m = if own_error(f) { sourceless(m) } else { m };
            m.get(tagged(f)..).unwrap_or_default().to_vec()
        };
        let mut b: Vec<Vec<u8>> = v.iter().map(|(_, f)| part(f)).collect();
        b.sort();
        b
    };
    // What the second world alone knows is a gateway's MAC: no other, and nothing else of it counts.
    let known = |m: &Member| {
        let there = || snaps[1].neighbour(m.port, m.to).filter(|_| snaps[1].gateway(m.to)).and_then(|n| n.mac);
        m.mac.or_else(there)
    };
    let legal = |mac: &dyn Fn(&Member) -> Option<hal::Mac>, v: &[(usize, Vec<u8>)]| {
        v.iter().all(|(port, f)| {
            let members = to(f).map(|d| s.members(d)).unwrap_or_default();
            // An error about a packet to the switch itself comes from where that went.
            let source = |m: &Member| {
                addresses(f).is_some_and(|(from, _)| match ends {
                    Some((_, to)) if s.owns(to) => from == to,
                    _ => m.sources.contains(&from),
                })
            };
            let fits = |m: &Member| {
                m.port == *port
                    && (!own_error(f) || source(m))
                    && mac(m).is_some_and(|m| f[..6] == m.0)
                    && m.own.is_some_and(|o| f[6..12] == o.0)
                    && f[12..tagged(f)] == m.tags
            };
            members.len() > 1 && members.iter().any(fits)
        })
    };
    let legal_here = |v: &[(usize, Vec<u8>)]| legal(&|m| m.mac, v);
    let legal_there = |v: &[(usize, Vec<u8>)]| legal(&known, v);
    let members = |a: Option<IpAddr>| a.map(|d| s.members(d)).filter(|m| m.len() > 1).unwrap_or_default();
    let onward = members(ends.map(|(_, to)| to));
    // An answer goes back by such a route as well.
    let void = onward
        .iter()
        .chain(&members(ends.map(|(from, _)| from)))
        .any(|m| m.void || sent.is_some_and(|f| unknown_yet(s, step, f, m)));
    // The kernel alone: what the chip hands over goes that way, too.
    let lingers = ends.is_some_and(|(_, to)| s.lingers(to));
    // Too long for some of the members: fragments there, or the kernel's word that it is too big.
    let fits = |m: &Member| sent.is_some_and(|f| f.bytes.len() as u64 <= m.mtu + 14);
    if onward.iter().any(fits) && !onward.iter().all(fits) {
        let so = |v: &[(usize, Vec<u8>)]| legal_here(v) || v.iter().all(|(_, f)| too_big(f));
        if so(first) && so(second) {
            return true;
        }
    }
    let nothing = |v: &[(usize, Vec<u8>)]| v.is_empty() || v.iter().all(|(_, f)| host_unreachable(f));
    match (nothing(first), nothing(second)) {
        (true, true) => void,
        (true, false) => (void || lingers) && legal_there(second),
        (false, true) => void && legal_here(first),
        (false, false) => legal_here(first) && legal_there(second) && strip(first) == strip(second),
    }
}

/// Whether a member's neighbour became known by ARP or ND only after that frame was sent, in the same step.
fn unknown_yet(s: &Snapshot, step: &[Send], sent: &Send, m: &Member) -> bool {
    let tells = |f: &Send| f.port == m.port && frame::told(&f.bytes) == Some(m.to);
    let (before, after): (Vec<_>, Vec<_>) = step.iter().filter(|f| tells(f)).partition(|f| f.id < sent.id);
    before.is_empty() && !after.is_empty() && s.neighbour(m.port, m.to).is_some_and(|n| !n.permanent)
}

/// What IPv4 answers to where it has no route, or an unreachable or prohibit one: at most five to a source at once, and then one
/// a second. That limit (`net.ipv4.route.error_burst`, `error_cost`) can only be changed for the whole machine.
const BURST: usize = 5;

/// Whether `f` is such an answer to `s`: ICMP 3/0, 3/1 or 3/13 that quotes the packet as it came, its TTL not decremented.
fn no_route(f: &[u8], s: &Send) -> bool {
    let Some((sent, 0x0800)) = frame::network(&s.bytes) else { return false };
    matches!(error(f), Some((4, 3, 0 | 1 | 13, q)) if q.get(8).is_some_and(|ttl| s.bytes.get(sent + 8) == Some(ttl)))
}

/// An ICMP error: IP version, type, code and the packet that it quotes.
fn error(f: &[u8]) -> Option<(u8, u8, u8, &[u8])> {
    let (at, t) = frame::network(f)?;
    let p = f.get(at..)?;
    let (head, _) = payload(p)?;
    Some((p[0] >> 4, *p.get(head)?, *p.get(head + 1)?, quoted(p, t)?))
}

/// Whether one world alone answered so, to a source that had sent so much that may be answered so (answered or not: each use
/// of the limit counts) that the kernel may have stopped.
fn spent(
    sends: &BTreeMap<u32, &Send>,
    passed: &BTreeSet<u32>,
    sent: Option<&Send>,
    first: &[(usize, Vec<u8>)],
    second: &[(usize, Vec<u8>)],
) -> bool {
    let Some(s) = sent else { return false };
    let [(_, only)] = (if first.is_empty() { second } else { first }) else { return false };
    let Some((from, _)) = addresses(&s.bytes) else { return false };
    first.is_empty() != second.is_empty() && no_route(only, s) && worn(sends, passed, s.id, from)
}

/// Whether an IPv4 source had sent so much that may be answered so, up to that frame, that the kernel may have stopped.
fn worn(sends: &BTreeMap<u32, &Send>, passed: &BTreeSet<u32>, up_to: u32, source: IpAddr) -> bool {
    let by_it = |s: &Send| addresses(&s.bytes).is_some_and(|(from, _)| from == source);
    source.is_ipv4() && sends.range(..=up_to).filter(|(id, s)| by_it(s) && !passed.contains(id)).count() > BURST
}

/// ICMP 3/4 or ICMPv6 2/0: it does not fit.
fn too_big(f: &[u8]) -> bool {
    matches!(error(f), Some((4, 3, 4, _) | (6, 2, 0, _)))
}

/// ICMP 3/1 or ICMPv6 1/3: the next hop does not answer.
fn host_unreachable(f: &[u8]) -> bool {
    matches!(error(f), Some((4, 3, 1, _) | (6, 1, 3, _)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::frame::{Context, build, host_mac, port_mac};

    /// Ports 2 to 4 with a member each of the routes to 10.9.0.0/16 and 2001:db8:9::/48, and port 5 with none.
    pub fn configuration() -> Snapshot {
        let json = |line: &str| -> String {
            let six = line.contains("-6");
            let each = |f: &dyn Fn(usize) -> String, n: std::ops::RangeInclusive<usize>| {
                n.map(f).collect::<Vec<_>>().join(",")
            };
            let gate = |p: usize| if six { format!("2001:db8:{p}::2") } else { format!("10.0.{p}.2") };
            match line {
                l if l.contains("addr show") => {
                    let one = |p: usize| {
                        let own = format!(
                            r#"{{"local":"10.0.{p}.1","scope":"global"}},{{"local":"2001:db8:{p}::1","scope":"global"}}"#
                        );
                        format!(r#"{{"ifname":"swp{p}","address":"{}","mtu":1500,"addr_info":[{own}]}}"#, port_mac(p))
                    };
                    format!("[{}]", each(&one, 1..=5))
                }
                l if l.contains("route show") => {
                    let hop = |p: usize| format!(r#"{{"gateway":"{}","dev":"swp{p}"}}"#, gate(p));
                    let dst = if six { "2001:db8:9::/48" } else { "10.9.0.0/16" };
                    format!(r#"[{{"dst":"{dst}","nexthops":[{}]}}]"#, each(&hop, 2..=4))
                }
                l if l.contains("neigh show") => {
                    let one = |p: usize| {
                        let of = |a: String| {
                            format!(
                                r#"{{"dst":"{a}","dev":"swp{p}","lladdr":"{}","state":["REACHABLE"]}}"#,
                                host_mac(p, 2)
                            )
                        };
                        format!("{},{}", of(format!("10.0.{p}.2")), of(format!("2001:db8:{p}::2")))
                    };
                    format!("[{}]", each(&one, 1..=5))
                }
                l if l.starts_with("sysctl") => "0".into(),
                _ => String::new(),
            }
        };
        Snapshot::take(|line| Ok(Said { ok: true, text: json(line) })).unwrap()
    }

    fn frame(text: &str, port: usize, id: u32) -> Vec<u8> {
        build(text, &Context { port, id }).unwrap()
    }

    /// Whether the worlds may differ in that these two errors about a packet from 10.9.0.7 (or its like) to somewhere left.
    fn may(six: bool, to: &str, [a, b]: [(usize, &str); 2]) -> bool {
        let (src, quote) = if six { ("2001:db8:9::7", "icmp=3/0") } else { ("10.9.0.7", "icmp=11/0") };
        let bytes = frame(&format!("{src}>{to} ttl=1 len=0"), 1, 7);
        let sent = Send { port: 1, id: 7, text: String::new(), bytes, expect: None };
        let sends = BTreeMap::from([(7, &sent)]);
        let error = |(port, words): (usize, &str), id: u32| {
            let from = match words.split_once("from=") {
                Some((_, a)) => a.split_whitespace().next().unwrap().to_owned(),
                None if six => format!("2001:db8:{port}::1"),
                None => format!("10.0.{port}.1"),
            };
            let rest: Vec<&str> = words.split_whitespace().filter(|w| !w.starts_with("from=")).collect();
            let (dst, own) = (host_mac(port, 2), port_mac(port));
            let macs = if words.contains("dst=") { String::new() } else { format!("dst={dst}") };
            let macs = if words.contains("src=") { macs } else { format!("{macs} src={own}") };
            let id = if six { String::new() } else { format!("id={id}") };
            let text = format!("{from}>{src} {quote} {macs} {id} quote={src}>{to},ttl=1,len=0 {}", rest.join(" "));
            (port, frame(&text, 1, 7))
        };
        multipath(&[configuration(), configuration()], &[], &sends, Some(&sent), &[error(a, 99)], &[error(b, 1234)])
    }

    #[test]
    fn a_gateway_may_be_known_in_the_second_world_alone() {
        let mut ignorant = configuration();
        ignorant.forget(2);
        let sent = Send { port: 1, id: 7, text: String::new(), bytes: frame("10.0.1.2>10.9.0.1", 1, 7), expect: None };
        let sends = BTreeMap::from([(7, &sent)]);
        let left = |p: usize| {
            (p, frame(&format!("10.0.1.2>10.9.0.1 ttl=63 src={} dst={}", port_mac(p), host_mac(p, 2)), 1, 7))
        };
        let may = |snaps: [Snapshot; 2], a, b| multipath(&snaps, &[], &sends, Some(&sent), &[left(a)], &[left(b)]);
        assert!(may([ignorant.clone(), configuration()], 3, 2));
        assert!(!may([ignorant.clone(), configuration()], 2, 3), "the first one can't have sent to it");
        assert!(!may([ignorant.clone(), ignorant.clone()], 3, 2), "nobody knows it");
        assert!(!may([configuration(), configuration()], 3, 5));
        let mut otherwise = configuration();
        otherwise.teach(2, "10.0.2.2", host_mac(2, 9));
        let to = |mac| (2, frame(&format!("10.0.1.2>10.9.0.1 ttl=63 src={} dst={mac}", port_mac(2)), 1, 7));
        let may = |first: &Snapshot, mac| {
            multipath(&[first.clone(), otherwise.clone()], &[], &sends, Some(&sent), &[left(3)], &[to(mac)])
        };
        assert!(may(&ignorant, host_mac(2, 9)));
        assert!(!may(&ignorant, host_mac(2, 2)), "nobody has that MAC");
        assert!(!may(&configuration(), host_mac(2, 9)), "the first world knows another MAC");
    }

    #[test]
    fn who_did_not_ask_for_a_gateway_dropped_the_packet_for_another_reason() {
        let (mut ignorant, knows) = (configuration(), configuration());
        ignorant.forget(2);
        let request =
            |port, target: &str| (port, chatter(&frame(&format!("arp req 10.0.{port}.1>{target}"), port, 0)).unwrap());
        let left = |p: usize| (p, frame(&format!("10.0.1.2>10.9.0.1 ttl=63 dst={}", host_mac(p, 2)), 1, 7));
        let snaps = [ignorant, knows];
        let may = |asked: &[(usize, Chatter)], second| {
            known_gateway(&snaps, &asked.iter().cloned().collect(), &[], &[second])
        };
        assert!(may(&[request(2, "10.0.2.2")], left(2)));
        assert!(!may(&[], left(2)));
        assert!(!may(&[request(2, "10.0.2.3")], left(2)));
        assert!(!may(&[request(3, "10.0.2.2")], left(2)));
    }

    #[test]
    fn redirects_are_limited_by_address() {
        let sends = |packets: &[(&str, u32)]| {
            let all: Vec<Send> = packets
                .iter()
                .flat_map(|(text, n)| std::iter::repeat_n(*text, *n as usize))
                .zip(1..)
                .map(|(t, id)| Send { port: 2, id, text: t.into(), bytes: frame(t, 2, id), expect: None })
                .collect();
            let timed = |target: &str| {
                let c = Chatter { kind: "nd-redirect", target: target.parse().ok(), tags: Vec::new() };
                timed(&c, &all.iter().map(|s| (s.id, s)).collect())
            };
            (timed("2001:db8:2::4"), timed("2001:db8:2::9"))
        };
        let (to, from, other) =
            ("2001:db8:2::2>2001:db8:2::4", "2001:db8:2::4>2001:db8:2::3", "2001:db8:2::5>2001:db8:9::1");
        assert_eq!(sends(&[(to, 3), (from, 3)]), (false, false));
        assert_eq!(sends(&[(to, 3), (from, 4)]), (true, true), "as source and as destination together");
        assert_eq!(sends(&[(to, 3), (other, 7)]), (false, true), "by a gateway any of them may be about it");
        let asks = |n, target: &str| {
            let to = "2001:db8:2::7>2001:db8:2::4";
            let all: Vec<Send> = (1..=n)
                .map(|id| Send { port: 2, id, text: to.into(), bytes: frame(to, 2, id), expect: None })
                .collect();
            let c = Chatter { kind: "ns", target: target.parse().ok(), tags: Vec::new() };
            let mut snaps = [configuration(), configuration()];
            snaps[1].forget(2);
            explained(&snaps, &all.iter().map(|s| (s.id, s)).collect(), &BTreeSet::new(), 0, 2, &c)
        };
        assert!(asks(7, "2001:db8:2::7") && !asks(6, "2001:db8:2::7"), "for whom a redirect is");
        assert!(asks(7, "fe80::ff:fe00:2") && !asks(6, "fe80::ff:fe00:2"), "that it did not reach");
        assert!(!asks(7, "2001:db8:2::4"), "who it is about need not be asked for");
    }

    #[test]
    fn a_member_that_becomes_known_swallowed_what_came_before() {
        let send =
            |id, port, text: &str| Send { port, id, text: text.into(), bytes: frame(text, port, id), expect: None };
        let may = |snap: Snapshot, step: &[Send], swallowed: u32| {
            let sends: BTreeMap<u32, &Send> = step.iter().map(|s| (s.id, s)).collect();
            let words = format!("10.0.1.2>10.9.0.1 ttl=63 src={} dst={}", port_mac(3), host_mac(3, 2));
            let left = [(3, frame(&words, 1, swallowed))];
            let one = |a: &[_], b: &[_]| {
                multipath(&[snap.clone(), snap.clone()], step, &sends, Some(sends[&swallowed]), a, b)
            };
            assert_eq!(one(&left, &[]), one(&[], &left));
            one(&[], &left)
        };
        let packet = |id| send(id, 1, "10.0.1.2>10.9.0.1");
        let arp = |id, port, from: &str| send(id, port, &format!("arp rep {from}>10.0.2.1"));
        let c = configuration;
        assert!(may(c(), &[packet(1), arp(2, 2, "10.0.2.2")], 1));
        assert!(!may(c(), &[arp(1, 2, "10.0.2.2"), packet(2)], 2), "it was known");
        assert!(!may(c(), &[arp(1, 2, "10.0.2.2"), packet(2), arp(3, 2, "10.0.2.2")], 2), "it was known already");
        assert!(!may(c(), &[packet(1), arp(2, 2, "10.0.2.9")], 1), "that is no member's");
        assert!(!may(c(), &[packet(1), arp(2, 5, "10.0.2.2")], 1), "not on that port");
        assert!(!may(c(), &[packet(1)], 1));
    }

    #[test]
    fn an_error_goes_back_by_any_legal_member_and_by_no_other() {
        for (six, to) in [(false, "10.0.1.77"), (true, "2001:db8:1::77")] {
            for legal in [[(2, ""), (3, "")], [(4, ""), (2, "")], [(3, ""), (3, "")]] {
                assert!(may(six, to, legal), "{to} {legal:?}");
            }
            let foreign = if six { "from=2001:db8:5::1" } else { "from=10.0.5.1" };
            let other = if six { "from=2001:db8:3::1" } else { "from=10.0.3.1" };
            for (illegal, why) in [
                ((5, ""), "no member is on that port"),
                ((3, "dst=02:00:00:00:04:02"), "another member's neighbour"),
                ((3, "src=swp2"), "another port's MAC"),
                ((3, "vlan=5"), "a tag that the member does not have"),
                ((3, foreign), "an address of an interface that is no member"),
                ((2, other), "another member's address"),
                ((3, "sum4=bad"), "a wrong ICMP checksum"),
                ((3, "rest=9"), "another content"),
                ((3, "ttl=9"), "another hop limit"),
            ] {
                assert!(!may(six, to, [(2, ""), illegal]), "{to}: {why}");
                assert!(!may(six, to, [illegal, (2, "")]), "{to}: {why}");
            }
        }
        assert!(!may(false, "10.0.1.77", [(2, ""), (3, "sum=bad")]), "a wrong header checksum");
        // Of a packet to the switch itself the error's source is not free.
        let own = "from=10.0.4.1";
        assert!(may(false, "10.0.4.1", [(2, own), (3, own)]));
        assert!(!may(false, "10.0.4.1", [(2, own), (3, "")]));
    }
}
