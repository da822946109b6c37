//! `virga route show`: each route of the kernel, and what became of it.

use std::process::ExitCode;

use serde_json::Value;

use super::Context;

/// Show them, IPv4 first.
///
/// # Errors
/// One sentence.
pub fn run(cx: &Context) -> Result<ExitCode, String> {
    cx.show_pages("/v1/routes?max=5000", text)
}

fn text(v: &Value) -> String {
    format!("{v}\n")
}
