//! Bridges: VLANs, stations, flooding, the tree, and router interfaces on them.

use super::*;
use crate::trace::Step;

const BR: u32 = 50;

fn fid(vid: u16) -> FidId {
    FidId(BR << 12 | u32::from(vid))
}

fn fid_entry(vid: u16) -> FidEntry {
    FidEntry {
        tag: (vid != 0).then_some(Tag { tpid: Tpid::Dot1q, vid }),
        ageing: 300_000,
        unknown: true,
        broadcast: true,
        multicast: true,
    }
}

fn bp(n: u32) -> BridgePortId {
    BridgePortId(10 + n)
}

fn bp_entry(n: u32, aware: bool, untagged: Option<u16>) -> BridgePortEntry {
    BridgePortEntry {
        port: PortId(n),
        tpid: aware.then_some(Tpid::Dot1q),
        untagged: untagged.map(fid),
        state: StpState::Forwarding,
        learning: true,
        control_learning: true,
        unknown: true,
        multicast: true,
        broadcast: true,
        isolated: false,
        hairpin: false,
        longest: 1514,
        ingress: true,
        egress: true,
    }
}

fn member(vid: u16, n: u32, tagged: bool) -> Record {
    Record::FidMember(MemberKey { fid: fid(vid), port: bp(n) }, MemberEntry { tagged, state: StpState::Forwarding })
}

fn station(vid: u16, mac: Mac) -> FdbKey {
    FdbKey { fid: fid(vid), mac }
}

/// A bridge of all ports that does not look at tags.
fn plain() -> Bench {
    let mut b = Bench::new();
    b.set(Record::Fid(fid(0), fid_entry(0)));
    for n in 0..PORTS as u32 {
        b.set(Record::BridgePort(bp(n), bp_entry(n, false, Some(0))));
        b.set(member(0, n, false));
    }
    b
}

/// Ports 0 and 1 untagged in VLAN 10, 1 tagged in 20, 2 tagged in both, 3 untagged in 20 with priority tags for 10.
fn vlans() -> Bench {
    let mut b = Bench::new();
    for vid in [10, 20] {
        b.set(Record::Fid(fid(vid), fid_entry(vid)));
    }
    for (n, pvid) in [(0, Some(10)), (1, Some(10)), (2, None), (3, Some(20))] {
        b.set(Record::BridgePort(bp(n), bp_entry(n, true, pvid)));
    }
    for (vid, n, tagged) in
        [(10, 0, false), (10, 1, false), (20, 1, true), (10, 2, true), (20, 2, true), (20, 3, false)]
    {
        b.set(member(vid, n, tagged));
    }
    b
}

fn frame(dst: Mac, src: Mac, tag: &[u8]) -> Vec<u8> {
    let mut f = [&dst.0[..], &src.0, tag, &[0x88, 0xb5]].concat();
    f.extend((0..50).map(|i| i as u8));
    f
}

/// A frame in by a port: its verdict, and what leaves where.
fn pass(b: &mut Bench, port: u32, f: &[u8]) -> (Verdict, Vec<(u32, Vec<u8>)>) {
    let mut buf = with_room(f);
    let mut batch = [Packet::new(PortId(port), &mut buf)];
    b.pipe.run(&mut batch);
    let [p] = &mut batch;
    let v = p.verdict;
    let mut out = Vec::new();
    if let Some((port, f)) = p.sent() {
        out.push((port.0, f.to_vec()));
    }
    if let Verdict::Flood { first, copies, .. } = v {
        let all = b.pipe.copies()[first as usize..][..copies.into()].to_vec();
        let mut tagged = all[0].tagged;
        for c in all {
            if tagged && !c.tagged {
                p.untag();
                tagged = false;
            }
            out.push((c.port.0, p.flooded().to_vec()));
        }
    }
    out.sort();
    (v, out)
}

fn ports(out: &[(u32, Vec<u8>)]) -> Vec<u32> {
    out.iter().map(|o| o.0).collect()
}

