//! What is closed, and why. Pure: a reading and the ports of now in, findings out.

use super::{Finding, Polled, PortRef, Scope, sysctl};

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
    fn findings_are_sorted_and_single() {
        let f = Finding::new(Scope::V6, "x");
        let polled =
            Polled { findings: vec![f.clone(), Finding::new(Scope::All, "y"), f.clone()], ..Polled::default() };
        assert_eq!(gate(Some(&polled), &[]), [Finding::new(Scope::All, "y"), f]);
    }
}
