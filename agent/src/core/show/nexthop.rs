//! `nexthop show`: the kernel's next-hop objects, and what the chip makes of them.

use hal::{BucketEntry, BucketKey};
use serde_json::{Map, Value, json};

use super::{Part, ROWS, dev, hop, named, protocol_name, scope_word};
use crate::compile::{self, Facts, Why};
use crate::core::Core;
use crate::mirror::{NhRef, NhSet, Object, ObjectTo};
use crate::program::ids::Ids;

/// A bucket of the chip's as `ip nexthop bucket` shows the kernel's; `None` for one of a group that is about to go.
pub fn bucket(core: &Core, k: BucketKey, e: BucketEntry) -> Option<Value> {
    let nh = core.program.ids.set_of(k.group)?;
    let NhSet::Object(id) = core.mirror.nhset(nh) else { return None };
    let family = if core.mirror.nhset_is_v6(nh) { "inet6" } else { "inet" };
    let idle = e.idle as f64 / 1000.0;
    let to = Ids::object_of(e.nexthop);
    Some(json!({"id": id, "family": family, "bucket": {"index": k.index, "idle_time": idle, "nhid": to}}))
}

/// Rows of the objects behind that id, and what comes next.
pub(super) fn rows(core: &Core, after: u32) -> (Vec<Value>, Option<Part>) {
    let facts = core.facts();
    let page: Vec<&Object> = core.mirror.objects_after(after).take(ROWS).collect();
    let next = page.last().filter(|_| page.len() == ROWS).map(|o| Part::NextHops(o.id));
    (page.into_iter().map(|o| row(core, &facts, o)).collect(), next)
}

/// The next-hop sets of routes that lead to the object, by itself or by a group, and how many routes these are.
fn users(core: &Core, id: u32) -> (Vec<NhRef>, u64) {
    let ids = core::iter::once(id).chain(core.mirror.groups_of(id));
    let sets: Vec<NhRef> = ids.flat_map(|id| core.mirror.nhsets_of(id)).collect();
    let routes = sets.iter().map(|nh| u64::from(core.mirror.nhset_users(*nh))).sum();
    (sets, routes)
}

/// Why hardware does not carry what the object leads to; `None` if it does.
fn fate(core: &Core, facts: &Facts<'_>, o: &Object, sets: &[NhRef]) -> Option<String> {
    let own = match &o.to {
        ObjectTo::Group(_) | ObjectTo::Resilient(..) => None,
        ObjectTo::Other(_) => Some(Why::UnknownObject(o.id)),
        _ => compile::group::object(facts, o.id).err(),
    };
    if let Some(why) = own {
        return Some(named(core, &why));
    }
    if sets.iter().all(|nh| core.mirror.nhset_users(*nh) == 0) {
        return Some("no route uses it".into());
    }
    if let Some(why) = core.chip.absent() {
        return Some(why);
    }
    let specs = sets.iter().map(|nh| (nh, compile::group::group(facts, *nh)));
    let mut left_out = None;
    for (nh, spec) in specs {
        let given = core.program.ids.group_of(*nh).and_then(|g| core.program.group.acked(g));
        let chosen = spec.members.iter().any(|m| m.object == Some(o.id)) || !o.members().is_empty();
        match given {
            Some(e) if !e.members.is_empty() && chosen && !spec.all_trap() => return None,
            _ if spec.all_trap() => left_out = spec.why.map(|w| named(core, &w)),
            _ if !chosen => left_out = Some("the kernel chooses other members: its neighbour is not resolved".into()),
            _ => left_out = Some("the chip has no room for it".into()),
        }
    }
    left_out.or_else(|| Some("no next hop of it is usable".into()))
}

fn row(core: &Core, facts: &Facts<'_>, o: &Object) -> Value {
    let mut v = Map::new();
    v.insert("id".into(), o.id.into());
    match &o.to {
        ObjectTo::Hop(h) => hop(core, false, h, &mut v),
        ObjectTo::Blackhole => drop(v.insert("blackhole".into(), Value::Null)),
        ObjectTo::Group(m) | ObjectTo::Resilient(m, _) | ObjectTo::Other(m) => {
            let member = |(id, weight): &(u32, u16)| match weight {
                1 => json!({"id": id}),
                _ => json!({"id": id, "weight": weight}),
            };
            v.insert("group".into(), m.iter().map(member).collect::<Vec<_>>().into());
            if let ObjectTo::Resilient(_, b) = &o.to {
                v.insert("type".into(), "resilient".into());
                let seconds = |n: u32| if n.is_multiple_of(100) { json!(n / 100) } else { json!(f64::from(n) / 100.0) };
                let args = json!({"buckets": b.count, "idle_timer": seconds(b.idle), "unbalanced_timer": seconds(b.unbalanced)});
                v.insert("resilient_args".into(), args);
            }
        }
        ObjectTo::Unknown if o.dev != 0 => drop(v.insert("dev".into(), dev(core, o.dev).into())),
        ObjectTo::Unknown => {}
    }
    if let Some(scope) = scope_word(o.scope) {
        v.insert("scope".into(), scope.into());
    }
    if o.proto != 0 {
        v.insert("protocol".into(), protocol_name(o.proto).into());
    }
    v.entry("flags").or_insert_with(|| json!([]));
    let (sets, routes) = users(core, o.id);
    let why = fate(core, facts, o, &sets);
    v.insert("routes".into(), routes.into());
    v.insert("offload".into(), why.is_none().into());
    if let Some(why) = why {
        v.insert("why".into(), why.into());
    }
    Value::Object(v)
}
