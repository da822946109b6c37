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
    for t in v.as_array().into_iter().flatten() {
        let capacity = if t["capacity"].is_null() { "-".into() } else { plain(&t["capacity"]) };
        rows.push(vec![plain(&t["table"]), plain(&t["used"]), capacity]);
    }
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn no_capacity_is_a_dash() {
        let v = json!([{"table": "rif", "used": 4, "capacity": 256}, {"table": "port", "used": 4, "capacity": null}]);
        assert_eq!(super::text(&v), "table  used  capacity\nrif       4       256\nport      4         -\n");
    }
}
