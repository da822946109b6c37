//! xtables' legacy tables and IP virtual services. Judges the text of files below `/proc/net`; no I/O.
//!
//! Of legacy ebtables nothing says which namespace has a table: where the module of one is loaded, all bridges are closed. Legacy
//! arptables are not looked at: they see ARP to the switch itself, which is trapped.

use super::{Finding, Scope};

/// Tables that do nothing while they hold no rule: those that have no other hooks registered for them. `nat` brings
/// connection tracking along, rules or not.
const IDLE: [&str; 4] = ["filter", "mangle", "raw", "security"];

/// Number of hooks (`NF_INET_NUMHOOKS`).
const HOOKS: usize = 5;
/// Size of a table's name (`XT_TABLE_MAXNAMELEN`).
pub const NAME: usize = 32;
/// Size of `struct ipt_getinfo`, which is also IPv6's.
pub const INFO: usize = NAME + 4 * (1 + 2 * HOOKS + 2);
/// `-NF_ACCEPT - 1`: how a standard target says "accept".
const ACCEPT: i32 = -2;

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

/// Size of the entries that a `struct ipt_getinfo` announces, in bytes.
pub fn size(info: &[u8; INFO]) -> usize {
    u32_at(info, INFO - 4).map_or(0, |n| n as usize)
}

/// Whether a table lets everything pass as if it were not there: each of its chains is nothing but the policy ACCEPT.
/// `info` is `struct ipt_getinfo`, `entries` what follows the head of `struct ipt_get_entries` (or IPv6's likes). The kernel sees
/// to it that what stands where a chain underflows is an unconditional entry with a standard target.
pub fn passes_all(info: &[u8; INFO], entries: &[u8], v6: bool) -> bool {
    // `target_offset` in `struct ipt_entry` and `struct ip6t_entry`.
    let target_offset = if v6 { 140 } else { 88 };
    let policy_accepts = |at: usize| {
        let offset = entries.get(at + target_offset..at + target_offset + 2)?;
        let target = at + usize::from(u16::from_ne_bytes(offset.try_into().ok()?));
        // `struct xt_entry_target`: size, name (empty for the standard one), revision; then the verdict.
        (*entries.get(target + 2)? == 0 && u32_at(entries, target + 32)? as i32 == ACCEPT).then_some(())
    };
    let Some(hooks) = u32_at(info, NAME) else { return false };
    (0..HOOKS).filter(|h| hooks & (1 << h) != 0).all(|h| {
        let entry = u32_at(info, NAME + 4 + 4 * h);
        let underflow = u32_at(info, NAME + 4 + 4 * (HOOKS + h));
        entry.is_some() && entry == underflow && entry.and_then(|at| policy_accepts(at as usize)).is_some()
    })
}

/// What `/proc/modules` says of ebtables.
pub fn judge_ebtables(modules: &str) -> Vec<Finding> {
    let loaded = |m: &&str| ["ebtable_filter", "ebtable_nat", "ebtable_broute"].contains(m);
    let names = modules.lines().filter_map(|l| l.split(' ').next());
    let why = |m| format!("ebtables may have rules (module {m}): unload it (rmmod {m}) to have hardware bridge again");
    names.filter(loaded).map(|m| Finding::new(Scope::Bridge, why(m)).by_firewall()).collect()
}

/// What `ip_tables_names` (`ip6_tables_names` with `v6`) closes. It names the tables that are registered, each hooked
/// into the forward path; `passes` says whether one of them is known to do nothing.
pub fn judge(names: &str, v6: bool, passes: impl Fn(&str) -> bool) -> Vec<Finding> {
    let (scope, program) = if v6 { (Scope::V6, "ip6tables") } else { (Scope::V4, "iptables") };
    let module = program.trim_end_matches('s');
    names
        .lines()
        .filter(|n| !n.is_empty())
        .filter(|n| !IDLE.contains(n) || !passes(n))
        .map(|n| {
            let why = if IDLE.contains(&n) {
                format!(
                    "legacy {program} table \"{n}\" has rules or another policy than ACCEPT: \
                     flush it to have hardware forward again ({program} -t {n} -F)"
                )
            } else {
                format!(
                    "legacy {program} table \"{n}\" is there, with rules or without: \
                     flush it and unload {module}_{n} to have hardware forward again"
                )
            };
            Finding::new(scope, why).by_firewall()
        })
        .collect()
}

/// What `ip_vs` closes: below three lines of headings it lists the virtual services.
pub fn judge_ipvs(text: &str) -> Option<Finding> {
    (text.lines().count() > 3).then(|| {
        Finding::new(
            Scope::All,
            "IP virtual services are configured: remove them to have hardware forward again (ipvsadm -C)",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_is_a_finding() {
        assert_eq!(judge("", false, |_| false), []);
        let found = judge("nat\nfilter\n", true, |_| false);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].scope, Scope::V6);
        assert!(found[0].why.contains("unload ip6table_nat"), "{}", found[0].why);
        assert!(found[1].why.contains("ip6tables -t filter -F"), "{}", found[1].why);
        // Of nat, and of what is not known, being empty is not enough.
        assert_eq!(judge("nat\nfilter\nraw\nother\n", false, |_| true).len(), 2);
    }

    /// A table of two hooks, and its entries: policies only, as far as the verdicts say.
    fn table(verdicts: [i32; 2]) -> ([u8; INFO], Vec<u8>) {
        let mut info = [0; INFO];
        let mut put = |at: usize, v: u32| info[at..at + 4].copy_from_slice(&v.to_ne_bytes());
        put(NAME, 0b110);
        for (h, at) in [(1, 0), (2, 152)] {
            put(NAME + 4 + 4 * h, at);
            put(NAME + 4 + 4 * (HOOKS + h), at);
        }
        let mut entries = vec![0; 2 * 152];
        for (n, v) in verdicts.into_iter().enumerate() {
            entries[n * 152 + 88..n * 152 + 90].copy_from_slice(&112u16.to_ne_bytes());
            entries[n * 152 + 112 + 32..n * 152 + 112 + 36].copy_from_slice(&v.to_ne_bytes());
        }
        (info, entries)
    }

    #[test]
    fn only_a_table_of_accepting_policies_passes_all() {
        let (info, entries) = table([ACCEPT, ACCEPT]);
        assert!(passes_all(&info, &entries, false));
        let (_, drops) = table([ACCEPT, -1]);
        assert!(!passes_all(&info, &drops, false));
        // A rule before the policy of the forward chain.
        let mut rule = info;
        rule[NAME + 4 + 8] = 76;
        assert!(!passes_all(&rule, &entries, false));
        // A target that is not the standard one.
        let mut named = entries.clone();
        named[112 + 2] = b'E';
        assert!(!passes_all(&info, &named, false));
        // What is cut off says nothing.
        assert!((0..entries.len() - 12).all(|n| !passes_all(&info, &entries[..n], false)));
        assert!(!passes_all(&info, &entries, true));
    }

    #[test]
    fn services_close() {
        let head = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> Remote\n";
        assert_eq!(judge_ipvs(head), None);
        assert!(judge_ipvs(&format!("{head}TCP  0A000001:0050 rr\n")).is_some());
    }
}
