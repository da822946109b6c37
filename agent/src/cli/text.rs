//! Small pieces of text that several verbs lay out the same way.

use serde_json::Value;

/// A value without quotes; empty for none.
pub fn plain(v: &Value) -> String {
    match v {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// ` name value`, or nothing where there is no value.
pub fn field(v: &Value, key: &str, name: &str) -> String {
    match &v[key] {
        Value::Null => String::new(),
        x => format!(" {name} {}", plain(x)),
    }
}

/// A next hop: ` via GATEWAY dev DEV`.
pub fn hop(v: &Value) -> String {
    let via = match &v["via"] {
        Value::Object(o) => {
            let of = |k: &str| o.get(k).map(plain).unwrap_or_default();
            format!(" via {} {}", of("family"), of("host"))
        }
        _ => field(v, "gateway", "via"),
    };
    format!("{via}{}", field(v, "dev", "dev"))
}

/// What became of it: ` offload`, or ` punt: why`.
pub fn fate(v: &Value) -> String {
    match (v["offload"].as_bool(), &v["why"]) {
        (Some(true), _) => " offload".into(),
        (Some(false), Value::Null) => " punt".into(),
        (Some(false), why) => format!(" punt: {}", plain(why)),
        (None, _) => String::new(),
    }
}

/// The strings of an array.
pub fn strings(v: &Value) -> Vec<&str> {
    v.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Columns, each as wide as its widest cell; the first is left-aligned, the others right.
pub fn columns(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (i, c) in row.iter().enumerate() {
            match widths.get_mut(i) {
                Some(w) => *w = (*w).max(c.chars().count()),
                None => widths.push(c.chars().count()),
            }
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (i, (c, w)) in row.iter().zip(&widths).enumerate() {
            if i == 0 {
                line.push_str(&format!("{c:<w$}"));
            } else {
                line.push_str(&format!("  {c:>w$}"));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "10".into()], vec!["long".into(), "7".into()]];
        assert_eq!(columns(&rows), "a     10\nlong   7\n");
    }
}
