//! `virga counters`: what the chip counted, per port, per trap class, per drop reason. Zeroes are left out of the text.

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

/// Of a port; the others are of `rx` and `tx`.
const WAYS: [&str; 6] = ["rx", "tx", "forwarded", "trapped", "from_host", "dropped"];

fn text(v: &Value) -> String {
    let list = |key: &str| v[key].as_array().into_iter().flatten();
    let mut rows = vec![];
    for p in list("ports") {
        for way in WAYS {
            rows.push(count(format!("{} {way}", plain(&p["name"])), &p[way]));
        }
        for extra in ["gso", "csum"] {
            if p[extra].as_u64().is_some_and(|n| n > 0) {
                rows.push(vec![format!("{} {extra}", plain(&p["name"])), plain(&p[extra]), String::new()]);
            }
        }
    }
    let used = |c: &Value| c["frames"].as_u64().is_some_and(|n| n > 0);
    for t in list("traps") {
        if used(t) {
            rows.push(count(format!("trap {}", plain(&t["class"])), t));
        }
        if used(&t["dropped"]) {
            rows.push(count(format!("trap {} dropped", plain(&t["class"])), &t["dropped"]));
        }
    }
    rows.extend(list("drops").filter(|d| used(d)).map(|d| count(format!("drop {}", plain(&d["reason"])), d)));
    rows.insert(0, vec![String::new(), "frames".into(), "bytes".into()]);
    columns(&rows)
}

fn count(name: String, c: &Value) -> Vec<String> {
    vec![name, plain(&c["frames"]), plain(&c["bytes"])]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn what_is_zero_for_all_is_left_out() {
        let c = |n: u64| json!({"frames": n, "bytes": 64 * n});
        let v = json!({
            "ports": [{"name": "swp1", "rx": c(3), "tx": c(0), "forwarded": c(2), "trapped": c(1), "from_host": c(0),
                "dropped": c(0), "gso": 0, "csum": 7}],
            "traps": [{"class": "arp", "frames": 1, "bytes": 64, "dropped": c(0)}, {"class": "nd", "frames": 0, "bytes": 0}],
            "drops": [{"reason": "runt", "frames": 0, "bytes": 0}],
        });
        let t = super::text(&v);
        assert!(t.contains("swp1 forwarded       2    128\n"), "{t}");
        assert!(t.contains("trap arp") && t.contains("swp1 csum"), "{t}");
        assert!(!t.contains("nd") && !t.contains("runt") && !t.contains("gso"), "{t}");
    }
}
