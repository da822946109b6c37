//! `virga`, the operator's command: one verb a file. Text is laid out as `ip` does it, `-j` prints the daemon's JSON.

pub mod bridge;
pub mod check;
pub mod client;
pub mod counters;
pub mod link;
pub mod neigh;
pub mod nexthop;
pub mod replay;
pub mod resources;
pub mod route;
pub mod settle;
pub mod status;
pub mod table;
pub mod text;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use crate::config::DEFAULT_SOCKET;
use client::Client;

/// Shows and tests what virgad has made of the kernel's forwarding state.
#[derive(Parser, Debug)]
#[command(name = "virga", version, infer_subcommands = true, arg_required_else_help = true)]
struct Options {
    /// Print JSON, with the names of ip -j where the same thing has one
    #[arg(short, long, global = true)]
    json: bool,
    /// The agent's socket
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// State of agent and chip, and everything that is punted as a whole, with reasons
    Status,
    /// Interfaces, and what the chip makes of them
    #[command(alias = "l")]
    Link(Show),
    /// Neighbours, and which of them are in the chip
    #[command(alias = "n")]
    Neigh(Show),
    /// Stations of bridges, and which of them are in the chip
    Fdb(Show),
    /// VLANs of bridges and their ports, and which of them are in the chip
    Vlan(Show),
    /// Bridge ports with their spanning-tree states, and which of them are in the chip
    Stp(Show),
    /// The kernel's next-hop objects, and which of them are in the chip
    #[command(alias = "nh")]
    Nexthop(nexthop::Options),
    /// The kernel's routes, and what became of each: offloaded, or punted and why
    #[command(alias = "r")]
    Route(route::Options),
    /// The chip's counters: per port, per trap class, per drop reason
    Counters,
    /// How full the chip's tables are
    Resources,
    /// One table of the chip, raw
    Table(table::Options),
    /// Compare kernel, desired and chip afresh; exits 0 only where all agree
    Check,
    /// Wait until the chip holds all that the kernel knows
    Settle(settle::Options),
    /// Run a journal of virgad --record again; exits non-zero at the first output that differs
    Replay(replay::Options),
    /// A switch with ports and hosts in namespaces of its own, to try things in
    #[command(disable_help_flag = true)]
    Lab {
        /// See virga lab --help
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// `show`, which may be left out.
#[derive(Args, Debug)]
#[command(infer_subcommands = true)]
struct Show {
    #[command(subcommand)]
    show: Option<ShowVerb>,
}

#[derive(Subcommand, Debug)]
enum ShowVerb {
    /// The only thing there is to do with it
    #[command(visible_alias = "list")]
    Show,
}

/// What a verb works with.
#[derive(Debug)]
pub struct Context {
    /// The daemon.
    pub client: Client,
    /// Whether to print JSON.
    pub json: bool,
}

impl Context {
    /// Fetch `url` and print it, as JSON or by `text`.
    ///
    /// # Errors
    /// One sentence.
    pub fn show(&self, url: &str, text: fn(&Value) -> String) -> Result<ExitCode, String> {
        let v = self.client.fetch(url)?;
        if self.json {
            print(&format!("{v}\n"))?
        } else {
            print(&text(&v))?
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Fetch all pages of `url` and print those of their items that are to be kept, one by one.
    ///
    /// # Errors
    /// One sentence.
    pub fn show_pages(
        &self,
        url: &str,
        keep: impl Fn(&Value) -> bool,
        text: fn(&Value) -> String,
    ) -> Result<ExitCode, String> {
        // Nothing is printed before there is an answer: an error leaves standard output empty.
        let mut before = "[";
        self.client.pages(url, &mut |item| {
            if !keep(&item) {
                return Ok(());
            }
            let before = core::mem::replace(&mut before, ",");
            if self.json { print(&format!("{before}{item}")) } else { print(&text(&item)) }
        })?;
        if self.json {
            print(if before == "[" { "[]\n" } else { "]\n" })?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// To standard output.
///
/// # Errors
/// One sentence; not for a reader that has gone, which ends the program quietly.
pub fn print(text: &str) -> Result<(), String> {
    use std::io::Write;
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(|e| format!("standard output can't be written: {e}"))
}

/// What the command line got wrong, as one sentence, and the status 2; or the help or version that was asked for.
pub fn usage(program: &str, e: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    let asked = e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if !e.use_stderr() || asked {
        // A reader that has gone does not mind.
        let _ = e.print();
        return if asked { ExitCode::from(2) } else { ExitCode::SUCCESS };
    }
    let text = e.to_string();
    let head = text.split("\n\n").next().unwrap_or_default();
    let words = head.split_whitespace().collect::<Vec<_>>().join(" ");
    eprintln!("{program}: {} (see --help)", words.trim_start_matches("error: "));
    ExitCode::from(2)
}

/// The program's options, for manual pages and completions.
pub fn command() -> clap::Command {
    <Options as clap::CommandFactory>::command()
}

/// The whole program: `args` with the program's name first.
pub fn main(args: Vec<OsString>) -> ExitCode {
    // Before any parsing here: what stands behind the verb, `--` included, is for the lab to parse.
    if args.get(1).is_some_and(|a| a == "lab") {
        return crate::lab::main(args.into_iter().skip(2));
    }
    let options = match Options::try_parse_from(args) {
        Ok(o) => o,
        Err(e) => return usage("virga", &e),
    };
    if let Verb::Lab { args } = options.verb {
        return crate::lab::main(args);
    }
    // `virga route show | head` ends as `ip route | head` does.
    // SAFETY: sets a disposition that has no handler, before any other thread is started.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let cx = Context { client: Client::new(&options.socket), json: options.json };
    let end = match options.verb {
        Verb::Status => status::run(&cx),
        Verb::Link(_) => link::run(&cx),
        Verb::Neigh(_) => neigh::run(&cx),
        Verb::Fdb(_) => bridge::fdb(&cx),
        Verb::Vlan(_) => bridge::vlan(&cx),
        Verb::Stp(_) => bridge::stp(&cx),
        Verb::Nexthop(o) => nexthop::run(&cx, &o),
        Verb::Route(o) => route::run(&cx, &o),
        Verb::Counters => counters::run(&cx),
        Verb::Resources => resources::run(&cx),
        Verb::Table(o) => table::run(&cx, &o),
        Verb::Check => check::run(&cx),
        Verb::Settle(o) => settle::run(&cx, &o),
        Verb::Replay(o) => replay::run(&cx, &o),
        Verb::Lab { .. } => Ok(ExitCode::SUCCESS),
    };
    end.unwrap_or_else(|e| {
        eprintln!("virga: {e}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_what_the_manual_says() {
        use clap::CommandFactory;
        Options::command().debug_assert();
        for good in [
            &["virga", "-j", "status"][..],
            &["virga", "route", "show", "--json"],
            &["virga", "r", "s"],
            &["virga", "route", "show", "--vrf", "red"],
            &["virga", "route", "--vrf", "red"],
            &["virga", "link"],
            &["virga", "nexthop"],
            &["virga", "nh", "bucket"],
            &["virga", "nexthop", "bucket", "show", "id", "10"],
            &["virga", "table", "show", "route4"],
            &["virga", "settle", "--timeout", "2.5"],
            &["virga", "lab", "--ports", "2", "--", "ip", "-j", "link"],
        ] {
            assert!(Options::try_parse_from(good).is_ok(), "{good:?}");
        }
        for bad in [
            &["virga"][..],
            &["virga", "rotue"],
            &["virga", "route", "add"],
            &["virga", "settle", "--timeout", "soon"],
            &["virga", "settle", "--timeout", "-1"],
            &["virga", "table", "show"],
            &["virga", "replay"],
        ] {
            assert!(Options::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_labs_options_are_its_own() {
        let o = Options::try_parse_from(["virga", "lab", "--help"]).unwrap();
        assert!(matches!(o.verb, Verb::Lab { args } if args == ["--help"]));
    }
}
