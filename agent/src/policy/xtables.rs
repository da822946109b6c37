//! xtables' legacy tables and IP virtual services. Judges the text of files below `/proc/net`; no I/O.
//!
//! Legacy ebtables and arptables are not looked at: the first see frames of bridges alone, whose ports are closed for
//! their master, the second see ARP, which is trapped.

use super::{Finding, Scope};

/// What `ip_tables_names` (`ip6_tables_names` with `v6`) closes. It names the tables that are registered, each hooked
/// into the forward path whether it has rules or not.
pub fn judge(names: &str, v6: bool) -> Vec<Finding> {
    let (scope, program) = if v6 { (Scope::V6, "ip6tables") } else { (Scope::V4, "iptables") };
    let module = program.trim_end_matches('s');
    names
        .lines()
        .filter(|n| !n.is_empty())
        .map(|n| {
            let why = format!(
                "legacy {program} table \"{n}\" is there, with rules or without: \
                 flush it and unload {module}_{n} to have hardware forward again"
            );
            Finding::new(scope, why)
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
        assert_eq!(judge("", false), []);
        let found = judge("nat\nfilter\n", true);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].scope, Scope::V6);
        assert!(found[1].why.contains("unload ip6table_filter"), "{}", found[1].why);
    }

    #[test]
    fn services_close() {
        let head = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> Remote\n";
        assert_eq!(judge_ipvs(head), None);
        assert!(judge_ipvs(&format!("{head}TCP  0A000001:0050 rr\n")).is_some());
    }
}
