//! `virga route show`: each route of the kernel, and what became of it.

use std::process::ExitCode;

use serde_json::Value;

use super::text::{fate, field, hop, plain, strings};
use super::{Context, ShowVerb};

/// What stands behind `route`.
#[derive(clap::Args, Debug)]
#[command(infer_subcommands = true)]
pub struct Options {
    /// Only the routes of that VRF
    #[arg(long, global = true, value_name = "NAME")]
    vrf: Option<String>,
    #[command(subcommand)]
    show: Option<ShowVerb>,
}

/// Show them, IPv4 first.
///
/// # Errors
/// One sentence.
pub fn run(cx: &Context, o: &Options) -> Result<ExitCode, String> {
    let keep = |v: &Value| o.vrf.as_ref().is_none_or(|name| v["vrf"] == name.as_str());
    cx.show_pages("/v1/routes?max=5000", keep, text)
}

fn text(v: &Value) -> String {
    let kind = match v["type"].as_str() {
        None | Some("unicast") => String::new(),
        Some(k) => format!("{k} "),
    };
    let table = match plain(&v["table"]).as_str() {
        "" | "main" => String::new(),
        t => format!(" table {t}"),
    };
    let mut out = format!(
        "{kind}{}{}{}{table}{}{}{}{}{}{}{}{}\n",
        plain(&v["dst"]),
        field(v, "nhid", "nhid"),
        hop(v),
        field(v, "tos", "tos"),
        field(v, "protocol", "proto"),
        field(v, "scope", "scope"),
        field(v, "prefsrc", "src"),
        field(v, "metric", "metric"),
        field(&v["metrics"][0], "mtu", "mtu"),
        flags(v),
        fate(v),
    );
    for n in v["nexthops"].as_array().into_iter().flatten() {
        out += &format!("\tnexthop{}{}{}\n", hop(n), field(n, "weight", "weight"), flags(n));
    }
    out
}

fn flags(v: &Value) -> String {
    strings(&v["flags"]).iter().map(|f| format!(" {f}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn it_reads_like_ip_route_and_says_what_became_of_it() {
        for (v, line) in [
            (
                json!({"type": "unicast", "dst": "10.9.0.0/16", "gateway": "10.0.1.2", "dev": "swp1", "table": "main",
                    "protocol": "static", "metric": 20, "metrics": [{"mtu": 1400}], "offload": true}),
                "10.9.0.0/16 via 10.0.1.2 dev swp1 proto static metric 20 mtu 1400 offload\n",
            ),
            (
                json!({"type": "local", "dst": "10.0.1.1", "dev": "swp1", "table": "local", "flags": [],
                    "offload": false, "why": "to the switch itself"}),
                "local 10.0.1.1 dev swp1 table local punt: to the switch itself\n",
            ),
            (
                json!({"dst": "default", "protocol": "bgp", "offload": true, "nexthops": [
                    {"via": {"family": "inet6", "host": "fe80::2"}, "dev": "swp1", "weight": 1, "flags": ["onlink"]},
                    {"gateway": "10.0.2.2", "dev": "swp2", "weight": 2, "flags": []}]}),
                "default proto bgp offload\n\tnexthop via inet6 fe80::2 dev swp1 weight 1 onlink\n\
                 \tnexthop via 10.0.2.2 dev swp2 weight 2\n",
            ),
        ] {
            assert_eq!(super::text(&v), line);
        }
    }
}
