//! `virga link show`: interfaces, and what the chip makes of them.

use std::process::ExitCode;

use serde_json::Value;

use super::Context;
use super::text::{field, plain, strings};

/// Show them.
///
/// # Errors
/// One sentence.
pub fn run(cx: &Context) -> Result<ExitCode, String> {
    cx.show("/v1/links", text)
}

fn text(v: &Value) -> String {
    v.as_array().into_iter().flatten().map(link).collect()
}

fn link(v: &Value) -> String {
    let on = v["on"].as_str().map_or_else(String::new, |l| format!("@{l}"));
    let mut out = format!(
        "{}: {}{on}: <{}>{}{}\n",
        plain(&v["ifindex"]),
        plain(&v["ifname"]),
        strings(&v["flags"]).join(","),
        field(v, "mtu", "mtu"),
        field(v, "operstate", "state"),
    );
    if !v["address"].is_null() {
        out += &format!("    link/ether {}\n", plain(&v["address"]));
    }
    if !v["port"].is_null() {
        let way = |key: &str, name: &str| match v[key].as_bool() {
            Some(true) => format!(" {name} offload"),
            Some(false) => format!(" {name} punt"),
            None => String::new(),
        };
        let ways =
            [way("ipv4", "ipv4"), way("ipv6", "ipv6"), way("egress", "egress"), way("bridge", "bridge")].concat();
        let ways = ways + &field(v, "state", "state");
        let tag = |t: &Value| format!(" protocol {} id {}", plain(&t["protocol"]), plain(&t["id"]));
        let tags: String = v["tags"].as_array().into_iter().flatten().map(tag).collect();
        out += &format!("    port {}{tags}{ways}\n", plain(&v["port"]));
    }
    for w in strings(&v["why"]) {
        out += &format!("    punt: {w}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn a_sub_interface_has_its_tags() {
        let v = json!([{"ifindex": 9, "ifname": "c", "flags": ["UP"], "mtu": 1500, "operstate": "UP", "port": "swp1",
            "on": "s", "ipv4": true, "ipv6": true, "egress": true, "why": [],
            "tags": [{"protocol": "802.1ad", "id": 100}, {"protocol": "802.1Q", "id": 5}]}]);
        assert_eq!(
            super::text(&v),
            "9: c@s: <UP> mtu 1500 state UP\n    \
             port swp1 protocol 802.1ad id 100 protocol 802.1Q id 5 ipv4 offload ipv6 offload egress offload\n"
        );
    }

    #[test]
    fn it_reads_like_ip_link() {
        let v = json!([{"ifindex": 2, "ifname": "swp1", "flags": ["BROADCAST", "UP"], "mtu": 1500, "operstate": "UP",
            "address": "02:00:00:00:00:01", "port": "swp1", "ipv4": true, "ipv6": false, "egress": true,
            "why": ["forwarding is off"]}]);
        assert_eq!(
            super::text(&v),
            "2: swp1: <BROADCAST,UP> mtu 1500 state UP\n    link/ether 02:00:00:00:00:01\n    \
             port swp1 ipv4 offload ipv6 punt egress offload\n    punt: forwarding is off\n"
        );
    }
}
