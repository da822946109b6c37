//! A supervised process: restarted with back-off, given up with a sentence after five deaths in ten seconds.
//!
//! One thread waits for one process. What the process does is not known here; its output goes to a file.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

const DEATHS: usize = 5;
const WITHIN: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What to start.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The process name: `argv[0]`.
    pub name: String,
    /// The executable.
    pub exe: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// Where its output goes.
    pub log: PathBuf,
}

#[derive(Debug, Default)]
struct State {
    pid: Option<Pid>,
    starts: u32,
    stopped: bool,
    given_up: Option<String>,
}

#[derive(Debug)]
struct Shared {
    spec: Mutex<Spec>,
    state: Mutex<State>,
    changed: Condvar,
}

/// A handle on a supervised process. Dropping it leaves the process running: it ends with its namespaces.
#[derive(Clone, Debug)]
pub struct Daemon(Arc<Shared>);

impl Daemon {
    /// Start it and its supervision.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(spec: Spec) -> io::Result<Daemon> {
        let daemon = Daemon(Arc::new(Shared {
            spec: Mutex::new(spec.clone()),
            state: Mutex::default(),
            changed: Condvar::new(),
        }));
        let d = daemon.clone();
        thread::Builder::new().name(spec.name).spawn(move || d.supervise())?;
        Ok(daemon)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is started; a change takes effect with the next start.
    pub fn spec(&self) -> MutexGuard<'_, Spec> {
        self.0.spec.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The PID, while it runs.
    pub fn pid(&self) -> Option<Pid> {
        self.state().pid
    }

    /// How often it was started.
    pub fn starts(&self) -> u32 {
        self.state().starts
    }

    /// The sentence, if it was given up.
    pub fn given_up(&self) -> Option<String> {
        self.state().given_up.clone()
    }

    /// Send it a signal; `false` if it does not run just now.
    pub fn signal(&self, signal: Signal) -> bool {
        // The lock is held, so that the PID is not yet another's.
        let state = self.state();
        state.pid.is_some_and(|p| rustix::process::kill_process(p, signal).is_ok())
    }

    /// End it (`SIGTERM`) and keep it down until [`Daemon::resume`]; returns when it is gone.
    pub fn stop(&self) {
        self.stop_with(Signal::TERM);
    }

    /// As [`Daemon::stop`], with that signal.
    pub fn stop_with(&self, signal: Signal) {
        self.state().stopped = true;
        self.signal(signal);
        let mut state = self.state();
        while state.pid.is_some() {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Start it again after [`Daemon::stop`] or after it was given up.
    pub fn resume(&self) {
        let mut state = self.state();
        state.stopped = false;
        state.given_up = None;
        self.0.changed.notify_all();
    }

    /// The last lines of its output.
    pub fn log_tail(&self) -> String {
        tail(&self.spec().log, 30)
    }

    fn supervise(&self) {
        let mut deaths: VecDeque<Instant> = VecDeque::new();
        loop {
            let died = match self.run() {
                Ok(status) => describe(status),
                Err(e) => format!("does not start: {e}"),
            };
            let mut state = self.state();
            if !state.stopped {
                let now = Instant::now();
                deaths.push_back(now);
                deaths.retain(|d| now.duration_since(*d) < WITHIN);
                if deaths.len() >= DEATHS {
                    let (name, log) = {
                        let spec = self.spec();
                        (spec.name.clone(), spec.log.clone())
                    };
                    let sentence = format!(
                        "{name} {died} and was given up after {DEATHS} deaths in {} seconds; its output is in {}",
                        WITHIN.as_secs(),
                        log.display()
                    );
                    eprintln!("virga: {sentence}");
                    state.given_up = Some(sentence);
                    deaths.clear();
                } else {
                    let pause = FIRST_PAUSE * (1 << (deaths.len() - 1));
                    drop(state);
                    thread::sleep(pause);
                    state = self.state();
                }
            }
            while state.stopped || state.given_up.is_some() {
                state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// One life.
    fn run(&self) -> io::Result<ExitStatus> {
        let mut command = {
            let spec = self.spec();
            let log = OpenOptions::new().create(true).append(true).open(&spec.log)?;
            let mut c = Command::new(&spec.exe);
            c.arg0(&spec.name).args(&spec.args).stdin(std::process::Stdio::null());
            c.stdout(log.try_clone()?).stderr(log);
            c
        };
        // SAFETY: between fork and exec; setsid is one system call. A session of its own keeps Ctrl-C away from it.
        unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(|_| ())?)) };
        let mut child = {
            let mut state = self.state();
            let child = command.spawn()?;
            state.pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            state.starts += 1;
            self.0.changed.notify_all();
            child
        };
        let status = child.wait();
        self.state().pid = None;
        self.0.changed.notify_all();
        status
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, signal) => format!("was killed by signal {}", signal.unwrap_or(0)),
    }
}

/// The last `lines` lines of a file.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(script: &str) -> Daemon {
        let log = std::env::temp_dir().join(format!("virga-daemon-{}-{:p}", std::process::id(), script));
        let args = vec!["-c".into(), script.into()];
        Daemon::start(Spec { name: "sh".into(), exe: "/bin/sh".into(), args, log }).unwrap()
    }

    #[test]
    fn five_deaths_and_a_sentence() {
        let d = daemon("echo so; exit 3");
        let why = super::super::wait_for("giving up", Duration::from_secs(20), || d.given_up()).unwrap();
        assert_eq!(d.starts(), 5);
        assert!(why.contains("exited with status 3"), "{why}");
        assert_eq!(d.log_tail(), ["so"; 5].join("\n"));
        fs::remove_file(&d.spec().log).unwrap();
    }

    #[test]
    fn restarted_when_killed_and_not_when_stopped() {
        let d = daemon("exec sleep 600");
        let limit = Duration::from_secs(20);
        let first = super::super::wait_for("start", limit, || d.pid()).unwrap();
        assert!(d.signal(Signal::KILL));
        super::super::wait_for("restart", limit, || d.pid().filter(|p| *p != first)).unwrap();
        d.stop();
        assert_eq!((d.pid(), d.starts()), (None, 2));
        d.resume();
        super::super::wait_for("resume", limit, || d.pid()).unwrap();
        d.stop();
        fs::remove_file(&d.spec().log).unwrap();
    }
}
