//! `virga status`: agent, chip, and what is punted as a whole.

use std::process::ExitCode;

use serde_json::Value;

use super::Context;
use super::text::{plain, strings};

/// Show it.
///
/// # Errors
/// One sentence.
pub fn run(cx: &Context) -> Result<ExitCode, String> {
    cx.show("/v1/status", text)
}

fn text(v: &Value) -> String {
    let mut out = String::new();
    let chip = &v["chip"];
    if chip["connected"].as_bool() == Some(true) {
        out += &format!("chip {} boot {}", plain(&chip["profile"]), plain(&chip["boot_id"]));
        if !chip["ports"].is_null() {
            out += &format!(" ports {}", plain(&chip["ports"]));
        }
    } else {
        out += "chip not connected";
    }
    out += if v["settled"].as_bool() == Some(true) { "\nsettled\n" } else { "\nnot settled\n" };
    for w in strings(&v["waiting"]) {
        out += &format!("    waits for {w}\n");
    }
    if let Some(counts) = v["counts"].as_object() {
        let list: Vec<_> = counts.iter().map(|(k, n)| format!("{k} {}", plain(n))).collect();
        out += &format!("kernel: {}\n", list.join(", "));
    }
    let history: Vec<_> = ["overruns", "resyncs", "repairs"]
        .iter()
        .filter(|k| !v[**k].is_null())
        .map(|k| format!("{k} {}", plain(&v[*k])))
        .collect();
    if !history.is_empty() {
        out += &format!("{}\n", history.join(", "));
    }
    for p in v["punted"].as_array().into_iter().flatten() {
        out += &format!("punted {}: {}\n", plain(&p["scope"]), plain(&p["why"]));
    }
    for (key, word) in [("unwatched", "not watched"), ("warnings", "warning")] {
        for w in strings(&v[key]) {
            out += &format!("{word}: {w}\n");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn reasons_are_shown() {
        let v = json!({"settled": false, "waiting": ["the chip"], "chip": {"connected": false}, "overruns": 2,
            "counts": {"links": 5}, "punted": [{"scope": "ipv4", "why": "a rule"}], "unwatched": ["BPF"]});
        assert_eq!(
            super::text(&v),
            "chip not connected\nnot settled\n    waits for the chip\nkernel: links 5\noverruns 2\n\
             punted ipv4: a rule\nnot watched: BPF\n"
        );
    }
}
