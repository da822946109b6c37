//! Where the log goes: standard error, fit for a terminal, for a file, and for the journal (priorities, no time of our own).

use std::io::{self, IsTerminal, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Start logging; `RUST_LOG` selects, `info` without it. Without effect where a log is kept already.
pub fn init() {
    let filter = EnvFilter::builder().with_default_directive(Level::INFO.into()).from_env_lossy();
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    let tty = io::stderr().is_terminal();
    // A second start in one process (embedded, tests) keeps the first one's.
    let _ = if std::env::var_os("JOURNAL_STREAM").is_some() {
        base.with_ansi(false).without_time().with_level(false).with_writer(Journal).try_init()
    } else if tty {
        base.with_ansi(true).with_writer(io::stderr).try_init()
    } else {
        base.with_ansi(false).without_time().with_writer(io::stderr).try_init()
    };
}

/// Lines with a priority before them, as `sd-daemon(3)` has it.
struct Journal;

struct Line(&'static [u8]);

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Line;
    fn make_writer(&'a self) -> Line {
        Line(b"<6>")
    }
    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        Line(match *meta.level() {
            Level::ERROR => b"<3>",
            Level::WARN => b"<4>",
            Level::INFO => b"<6>",
            _ => b"<7>",
        })
    }
}

impl Write for Line {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // One write per event: the formatter hands over whole lines.
        io::stderr().lock().write_all(&[self.0, buf].concat())?;
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
