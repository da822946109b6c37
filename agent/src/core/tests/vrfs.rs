//! Virtual routers: as many as the chip holds, in the order in which they come; each opens when its routes are there.

use hal::{RifEntry, RouteKey, TrapClass, VrfId};

use super::*;

const RED: u32 = 21;
const BLUE: u32 = 22;

fn device(i: u32, name: &str, table: u32) -> Vec<u8> {
    let head = [&[0u8, 0, 1, 0][..], &i.to_ne_bytes(), &0x10443u32.to_ne_bytes(), &[0; 4]].concat();
    let data = Builder::new(0, 0, &[]).u32(1, table).done()[16..].to_vec();
    let info = Builder::new(0, 0, &[]).attr(1, b"vrf\0").attr(2, &data).done()[16..].to_vec();
    Builder::new(16, 0, &head).attr(3, format!("{name}\0").as_bytes()).attr(18, &info).done()
}

/// A port's netdev, in a VRF or in none (0).
fn member(i: u32, master: u32) -> Vec<u8> {
    let mut m = link(i, true);
    m.extend([8, 0, 10, 0]);
    m.extend(master.to_ne_bytes());
    let len = m.len() as u32;
    m[..4].copy_from_slice(&len.to_ne_bytes());
    m
}

fn l3mdev(family: u8) -> Vec<u8> {
    Builder::new(32, 0, &[family, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]).u32(6, 1000).attr(19, &[1]).done()
}

/// A route in a table, out of a device.
fn onlink(table: u8, third: u8, dev: u32) -> Vec<u8> {
    let head = [2, 24, 0, 0, table, 2, 253, 1, 0, 0, 0, 0];
    Builder::new(24, 0x600, &head)
        .u32(15, table.into())
        .addr(1, Ipv4Addr::new(10, 9, third, 0).into())
        .u32(4, dev)
        .done()
}

impl Lab {
    pub(super) fn set_link(&mut self, m: Vec<u8>) {
        self.kernel.objects.retain(|o| o[4] != 16 || o[20..24] != m[20..24]);
        self.kernel.objects.push(m.clone());
        self.news(m);
    }
    fn rifs(&self) -> BTreeMap<u32, RifEntry> {
        let of = |r| if let Record::Rif(k, e) = r { Some((k.0, e)) } else { None };
        self.table(TableId::Rif).into_iter().filter_map(of).collect()
    }
    /// The virtual router of each port that is open for IPv4.
    fn open(&self) -> Vec<(u32, u32)> {
        self.rifs().into_iter().filter(|(_, e)| e.ingress4).map(|(i, e)| (i, e.vrf.0)).collect()
    }
    /// The virtual routers of routes to 10.9/16.
    fn routers(&self) -> Vec<u32> {
        let of = |r| match r {
            Record::Route4(k, _) if k.prefix.addr().octets()[..2] == [10, 9] => Some(k.vrf.0),
            _ => None,
        };
        let mut all: Vec<u32> = self.table(TableId::Route4).into_iter().filter_map(of).collect();
        all.sort_unstable();
        all
    }
}

/// Port 11 in red, with two routes, 12 in blue, with one.
fn built(vrfs: u32) -> Lab {
    let mut lab = Lab::new(Profile { vrfs, ..profile() });
    lab.hello();
    lab.settle();
    lab.odd_rules = [l3mdev(2), l3mdev(10)].concat();
    lab.news(lab.odd_rules.clone());
    for m in [device(RED, "red", 10), device(BLUE, "blue", 20), member(11, RED), member(12, BLUE)] {
        lab.set_link(m);
    }
    for m in [onlink(10, 1, 11), onlink(10, 2, 13), onlink(20, 1, 12)] {
        lab.kernel.objects.push(m.clone());
        lab.news(m);
    }
    lab.settle();
    lab
}

#[test]
fn each_has_its_own_routes() {
    let mut lab = built(3);
    assert_eq!(lab.open(), [(11, 10), (12, 20), (13, 0)]);
    assert_eq!(lab.routers(), [10, 10, 20]);
    let v = lab.ask(Request::Check);
    assert_eq!(v["equal"], true, "{v}");
    // A restarted agent finds all as it should be.
    let ops = lab.ops;
    lab.core = Core::new(CoreConfig { audit: 0, ..CoreConfig::new(NETNS) });
    lab.todo.clear();
    lab.hello();
    lab.settle();
    assert_eq!((lab.ops, lab.open()), (ops, vec![(11, 10), (12, 20), (13, 0)]));
    // What an earlier one left of a VRF that is gone, goes.
    lab.kernel.objects.retain(|o| o[4] != 16);
    lab.core = Core::new(CoreConfig { audit: 0, ..CoreConfig::new(NETNS) });
    lab.todo.clear();
    lab.hello();
    lab.settle();
    assert_eq!((lab.open(), lab.routers()), (vec![(11, 0), (12, 0), (13, 0)], vec![]));
}

