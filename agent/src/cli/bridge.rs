//! `virga fdb show`, `virga vlan show`, `virga stp show`: stations, VLANs and states of bridge ports, and what the chip holds of each.

use std::process::ExitCode;

use serde_json::Value;

use super::Context;
use super::text::{fate, field, plain, strings};

/// Show stations.
///
/// # Errors
/// One sentence.
pub fn fdb(cx: &Context) -> Result<ExitCode, String> {
    cx.show("/v1/fdb", |v| lines(v, station))
}

/// Show VLANs.
///
/// # Errors
/// One sentence.
pub fn vlan(cx: &Context) -> Result<ExitCode, String> {
    cx.show("/v1/vlans", |v| lines(v, vid))
}

/// Show states.
///
/// # Errors
/// One sentence.
pub fn stp(cx: &Context) -> Result<ExitCode, String> {
    cx.show("/v1/stp", |v| lines(v, state))
}

fn lines(v: &Value, line: impl Fn(&Value) -> String) -> String {
    v.as_array().into_iter().flatten().map(line).collect()
}

fn station(v: &Value) -> String {
    let words: String = strings(&v["flags"]).into_iter().map(|f| format!(" {f}")).collect();
    let state = Some(plain(&v["state"])).filter(|s| !s.is_empty()).map_or_else(String::new, |s| format!(" {s}"));
    format!(
        "{}{}{}{words}{}{state}{}\n",
        plain(&v["mac"]),
        field(v, "ifname", "dev"),
        field(v, "vlan", "vlan"),
        field(v, "master", "master"),
        fate(v),
    )
}

fn vid(v: &Value) -> String {
    let words: String = strings(&v["flags"]).into_iter().map(|f| format!(" {f}")).collect();
    format!("{} {}{words}{}{}\n", plain(&v["ifname"]), plain(&v["vlan"]), field(v, "state", "state"), fate(v))
}

fn state(v: &Value) -> String {
    format!("{}{}{}{}\n", plain(&v["ifname"]), field(v, "master", "master"), field(v, "state", "state"), fate(v))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn they_read_like_bridge() {
        let v = json!([{"mac": "02:99:00:00:00:01", "ifname": "swp1", "vlan": 10, "flags": ["extern_learn"], "master": "br0", "state": "",
            "offload": true}, {"mac": "02:00:00:00:00:01", "ifname": "swp1", "vlan": null, "flags": [], "master": "br0",
            "state": "permanent", "offload": false, "why": "to the switch itself"}]);
        assert_eq!(
            lines(&v, station),
            "02:99:00:00:00:01 dev swp1 vlan 10 extern_learn master br0 offload\n\
             02:00:00:00:00:01 dev swp1 master br0 permanent punt: to the switch itself\n"
        );
        let v = json!([{"ifname": "swp1", "vlan": 1, "flags": ["PVID", "Egress Untagged"], "state": "forwarding", "offload": true}]);
        assert_eq!(lines(&v, vid), "swp1 1 PVID Egress Untagged state forwarding offload\n");
        let v = json!([{"ifname": "swp1", "master": "br0", "state": "blocking", "offload": false, "why": "the device is down"}]);
        assert_eq!(lines(&v, state), "swp1 master br0 state blocking punt: the device is down\n");
    }
}
