//! `fdb show`, `vlan show` and `stp show`: stations, VLANs and states of bridge ports, and what the chip holds of each.

use core::ops::Bound::{Excluded, Unbounded};

use hal::{BridgePortId, FdbKey, FdbVerdict, MemberKey, StaticKey};
use serde_json::{Value, json};

use super::{Part, ROWS, dev, named};
use crate::compile::bridge::{self, NTF_EXT_LEARNED, NTF_STICKY};
use crate::compile::neigh::nud;
use crate::core::Core;
use crate::mirror::{Station, StationKey, Vlan};

/// What became of something whose verdict would be to be in the chip.
fn fate(core: &Core, there: bool) -> Option<String> {
    let no_room = || "the chip has no room for it, or refused it".to_owned();
    (!there).then(|| core.chip.absent().unwrap_or_else(no_room))
}

/// Rows of the stations that the kernel knows behind that one.
pub(super) fn stations(core: &Core, after: Option<StationKey>) -> (Vec<Value>, Option<Part>) {
    let from = after.map_or(Unbounded, Excluded);
    let page: Vec<&StationKey> = core.mirror.stations_from(from).take(ROWS).collect();
    let next = page.last().filter(|_| page.len() == ROWS).map_or(Part::Unsaid(None), |k| Part::Stations(Some(**k)));
    (page.into_iter().filter_map(|k| Some(station(core, k, core.mirror.station(k)?))).collect(), Some(next))
}

/// Rows of the stations that the chip has learned, behind that one, and the kernel does not know.
pub(super) fn unsaid(core: &Core, after: Option<FdbKey>) -> (Vec<Value>, Option<Part>) {
    let page: Vec<_> = core.stations.learned_from(after.map_or(Unbounded, Excluded)).take(ROWS).collect();
    let next = page.last().filter(|_| page.len() == ROWS).map(|(k, _)| Part::Unsaid(Some(**k)));
    let row = |(k, p): (&FdbKey, &BridgePortId)| {
        let key = bridge::station_key(*k);
        core.mirror.station(&key).is_none().then(|| {
            json!({
                "mac": key.mac,
                "ifname": dev(core, p.0),
                "vlan": (key.vid != 0).then_some(key.vid),
                "flags": [],
                "master": dev(core, key.bridge),
                "state": "",
                "offload": true,
                "why": "the kernel is not told yet",
            })
        })
    };
    (page.into_iter().filter_map(row).collect(), next)
}

fn station(core: &Core, k: &StationKey, s: &Station) -> Value {
    let state = match () {
        () if s.state & nud::PERMANENT != 0 => "permanent",
        () if s.state & nud::NOARP != 0 => "static",
        () => "",
    };
    let flags = [(NTF_EXT_LEARNED, "extern_learn"), (NTF_STICKY, "sticky")];
    let flags: Vec<&str> = flags.into_iter().filter(|(bit, _)| s.flags & bit != 0).map(|(_, name)| name).collect();
    let key = bridge::fdb_key(k);
    let given = key.and_then(|k| core.program.station.acked(StaticKey(k)));
    let learned = key.and_then(|k| core.stations.learned_at(k)) == Some(BridgePortId(s.dev));
    let why = match given {
        _ if learned => None,
        Some(FdbVerdict::Port(_) | FdbVerdict::Route(_)) => None,
        Some(FdbVerdict::Trap(_)) if s.state & nud::PERMANENT != 0 => Some("to the switch itself".to_owned()),
        _ if core.ports.get(s.dev).is_none() && s.dev != k.bridge => {
            Some(format!("{} is not a front-panel port", dev(core, s.dev)))
        }
        _ => match bridge::bridge(&core.facts(), k.bridge) {
            Err(why) => Some(named(core, &why)),
            Ok(_) if key.is_some_and(|k| bridge::fid(&core.facts(), k.fid).is_none()) => {
                Some("the bridge does not look it up now".to_owned())
            }
            Ok(_) => fate(core, false),
        },
    };
    json!({
        "mac": k.mac,
        "ifname": dev(core, s.dev),
        "vlan": (k.vid != 0).then_some(k.vid),
        "flags": flags,
        "master": dev(core, k.bridge),
        "state": state,
        "offload": why.is_none(),
        "why": why,
    })
}

