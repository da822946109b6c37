//! IPsec: which policies see forwarded packets. Judges answers of `NETLINK_XFRM`; no I/O.
//!
//! Forwarded packets are held against policies of direction `out` and `fwd`; those of direction `in` and of single
//! sockets concern local delivery alone. SAs without a policy touch only what is addressed to the switch.

use super::nl::{Message, attrs, find, u16_at, u32_at};
use super::{Finding, Scope};

/// `XFRM_MSG_NEWPOLICY`, `NEWSPDINFO`, `GETDEFAULT`'s answer (`linux/xfrm.h`).
pub const NEWPOLICY: u16 = 0x13;
const NEWSPDINFO: u16 = 0x24;
const GETDEFAULT: u16 = 0x28;
const DIR_OUT: u8 = 1;
const DIR_FWD: u8 = 2;
const BLOCK: u8 = 1;

const REMEDY: &str = "delete it to have hardware forward again (ip xfrm policy)";

/// How many policies see forwarded packets (`XFRMA_SPD_INFO`); `None` if the answer can't be read.
pub fn count(answer: &[Message]) -> Option<u32> {
    let m = answer.iter().find(|m| m.kind == NEWSPDINFO)?;
    let a = attrs(m.body.get(4..)?)?;
    let info = find(&a, 1)?;
    Some(u32_at(info, 4)?.saturating_add(u32_at(info, 8)?))
}

/// What the default verdicts close (`struct xfrm_userpolicy_default`: in, fwd, out).
pub fn judge_default(answer: &[Message]) -> Vec<Finding> {
    let m = answer.iter().find(|m| m.kind == GETDEFAULT);
    match m.and_then(|m| m.body.get(..3)) {
        Some(&[_, fwd, out]) if fwd != BLOCK && out != BLOCK => Vec::new(),
        Some(_) => vec![Finding::new(
            Scope::All,
            "IPsec's default is to block forwarded packets: ip xfrm policy setdefault fwd accept out accept",
        )],
        None => vec![Finding::new(Scope::All, "IPsec's default policy cannot be read")],
    }
}

/// What the policies of a dump close, once per direction and family.
pub fn judge(policies: &[Message]) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        policies.iter().filter(|m| m.kind == NEWPOLICY).filter_map(|m| one(&m.body)).collect();
    findings.sort();
    findings.dedup();
    findings
}

fn one(b: &[u8]) -> Option<Finding> {
    // `struct xfrm_userpolicy_info`: selector (56 bytes, family at 40), lifetimes (96), priority, index, direction.
    let (Some(family), Some(&dir)) = (u16_at(b, 40), b.get(160)) else {
        return Some(Finding::new(Scope::All, "an IPsec policy that the agent cannot read"));
    };
    let dir = match dir {
        DIR_OUT => "out",
        DIR_FWD => "fwd",
        _ => return None,
    };
    let (scope, family) = match i32::from(family) {
        libc::AF_INET => (Scope::V4, "IPv4"),
        libc::AF_INET6 => (Scope::V6, "IPv6"),
        _ => (Scope::All, "any family"),
    };
    Some(Finding::new(scope, format!("an IPsec policy for {family}, direction {dir}: {REMEDY}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(family: u16, dir: u8) -> Message {
        let mut body = vec![0; 168];
        body[40..42].copy_from_slice(&family.to_ne_bytes());
        body[160] = dir;
        Message { kind: NEWPOLICY, body }
    }

    #[test]
    fn directions_of_the_forward_path_close_their_family() {
        let scopes = |p: &[Message]| judge(p).into_iter().map(|f| f.scope).collect::<Vec<_>>();
        assert_eq!(scopes(&[policy(2, 0), policy(2, 3), policy(10, 4)]), []);
        assert_eq!(scopes(&[policy(2, 1)]), [Scope::V4]);
        assert_eq!(scopes(&[policy(10, 2), policy(10, 2)]), [Scope::V6]);
        assert_eq!(scopes(&[policy(0, 2)]), [Scope::All]);
        assert_eq!(scopes(&[Message { kind: NEWPOLICY, body: vec![0; 100] }]), [Scope::All]);
    }

    #[test]
    fn a_blocking_default_closes_everything() {
        let default = |b: &[u8]| judge_default(&[Message { kind: GETDEFAULT, body: b.to_vec() }]).len();
        assert_eq!(default(&[2, 2, 2, 0]), 0);
        assert_eq!(default(&[1, 2, 2, 0]), 0);
        assert_eq!(default(&[2, 1, 2, 0]), 1);
        assert_eq!(default(&[2, 2, 1, 0]), 1);
        assert_eq!(default(&[2]), 1);
        assert_eq!(judge_default(&[]).len(), 1);
    }
}
