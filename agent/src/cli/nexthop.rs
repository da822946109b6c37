//! `virga nexthop show`: next-hop objects, and what the chip makes of them.

use std::process::ExitCode;

use serde_json::Value;

use super::Context;
use super::text::{fate, field, hop, plain, strings};

/// Show them.
///
/// # Errors
/// One sentence.
pub fn run(cx: &Context) -> Result<ExitCode, String> {
    cx.show("/v1/nexthops", text)
}

fn text(v: &Value) -> String {
    v.as_array().into_iter().flatten().map(nexthop).collect()
}

fn nexthop(v: &Value) -> String {
    let member = |m: &Value| match &m["weight"] {
        Value::Null => plain(&m["id"]),
        w => format!("{},{}", plain(&m["id"]), plain(w)),
    };
    let group = match v["group"].as_array() {
        Some(g) => format!(" group {}", g.iter().map(member).collect::<Vec<_>>().join("/")),
        None => String::new(),
    };
    let blackhole = if v.get("blackhole").is_some() { " blackhole" } else { "" };
    let flags: String = strings(&v["flags"]).iter().map(|f| format!(" {f}")).collect();
    format!(
        "id {}{group}{}{}{}{blackhole}{}{flags}{}{}\n",
        plain(&v["id"]),
        field(v, "type", "type"),
        hop(v),
        field(v, "scope", "scope"),
        field(v, "protocol", "proto"),
        field(v, "routes", "routes"),
        fate(v),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn it_reads_like_ip_nexthop() {
        let v = json!([
            {"id": 1, "gateway": "10.0.2.2", "dev": "swp2", "scope": "link", "protocol": "zebra", "flags": ["onlink"],
                "routes": 7, "offload": true},
            {"id": 3, "group": [{"id": 1}, {"id": 2, "weight": 5}], "flags": [], "routes": 0, "offload": false, "why": "no route uses it"},
            {"id": 4, "blackhole": null, "protocol": "static", "flags": [], "routes": 1, "offload": true},
        ]);
        assert_eq!(
            super::text(&v),
            "id 1 via 10.0.2.2 dev swp2 scope link proto zebra onlink routes 7 offload\n\
             id 3 group 1/2,5 routes 0 punt: no route uses it\n\
             id 4 blackhole proto static routes 1 offload\n"
        );
    }
}