/// Rows of the VLANs of devices behind that one.
pub(super) fn vlans(core: &Core, after: Option<(u32, u16)>) -> (Vec<Value>, Option<Part>) {
    let page: Vec<_> = core.mirror.vlans_from(after.map_or(Unbounded, Excluded)).take(ROWS).collect();
    let next = page.last().filter(|_| page.len() == ROWS).map(|(k, _)| Part::Vlans(Some(**k)));
    (page.into_iter().map(|((i, vid), v)| vlan(core, *i, *vid, v)).collect(), next)
}

fn vlan(core: &Core, i: u32, vid: u16, v: &Vlan) -> Value {
    let flags = [(Vlan::PVID, "PVID"), (Vlan::UNTAGGED, "Egress Untagged")];
    let flags: Vec<&str> = flags.into_iter().filter(|(bit, _)| v.flags & bit != 0).map(|(_, name)| name).collect();
    let own = core.mirror.link(i).is_some_and(|l| l.bridge.is_some());
    let facts = core.facts();
    let b = if own { Some(i) } else { bridge::master(&facts, i) };
    let fid = b.and_then(|b| bridge::fid_id(b, vid));
    let member = fid.map(|fid| MemberKey { fid, port: BridgePortId(i) });
    let why = match b.map(|b| bridge::bridge(&facts, b)) {
        None => Some("it is in no bridge".to_owned()),
        Some(Err(why)) => Some(named(core, &why)),
        Some(Ok((_, b))) if !b.filtering => Some("the bridge does not look at VLANs".to_owned()),
        Some(Ok(_)) if own => fid.and_then(|f| fate(core, core.program.fid.acked(f).is_some())),
        Some(Ok(_)) if core.ports.get(i).is_none() => Some(format!("{} is not a front-panel port", dev(core, i))),
        Some(Ok(_)) => member.and_then(|m| fate(core, core.program.member.acked(m).is_some())),
    };
    json!({
        "ifname": dev(core, i),
        "vlan": vid,
        "flags": flags,
        "state": state_name(v.state),
        "offload": why.is_none(),
        "why": why,
    })
}

/// Rows of the bridge ports behind that index.
pub(super) fn states(core: &Core, after: u32) -> (Vec<Value>, Option<Part>) {
    let facts = core.facts();
    let ports = core.mirror.links().filter(|l| l.ifindex > after);
    let page: Vec<_> = ports.filter_map(|l| Some((l, bridge::master(&facts, l.ifindex)?))).take(ROWS).collect();
    let next = page.last().filter(|_| page.len() == ROWS).map(|(l, _)| Part::States(l.ifindex));
    let row = |(l, b): (&crate::mirror::Link, u32)| {
        let id = BridgePortId(l.ifindex);
        let why = match bridge::bridge_port(&facts, id) {
            None => Some(format!("{} is not a front-panel port", l.name)),
            Some(spec) => match spec.ingress.or(spec.egress) {
                Some(why) => Some(named(core, &why)),
                None => fate(core, core.program.bridge_port.acked(id).is_some_and(|e| e.state == spec.entry.state)),
            },
        };
        json!({
            "ifname": l.name,
            "master": dev(core, b),
            "state": l.port.as_ref().map(|p| state_name(p.state)),
            "offload": why.is_none(),
            "why": why,
        })
    };
    (page.into_iter().map(row).collect(), next)
}

/// `BR_STATE_*` as `bridge` names it.
fn state_name(state: u8) -> &'static str {
    ["disabled", "listening", "learning", "forwarding", "blocking"]
        .get(usize::from(state))
        .copied()
        .unwrap_or("unknown")
}
