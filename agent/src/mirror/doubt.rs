//! What the kernel says that is not known here, or can't be read: counted, and named when it comes for the first time. Of a kind of
//! which a message could not be read nobody knows what holds: it is in doubt, and punted, until a dump of it was read whole.

use std::collections::{BTreeMap, BTreeSet};

use super::Mirror;
use crate::input::DumpKind;
use crate::netlink::{AF_INET6, Malformed, Message, Unknowns, rtm};

/// Different things that are counted each for itself, at most: there are some dozens in a kernel, not more.
const MOST: usize = 256;

/// See the module.
#[derive(Default)]
pub(super) struct Doubt {
    kinds: BTreeMap<DumpKind, Malformed>,
    /// Of these something could not be read since their dump began.
    since: BTreeSet<DumpKind>,
}

/// In which dumps what a message speaks of would be.
fn kinds(m: Option<&Message<'_>>) -> &'static [DumpKind] {
    // Where a header lies, what stood behind it is lost with it.
    let Some(m) = m else { return &DumpKind::ALL };
    match m.kind {
        rtm::NEWLINK | rtm::DELLINK => &[DumpKind::Link],
        rtm::NEWADDR | rtm::DELADDR => &[DumpKind::Addr],
        rtm::NEWROUTE | rtm::DELROUTE if m.body.first() == Some(&AF_INET6) => &[DumpKind::Route6],
        rtm::NEWROUTE | rtm::DELROUTE => &[DumpKind::Route4],
        rtm::NEWNEIGH | rtm::DELNEIGH => &[DumpKind::Neigh],
        rtm::NEWRULE | rtm::DELRULE => &[DumpKind::Rule],
        rtm::NEWNETCONF | rtm::DELNETCONF => &[DumpKind::Netconf],
        rtm::NEWNEXTHOP | rtm::DELNEXTHOP => &[DumpKind::NextHop],
        _ => &[],
    }
}

/// Whether that is the first of its kind.
fn count<K: Ord>(map: &mut BTreeMap<K, u64>, key: K) -> bool {
    if map.len() >= MOST && !map.contains_key(&key) {
        return false;
    }
    let n = map.entry(key).or_default();
    *n += 1;
    *n == 1
}

impl Mirror {
    /// The kinds in doubt, each with what is wrong with a message of it.
    pub fn doubts(&self) -> impl Iterator<Item = (DumpKind, Malformed)> + '_ {
        self.doubt.kinds.iter().map(|(k, why)| (*k, *why))
    }

    pub(super) fn doubt_begin(&mut self, kind: DumpKind) {
        self.doubt.since.remove(&kind);
    }

    /// A dump of that kind was read to its end.
    pub(super) fn doubt_end(&mut self, kind: DumpKind) {
        if !self.doubt.since.contains(&kind) {
            self.dirt.doubt |= self.doubt.kinds.remove(&kind).is_some();
        }
    }

    /// What was strange about a message, if anything was.
    pub(super) fn strange(
        &mut self,
        m: Option<&Message<'_>>,
        read: Result<(), Malformed>,
        unknown: &Unknowns,
        dump: Option<DumpKind>,
    ) {
        for u in unknown.iter() {
            if count(&mut self.ctx.stats.unknown, u) {
                self.dirt.strange.push(format!("{u} is not known here"));
            }
        }
        let Err(why) = read else {
            // The next of a kind in doubt was read: so may be a dump.
            if dump.is_none() && !self.doubt.kinds.is_empty() {
                let doubted = kinds(m).iter().filter(|k| self.doubt.kinds.contains_key(k));
                self.ctx.confirm.extend(doubted);
            }
            return;
        };
        self.ctx.stats.malformed += 1;
        let kind = m.map_or(0, |m| m.kind);
        if count(&mut self.ctx.stats.unreadable, (kind, why.0)) {
            self.dirt.strange.push(format!("a message of type {kind} can't be read: {}", why.0));
        }
        for k in kinds(m) {
            self.doubt.since.insert(*k);
            self.dirt.doubt |= self.doubt.kinds.insert(*k, why) != Some(why);
            if dump.is_none() {
                self.dirt.wanted.insert(*k);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::build::Builder;

    fn link(index: u32, odd: Option<(u16, &[u8])>) -> Vec<u8> {
        let mut fixed = [0; 16];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        let b = Builder::new(rtm::NEWLINK, 0, &fixed).attr(3, b"swp1\0");
        odd.map_or_else(|| b.clone().done(), |(k, data)| b.clone().attr(k, data).done())
    }

    #[test]
    fn a_strange_message_costs_no_neighbour_and_is_named_once() {
        let mut m = Mirror::new();
        // An attribute of tomorrow, a type of tomorrow, an MTU of three bytes.
        let tomorrow = Builder::new(130, 0, &[0; 8]).done();
        let parts = [link(1, Some((70, b"new"))), tomorrow, link(2, Some((4, &[1; 3]))), link(3, None)];
        for _ in 0..2 {
            m.monitor(1, &parts.concat());
        }
        let there: Vec<u32> = m.links().map(|l| l.ifindex).collect();
        assert_eq!(there, [1, 3]);
        assert_eq!(m.stats().unknown.values().copied().collect::<Vec<_>>(), [2, 2]);
        assert_eq!(m.stats().unreadable.values().copied().collect::<Vec<_>>(), [2]);
        let said = m.take_dirt().strange;
        assert_eq!(
            said,
            [
                "attribute 70 of a link is not known here",
                "message type 130 is not known here",
                "a message of type 16 can't be read: attribute is not four bytes"
            ]
        );
    }

    #[test]
    fn what_could_not_be_read_is_in_doubt_until_a_dump_was() {
        let mut m = Mirror::new();
        m.monitor(1, &link(2, Some((4, &[1; 3]))));
        let doubted = |m: &Mirror| m.doubts().map(|(k, _)| k).collect::<Vec<_>>();
        assert_eq!(doubted(&m), [DumpKind::Link]);
        let d = m.take_dirt();
        assert!(d.doubt && d.wanted.contains(&DumpKind::Link));
        // It is there in the dump, too: that is not asked for again, but when something of the kind is heard.
        m.dump_begin(DumpKind::Link);
        m.dump(DumpKind::Link, 1, &link(2, Some((4, &[1; 3]))));
        m.dump_end(DumpKind::Link, true);
        let d = m.take_dirt();
        assert_eq!((doubted(&m), d.wanted.len(), d.confirm.len()), (vec![DumpKind::Link], 0, 0));
        m.monitor(2, &link(2, None));
        assert!(m.take_dirt().confirm.contains(&DumpKind::Link));
        m.dump_begin(DumpKind::Link);
        m.dump(DumpKind::Link, 2, &link(2, None));
        m.dump_end(DumpKind::Link, false);
        assert_eq!(doubted(&m), [DumpKind::Link], "it was not whole");
        m.dump_begin(DumpKind::Link);
        m.dump(DumpKind::Link, 2, &link(2, None));
        m.dump_end(DumpKind::Link, true);
        assert!(m.take_dirt().doubt && doubted(&m).is_empty());
        // A header that lies leaves nothing certain.
        m.monitor(3, &[0xff; 20]);
        assert_eq!(doubted(&m).len(), DumpKind::ALL.len());
    }
}
