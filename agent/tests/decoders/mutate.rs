//! The corpus, and what is done to its messages. A mutation is plain data, so that proptest shrinks a list of them.

use std::sync::OnceLock;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use virga::netlink::messages;

/// A message of the corpus.
#[derive(Clone, Debug)]
pub struct Real {
    /// `nlmsg_type`
    pub kind: u16,
    /// What follows the header.
    pub body: Vec<u8>,
    /// Its kernel and protocol.
    pub file: &'static str,
}

impl Real {
    /// With its header again.
    pub fn whole(&self) -> Vec<u8> {
        whole(self.kind, &self.body)
    }
}

/// A message with a header that tells the truth.
pub fn whole(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut m = (16 + body.len() as u32).to_ne_bytes().to_vec();
    m.extend(kind.to_ne_bytes());
    m.extend([0; 10]);
    m.extend(body);
    m.resize(m.len().next_multiple_of(4), 0);
    m
}

macro_rules! files {
    ($($name:literal),*) => { &[$(($name, include_bytes!(concat!("../corpus/", $name)))),*] };
}

/// Recorded by `cargo run --example record` on two kernels.
const FILES: &[(&str, &[u8])] = files!(
    "route-6.18.bin",
    "route-6.1.bin",
    "netfilter-6.18.bin",
    "netfilter-6.1.bin",
    "xfrm-6.18.bin",
    "xfrm-6.1.bin"
);

/// All messages of a protocol: `route`, `netfilter` or `xfrm`.
pub fn corpus(protocol: &str) -> Vec<Real> {
    let of = |(file, bytes): &(&'static str, &'static [u8])| {
        let file = *file;
        messages(bytes).map(move |m| {
            let m = m.unwrap_or_else(|e| panic!("{file}: {e}"));
            Real { kind: m.kind, body: m.body.to_vec(), file }
        })
    };
    FILES.iter().filter(|(f, _)| f.starts_with(protocol)).flat_map(of).collect()
}

/// One change of some bytes. Places are shares of the length, in 65,536ths.
#[derive(Clone, Copy, Debug)]
pub enum Mutation {
    Flip {
        at: u16,
        bit: u8,
    },
    Byte {
        at: u16,
        to: u8,
    },
    /// A length or a type, where one may stand.
    Half {
        at: u16,
        to: u16,
    },
    /// A number, where one may stand.
    Word {
        at: u16,
        to: u32,
    },
    Truncate {
        at: u16,
    },
    Remove {
        at: u16,
        len: u8,
    },
    Repeat {
        at: u16,
        len: u8,
    },
    /// Part of another message.
    Splice {
        at: u16,
        from: u16,
        other: u16,
        len: u8,
    },
}

fn place(at: u16, len: usize, step: usize) -> usize {
    ((usize::from(at) * len) >> 16) / step * step
}

impl Mutation {
    pub fn apply(self, b: &mut Vec<u8>, all: &[Real]) {
        let len = b.len();
        match self {
            _ if b.is_empty() => {}
            Mutation::Flip { at, bit } => b[place(at, len, 1)] ^= 1 << (bit & 7),
            Mutation::Byte { at, to } => b[place(at, len, 1)] = to,
            Mutation::Half { at, to } => put(b, place(at, len, 2), &to.to_ne_bytes()),
            Mutation::Word { at, to } => put(b, place(at, len, 4), &to.to_ne_bytes()),
            Mutation::Truncate { at } => b.truncate(place(at, len, 1)),
            Mutation::Remove { at, len: n } => {
                let at = place(at, len, 4);
                b.drain(at..(at + usize::from(n)).min(len));
            }
            Mutation::Repeat { at, len: n } => {
                let at = place(at, len, 4);
                let part = b[at..(at + usize::from(n)).min(len)].to_vec();
                b.splice(at..at, part);
            }
            Mutation::Splice { at, from, other, len: n } => {
                let o = &all[usize::from(other) % all.len()].body;
                let (at, from) = (place(at, len, 4), place(from, o.len(), 4));
                b.splice(at..at, o[from..(from + usize::from(n)).min(o.len())].iter().copied());
            }
        }
    }
}

fn put(b: &mut [u8], at: usize, what: &[u8]) {
    for (to, from) in b[at..].iter_mut().zip(what) {
        *to = *from;
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let half = prop_oneof![any::<u16>(), 0..128u16, Just(0xffff), (0..128u16).prop_map(|k| k | 0x8000)];
    let word = prop_oneof![any::<u32>(), 0..512u32, Just(u32::MAX), Just(1 << 31)];
    prop_oneof![
        (any::<u16>(), any::<u8>()).prop_map(|(at, bit)| Mutation::Flip { at, bit }),
        (any::<u16>(), any::<u8>()).prop_map(|(at, to)| Mutation::Byte { at, to }),
        (any::<u16>(), half).prop_map(|(at, to)| Mutation::Half { at, to }),
        (any::<u16>(), word).prop_map(|(at, to)| Mutation::Word { at, to }),
        any::<u16>().prop_map(|at| Mutation::Truncate { at }),
        (any::<u16>(), any::<u8>()).prop_map(|(at, len)| Mutation::Remove { at, len }),
        (any::<u16>(), any::<u8>()).prop_map(|(at, len)| Mutation::Repeat { at, len }),
        (any::<u16>(), any::<u16>(), any::<u16>(), any::<u8>()).prop_map(|(at, from, other, len)| Mutation::Splice {
            at,
            from,
            other,
            len
        }),
    ]
}

/// A message by number, and what is done to it.
pub type Case = (u16, Vec<Mutation>);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Have `check` look at that many mutated messages (`VIRGA_FUZZ` times as many where it is set). The seed is `VIRGA_SEED`'s, or a fresh one
/// that is printed where it fails.
pub fn fuzz<T: std::fmt::Debug>(cases: u32, what: impl Strategy<Value = T>, check: impl Fn(&T) -> Result<(), String>) {
    static SEED: OnceLock<u64> = OnceLock::new();
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |t| t.as_nanos() as u64);
    let seed = *SEED.get_or_init(|| number("VIRGA_SEED").unwrap_or_else(now));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_ne_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let cases = cases.saturating_mul(number("VIRGA_FUZZ").unwrap_or(1) as u32);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let failed = TestRunner::new_with_rng(config, rng).run(&what, |c| check(&c).map_err(TestCaseError::fail));
    match failed {
        Ok(()) => {}
        Err(TestError::Fail(why, case)) => panic!("VIRGA_SEED={seed}: {why}\n{case:?}"),
        Err(e) => panic!("VIRGA_SEED={seed}: {e}"),
    }
}

/// Mutated messages of a corpus.
pub fn mutated() -> impl Strategy<Value = Case> {
    (any::<u16>(), proptest::collection::vec(mutation(), 1..5))
}

/// The message of a case, as it came and as it is now.
pub fn made(all: &[Real], (n, how): &Case) -> (Real, Vec<u8>) {
    let real = all[usize::from(*n) % all.len()].clone();
    let mut body = real.body.clone();
    how.iter().for_each(|m| m.apply(&mut body, all));
    // A netlink message is not longer than its reader's buffer.
    body.truncate(60_000);
    (real, body)
}
