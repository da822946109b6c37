//! Writes the manual pages and shell completions below `packaging/` from the programs' options: `cargo run --example pages`.
//! With `--check` it only says whether they are as they should be.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Command, CommandFactory};
use clap_complete::Shell;

fn main() -> Result<()> {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => bail!("there is no option {other:?}: give --check or nothing"),
    };
    let packaging = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging"));
    let mut stale = Vec::new();
    for (path, text) in pages()? {
        let file = packaging.join(&path);
        if fs::read(&file).ok().as_deref() == Some(&text) {
            continue;
        }
        if check {
            stale.push(path);
        } else {
            fs::create_dir_all(file.parent().context("a page has a folder")?)?;
            fs::write(&file, text).with_context(|| format!("{} can't be written", file.display()))?;
            println!("{path}");
        }
    }
    if !stale.is_empty() {
        bail!("{} are not what the options say: run cargo run --example pages", stale.join(", "));
    }
    Ok(())
}

/// Paths below `packaging/` and their contents.
fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut out = Vec::new();
    for (command, section) in
        [(virga::daemon::command(), "8"), (sim_asic::daemon::Options::command(), "8"), (virga::cli::command(), "1")]
    {
        let mut command = command.disable_help_subcommand(true);
        command.build();
        let name = command.get_name().to_owned();
        for verb in command.get_subcommands() {
            out.push(page(verb.clone().display_name(format!("{name}-{}", verb.get_name())), section)?);
        }
        out.push(page(command, section)?);
    }
    for (shell, file) in [(Shell::Bash, "virga.bash"), (Shell::Zsh, "_virga"), (Shell::Fish, "virga.fish")] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut virga::cli::command(), "virga", &mut text);
        out.push((format!("completions/{file}"), text));
    }
    Ok(out)
}

/// The manual page of one command, without a date, so that it changes only when the options do.
fn page(command: Command, section: &str) -> Result<(String, Vec<u8>)> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut text = Vec::new();
    clap_mangen::Man::new(command).section(section).date("").manual("Virga").render(&mut text)?;
    Ok((format!("man/{name}.{section}"), text))
}