fn events(b: &mut Bench) -> Vec<Event> {
    let mut all = Vec::new();
    b.chip.poll(0, &mut all);
    all.retain(|e| !matches!(e, Event::Port(_)));
    all
}

const ALL: Mac = Mac([0xff; 6]);

#[test]
fn stations_are_learned_and_found_again() {
    let mut b = plain();
    let f = frame(host(2), host(1), &[]);
    let (_, out) = pass(&mut b, 0, &f);
    assert_eq!(ports(&out), [1, 2, 3], "nobody knows host 2");
    assert!(out.iter().all(|o| o.1 == f), "bridged frames leave as they came");
    assert_eq!(events(&mut b), [Event::Learned(station(0, host(1)), bp(0))]);
    let back = frame(host(1), host(2), &[]);
    assert_eq!(pass(&mut b, 1, &back).1, [(0, back)]);
    assert_eq!(pass(&mut b, 0, &f).1, [(1, f.clone())]);
    assert_eq!(events(&mut b), [Event::Learned(station(0, host(2)), bp(1))]);
    // A host moves, at once.
    assert_eq!(pass(&mut b, 3, &frame(host(1), host(2), &[])).1.len(), 1);
    assert_eq!(pass(&mut b, 0, &f).1, [(3, f.clone())]);
    assert_eq!(events(&mut b), [Event::Learned(station(0, host(2)), bp(3))]);
    // To where it came from: nobody else would want it.
    assert_eq!(pass(&mut b, 3, &f).0, Verdict::Drop(DropReason::Nowhere));
    b.set(Record::BridgePort(bp(3), BridgePortEntry { hairpin: true, ..bp_entry(3, false, Some(0)) }));
    assert_eq!(pass(&mut b, 3, &f).1, [(3, f.clone())]);
    // And is forgotten with its port.
    let mut out = Vec::new();
    b.chip.dump(TableId::Fdb, 0, 10, &mut out);
    assert_eq!(out.len(), 2);
    b.remove(bp(3));
    assert!(events(&mut b).contains(&Event::Aged(station(0, host(2)))));
    assert_eq!(ports(&pass(&mut b, 0, &f).1), [1, 2]);
}

#[test]
fn stations_that_do_not_last_go_at_once() {
    let mut b = plain();
    pass(&mut b, 2, &frame(host(9), host(5), &[]));
    assert_eq!(events(&mut b).len(), 1);
    b.set(Record::Fid(fid(0), FidEntry { ageing: 0, ..fid_entry(0) }));
    assert_eq!(events(&mut b), [Event::Aged(station(0, host(5)))]);
}

#[test]
fn what_the_kernel_looks_at_first_is_trapped() {
    let mut b = plain();
    b.set(Record::BridgePort(bp(0), BridgePortEntry { state: StpState::Blocking, ..bp_entry(0, false, Some(0)) }));
    let of = |ethertype: [u8; 2], tag: &[u8]| [&host(2).0[..], &host(1).0, tag, &ethertype, &[0; 46]].concat();
    for ethertype in [[0x88, 0xe3], [0x89, 0x02]] {
        for tag in [&[][..], &[0x81, 0, 0, 5]] {
            assert_eq!(pass(&mut b, 0, &of(ethertype, tag)).0, Verdict::Trap(TrapClass::Control));
        }
    }
    assert_eq!(events(&mut b), [], "nothing is learned where the tree blocks");
    assert_eq!(pass(&mut b, 0, &frame(host(2), host(1), &[])).0, Verdict::Drop(DropReason::Stp));
    // Their senders are learned like others, but where the bridge is told not to.
    let bpdu = |n| frame(Mac([0x01, 0x80, 0xc2, 0, 0, 0]), host(n), &[]);
    assert_eq!(pass(&mut b, 1, &of([0x88, 0xe3], &[])).0, Verdict::Trap(TrapClass::Control));
    assert_eq!(pass(&mut b, 1, &bpdu(5)).0, Verdict::Trap(TrapClass::Control));
    let learned = |n| Event::Learned(station(0, host(n)), bp(1));
    assert_eq!(events(&mut b), [learned(1), learned(5)]);
    b.set(Record::BridgePort(bp(1), BridgePortEntry { control_learning: false, ..bp_entry(1, false, Some(0)) }));
    assert_eq!(pass(&mut b, 1, &bpdu(6)).0, Verdict::Trap(TrapClass::Control));
    assert_eq!(events(&mut b), []);
    // No station, neither known nor a group.
    assert_eq!(pass(&mut b, 1, &frame(Mac([0; 6]), host(1), &[])).0, Verdict::Trap(TrapClass::Unknown));
}

