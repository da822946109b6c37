//! `virga status`: agent, chip, and what is punted as a whole.

use std::process::ExitCode;

use serde_json::Value;

use super::Context;
use super::text::{fate, plain, strings};

/// Show it.
///
/// # Errors
/// One sentence.
pub fn run(cx: &Context) -> Result<ExitCode, String> {
    cx.show("/v1/status", text)
}

fn text(v: &Value) -> String {
    let chip = &v["chip"];
    let mut out = if chip["connected"].as_bool() == Some(true) {
        let about = match plain(&chip["about"]) {
            a if a.is_empty() => a,
            a => format!(" ({a})"),
        };
        format!("chip {} boot {}{about}\n", plain(&chip["profile"]), plain(&chip["boot_id"]))
    } else {
        "chip not connected\n".to_owned()
    };
    out += if v["settled"].as_bool() == Some(true) { "settled\n" } else { "not settled\n" };
    for w in strings(&v["waiting"]) {
        out += &format!("    waits for: {w}\n");
    }
    for p in list(&v["ports"]) {
        out += &port(p);
    }
    for r in list(&v["vrfs"]) {
        out += &format!("vrf {}{}\n", plain(&r["ifname"]), fate(r));
    }
    for (family, r) in v["routes"].as_object().into_iter().flatten() {
        out += &format!("{family} routes {} offloaded {}\n", plain(&r["total"]), plain(&r["offloaded"]));
        for (why, n) in r["punted"].as_object().into_iter().flatten() {
            out += &format!("    {} punted: {why}\n", plain(n));
        }
    }
    let history: Vec<_> = [
        ("overruns", &v["overruns"]),
        ("resyncs", &v["resyncs"]),
        ("audits", &v["audits"]),
        ("repairs", &v["repairs"]),
    ]
    .iter()
    .filter(|(_, n)| !n.is_null())
    .map(|(k, n)| format!("{k} {}", plain(n)))
    .collect();
    if !history.is_empty() {
        out += &format!("{}\n", history.join(" "));
    }
    for p in list(&v["punted"]) {
        out += &format!("punted {}: {}\n", plain(&p["scope"]), plain(&p["why"]));
    }
    for (key, word) in [("unknown", "not known here"), ("unreadable", "can't be read")] {
        for u in list(&v[key]) {
            out += &format!("{word}, {} times: {}\n", plain(&u["count"]), plain(&u["what"]));
        }
    }
    for (key, word) in [("unwatched", "not watched"), ("warnings", "warning")] {
        for w in strings(&v[key]) {
            out += &format!("{word}: {w}\n");
        }
    }
    out
}

fn port(p: &Value) -> String {
    let link = match (p["admin"].as_bool(), p["link"].as_bool()) {
        (_, Some(true)) => "up",
        (Some(false), _) => "disabled",
        _ => "down",
    };
    let device = match (p["ifname"].as_str(), p["name"].as_str()) {
        (Some(dev), Some(name)) if dev != name => format!(" dev {dev}"),
        _ => String::new(),
    };
    let mut out = format!("port {}{device} link {link}", plain(&p["name"]));
    if p["offload"].as_bool() == Some(true) {
        out += " offload";
    }
    out.push('\n');
    // Often one reason closes all three ways.
    let ways: Vec<(&String, &str)> =
        p["punted"].as_object().into_iter().flatten().filter_map(|(way, why)| Some((way, why.as_str()?))).collect();
    match ways.split_first() {
        Some(((_, why), rest)) if rest.len() == 2 && rest.iter().all(|(_, w)| w == why) => {
            out += &format!("    punt: {why}\n");
        }
        _ => out.extend(ways.iter().map(|(way, why)| format!("    punt {way}: {why}\n"))),
    }
    out
}

fn list(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn reasons_are_shown() {
        let v = json!({"settled": false, "waiting": ["the chip"], "chip": {"connected": false},
            "overruns": 2, "punted": [{"scope": "inet", "why": "a rule"}], "unwatched": ["BPF"],
            "unknown": [{"what": "attribute 70 of a link", "count": 3}],
            "unreadable": [{"what": "messages of type 24: header", "count": 1}],
            "routes": {"inet": {"total": 3, "offloaded": 2, "punted": {"no port": 1}}},
            "ports": [
                {"name": "swp1", "ifname": "wan", "admin": true, "link": true, "offload": true,
                    "punted": {"inet": null, "inet6": null, "out": null}},
                {"name": "swp2", "ifname": "swp2", "admin": false, "link": false, "offload": false,
                    "punted": {"inet": "x", "inet6": "x", "out": "x"}},
                {"name": "swp3", "ifname": "swp3", "admin": true, "link": false, "offload": false,
                    "punted": {"inet": "x", "inet6": null, "out": null}}]});
        assert_eq!(
            super::text(&v),
            "chip not connected\nnot settled\n    waits for: the chip\n\
             port swp1 dev wan link up offload\nport swp2 link disabled\n    punt: x\n\
             port swp3 link down\n    punt inet: x\n\
             inet routes 3 offloaded 2\n    1 punted: no port\noverruns 2\npunted inet: a rule\n\
             not known here, 3 times: attribute 70 of a link\n\
             can't be read, 1 times: messages of type 24: header\nnot watched: BPF\n"
        );
    }
}
