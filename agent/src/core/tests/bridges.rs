//! Bridges: stations that the kernel learned become the chip's, and what finds no room is nobody's.

use hal::{BridgePortId, FdbKey, FidId};

use super::*;

const BR: u32 = 40;

fn nested(of: impl FnOnce(Builder) -> Builder) -> Vec<u8> {
    of(Builder::new(0, 0, &[])).done()[16..].to_vec()
}

/// The bridge: it does not look at tags, and does not snoop.
fn bridge(i: u32) -> Vec<u8> {
    bridge_with(i, 30_000, 0)
}

fn bridge_with(i: u32, ageing: u32, stp: u32) -> Vec<u8> {
    let head = [&[0u8, 0, 1, 0][..], &i.to_ne_bytes(), &0x11043u32.to_ne_bytes(), &[0; 4]].concat();
    let data = nested(|b| b.u32(4, ageing).u32(5, stp).attr(7, &[0]).attr(23, &[0]));
    let info = nested(|b| b.attr(1, b"bridge\0").attr(2, &data));
    let name = format!("br{i}\0");
    Builder::new(16, 0, &head).attr(3, name.as_bytes()).attr(1, &mac(i).0).u32(4, 1500).attr(18, &info).done()
}

/// A port of it that forwards.
fn port_of(i: u32, bridge: u32) -> Vec<u8> {
    let own = nested(|b| b.attr(1, &[3]).attr(8, &[1]).attr(9, &[1]).attr(27, &[1]).attr(30, &[1]));
    let info = nested(|b| b.attr(4, b"bridge\0").attr(5, &own));
    let more = nested(|b| b.u32(10, bridge).attr(18, &info));
    let mut m = [link(i, true), more].concat();
    let len = m.len() as u32;
    m[..4].copy_from_slice(&len.to_ne_bytes());
    m
}

/// A station's message: `flags` with `NTF_EXT_LEARNED` (0x10) or without.
fn station(kind: u16, bridge: u32, n: u8, dev: u32, state: u16, flags: u8) -> Vec<u8> {
    let head = [&[7, 0, 0, 0][..], &dev.to_ne_bytes(), &state.to_ne_bytes(), &[flags, 0]].concat();
    Builder::new(kind, 0, &head).attr(2, &mac(n.into()).0).u32(9, bridge).done()
}

fn key(bridge: u32, n: u8) -> FdbKey {
    FdbKey { fid: FidId(bridge << 12), mac: mac(n.into()) }
}

impl Lab {
    fn learned(&self) -> Vec<(FdbKey, BridgePortId)> {
        let of = |r| if let Record::Fdb(k, p) = r { Some((k, p)) } else { None };
        let mut all: Vec<_> = self.table(TableId::Fdb).into_iter().filter_map(of).collect();
        all.sort_unstable();
        all
    }
    /// What the kernel was asked for of stations since: message type, flags, last byte of the MAC.
    fn asked(&mut self) -> Vec<(u16, u8, u8)> {
        let all = core::mem::take(&mut self.requests);
        all.iter()
            .filter(|m| m[16] == 7)
            .map(|m| (u16::from_ne_bytes([m[4], m[5]]), m[26], m[16 + 12 + 4 + 5]))
            .collect()
    }
    fn both(&mut self, m: Vec<u8>) {
        self.kernel.objects.push(m.clone());
        self.news(m);
    }
}

fn built(profile: Profile) -> Lab {
    let mut lab = Lab::new(profile);
    lab.hello();
    lab.settle();
    for m in [bridge(BR), port_of(11, BR), port_of(12, BR)] {
        lab.both(m);
    }
    lab
}

