//! Guards against a model that looks at everything anew.

use std::collections::BTreeSet;

use hal::V4;
use proptest::prelude::*;

use super::*;

type P = Prefix<V4>;

#[derive(Clone, Debug)]
enum Step {
    Stand(P),
    Leave(P),
    /// It is to stand after all.
    Stay(P),
    Starve(P),
    Feed(P),
    Walk(usize),
}

fn prefix() -> impl Strategy<Value = P> {
    (0u32..64, 0u8..=6).prop_map(|(n, len)| Prefix::new((n << 26).into(), len))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prefix().prop_map(Step::Stand),
        3 => prefix().prop_map(Step::Leave),
        1 => prefix().prop_map(Step::Stay),
        4 => prefix().prop_map(Step::Starve),
        2 => prefix().prop_map(Step::Feed),
        4 => (1usize..5).prop_map(Step::Walk),
    ]
}

/// The longest prefix of `all` that is shorter than `p`.
fn nearest(all: impl Iterator<Item = P>, p: P) -> Option<P> {
    all.filter(|c| c.len() < p.len() && c.covers(p)).max_by_key(|c| c.len())
}

#[derive(Default)]
struct World {
    guards: Guards<V4>,
    stands: BTreeSet<P>,
    absent: BTreeSet<P>,
    /// Those that were asked to go and are still there.
    leaving: BTreeSet<P>,
}

impl World {
    fn cover(&self, p: P) -> Option<P> {
        nearest(self.stands.iter().copied().filter(|c| !self.guards.leaves(*c)), p)
    }

    fn go(&mut self, p: P) {
        if self.guards.goes(p) {
            self.guards.gone(p);
            self.stands.remove(&p);
            self.leaving.remove(&p);
        } else {
            self.leaving.insert(p);
        }
    }

    fn walk(&mut self, max: usize) {
        let stands = &self.stands;
        self.guards.walk(max, |g, p| nearest(stands.iter().copied().filter(|c| !g.leaves(*c)), p));
    }

    fn step(&mut self, s: &Step) {
        match *s {
            Step::Stand(p) => {
                if !self.absent.contains(&p) && self.stands.insert(p) {
                    self.guards.comes(p);
                }
            }
            Step::Leave(p) => {
                if self.stands.contains(&p) {
                    self.go(p);
                }
            }
            Step::Stay(p) => {
                if self.leaving.remove(&p) {
                    self.guards.comes(p);
                }
            }
            Step::Starve(p) => {
                if !self.stands.contains(&p) && self.absent.insert(p) {
                    let by = self.cover(p);
                    self.guards.add(p, by);
                }
            }
            Step::Feed(p) => assert_eq!(self.guards.remove(p), self.absent.remove(&p)),
            Step::Walk(n) => self.walk(n),
        }
        let (_, lifted) = self.guards.changed();
        for p in lifted.collect::<Vec<_>>() {
            if self.leaving.contains(&p) {
                self.go(p);
            }
        }
    }

    /// At any time what stands next above an absent route is a trap.
    fn right(&self) {
        for a in &self.absent {
            if let Some(c) = nearest(self.stands.iter().copied(), *a) {
                assert!(self.guards.guarded(c), "{a} is missing, and {c} forwards");
            }
        }
    }

    /// When all has been walked, nothing else is a trap.
    fn exact(&self) {
        let want: BTreeSet<P> = self.absent.iter().filter_map(|a| nearest(self.stands.iter().copied(), *a)).collect();
        assert_eq!(self.stands.iter().copied().filter(|p| self.guards.guarded(*p)).collect::<BTreeSet<_>>(), want);
        assert_eq!(self.guards.guarding(), want.len());
        assert!(self.leaving.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn as_a_model_has_it(steps in proptest::collection::vec(step(), 1..120)) {
        let mut w = World::default();
        for s in steps {
            w.step(&s);
            w.right();
        }
        for _ in 0..10_000 {
            if w.guards.still() && w.leaving.is_empty() {
                break;
            }
            w.step(&Step::Walk(3));
            w.right();
        }
        w.exact();
    }
}

#[test]
fn no_step_looks_at_all() {
    let mut w = World::default();
    let all = P::all();
    w.step(&Step::Stand(all));
    for i in 0..50_000u32 {
        let p = P::new((i << 8).into(), 24);
        w.absent.insert(p);
        w.guards.add(p, Some(all));
    }
    let half = P::new(0u32.into(), 1);
    for s in [Step::Stand(half), Step::Leave(half), Step::Leave(all)] {
        let mut steps = 0;
        w.step(&s);
        while !w.guards.still() {
            assert!(w.guards.guarded(half) || w.guards.guarded(all));
            w.step(&Step::Walk(1000));
            steps += 1;
        }
        assert!((2..60).contains(&steps), "{s:?}: {steps} steps");
    }
    assert!(w.stands.is_empty() && w.guards.guarding() == 0);
}
