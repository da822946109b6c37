//! What is closed, and why. Pure: a reading and the ports of now in, findings out.

use super::{Finding, Netconf4, Polled, PortRef, Scope, sysctl};

/// Everything that the latest reading closes, sorted, each once. Without a reading everything is closed; a port that
/// was not looked at, or had another name then, is closed until the next one.
pub fn gate(polled: Option<&Polled>, ports: &[PortRef]) -> Vec<Finding> {
    let Some(polled) = polled else {
        return vec![Finding::new(Scope::All, "the kernel's policy has not been read yet")];
    };
    let mut all = polled.findings.clone();
    all.extend(sysctl::judge(polled));
    for port in ports.iter().filter(|p| !polled.ports.contains(p)) {
        all.push(Finding::new(
            Scope::Link(port.ifindex),
            format!("the kernel's policy for {} has not been read yet", port.name),
        ));
    }
    all.sort();
    all.dedup();
    all
}

/// What is closed because the kernel's settings are not those that it announced: `announced` gives what the mirror
/// holds of an interface. Between a change and its notification this closes for one reading, which does no harm.
pub fn disagree(polled: &Polled, announced: impl Fn(u32) -> Option<Netconf4>) -> Vec<Finding> {
    let differs = |p: &&PortRef| match (polled.netconf4(&p.name), announced(p.ifindex)) {
        (Some(read), Some(told)) => read != told,
        _ => false,
    };
    let finding = |p: &PortRef| {
        let why = format!(
            "forwarding, rp_filter or ignore_routes_with_linkdown of {0} was set over rtnetlink, unannounced: \
             write net.ipv4.conf.{0}.* by sysctl instead",
            p.name
        );
        Finding::new(Scope::Link(p.ifindex), why)
    };
    polled.ports.iter().filter(differs).map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_read_is_closed_and_a_new_port_too() {
        let ports = [PortRef { ifindex: 3, name: "swp1".into() }];
        assert_eq!(gate(None, &ports)[0].scope, Scope::All);
        let mut polled = Polled::default();
        assert_eq!(gate(Some(&polled), &ports)[0].scope, Scope::Link(3));
        polled.ports = ports.to_vec();
        assert_eq!(gate(Some(&polled), &ports), []);
        let renamed = [PortRef { ifindex: 3, name: "eth0".into() }];
        assert_eq!(gate(Some(&polled), &renamed)[0].scope, Scope::Link(3));
    }

    #[test]
    fn settings_that_were_not_announced_close_the_interface() {
        let mut polled = Polled { ports: vec![PortRef { ifindex: 3, name: "swp1".into() }], ..Polled::default() };
        for (name, value) in [("forwarding", "1"), ("rp_filter", "2"), ("ignore_routes_with_linkdown", "0")] {
            polled.sysctls.insert(format!("ipv4/conf/swp1/{name}"), value.into());
        }
        let told = Netconf4 { forwarding: true, rp_filter: 2, ignore_linkdown: false };
        assert_eq!(disagree(&polled, |_| Some(told)), []);
        assert_eq!(disagree(&polled, |_| None), [], "not announced yet: compiled as closed");
        let found = disagree(&polled, |_| Some(Netconf4 { rp_filter: 0, ..told }));
        assert_eq!(found[0].scope, Scope::Link(3));
    }

    #[test]
    fn findings_are_sorted_and_single() {
        let f = Finding::new(Scope::V6, "x");
        let polled =
            Polled { findings: vec![f.clone(), Finding::new(Scope::All, "y"), f.clone()], ..Polled::default() };
        assert_eq!(gate(Some(&polled), &[]), [Finding::new(Scope::All, "y"), f]);
    }
}
