//! `virga nexthop show`: next-hop objects, and what the chip makes of them; `virga nexthop bucket`: where the buckets of resilient
//! groups lead in the chip.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::text::{fate, field, hop, plain, strings};
use super::{Context, print};

/// What to show.
#[derive(Args, Debug)]
#[command(infer_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// The objects; of resilient groups how many of the chip's buckets each member has
    #[command(visible_alias = "list")]
    Show,
    /// The chip's buckets of resilient groups, one a line
    Bucket {
        /// show [id N]: all, or those of one group
        #[arg(value_name = "show [id N]")]
        words: Vec<String>,
    },
}

/// Show them.
///
/// # Errors
/// One sentence.
pub fn run(cx: &Context, o: &Options) -> Result<ExitCode, String> {
    if let Some(Verb::Bucket { words }) = &o.verb {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let id: Option<u64> = match words.strip_prefix(&["show"]).or(words.strip_prefix(&["list"])).unwrap_or(&words) {
            [] => None,
            ["id", n] => Some(n.parse().map_err(|_| format!("{n:?} is not the number of a next-hop object"))?),
            _ => return Err("it takes show [id N]".into()),
        };
        return cx.show_pages("/v1/buckets", |v| id.is_none_or(|id| v["id"] == id), bucket);
    }
    let mut v = cx.client.fetch("/v1/nexthops")?;
    let resilient = |o: &Value| o["type"] == "resilient" && o["offload"] == true;
    if v.as_array().into_iter().flatten().any(resilient) {
        let mut all = Vec::new();
        cx.client.pages("/v1/buckets", &mut |b| {
            all.push(b);
            Ok(())
        })?;
        share(&mut v, &all);
    }
    print(&if cx.json { format!("{v}\n") } else { text(&v) })?;
    Ok(ExitCode::SUCCESS)
}

/// Counts the buckets of each member into its group: by family, since each has its own in the chip.
fn share(objects: &mut Value, buckets: &[Value]) {
    let mut counts: BTreeMap<(u64, &str, u64), u64> = BTreeMap::new();
    for b in buckets {
        let (id, to) = (b["id"].as_u64().unwrap_or(0), b["bucket"]["nhid"].as_u64().unwrap_or(0));
        *counts.entry((id, b["family"].as_str().unwrap_or_default(), to)).or_default() += 1;
    }
    for o in objects.as_array_mut().into_iter().flatten() {
        let Some(id) = o["id"].as_u64() else { continue };
        for m in o.get_mut("group").and_then(Value::as_array_mut).into_iter().flatten() {
            let own = counts.iter().filter(|((g, _, n), _)| *g == id && m["id"] == *n);
            let own: serde_json::Map<_, _> = own.map(|((_, f, _), n)| ((*f).to_owned(), json!(n))).collect();
            if counts.keys().any(|(g, ..)| *g == id) {
                m["buckets"] = own.into();
            }
        }
    }
}

fn bucket(v: &Value) -> String {
    let b = &v["bucket"];
    format!(
        "id {} index {} idle_time {} nhid {} {}\n",
        plain(&v["id"]),
        plain(&b["index"]),
        plain(&b["idle_time"]),
        plain(&b["nhid"]),
        plain(&v["family"])
    )
}

fn text(v: &Value) -> String {
    v.as_array().into_iter().flatten().map(nexthop).collect()
}

fn nexthop(v: &Value) -> String {
    let member = |m: &Value| match &m["weight"] {
        Value::Null => plain(&m["id"]),
        w => format!("{},{}", plain(&m["id"]), plain(w)),
    };
    let group = match v["group"].as_array() {
        Some(g) => format!(" group {}", g.iter().map(member).collect::<Vec<_>>().join("/")),
        None => String::new(),
    };
    let blackhole = if v.get("blackhole").is_some() { " blackhole" } else { "" };
    let args = &v["resilient_args"];
    let args: String = ["buckets", "idle_timer", "unbalanced_timer"].iter().map(|n| field(args, n, n)).collect();
    let flags: String = strings(&v["flags"]).iter().map(|f| format!(" {f}")).collect();
    format!(
        "id {}{group}{}{args}{}{}{blackhole}{}{flags}{}{}\n{}",
        plain(&v["id"]),
        field(v, "type", "type"),
        hop(v),
        field(v, "scope", "scope"),
        field(v, "protocol", "proto"),
        field(v, "routes", "routes"),
        fate(v),
        shares(&v["group"]),
    )
}

/// Lines below a resilient group: what each family's buckets come to.
fn shares(group: &Value) -> String {
    let members = || group.as_array().into_iter().flatten();
    let line = |family: &str| {
        let all: String = members()
            .filter(|m| m["buckets"].is_object())
            .map(|m| format!(" nhid {} buckets {}", plain(&m["id"]), m["buckets"][family].as_u64().unwrap_or(0)))
            .collect();
        let any = members().any(|m| m["buckets"][family].is_u64());
        if any { format!("    {family}{all}\n") } else { String::new() }
    };
    line("inet") + &line("inet6")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn buckets_are_counted_into_their_groups() {
        let args = json!({"buckets": 4, "idle_timer": 120, "unbalanced_timer": 0.5});
        let mut v = json!([
            {"id": 1, "gateway": "10.0.2.2", "dev": "swp2", "flags": [], "routes": 7, "offload": true},
            {"id": 9, "group": [{"id": 1, "weight": 3}, {"id": 2}], "type": "resilient", "resilient_args": args, "flags": [],
                "routes": 7, "offload": true},
        ]);
        let b = |index: u32, nhid: u32, family: &str| json!({"id": 9, "family": family, "bucket": {"index": index, "idle_time": 1.25, "nhid": nhid}});
        assert_eq!(super::bucket(&b(3, 1, "inet")), "id 9 index 3 idle_time 1.25 nhid 1 inet\n");
        let all = [b(0, 1, "inet"), b(1, 2, "inet"), b(2, 1, "inet"), b(3, 1, "inet"), b(0, 2, "inet6")];
        super::share(&mut v, &all);
        assert_eq!(
            super::text(&v),
            "id 1 via 10.0.2.2 dev swp2 routes 7 offload\n\
             id 9 group 1,3/2 type resilient buckets 4 idle_timer 120 unbalanced_timer 0.5 routes 7 offload\n    \
             inet nhid 1 buckets 3 nhid 2 buckets 1\n    inet6 nhid 1 buckets 0 nhid 2 buckets 1\n"
        );
        assert_eq!(
            v[0],
            json!({"id": 1, "gateway": "10.0.2.2", "dev": "swp2", "flags": [], "routes": 7, "offload": true})
        );
    }

    #[test]
    fn it_reads_like_ip_nexthop() {
        let v = json!([
            {"id": 1, "gateway": "10.0.2.2", "dev": "swp2", "scope": "link", "protocol": "zebra", "flags": ["onlink"],
                "routes": 7, "offload": true},
            {"id": 3, "group": [{"id": 1}, {"id": 2, "weight": 5}], "flags": [], "routes": 0, "offload": false, "why": "no route uses it"},
            {"id": 4, "blackhole": null, "protocol": "static", "flags": [], "routes": 1, "offload": true},
        ]);
        assert_eq!(
            super::text(&v),
            "id 1 via 10.0.2.2 dev swp2 scope link proto zebra onlink routes 7 offload\n\
             id 3 group 1/2,5 routes 0 punt: no route uses it\n\
             id 4 blackhole proto static routes 1 offload\n"
        );
    }
}