#[test]
fn what_the_kernel_learned_is_the_chips() {
    let mut lab = built(profile());
    // At once, though the chip has no FID yet: none is refused.
    lab.both(station(28, BR, 90, 11, 2, 0));
    lab.settle();
    assert_eq!(lab.learned(), [(key(BR, 90), BridgePortId(11))]);
    assert_eq!(lab.asked(), [(28, 0x14, 90)]);
    assert_eq!(lab.core.program.totals.refused, 0);
    lab.news(station(28, BR, 90, 11, 2, 0x10));
    // It moves in software.
    lab.news(station(28, BR, 90, 12, 2, 0));
    lab.settle();
    assert_eq!(lab.learned(), [(key(BR, 90), BridgePortId(12))]);
    // The port leaves: its stations go with it, in the kernel too, which does not do that to those of others.
    lab.news(station(28, BR, 90, 12, 2, 0x10));
    lab.asked();
    lab.news(link(12, true));
    lab.settle();
    assert_eq!(lab.learned(), []);
    assert_eq!(lab.asked(), [(29, 4, 90)]);
}

#[test]
fn a_station_without_room_is_not_the_kernels_either() {
    let mut lab = built(Profile { fdb: 2, ..profile() });
    for n in 90..94 {
        lab.both(station(28, BR, n, 11, 2, 0));
    }
    lab.settle();
    assert_eq!(lab.learned().len(), 2);
    let taken: Vec<u8> = lab.learned().iter().map(|(k, _)| k.mac.0[5]).collect();
    for n in 90..94 {
        lab.news(station(28, BR, n, 11, 2, 0x10));
    }
    lab.settle();
    let mut gone: Vec<u8> = lab.asked().into_iter().filter(|(kind, ..)| *kind == 29).map(|(_, _, n)| n).collect();
    gone.sort_unstable();
    gone.dedup();
    assert_eq!(gone.len(), 2);
    assert!(gone.iter().all(|n| !taken.contains(n)), "{gone:?} {taken:?}");
}

#[test]
fn a_bridge_without_room_is_no_difference() {
    let mut lab = built(Profile { fids: 1, bridge_ports: 2, ..profile() });
    for m in [bridge(41), port_of(13, 41), station(28, 41, 95, 13, 0x40, 0), station(28, 41, 96, 13, 2, 0)] {
        lab.both(m);
    }
    lab.settle();
    assert_eq!(lab.table(TableId::Fid).len(), 1);
    assert!(lab.table(TableId::FdbStatic).is_empty() && lab.learned().is_empty());
    let v = lab.ask(Request::Check);
    assert_eq!(v["equal"], true, "{v}");
    // Room appears.
    lab.kernel.objects.retain(|m| m[4] != 16 || ![11u32, 12, BR].iter().any(|i| m[20..24] == i.to_ne_bytes()));
    for i in [11, 12] {
        lab.news(link(i, true));
    }
    let mut gone = bridge(BR);
    gone[4] = 17;
    lab.news(gone);
    lab.settle();
    lab.now += 10 * SECOND;
    lab.input(Input::Tick);
    lab.settle();
    assert_eq!(lab.table(TableId::Fid).len(), 1);
    assert_eq!(lab.table(TableId::FdbStatic).len(), 1);
    assert_eq!(lab.learned(), [(key(41, 96), BridgePortId(13))]);
    let v = lab.ask(Request::Check);
    assert_eq!(v["equal"], true, "{v}");
}

#[test]
fn a_restart_keeps_what_the_chip_has_learned() {
    let mut lab = built(profile());
    for n in [90, 91] {
        lab.both(station(28, BR, n, 11, 2, 0));
    }
    lab.settle();
    // The kernel has both as ours, and one that the chip has forgotten while no agent was there.
    lab.kernel.objects.retain(|m| m[4] != 28);
    for n in [90, 91, 92] {
        lab.kernel.objects.push(station(28, BR, n, 11, 2, 0x10));
    }
    lab.asked();
    let learned = lab.learned();
    lab.core = Core::new(CoreConfig { audit: 0, ..CoreConfig::new(NETNS) });
    lab.hello();
    lab.settle();
    assert_eq!((lab.learned(), learned.len()), (learned, 2));
    assert_eq!(lab.asked(), [(29, 4, 92)]);
}