#[test]
fn tags_of_a_bridge_that_does_not_look_at_them_stay() {
    let mut b = plain();
    for tag in [&[0x81, 0, 0xe0, 5][..], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 9], &[0x81, 0, 0x40, 0]] {
        let f = frame(host(2), host(1), tag);
        assert!(pass(&mut b, 0, &f).1.iter().all(|o| o.1 == f));
    }
}

#[test]
fn vlans_are_kept_apart_and_tags_put_on_and_taken_off() {
    let mut b = vlans();
    let t = |vid: u8, prio: u8| [0x81, 0, prio << 5, vid];
    let bare = frame(ALL, host(1), &[]);
    let (ten, twenty) = (frame(ALL, host(1), &t(10, 0)), frame(ALL, host(1), &t(20, 0)));
    assert_eq!(pass(&mut b, 0, &bare).1, [(1, bare.clone()), (2, ten.clone())]);
    assert_eq!(pass(&mut b, 3, &bare).1, [(1, twenty.clone()), (2, twenty.clone())]);
    assert_eq!(pass(&mut b, 2, &ten).1, [(0, bare.clone()), (1, bare.clone())]);
    assert_eq!(pass(&mut b, 2, &twenty).1, [(1, twenty.clone()), (3, bare.clone())]);
    // Priorities stay where tags do, those of a priority tag too.
    let prio = frame(ALL, host(1), &t(0, 5));
    assert_eq!(pass(&mut b, 0, &prio).1, [(1, bare.clone()), (2, frame(ALL, host(1), &t(10, 5)))]);
    assert_eq!(pass(&mut b, 2, &frame(ALL, host(1), &t(20, 3))).1[0], (1, frame(ALL, host(1), &t(20, 3))));
    // No member, no VLAN at all, none for what is untagged.
    for (port, f) in [(0, &twenty), (1, &frame(ALL, host(1), &t(30, 0))), (2, &bare), (2, &prio)] {
        assert_eq!(pass(&mut b, port, f).0, Verdict::Drop(DropReason::VlanFilter), "{f:02x?} in by {port}");
    }
    // A tag of another type is payload.
    let ad = frame(ALL, host(1), &[0x88, 0xa8, 0, 20]);
    let in_ten = frame(ALL, host(1), &[0x81, 0, 0, 10, 0x88, 0xa8, 0, 20]);
    assert_eq!(pass(&mut b, 0, &ad).1, [(1, ad), (2, in_ten)]);
    // The same station in two VLANs is two stations.
    pass(&mut b, 1, &frame(ALL, host(7), &[]));
    assert_eq!(ports(&pass(&mut b, 0, &frame(host(7), host(1), &[])).1), [1]);
    assert_eq!(ports(&pass(&mut b, 3, &frame(host(7), host(1), &[])).1), [1, 2]);
    // Unicast that has to change its form.
    assert_eq!(pass(&mut b, 2, &frame(host(7), host(8), &t(10, 1))).1, [(1, frame(host(7), host(8), &[]))]);
    assert_eq!(pass(&mut b, 0, &frame(host(8), host(1), &[])).1, [(2, frame(host(8), host(1), &t(10, 0)))]);
}

