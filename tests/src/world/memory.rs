//! A chip alone, whose frames come and go in memory: for what no device would carry (runts, giants), against what the scenario states.
//!
//! No kernel and no agent: the chip holds the common setting of scenarios (see `scenario::base`), and is asked for its verdicts.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, anyhow};
use hal::{
    Backend as _, DropReason, Fwd, NeighEntry, NeighKey, Op, PortEntry, PortId, Prefix, Record, RifEntry, RifId,
    RifKind, RouteKey, TrapClass, Urpf, VrfId,
};
use sim_asic::{Packet, SimChip, Verdict, with_room};

use crate::frame::{self, checksum, host_mac, port_mac};
use crate::scenario::Send;

/// MTU of each port, as of a device that nobody changed.
const MTU: u32 = 1500;

fn four(n: usize, h: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, n as u8, h)
}

fn six(n: usize, h: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, n as u16, 0, 0, 0, 0, h)
}

fn chip(ports: usize) -> Result<SimChip> {
    let profile = sim_asic::config::profile("small").map_err(anyhow::Error::msg)?;
    let mut c = SimChip::with_seed(profile, ports, 0);
    let vrf = VrfId(0);
    for n in 1..=ports {
        let (port, rif) = (PortId(n as u32 - 1), RifId(n as u32));
        let entry = PortEntry {
            name: format!("swp{n}"),
            ifindex: n as u32,
            netns: 0,
            mac: port_mac(n),
            mtu: MTU,
            admin: true,
            link: true,
            wire: "none".into(),
            fault: None,
        };
        c.set_port(port, entry);
        let open = RifEntry {
            kind: RifKind::port(port),
            vrf,
            mac: port_mac(n),
            mtu4: MTU,
            mtu6: MTU,
            ingress4: true,
            ingress6: true,
            egress: true,
            same4: false,
            urpf: Urpf::Off,
        };
        let to_us = Fwd::Trap(TrapClass::ToUs);
        let mut all = vec![
            Record::Rif(rif, open),
            Record::Route4(RouteKey { vrf, prefix: Prefix::new(four(n, 0), 24) }, Fwd::Connected(rif)),
            Record::Route6(RouteKey { vrf, prefix: Prefix::new(six(n, 0), 64) }, Fwd::Connected(rif)),
            Record::Route4(RouteKey { vrf, prefix: Prefix::host(four(n, 1)) }, to_us),
            Record::Route6(RouteKey { vrf, prefix: Prefix::host(six(n, 1)) }, to_us),
        ];
        for h in 2..=4u8 {
            let mac = host_mac(n, h.into());
            all.push(Record::Neigh4(NeighKey { rif, addr: four(n, h) }, NeighEntry { mac }));
            all.push(Record::Neigh6(NeighKey { rif, addr: six(n, h.into()) }, NeighEntry { mac }));
        }
        for r in all {
            c.apply(&Op::Set(r)).map_err(|e| anyhow!("the chip refuses the common setting: {e}"))?;
        }
    }
    Ok(c)
}

/// What has to leave port `out` for that frame; `None` where it can't be a routed one.
fn routed(f: &[u8], out: usize) -> Option<Vec<u8>> {
    let (14, t) = frame::network(f)? else { return None };
    let host = |last: u8| host_mac(out, last.into());
    let mut g = f.to_vec();
    let (len, last) = match t {
        0x0800 => {
            g[22] = g[22].checked_sub(1)?;
            g[24..26].fill(0);
            let sum = checksum(&[&g[14..34]]);
            g[24..26].copy_from_slice(&sum.to_be_bytes());
            (usize::from(u16::from_be_bytes([f[16], f[17]])), f[33])
        }
        _ => {
            g[21] = g[21].checked_sub(1)?;
            (40 + usize::from(u16::from_be_bytes([f[18], f[19]])), f[53])
        }
    };
    g[..6].copy_from_slice(&host(last).0);
    g[6..12].copy_from_slice(&port_mac(out).0);
    g.truncate(14 + len);
    Some(g)
}

/// Whether a verdict is one that a scenario can name.
pub fn is_verdict(text: &str) -> bool {
    match text.split_once(' ') {
        Some(("out", n)) => n.parse::<usize>().is_ok(),
        Some(("trap", c)) => TrapClass::ALL.iter().any(|t| t.name() == c),
        Some(("drop", r)) => DropReason::ALL.iter().any(|d| d.name() == r),
        _ => false,
    }
}

/// Has a chip with that many ports decide on frames. What is not as stated, in sentences; and how many frames it forwarded.
///
/// # Errors
/// The chip can't be made.
pub fn run(ports: usize, sends: &[&Send]) -> Result<(Vec<String>, u64)> {
    let chip = chip(ports)?;
    let mut pipeline = chip.pipeline();
    let (mut out, mut forwarded) = (Vec::new(), 0);
    for s in sends {
        let mut f = with_room(&s.bytes);
        // The last bytes of a buffer that is longer than the frame must not be read: there are none.
        let mut batch = [Packet::new(PortId(s.port as u32 - 1), &mut f)];
        pipeline.run(&mut batch);
        let verdict = batch[0].verdict;
        let got = match verdict {
            Verdict::Forward { port, .. } => format!("out {}", port.0 + 1),
            Verdict::Flood { copies, .. } => format!("out {copies} ports"),
            Verdict::Trap(c) => format!("trap {c}"),
            Verdict::Drop(d) => format!("drop {d}"),
        };
        let mut wrong = |why: String| out.push(format!("frame #{} into port {} ({}): {why}", s.id, s.port, s.text));
        match &s.expect {
            Some(want) if *want == got => {}
            Some(want) => wrong(format!("the chip says {got}, the scenario {want}")),
            None => {
                wrong(format!("the chip says {got}, the scenario nothing: write => and what it should be behind it"))
            }
        }
        match batch[0].sent() {
            Some((port, sent)) => {
                forwarded += 1;
                if routed(&s.bytes, port.0 as usize + 1).as_deref() != Some(sent) {
                    wrong(format!("what leaves is not the routed packet: {}", frame::decode(sent)));
                }
            }
            None if batch[0].frame() != s.bytes => wrong("it was changed, though it is not forwarded".into()),
            None => {}
        }
    }
    Ok((out, forwarded))
}
