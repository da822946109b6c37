//! `virga neigh show`: neighbours, and which of them are in the chip.

use std::process::ExitCode;

use serde_json::Value;

use super::Context;
use super::text::{fate, field, plain, strings};

/// Show them.
///
/// # Errors
/// One sentence.
pub fn run(cx: &Context) -> Result<ExitCode, String> {
    cx.show("/v1/neighs", text)
}

fn text(v: &Value) -> String {
    v.as_array().into_iter().flatten().map(neigh).collect()
}

fn neigh(v: &Value) -> String {
    format!(
        "{}{}{} {}{}\n",
        plain(&v["dst"]),
        field(v, "dev", "dev"),
        field(v, "lladdr", "lladdr"),
        strings(&v["state"]).join(" "),
        fate(v),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn it_reads_like_ip_neigh() {
        let v = json!([{"dst": "10.0.1.2", "dev": "swp1", "lladdr": "02:00:00:00:01:01", "state": ["STALE"], "offload": true}]);
        assert_eq!(super::text(&v), "10.0.1.2 dev swp1 lladdr 02:00:00:00:01:01 STALE offload\n");
    }
}
