//! The journal: the core's inputs in the order in which it saw them, before decoding, with its outputs; and the replay.
//!
//! A journal is a header and then entries, each a little-endian `u32` length and that many bytes of postcard. Replay feeds
//! a fresh core and compares what comes out. No files are opened here: it writes to and reads from what it is given.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use hal::Nanos;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::core::{Core, CoreConfig};
use crate::input::{Input, Output};

/// Version of the format.
pub const VERSION: u32 = 2;
/// Longest entry that is believed, in bytes.
const ENTRY_MAX: usize = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Header {
    magic: String,
    version: u32,
    config: CoreConfig,
}

const MAGIC: &str = "virga journal";

#[derive(Serialize, Deserialize)]
enum Entry<I, O> {
    Input(Nanos, I),
    Output(O),
}

/// What is wrong with a journal, or with a replay of it.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It can't be read or written.
    #[error("the journal can't be read or written: {0}")]
    Io(#[from] io::Error),
    /// It is not one.
    #[error("this is not a journal of virgad's ({0})")]
    NotOne(&'static str),
    /// It is of another version.
    #[error("the journal is of version {0}, this program reads version {VERSION}")]
    Version(u32),
    /// The core said something else than when it was recorded.
    #[error("output {at}, after input {input}, differs: recorded {recorded}, replayed {replayed}")]
    Differs {
        /// Number of the output, from 1.
        at: u64,
        /// Number of the input before it, from 1.
        input: u64,
        /// As in the journal.
        recorded: String,
        /// As it came out now.
        replayed: String,
    },
}

fn write<T: Serialize>(w: &mut impl Write, t: &T) -> io::Result<()> {
    let body = postcard::to_stdvec(t).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let len = u32::try_from(body.len()).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    w.write_all(&len.to_le_bytes())?;
    w.write_all(&body)
}

/// The next entry; `None` at the end, and where the journal breaks off in the middle of one, as after a kill.
fn read<T: DeserializeOwned>(r: &mut impl Read) -> Result<Option<T>, JournalError> {
    let mut len = [0; 4];
    let mut body = Vec::new();
    match r.read_exact(&mut len) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let len = u32::from_le_bytes(len) as usize;
    if len > ENTRY_MAX {
        return Err(JournalError::NotOne("an entry is too long"));
    }
    if r.take(len as u64).read_to_end(&mut body)? < len {
        return Ok(None);
    }
    postcard::from_bytes(&body).map(Some).map_err(|_| JournalError::NotOne("an entry does not decode"))
}

/// Writes a journal.
#[derive(Debug)]
pub struct Recorder<W: Write> {
    w: W,
}

impl<W: Write> Recorder<W> {
    /// Begin a journal of a core that was just made with that configuration.
    ///
    /// # Errors
    /// The writer's.
    pub fn new(mut w: W, config: &CoreConfig) -> io::Result<Self> {
        write(&mut w, &Header { magic: MAGIC.into(), version: VERSION, config: config.clone() })?;
        Ok(Recorder { w })
    }
    /// Before [`Core::handle`].
    ///
    /// # Errors
    /// The writer's.
    pub fn input(&mut self, now: Nanos, input: &Input) -> io::Result<()> {
        write(&mut self.w, &Entry::<_, &Output>::Input(now, input))
    }
    /// After [`Core::next`].
    ///
    /// # Errors
    /// The writer's.
    pub fn output(&mut self, output: &Output) -> io::Result<()> {
        write(&mut self.w, &Entry::<&Input, _>::Output(output))
    }
    /// Hand on what the writer buffers.
    ///
    /// # Errors
    /// The writer's.
    pub fn flush(&mut self) -> io::Result<()> {
        self.w.flush()
    }
    /// The writer.
    pub fn into_inner(self) -> W {
        self.w
    }
}

/// What a replay went through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Replayed {
    /// Inputs fed.
    pub inputs: u64,
    /// Outputs compared.
    pub outputs: u64,
}

/// Feed a fresh core with a journal and compare what it says.
///
/// # Errors
/// [`JournalError`]; [`JournalError::Differs`] at the first output that differs.
pub fn replay(mut r: impl Read) -> Result<Replayed, JournalError> {
    let header: Header = match read(&mut r) {
        Ok(Some(h)) => h,
        Ok(None) => return Err(JournalError::NotOne("it is empty")),
        Err(JournalError::NotOne(_)) => return Err(JournalError::NotOne("its header does not decode")),
        Err(e) => return Err(e),
    };
    if header.magic != MAGIC {
        return Err(JournalError::NotOne("its header is another's"));
    }
    if header.version != VERSION {
        return Err(JournalError::Version(header.version));
    }
    let mut core = Core::new(header.config);
    let mut said: VecDeque<Output> = VecDeque::new();
    let mut n = Replayed::default();
    while let Some(entry) = read::<Entry<Input, Output>>(&mut r)? {
        match entry {
            Entry::Input(now, input) => {
                n.inputs += 1;
                core.handle(now, input);
                said.extend(core::iter::from_fn(|| core.next()));
            }
            Entry::Output(recorded) => {
                n.outputs += 1;
                let replayed = said.pop_front();
                if replayed.as_ref() != Some(&recorded) {
                    return Err(JournalError::Differs {
                        at: n.outputs,
                        input: n.inputs,
                        recorded: brief(&format!("{recorded:?}")),
                        replayed: replayed.map_or_else(|| "nothing".into(), |o| brief(&format!("{o:?}"))),
                    });
                }
            }
        }
    }
    Ok(n)
}

fn brief(s: &str) -> String {
    if s.chars().count() <= 400 { s.to_owned() } else { s.chars().take(400).chain("…".chars()).collect() }
}
