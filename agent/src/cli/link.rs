//! `virga link show`: interfaces, and what the chip makes of them.

use std::process::ExitCode;

use serde_json::Value;

use super::Context;
use super::text::{field, plain};

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
    let mut out = format!(
        "{}: {}:{}{}{}\n",
        plain(&v["ifindex"]),
        plain(&v["ifname"]),
        field(v, "mtu", "mtu"),
        field(v, "master", "master"),
        field(v, "operstate", "state"),
    );
    if !v["address"].is_null() {
        out += &format!("    link/ether {}\n", plain(&v["address"]));
    }
    if !v["port"].is_null() {
        let offload = if v["offload"].as_bool() == Some(true) { " offload" } else { "" };
        out += &format!(
            "    port {}{}{}{}{offload}\n",
            plain(&v["port"]),
            field(v, "wire", "wire"),
            field(v, "rp_filter", "rp_filter"),
            field(v, "fault", "fault"),
        );
        for (way, why) in v["punted"].as_object().into_iter().flatten() {
            if let Some(why) = why.as_str() {
                out += &format!("    punt {way}: {why}\n");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn it_reads_like_ip_link() {
        let v = json!([{"ifindex": 2, "ifname": "swp1", "mtu": 1500, "operstate": "UP", "master": null,
            "address": "02:00:00:00:00:01", "port": 0, "wire": "packet:w1", "rp_filter": "loose", "offload": false,
            "punted": {"inet": "forwarding is off", "inet6": null, "out": null}}]);
        assert_eq!(
            super::text(&v),
            "2: swp1: mtu 1500 state UP\n    link/ether 02:00:00:00:00:01\n    \
             port 0 wire packet:w1 rp_filter loose\n    punt inet: forwarding is off\n"
        );
    }
}
