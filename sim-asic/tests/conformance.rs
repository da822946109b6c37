//! The simulated chip keeps the laws of the contract.

use hal::{Backend, Mac, PortEntry, PortId, Profile};
use sim_asic::SimChip;

fn chip(profile: Profile) -> Box<dyn Backend> {
    let mut c = SimChip::new(profile, 3);
    for n in 0..3 {
        let entry = PortEntry {
            name: format!("swp{n}"),
            ifindex: n + 1,
            netns: 1,
            mac: Mac([2, 0, 0, 0, 0, n as u8]),
            mtu: 1500,
            admin: true,
            link: true,
            wire: "none".into(),
            fault: None,
        };
        c.set_port(PortId(n), entry);
    }
    Box::new(c)
}

fn profile(n: u32) -> Profile {
    Profile {
        name: "test".into(),
        fids: 16,
        bridge_ports: 16,
        fdb: 64,
        rifs: n,
        neigh4: n + 1,
        neigh6: n,
        nexthops: n,
        groups: n + 2,
        group_members: 8,
        buckets: 10 * n,
        routes4: 3 * n,
        routes6: 2 * n,
        vrfs: 1,
        rules: 8,
        frame: 9216,
    }
}

#[test]
fn small() {
    hal::conformance::all(&|| chip(profile(4)));
}

#[test]
fn larger() {
    hal::conformance::all(&|| chip(profile(60)));
}
