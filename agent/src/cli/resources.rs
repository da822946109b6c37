//! `virga resources`.

use std::process::ExitCode;

use serde_json::Value;

use super::Context;

/// Show it.
///
/// # Errors
/// One sentence.
pub fn run(cx: &Context) -> Result<ExitCode, String> {
    cx.show("/v1/resources", text)
}

fn text(v: &Value) -> String {
    format!("{v:#}\n")
}