#[test]
fn an_address_of_a_vrf_is_the_default_routers_own_as_well() {
    let mut lab = built(4);
    let own = Ipv4Addr::new(10, 255, 0, 1);
    let head = [&[2u8, 32, 0, 0][..], &RED.to_ne_bytes()].concat();
    let addr = |kind| Builder::new(kind, 0, &head).addr(1, own.into()).addr(2, own.into()).done();
    let key = RouteKey { vrf: VrfId(0), prefix: Prefix::<V4>::host(own) };
    for (there, kind) in [(true, 20), (false, 21)] {
        lab.news(addr(kind));
        lab.settle();
        let held = lab.table(TableId::Route4).contains(&Record::Route4(key, Fwd::Trap(TrapClass::ToUs)));
        assert_eq!(held, there);
    }
}

#[test]
fn what_finds_no_place_waits_for_one() {
    let mut lab = built(2);
    assert_eq!(lab.open(), [(11, 10), (13, 0)]);
    assert_eq!(lab.routers(), [10, 10]);
    let v = lab.ask(Request::Check);
    assert_eq!(v["equal"], true, "{v}");
    let v = lab.ask(Request::List(Listed::Links));
    let why = v.as_array().and_then(|l| l.iter().find(|l| l["ifname"] == "swp2")).map(|l| l["why"].to_string());
    assert!(why.is_some_and(|w| w.contains("the chip holds 2 virtual routers")), "{v}");
    lab.set_link(member(11, 0));
    lab.settle();
    assert_eq!(lab.open(), [(11, 0), (12, 20), (13, 0)]);
    assert_eq!(lab.routers(), [20]);
}

#[test]
fn it_opens_when_its_routes_are_there() {
    let mut lab = built(2);
    lab.set_link(member(11, 0));
    lab.settle();
    // Out of a port that is not in it: those of one that is go when it enters.
    for i in 0..200 {
        let m = onlink(20, i, 13);
        lab.kernel.objects.push(m.clone());
        lab.news(m);
    }
    lab.settle();
    let all = lab.routers().len();
    lab.set_link(member(12, 0));
    lab.settle();
    assert!(lab.routers().is_empty());
    lab.set_link(member(12, BLUE));
    let mut opened = None;
    for _ in 0..10_000 {
        if !lab.step() {
            lab.now = lab.core.deadline().unwrap_or(lab.now).max(lab.now);
            lab.input(Input::Tick);
        }
        if opened.is_none() && lab.rifs()[&12].vrf == VrfId(20) && lab.rifs()[&12].ingress4 {
            opened = Some(lab.routers().len());
            break;
        }
    }
    assert_eq!(opened, Some(all));
}

#[test]
fn a_full_table_punts_in_each_by_itself() {
    let mut lab = Lab::new(Profile { vrfs: 3, routes4: 12, ..profile() });
    lab.hello();
    lab.settle();
    lab.odd_rules = [l3mdev(2), l3mdev(10)].concat();
    lab.news(lab.odd_rules.clone());
    for m in [device(RED, "red", 10), member(11, RED)] {
        lab.set_link(m);
    }
    let wide = |table: u8| {
        let head = [2, 8, 0, 0, table, 2, 253, 1, 0, 0, 0, 0];
        Builder::new(24, 0x600, &head)
            .u32(15, table.into())
            .addr(1, Ipv4Addr::new(10, 0, 0, 0).into())
            .u32(4, 13)
            .done()
    };
    for m in [wide(254), wide(10)].into_iter().chain((0..20).map(|i| onlink(10, i, 13))) {
        lab.kernel.objects.push(m.clone());
        lab.news(m);
        lab.settle();
    }
    let covers = |lab: &Lab| {
        let of = |r| match r {
            Record::Route4(k, f) if k.prefix.len() == 8 => Some((k.vrf.0, matches!(f, Fwd::Trap(_)))),
            _ => None,
        };
        lab.table(TableId::Route4).into_iter().filter_map(of).collect::<BTreeMap<u32, bool>>()
    };
    assert_eq!(covers(&lab), BTreeMap::from([(0, false), (10, true)]));
    // Room that the default one gives up serves the other.
    let was = lab.routers().len();
    lab.kernel.objects.retain(|o| o[4] != 24 || o[20] != 254);
    let gone = [&wide(254)[..4], &[25, 0], &wide(254)[6..]].concat();
    lab.news(gone);
    lab.settle();
    assert_eq!(lab.routers().len(), was + 1);
    let v = lab.ask(Request::Check);
    assert_eq!(v["equal"], true, "{v}");
}
