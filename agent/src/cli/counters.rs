//! `virga counters`: what the chip counted, per port, per trap class, per drop reason. What is zero is left out of the text.

use std::process::ExitCode;

use serde_json::Value;

use super::Context;
use super::text::{columns, plain};

/// Show them.
///
/// # Errors
/// One sentence.
pub fn run(cx: &Context) -> Result<ExitCode, String> {
    cx.show("/v1/counters", text)
}

/// Of a port.
const WAYS: [&str; 6] = ["rx", "tx", "forwarded", "trapped", "from_host", "dropped"];

fn text(v: &Value) -> String {
    let mut rows = vec![vec![String::new(), "frames".into(), "bytes".into()]];
    for p in v["ports"].as_array().into_iter().flatten() {
        let name = plain(&p["name"]);
        // All ways of a port, zero or not: that nothing came is news too.
        rows.extend(WAYS.map(|way| count(format!("{name} {way}"), &p[way])));
        for extra in ["gso", "csum"] {
            if p[extra].as_u64().is_some_and(|n| n > 0) {
                rows.push(vec![format!("{name} {extra}"), plain(&p[extra]), String::new()]);
            }
        }
    }
    for (key, word, end) in [("traps", "trap", ""), ("trap_drops", "trap", " dropped"), ("drops", "drop", "")] {
        for (name, c) in v[key].as_object().into_iter().flatten() {
            if c["frames"].as_u64().is_some_and(|n| n > 0) {
                rows.push(count(format!("{word} {name}{end}"), c));
            }
        }
    }
    columns(&rows)
}

fn count(name: String, c: &Value) -> Vec<String> {
    vec![name, plain(&c["frames"]), plain(&c["bytes"])]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn what_never_happened_is_left_out() {
        let c = |n: u64| json!({"frames": n, "bytes": 64 * n});
        let v = json!({
            "ports": [{"name": "swp1", "rx": c(3), "tx": c(0), "forwarded": c(2), "trapped": c(1), "from_host": c(0),
                "dropped": c(0), "gso": 0, "csum": 7}],
            "traps": {"arp": c(1), "nd": c(0)}, "trap_drops": {"arp": c(5)}, "drops": {"runt": c(0)},
        });
        let t = super::text(&v);
        let row = t.lines().find(|l| l.starts_with("swp1 forwarded")).unwrap();
        assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["swp1", "forwarded", "2", "128"], "{t}");
        assert!(t.contains("trap arp  ") && t.contains("trap arp dropped") && t.contains("swp1 csum"), "{t}");
        assert!(!t.contains("nd") && !t.contains("runt") && !t.contains("gso"), "{t}");
    }
}
