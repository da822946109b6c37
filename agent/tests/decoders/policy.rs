//! What judges policy: never a panic, and nothing that is not understood opens the gate.

use virga::netlink::build::push_attr;
use virga::policy::nl::Message;
use virga::policy::{Finding, PortRef, exception, link, nft, tc, xfrm};

use crate::TOMORROW;
use crate::mutate::{Real, corpus, fuzz, made, mutated};

fn message(r: &Real, body: &[u8]) -> Message {
    Message { kind: r.kind, body: body.to_vec() }
}

/// Ports of every index that the corpus has.
fn ports() -> Vec<PortRef> {
    (0..64).map(|i| PortRef { ifindex: i, name: format!("v{i}") }).collect()
}

fn ruleset(m: &Message) -> nft::Ruleset {
    let only = |kinds: &[u16]| if kinds.contains(&(m.kind & 0xff)) { vec![m.clone()] } else { Vec::new() };
    // NFT_MSG_NEW* (linux/netfilter/nf_tables.h)
    nft::Ruleset {
        chains: only(&[3]),
        flowtables: only(&[22]),
        rules: only(&[6]),
        sets: only(&[9]),
        objects: only(&[18, 20]),
    }
}

fn judged(r: &Real, body: &[u8], ports: &[PortRef]) -> Vec<Finding> {
    let m = message(r, body);
    let one = std::slice::from_ref(&m);
    if r.file.starts_with("netfilter") {
        return nft::judge(&ruleset(&m), ports);
    }
    if r.file.starts_with("xfrm") {
        let mut all = xfrm::judge(one);
        all.extend(xfrm::judge_default(one));
        all.extend(
            xfrm::count(one).is_some_and(|n| n > 0).then(|| Finding::new(virga::policy::Scope::All, "policies")),
        );
        return all;
    }
    let mut all = exception::judge(one);
    all.extend(tc::judge(one, ports));
    let _ = tc::may_filter(one, ports);
    // Ports that the dump does not show are closed: only the one that it is about.
    let index = body.get(4..8).and_then(|b| Some(u32::from_ne_bytes(b.try_into().ok()?)));
    let own: Vec<PortRef> = ports.iter().filter(|p| Some(p.ifindex) == index).cloned().collect();
    all.extend(link::judge(one, &own));
    all
}

#[test]
fn every_judge_takes_whatever_bytes() {
    let ports = ports();
    for protocol in ["route", "netfilter", "xfrm"] {
        let all = corpus(protocol);
        fuzz(60_000, mutated(), |c| {
            let (real, body) = made(&all, c);
            judged(&real, &body, &ports);
            Ok(())
        });
    }
}

/// What closes the gate closes it with an attribute more, too; and what can't be walked to its end is not taken for less.
#[test]
fn nothing_unknown_opens_the_gate() {
    let ports = ports();
    for r in ["route", "netfilter", "xfrm"].into_iter().flat_map(corpus) {
        let mut body = r.body.clone();
        body.resize(body.len().next_multiple_of(4), 0);
        push_attr(&mut body, TOMORROW, b"new");
        let scopes = |b: &[u8]| judged(&r, b, &ports).into_iter().map(|f| f.scope).collect::<Vec<_>>();
        let (before, after) = (scopes(&r.body), scopes(&body));
        assert!(before.iter().all(|s| after.contains(s)), "{} type {}: {before:?} {after:?}", r.file, r.kind);
        // An attribute whose length is a lie, where the judge looks at attributes at all.
        let mut lie = body.clone();
        lie.extend([0xff, 0xff, 1, 0]);
        let lie = scopes(&lie);
        assert!(lie.len() >= before.len().min(1), "{} type {}: {before:?} {lie:?}", r.file, r.kind);
    }
}