#[test]
fn lists_say_what_became_of_each() {
    let mut lab = built(profile());
    let mut outside = port_of(ETH0, BR);
    outside[16 + 4..16 + 8].copy_from_slice(&ETH0.to_ne_bytes());
    lab.both(outside);
    for m in [station(28, BR, 90, 11, 2, 0), station(28, BR, 91, 12, 0x40, 0), station(28, BR, 11, 11, 0x80, 0)] {
        lab.both(m);
    }
    lab.both(station(28, BR, 92, ETH0, 2, 0));
    lab.settle();
    let rows = |v: serde_json::Value| -> Vec<(String, bool, String)> {
        let row = |r: &serde_json::Value| {
            let text = |k: &str| r[k].as_str().unwrap_or_default().to_owned();
            let name = if r["mac"].is_null() { text("ifname") } else { text("mac") };
            (name, r["offload"] == true, text("why"))
        };
        v.as_array().unwrap().iter().map(row).collect()
    };
    let of = |n: u8| mac(n.into()).to_string();
    let fdb = rows(lab.ask(Request::List(Listed::Fdb)));
    assert_eq!(
        fdb,
        [
            (of(11), false, "to the switch itself".into()),
            (of(90), true, String::new()),
            (of(91), true, String::new()),
            (of(92), false, "eth0 is not a front-panel port".into()),
        ]
    );
    let stp = rows(lab.ask(Request::List(Listed::Stp)));
    let outside = "eth0 is not a front-panel port";
    let want = [("eth0", false, outside), ("swp1", true, ""), ("swp2", true, "")];
    assert_eq!(stp, want.map(|(n, o, w)| (n.to_owned(), o, w.to_owned())));
    assert_eq!(lab.ask(Request::List(Listed::Vlans)).as_array().unwrap().len(), 0);
}

#[test]
fn a_check_looks_at_learned_stations() {
    let mut lab = built(profile());
    for n in [90, 91] {
        lab.both(station(28, BR, n, 11, 2, 0x10));
        lab.chip.apply(&Op::Set(Record::Fdb(key(BR, n), BridgePortId(11)))).ok();
    }
    lab.settle();
    assert_eq!(lab.learned().len(), 2);
    assert_eq!(lab.ask(Request::Check)["equal"], true);
    type Lie = fn(&mut Lab);
    let lies: [(&str, Lie); 3] = [
        ("the chip has lost one", |l| drop(l.chip.apply(&Op::Remove(key(BR, 90).into())))),
        ("the chip has one elsewhere", |l| drop(l.chip.apply(&Op::Set(Record::Fdb(key(BR, 90), BridgePortId(12)))))),
        ("the kernel has one elsewhere", |l| {
            l.kernel.objects.retain(|m| m[4] != 28);
            for (n, dev) in [(90, 11), (91, 12)] {
                l.kernel.objects.push(station(28, BR, n, dev, 2, 0x10));
            }
        }),
    ];
    for (what, lie) in lies {
        lie(&mut lab);
        let v = lab.ask(Request::Check);
        assert_eq!(v["equal"], false, "{what}");
        assert!(v["differences"][0].as_str().unwrap().starts_with("station 02:"), "{what}: {v}");
        // Put right.
        lab.chip.apply(&Op::Set(Record::Fdb(key(BR, 90), BridgePortId(11)))).unwrap();
        assert_eq!(lab.ask(Request::Check)["equal"], what.starts_with("the chip"), "{what}");
    }
}

#[test]
fn a_topology_change_shortens_ageing_without_a_word() {
    let mut lab = built(profile());
    let ageing = |lab: &Lab| -> Vec<u32> {
        let of = |r| if let Record::Fid(_, e) = r { Some(e.ageing) } else { None };
        lab.table(TableId::Fid).into_iter().filter_map(of).collect()
    };
    for (stp, silent, is) in [(1, 3_000, 30_000), (0, 2_000, 300_000)] {
        lab.set_link(bridge_with(BR, 30_000, stp));
        lab.settle();
        // Not a word of it.
        lab.kernel.objects.retain(|m| m[4] != 16 || m[20..24] != BR.to_ne_bytes());
        lab.kernel.objects.push(bridge_with(BR, silent, stp));
        lab.settle();
        assert_eq!(ageing(&lab), [is], "stp {stp}");
    }
}
