//! Traffic control: queue disciplines and filters on ports. Judges `RTM_GETQDISC` and `RTM_GETTFILTER` dumps; no I/O.
//!
//! A queue discipline that the kernel chose by itself has handle 0 and default parameters; it orders frames of the
//! slow path and no more. Anything that an operator put there may drop, shape, mark or redirect.

use super::nl::{Message, attrs, find, text, u32_at};
use super::{Finding, PortRef, Scope};

const NEWQDISC: u16 = 36;
const NEWTFILTER: u16 = 44;
const DEFAULTS: &[&str] = &["noqueue", "noop", "pfifo_fast", "pfifo", "bfifo", "mq", "fq", "fq_codel", "sfq", "cake"];
/// Defaults that cannot hold filters of their own.
const CLASSLESS: &[&str] = &["noqueue", "noop", "pfifo_fast", "pfifo", "bfifo", "mq", "fq"];

/// What the queue disciplines close.
pub fn judge(qdiscs: &[Message], ports: &[PortRef]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for m in qdiscs.iter().filter(|m| m.kind == NEWQDISC) {
        match qdisc(&m.body) {
            Some((ifindex, handle, kind)) => {
                let Some(p) = ports.iter().find(|p| p.ifindex == ifindex) else { continue };
                if handle != 0 || !DEFAULTS.contains(&kind.as_str()) {
                    findings.push(Finding::new(
                        Scope::Link(ifindex),
                        format!(
                            "tc queue discipline {kind} {:x}: on {}: delete it to have hardware forward again (tc qdisc)",
                            handle >> 16,
                            p.name
                        ),
                    ));
                }
            }
            None => findings.push(Finding::new(Scope::All, "a tc queue discipline that the agent cannot read")),
        }
    }
    findings
}

/// The ports whose default queue discipline can hold filters: `RTM_GETTFILTER` has to be asked about them.
pub fn may_filter<'p>(qdiscs: &[Message], ports: &'p [PortRef]) -> Vec<&'p PortRef> {
    let plain = |p: &PortRef| {
        let mut own = qdiscs.iter().filter_map(|m| qdisc(&m.body)).filter(|q| q.0 == p.ifindex);
        own.all(|q| CLASSLESS.contains(&q.2.as_str()))
    };
    ports.iter().filter(|p| !plain(p)).collect()
}

/// What a dump of a port's filters closes.
pub fn judge_filters(filters: &[Message], port: &PortRef) -> Option<Finding> {
    filters.iter().any(|m| m.kind == NEWTFILTER).then(|| {
        Finding::new(
            Scope::Link(port.ifindex),
            format!("tc filters on {0}: delete them to have hardware forward again: tc filter del dev {0}", port.name),
        )
    })
}

/// Interface, handle and kind of a message (`struct tcmsg`, `TCA_KIND`).
fn qdisc(b: &[u8]) -> Option<(u32, u32, String)> {
    let a = attrs(b.get(20..)?)?;
    Some((u32_at(b, 4)?, u32_at(b, 8)?, text(find(&a, 1)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(ifindex: u32, handle: u32, kind: &str) -> Message {
        let mut body = vec![0; 20];
        body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        body[8..12].copy_from_slice(&handle.to_ne_bytes());
        body.extend(((kind.len() + 5) as u16).to_ne_bytes());
        body.extend(1u16.to_ne_bytes());
        body.extend(kind.as_bytes());
        body.push(0);
        body.resize(body.len().next_multiple_of(4), 0);
        Message { kind: NEWQDISC, body }
    }

    #[test]
    fn only_untouched_defaults_pass() {
        let ports = [PortRef { ifindex: 5, name: "swp1".into() }];
        let closed = |m| judge(&[m], &ports).iter().any(|f| f.scope == Scope::Link(5));
        assert!(!closed(message(5, 0, "fq_codel")));
        assert!(!closed(message(6, 0x8001_0000, "htb")), "not a port");
        assert!(closed(message(5, 0x8001_0000, "fq_codel")));
        assert!(closed(message(5, 0xffff_0000, "clsact")));
        assert!(closed(message(5, 0, "netem")));
        assert_eq!(judge(&[Message { kind: NEWQDISC, body: vec![0; 7] }], &ports)[0].scope, Scope::All);
        assert_eq!(may_filter(&[message(5, 0, "fq_codel")], &ports).len(), 1);
        assert_eq!(may_filter(&[message(5, 0, "noqueue")], &ports).len(), 0);
    }
}