#[test]
fn the_tree_is_kept_to() {
    let mut b = plain();
    let port = |state| Record::BridgePort(bp(1), BridgePortEntry { state, ..bp_entry(1, false, Some(0)) });
    pass(&mut b, 1, &frame(ALL, host(2), &[]));
    b.set(port(StpState::Learning));
    let to = frame(host(2), host(1), &[]);
    assert_eq!(pass(&mut b, 0, &to).0, Verdict::Drop(DropReason::Stp));
    assert_eq!(ports(&pass(&mut b, 0, &frame(ALL, host(1), &[])).1), [2, 3]);
    let _ = events(&mut b);
    assert_eq!(pass(&mut b, 1, &frame(ALL, host(4), &[])).0, Verdict::Drop(DropReason::Stp));
    assert_eq!(events(&mut b), [Event::Learned(station(0, host(4)), bp(1))]);
    b.set(port(StpState::Blocking));
    assert_eq!(pass(&mut b, 1, &frame(ALL, host(5), &[])).0, Verdict::Drop(DropReason::Stp));
    assert_eq!(events(&mut b), []);
    // Control frames are the kernel's whatever the state.
    for last in 0..16 {
        let f = frame(Mac([1, 0x80, 0xc2, 0, 0, last]), host(5), &[]);
        assert_eq!(pass(&mut b, 1, &f).0, Verdict::Trap(TrapClass::Control));
    }
    assert_ne!(
        pass(&mut b, 0, &frame(Mac([1, 0x80, 0xc2, 0, 0, 16]), host(1), &[])).0,
        Verdict::Trap(TrapClass::Control)
    );
    // In one VLAN alone.
    let mut b = vlans();
    let m = |state| Record::FidMember(MemberKey { fid: fid(10), port: bp(1) }, MemberEntry { tagged: false, state });
    b.set(m(StpState::Blocking));
    assert_eq!(ports(&pass(&mut b, 0, &frame(ALL, host(1), &[])).1), [2]);
    assert_eq!(pass(&mut b, 1, &frame(ALL, host(2), &[])).0, Verdict::Drop(DropReason::Stp));
    assert_eq!(ports(&pass(&mut b, 1, &frame(ALL, host(2), &[0x81, 0, 0, 20])).1), [2, 3]);
    b.set(m(StpState::Forwarding));
    assert_eq!(ports(&pass(&mut b, 0, &frame(ALL, host(1), &[])).1), [1, 2]);
}

