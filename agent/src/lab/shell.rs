//! The lab's contact with the one who called it: greeting, shell, terminal, exit status.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};

use super::isolate::{Inside, find_program};
use super::world::{RUN, World};

const SIGNALS: [i32; 2] = [libc::SIGINT, libc::SIGQUIT];

/// Ctrl-C is for what runs in the lab, and its end ends the lab: what waits for it does not die first.
pub(super) fn ignore_interrupts() {
    for s in SIGNALS {
        // SAFETY: no handler is installed, the signal is ignored.
        unsafe { libc::signal(s, libc::SIG_IGN) };
    }
}

fn in_lab(program: &std::ffi::OsStr) -> Command {
    let mut path = OsString::from(super::bin());
    path.push(":");
    // An ordinary user's PATH may lack where Debian keeps `ip`.
    path.push(std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()));
    path.push(":/usr/sbin:/sbin");
    let mut c = Command::new(program);
    c.env("PATH", path);
    // SAFETY: between fork and exec; system calls alone.
    unsafe {
        c.pre_exec(|| {
            for s in SIGNALS {
                libc::signal(s, libc::SIG_DFL);
            }
            Ok(())
        });
    }
    c
}

fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Run a command; its status is the lab's. As a shell does: 127 if it is not found, 126 if it can't be run.
pub(super) fn run(command: &[OsString]) -> Result<ExitCode> {
    let (program, args) = command.split_first().context("there is no command")?;
    let mut c = in_lab(program);
    c.args(args);
    match c.status() {
        Ok(status) => Ok(code(status)),
        Err(e) => {
            eprintln!("virga lab: {} does not run: {e}", program.display());
            Ok(ExitCode::from(if e.kind() == io::ErrorKind::NotFound { 127 } else { 126 }))
        }
    }
}

/// A shell: the user's terminal, or what comes by standard input.
pub(super) fn interactive(world: &World, inside: &Inside) -> Result<ExitCode> {
    let shell = find_program("bash").unwrap_or_else(|| "/bin/sh".into());
    let rc = Path::new(RUN).join("shellrc");
    fs::write(&rc, RC)?;
    let enter = Path::new(RUN).join("shell");
    let path = format!(
        "#!/bin/sh\nPATH={}:$PATH:/usr/sbin:/sbin ENV={RUN}/shellrc exec {}\n",
        super::bin().display(),
        line(&shell)
    );
    fs::write(&enter, path)?;
    fs::set_permissions(&enter, fs::Permissions::from_mode(0o755))?;

    let terminal = io::stdin().is_terminal();
    let mut c = in_lab(shell.as_os_str());
    if terminal {
        greet(world, inside, &enter);
        if is_bash(&shell) {
            c.arg("--rcfile").arg(&rc);
        }
        c.arg("-i").env("ENV", &rc);
        // SAFETY: between fork and exec; system calls alone. The shell gets a process group of its own in the
        // foreground, so that Ctrl-C and Ctrl-Z are between it and its jobs.
        unsafe {
            c.pre_exec(|| {
                libc::setpgid(0, 0);
                libc::signal(libc::SIGTTOU, libc::SIG_IGN);
                libc::tcsetpgrp(0, libc::getpid());
                libc::signal(libc::SIGTTOU, libc::SIG_DFL);
                Ok(())
            });
        }
    }
    let status = c.status().with_context(|| format!("{} does not run", shell.display()))?;
    Ok(code(status))
}

fn is_bash(shell: &Path) -> bool {
    shell.file_name().is_some_and(|n| n == "bash")
}

fn line(shell: &Path) -> String {
    let rc = if is_bash(shell) { format!(" --rcfile {RUN}/shellrc") } else { String::new() };
    format!("{}{rc} -i", shell.display())
}

const RC: &str = r#"# Read by the lab's shells.
if [ -n "$BASH_VERSION" ] && [ -r ~/.bashrc ]; then lab_path=$PATH; . ~/.bashrc; PATH=$lab_path; unset lab_path; fi
PS1='virga-lab:\w\$ '
[ -n "$BASH_VERSION" ] || PS1='virga-lab$ '
"#;

fn greet(world: &World, inside: &Inside, enter: &Path) {
    let last = world.hosts.len();
    let peer = world.hosts.get(1).or(world.hosts.first()).map(|h| h.v4().to_string()).unwrap_or_default();
    let (sudo, user) = if inside.user_namespace { ("", "-U --preserve-credentials ") } else { ("sudo ", "") };
    let last = if last == 1 { "1".into() } else { format!("1…{last}") };
    let third = if world.agent.is_some() {
        ("virga route show".into(), "each kernel route, and what became of it")
    } else {
        ("ip netns exec virga-asic ip -br link".to_owned(), "the wires, in the chip's namespace")
    };
    let tries = [
        ("ip -br addr".into(), "the ports: TAP devices of this namespace"),
        (format!("ip netns exec h1 ping {peer}"), "from host to host"),
        third,
        (format!("ip netns exec h1 ping -t 1 {peer}"), "the switch is a hop: the kernel answers"),
        ("ip -s link show swp1".into(), "counts only what took the slow path through the kernel"),
    ];
    let mut text =
        format!("A switch with a host behind each port: swp{last}, h{last}. Leaving this shell removes it all.\n");
    for (command, what) in tries {
        text += &format!("  {command:<38}{what}\n");
    }
    text +=
        &format!("In a second terminal: {sudo}nsenter -t {} {user}-m -p -n {}\n", inside.outer_pid, enter.display());
    let _ = io::stdout().write_all(text.as_bytes());
}
