//! `virga resources`: how full the chip's tables are.

use std::process::ExitCode;

use serde_json::Value;

use super::Context;
use super::text::{columns, plain};

/// Show it.
///
/// # Errors
/// One sentence.
pub fn run(cx: &Context) -> Result<ExitCode, String> {
    cx.show("/v1/resources", text)
}

fn text(v: &Value) -> String {
    let mut rows = vec![["table", "used", "capacity"].map(String::from).to_vec()];
    for t in v["tables"].as_array().into_iter().flatten() {
        let capacity = if t["capacity"].is_null() { "-".into() } else { plain(&t["capacity"]) };
        let mut row = vec![plain(&t["table"]), plain(&t["used"]), capacity];
        if t["no_room"].as_u64().is_some_and(|n| n > 0) {
            row.push(format!("{} find no room", plain(&t["no_room"])));
        }
        rows.push(row);
    }
    format!("profile {}\n{}", plain(&v["profile"]), columns(&rows))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn no_capacity_is_a_dash() {
        let v = json!({"profile": "tor", "tables": [
            {"table": "rif", "used": 4, "capacity": 256, "no_room": 3}, {"table": "port", "used": 4, "capacity": null}]});
        assert_eq!(
            super::text(&v),
            "profile tor\ntable  used  capacity\nrif       4       256  3 find no room\nport      4         -\n"
        );
    }
}