#[test]
fn flags_of_ports_are_kept_to() {
    let mut b = plain();
    let with = |n, f: &dyn Fn(&mut BridgePortEntry)| {
        let mut e = bp_entry(n, false, Some(0));
        f(&mut e);
        Record::BridgePort(bp(n), e)
    };
    b.set(with(1, &|e| e.unknown = false));
    b.set(with(2, &|e| e.multicast = false));
    b.set(with(3, &|e| e.broadcast = false));
    assert_eq!(ports(&pass(&mut b, 0, &frame(host(9), host(1), &[])).1), [2, 3]);
    assert_eq!(ports(&pass(&mut b, 0, &frame(Mac([1, 0, 0x5e, 1, 1, 1]), host(1), &[])).1), [1, 3]);
    assert_eq!(ports(&pass(&mut b, 0, &frame(ALL, host(1), &[])).1), [1, 2]);
    b.set(with(0, &|e| e.isolated = true));
    b.set(with(1, &|e| e.isolated = true));
    assert_eq!(ports(&pass(&mut b, 0, &frame(ALL, host(1), &[])).1), [2]);
    pass(&mut b, 1, &frame(ALL, host(2), &[]));
    assert_eq!(pass(&mut b, 0, &frame(host(2), host(1), &[])).0, Verdict::Drop(DropReason::Nowhere));
    assert_eq!(pass(&mut b, 3, &frame(host(2), host(3), &[])).1.len(), 1);
    b.set(with(3, &|e| e.learning = false));
    let _ = events(&mut b);
    pass(&mut b, 3, &frame(ALL, host(8), &[]));
    assert_eq!(events(&mut b), []);
    // What is closed traps, and so does what would leave there, flooded or not.
    b.set(with(2, &|e| e.ingress = false));
    assert_eq!(pass(&mut b, 2, &frame(ALL, host(8), &[])).0, Verdict::Trap(TrapClass::BridgeClosed));
    b.set(with(2, &|e| e.egress = false));
    assert_eq!(pass(&mut b, 0, &frame(ALL, host(1), &[])).0, Verdict::Trap(TrapClass::BridgeClosed));
    b.set(with(2, &|e| e.longest = 63));
    assert_eq!(pass(&mut b, 0, &frame(ALL, host(1), &[])).0, Verdict::Trap(TrapClass::Mtu));
    assert_ne!(pass(&mut b, 0, &frame(ALL, host(1), &[0x81, 0, 0, 1])[..67]).0, Verdict::Trap(TrapClass::Mtu));
    b.chip.set_port(PortId(2), port_entry(2, false));
    assert_eq!(ports(&pass(&mut b, 3, &frame(ALL, host(1), &[])).1), [0, 1]);
    // Two on one port: nobody's.
    b.set(Record::BridgePort(BridgePortId(99), bp_entry(0, false, None)));
    assert_eq!(pass(&mut b, 0, &frame(ALL, host(1), &[])).0, Verdict::Trap(TrapClass::Dangling));
    b.remove(BridgePortId(99));
    assert_eq!(ports(&pass(&mut b, 0, &frame(ALL, host(1), &[])).1), [3]);
    b.remove(fid(0));
    assert_eq!(pass(&mut b, 0, &frame(ALL, host(1), &[])).0, Verdict::Trap(TrapClass::Dangling));
}

#[test]
fn who_floods_what_is_the_fids_word() {
    let mut b = plain();
    let cases = [
        (ALL, TrapClass::Broadcast, FidEntry { broadcast: false, ..fid_entry(0) }),
        (Mac([1, 0, 0x5e, 1, 1, 1]), TrapClass::Multicast, FidEntry { multicast: false, ..fid_entry(0) }),
        (host(9), TrapClass::Unknown, FidEntry { unknown: false, ..fid_entry(0) }),
    ];
    for (dst, class, entry) in cases {
        b.set(Record::Fid(fid(0), entry));
        assert_eq!(pass(&mut b, 0, &frame(dst, host(1), &[])).0, Verdict::Trap(class));
        b.set(Record::Fid(fid(0), fid_entry(0)));
        assert_eq!(pass(&mut b, 0, &frame(dst, host(1), &[])).1.len(), 3);
    }
    b.set(Record::Fid(fid(0), FidEntry { broadcast: false, ..fid_entry(0) }));
    let mut arp = frame(ALL, host(1), &[]);
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(pass(&mut b, 0, &arp).0, Verdict::Trap(TrapClass::Arp));
    // Trapped frames teach, too; bad sources do not.
    assert!(events(&mut b).contains(&Event::Learned(station(0, host(1)), bp(0))));
    for src in [Mac([0; 6]), Mac([3, 0, 0, 0, 0, 1])] {
        assert_eq!(pass(&mut b, 0, &frame(host(9), src, &[])).0, Verdict::Trap(TrapClass::Malformed));
    }
    assert_eq!(events(&mut b), []);
}

