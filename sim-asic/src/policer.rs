//! Policers of the punt path: a token bucket for each trap class, so that no flood of one kind starves the others.
//!
//! Defaults are one table; the configuration overrides them by class name. Time is passed in. All workers share one bucket a
//! class under a lock, so that a rate is exact whatever their number: a punted frame costs a system call, beside which the lock
//! is nothing.

use std::sync::{Mutex, PoisonError};

use hal::{Nanos, TrapClass};
use serde::Deserialize;

/// What a class may send to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Frames per second.
    pub rate: u32,
    /// Frames at once after a pause.
    pub burst: u32,
}

/// The default of a class.
///
/// Three kinds: what carries traffic for as long as hardware does not take it (whole ports and interfaces without an
/// agent, routes left to the kernel, TCP to the switch itself), what belongs to a protocol of the switch, and what is
/// exceptional or can be provoked by anyone.
pub fn default(class: TrapClass) -> Rate {
    use TrapClass::*;
    let (rate, burst) = match class {
        NoRif | NotForwarding | EgressClosed | Punt | NoRoom | Hash | ToUs | OtherMac | Vlan | Protocol | Dangling
        | BridgeClosed | Unknown => (400_000, 20_000),
        Source | Special | SameInterface | Mtu | Options | Moved => (100_000, 10_000),
        Arp | Nd | Broadcast | Multicast | PortDown | Control => (20_000, 2_000),
        // Each frame of these costs the kernel a search, a queue place or an answer, and the kernel's own limits follow.
        Glean | Unresolved | NoRoute | Unreachable | Ttl | Malformed => (20_000, 2_000),
    };
    Rate { rate, burst }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: u64,
    /// Billionths of a frame.
    tokens: u64,
    full: u64,
    at: Nanos,
}

const FRAME: u64 = 1_000_000_000;

/// One bucket for each trap class.
#[derive(Debug)]
pub struct Policers {
    buckets: [Mutex<Bucket>; TrapClass::COUNT],
}

impl Policers {
    /// With these rates, all full.
    pub fn new(rate: impl Fn(TrapClass) -> Rate) -> Policers {
        Policers {
            buckets: TrapClass::ALL.map(|c| {
                let r = rate(c);
                let full = u64::from(r.burst.max(1)) * FRAME;
                Mutex::new(Bucket { rate: u64::from(r.rate), tokens: full, full, at: 0 })
            }),
        }
    }

    /// Whether a frame of that class may go to the kernel now. Workers that read the clock at about the same time may come in
    /// any order.
    pub fn pass(&self, class: TrapClass, now: Nanos) -> bool {
        let mut b = self.buckets[class as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let gained = u128::from(now.saturating_sub(b.at)) * u128::from(b.rate);
        b.tokens = u64::try_from(gained).unwrap_or(u64::MAX).saturating_add(b.tokens).min(b.full);
        b.at = b.at.max(now);
        let pass = b.tokens >= FRAME;
        if pass {
            b.tokens -= FRAME;
        }
        pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate_and_classes_apart() {
        let p = Policers::new(|_| Rate { rate: 1000, burst: 10 });
        let taken = |class, now, n: u32| (0..n).filter(|_| p.pass(class, now)).count();
        assert_eq!(taken(TrapClass::Arp, 0, 100), 10);
        assert_eq!(taken(TrapClass::Nd, 0, 100), 10);
        assert_eq!(taken(TrapClass::Arp, 999_999, 5), 0);
        assert_eq!(taken(TrapClass::Arp, 1_000_000, 5), 1);
        // Asked often or seldom, the same rate.
        let often: usize = (1..=1000).map(|i| taken(TrapClass::Arp, 1_000_000 + i * 100_000, 3)).sum();
        assert_eq!(often, 100);
        assert_eq!(taken(TrapClass::Arp, u64::MAX, 100), 10);
    }

    #[test]
    fn workers_share_a_rate() {
        let p = Policers::new(|_| Rate { rate: 1000, burst: 10 });
        // Clocks that are read by turns and used late: no token is made twice.
        let taken: usize = std::thread::scope(|s| {
            let each: Vec<_> = (0..4_u64)
                .map(|t| {
                    s.spawn({
                        let p = &p;
                        move || (0..10_000).filter(|i| p.pass(TrapClass::Nd, (i ^ t) * 100_000)).count()
                    })
                })
                .collect();
            each.into_iter().map(|t| t.join().unwrap()).sum()
        });
        // 10 at once, then 1,000 a second over the second that passed.
        assert!((10 + 999..=10 + 1000).contains(&taken), "{taken}");
    }
}
