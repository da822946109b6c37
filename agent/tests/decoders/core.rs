//! The whole core, fed with mutated messages as notifications and as answers to its dumps, with a chip that says nearly what it
//! should, and asked for all that it shows.

use hal::{FromChip, Hello, PortEntry, PortId, Profile, Record, TableId, ToChip};
use virga::core::{Core, CoreConfig};
use virga::input::{DumpKind, Input, Listed, Output, Request};
use virga::netlink::build;
use virga::policy::Polled;

use crate::mutate::{Real, corpus, fuzz, made, mutated};

fn profile() -> Profile {
    Profile {
        name: "fuzz".into(),
        fids: 16,
        bridge_ports: 16,
        fdb: 64,
        rifs: 8,
        neigh4: 16,
        neigh6: 16,
        nexthops: 16,
        groups: 16,
        group_members: 4,
        buckets: 0,
        routes4: 32,
        routes6: 32,
        vrfs: 1,
        rules: 8,
        frame: 9234,
    }
}

/// The same with some bytes of its encoding changed, if it still is an answer.
fn nearly(m: &FromChip, edits: &[(u16, u8)]) -> Option<FromChip> {
    let mut b = postcard::to_stdvec(m).ok()?;
    for (at, to) in edits {
        let at = usize::from(*at) % b.len();
        b[at] = *to;
    }
    postcard::from_bytes(&b).ok()
}

/// What the chip says to that.
fn chip(m: ToChip) -> Option<FromChip> {
    Some(match m {
        ToChip::Hello { .. } => FromChip::Hello(Box::new(Hello {
            version: hal::bus::VERSION,
            boot_id: 1,
            profile: profile(),
            about: String::new(),
        })),
        ToChip::Batch { id, .. } => FromChip::Done { id, rejected: Vec::new() },
        ToChip::Dump { id, table, .. } => {
            // The devices that the corpus speaks of most.
            let port = |i: u32| {
                let e = PortEntry::sound(format!("v{i}"), i, 1, hal::Mac([2, 0, 0, 0, 0, i as u8]));
                Record::Port(PortId(i), Box::new(PortEntry { admin: true, link: true, ..e }))
            };
            let records = if table == TableId::Port { (2..8).map(port).collect() } else { Vec::new() };
            FromChip::Records { id, records, next: None }
        }
        ToChip::Active { id, .. } => FromChip::Active { id, keys: Vec::new(), next: None },
        ToChip::Stats { .. } => return None,
    })
}

#[test]
fn the_core_takes_whatever_the_kernel_says() {
    let all = corpus("route");
    // What answers a dump of that kind, or two messages that stand for it.
    let of = |kind: DumpKind| -> Vec<&Real> {
        let asked: Vec<(u16, Option<u8>)> = build::dump(kind)
            .iter()
            .map(|m| (u16::from_ne_bytes([m[4], m[5]]) - 2, m.get(16).copied().filter(|f| *f != 0)))
            .collect();
        let fits = |r: &&Real| asked.iter().any(|(k, f)| *k == r.kind && f.is_none_or(|f| r.body.first() == Some(&f)));
        all.iter().filter(fits).collect()
    };
    let answers: Vec<(DumpKind, Vec<&Real>)> = DumpKind::ALL.into_iter().map(|k| (k, of(k))).collect();
    let heard = || proptest::collection::vec(mutated(), 1..12);
    let edits = proptest::collection::vec(proptest::prelude::any::<(u16, u8)>(), 0..3);
    fuzz(300, (heard(), heard(), edits), |(dumped, heard, edits)| {
        let mut core = Core::new(CoreConfig::new(1));
        let mut now = 1;
        let strange: Vec<(Real, Vec<u8>)> = dumped.iter().map(|c| made(&all, c)).collect();
        let mut inputs = vec![Input::Tick];
        for step in 0..600 {
            for i in core::mem::take(&mut inputs) {
                core.handle(now, i);
            }
            let mut again = core.deadline().is_some_and(|d| d <= now);
            while let Some(o) = core.next() {
                match o {
                    Output::Dump { id, kind } => {
                        let known = answers.iter().find(|(k, _)| *k == kind).map_or(&[][..], |(_, r)| r);
                        let mut buf: Vec<u8> = known.iter().flat_map(|r| r.whole()).collect();
                        for (r, body) in strange.iter().filter(|(r, _)| known.iter().any(|k| k.kind == r.kind)) {
                            buf.extend(crate::whole(r.kind, body));
                        }
                        inputs.push(Input::Dump { id, kind, seq: 0, buf });
                        inputs.push(Input::DumpEnd { id, kind, complete: true });
                    }
                    Output::Request { id, .. } => inputs.push(Input::Ack { id, errno: 0, message: String::new() }),
                    Output::Fence { id } => inputs.push(Input::Fence { id }),
                    Output::Poll { ports } => {
                        inputs.push(Input::Polled(Box::new(Polled { ports, ..Polled::default() })));
                    }
                    Output::Chip(m) => {
                        let answer = chip(m);
                        if !edits.is_empty() && step % 3 == 0 {
                            inputs.extend(answer.as_ref().and_then(|a| nearly(a, edits)).map(Input::Chip));
                        }
                        inputs.extend(answer.map(Input::Chip));
                    }
                    Output::Reply { .. } => {}
                }
            }
            if step == 0 {
                inputs.extend(chip(ToChip::Hello { version: hal::bus::VERSION }).map(Input::Chip));
            }
            if step == 100 {
                for (seq, c) in (1..).zip(heard) {
                    let (r, body) = made(&all, c);
                    inputs.push(Input::Monitor { seq, buf: [r.whole(), crate::whole(r.kind, &body)].concat() });
                }
            }
            if step == 200 {
                let all = [
                    Request::Status,
                    Request::List(Listed::Links),
                    Request::List(Listed::Neighs),
                    Request::List(Listed::NextHops),
                    Request::Check,
                ];
                for (id, request) in (1..).zip(all) {
                    inputs.push(Input::Request { id, request });
                }
                inputs.push(Input::Request { id: 9, request: Request::Routes { cursor: 0, max: 1000 } });
            }
            again |= !inputs.is_empty();
            if !again {
                now += 1_000_000_000;
                inputs.push(Input::Tick);
            }
        }
        Ok(())
    });
}