#[test]
fn stations_by_configuration_do_not_learn() {
    let mut b = plain();
    let put = |m, v| Record::FdbStatic(StaticKey(station(0, m)), v);
    b.set(put(host(5), FdbVerdict::Port(bp(2))));
    b.set(put(mac(0), FdbVerdict::Trap(TrapClass::ToUs)));
    let f = frame(host(5), host(1), &[]);
    assert_eq!(ports(&pass(&mut b, 0, &f).1), [2]);
    assert_eq!(pass(&mut b, 3, &frame(mac(0), host(1), &[])).0, Verdict::Trap(TrapClass::ToUs));
    // The kernel moves it, or complains.
    for src in [host(5), mac(0)] {
        assert_eq!(pass(&mut b, 1, &frame(ALL, src, &[])).0, Verdict::Trap(TrapClass::Moved));
    }
    assert_eq!(ports(&pass(&mut b, 2, &frame(ALL, host(5), &[])).1), [0, 1, 3]);
    // A learned station becomes one by configuration, and then unknown.
    pass(&mut b, 3, &frame(ALL, host(6), &[]));
    b.set(put(host(6), FdbVerdict::Port(bp(1))));
    assert_eq!(ports(&pass(&mut b, 0, &frame(host(6), host(1), &[])).1), [1]);
    b.remove(StaticKey(station(0, host(6))));
    assert_eq!(ports(&pass(&mut b, 0, &frame(host(6), host(1), &[])).1), [1, 2, 3]);
    // The agent may say where a learned station is, and have it forgotten.
    b.set(Record::Fdb(station(0, host(6)), bp(2)));
    assert_eq!(ports(&pass(&mut b, 0, &frame(host(6), host(1), &[])).1), [2]);
    b.remove(station(0, host(6)));
    assert_eq!(ports(&pass(&mut b, 0, &frame(host(6), host(1), &[])).1), [1, 2, 3]);
}

/// A router interface on VLAN 10, 10.10.0.1/24, besides those of [`Bench::new`].
#[test]
fn packets_are_routed_into_and_out_of_vlans() {
    let mut b = vlans();
    let (svi, own) = (RifId(200), mac(77));
    // Port 3 stays a routed one.
    b.remove(bp(3));
    b.set(Record::Rif(svi, RifEntry { kind: RifKind::Fid(fid(10)), mac: own, ..rif(0) }));
    b.set(route4("10.10.0.0/24", Fwd::Connected(svi)));
    b.set(Record::FdbStatic(StaticKey(station(10, own)), FdbVerdict::Route(svi)));
    b.set(Record::Neigh4(NeighKey { rif: svi, addr: ip4("10.10.0.2") }, NeighEntry { mac: host(42) }));
    // Host 42 is behind the tagged port.
    pass(&mut b, 2, &frame(ALL, host(42), &[0x81, 0, 0, 10]));
    let mut f = udp4("10.0.3.2", "10.10.0.2");
    f[..6].copy_from_slice(&mac(3).0);
    let (v, out) = pass(&mut b, 3, &f);
    assert!(matches!(v, Verdict::Forward { grown: 4, .. }), "{v:?}");
    let mut want = f.clone();
    want[..6].copy_from_slice(&host(42).0);
    want[6..12].copy_from_slice(&own.0);
    want[22] -= 1;
    checksum(&mut want[14..34]);
    want.splice(12..12, [0x81, 0, 0, 10]);
    assert_eq!(out, [(2, want)]);
    // And back: from the VLAN, tagged, to a routed port.
    let mut back = udp4("10.10.0.2", "10.0.3.2");
    back[..6].copy_from_slice(&own.0);
    back[6..12].copy_from_slice(&host(42).0);
    back.splice(12..12, [0x81, 0, 0, 10]);
    let (_, out) = pass(&mut b, 2, &back);
    assert_eq!(ports(&out), [3]);
    assert_eq!(out[0].1[..14], [&host(3).0[..], &mac(3).0, &[8, 0]].concat());
    // A neighbour that the bridge does not know: the kernel floods.
    b.set(Record::Neigh4(NeighKey { rif: svi, addr: ip4("10.10.0.2") }, NeighEntry { mac: host(43) }));
    assert_eq!(pass(&mut b, 3, &f).0, Verdict::Trap(TrapClass::Unknown));
    let (_, steps) = b.chip.trace(PortId(2), &mut back);
    assert!(steps.contains(&Step::Fid { fid: Some(fid(10)) }), "{steps:?}");
    b.remove(fid(10));
    assert_eq!(pass(&mut b, 3, &f).0, Verdict::Trap(TrapClass::Dangling));
}
