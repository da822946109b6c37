//! `virga table show NAME`: one table of the chip, as the chip dumps it.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hal::TableId;

use super::Context;

/// Which.
#[derive(Args, Debug)]
#[command(infer_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Print its entries, one a line
    Show {
        /// Its name; resources lists them
        name: String,
    },
}

/// Show it.
///
/// # Errors
/// One sentence.
pub fn run(cx: &Context, o: &Options) -> Result<ExitCode, String> {
    let Verb::Show { name } = &o.verb;
    if TableId::by_name(name).is_none() {
        let names: Vec<_> = TableId::ALL.iter().map(|t| t.name()).collect();
        return Err(format!("the chip has no table {name:?}; there are {}", names.join(", ")));
    }
    cx.show_pages(&format!("/v1/tables/{name}"), |_| true, |v| format!("{v}\n"))
}
