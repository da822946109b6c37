//! The agent's section of `/etc/virga/virga.toml`, with its defaults.
//!
//! The file is checked as a whole, as the chip checks it: a wrong `[chip]` is found by whichever program starts first. An unknown
//! key is an error that names the file, the key and the nearest valid one.

use std::path::{Path, PathBuf};

pub use sim_asic::config::Firewall;

/// Where it is looked for unless `--config` says otherwise.
pub const DEFAULT_FILE: &str = "/etc/virga/virga.toml";
/// The agent's socket unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/run/virga/virgad.sock";
/// The chip's socket unless configured otherwise.
pub const DEFAULT_CHIP: &str = "unix:/run/virga/asic.sock";

/// `[agent]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Agent {
    /// `unix:PATH` of the chip.
    pub chip: String,
    /// Where operators reach the agent.
    pub socket: PathBuf,
    /// Journal of the core's inputs and outputs, if one is to be kept.
    pub record: Option<PathBuf>,
    /// Receive buffer of the monitor socket in bytes; beyond `net.core.rmem_max` it takes CAP_NET_ADMIN.
    pub receive_buffer: usize,
    /// What is done about a firewall that may see forwarded packets.
    pub firewall: Firewall,
}

impl Default for Agent {
    fn default() -> Agent {
        Agent {
            chip: DEFAULT_CHIP.into(),
            socket: DEFAULT_SOCKET.into(),
            record: None,
            receive_buffer: crate::edge::monitor::RECEIVE_BUFFER,
            firewall: Firewall::Punt,
        }
    }
}

/// Sections of the file, and their keys: only for hints, the chip's crate knows what is valid.
const SECTIONS: [(&str, &[&str]); 2] = [
    ("chip", &["profile", "port", "listen", "netns", "host-netns", "policer"]),
    ("agent", &["chip", "socket", "record", "receive-buffer", "policy"]),
];

/// Read `file`, or the default one, which may be missing.
///
/// # Errors
/// One sentence that names the file and what is wrong in it.
pub fn load(file: Option<&Path>) -> Result<Agent, String> {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let text = match std::fs::read_to_string(path) {
        Ok(t) => t,
        Err(e) if file.is_none() && e.kind() == std::io::ErrorKind::NotFound => return Ok(Agent::default()),
        Err(e) => return Err(format!("the configuration {} can't be read: {e}", path.display())),
    };
    parse(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// As [`load`], from text.
///
/// # Errors
/// One sentence without the file's name.
pub fn parse(text: &str) -> Result<Agent, String> {
    let doc: toml::Table = text.parse().map_err(|e: toml::de::Error| place(text, &e))?;
    for (name, section) in &doc {
        let Some((_, keys)) = SECTIONS.iter().find(|s| s.0 == name) else {
            return Err(unknown(name, "section", &SECTIONS.map(|s| s.0), |k| format!("[{k}]")));
        };
        let toml::Value::Table(table) = section else {
            return Err(format!("{name:?} is not a section: write [{name}]"));
        };
        if let Some(key) = table.keys().find(|k| !keys.contains(&k.as_str())) {
            return Err(unknown(key, &format!("key in [{name}]"), keys, str::to_owned));
        }
    }
    let a = sim_asic::config::parse(text)?.agent;
    let default = Agent::default();
    Ok(Agent {
        chip: a.chip.unwrap_or(default.chip),
        socket: a.socket.unwrap_or(default.socket),
        record: a.record,
        receive_buffer: a.receive_buffer.unwrap_or(default.receive_buffer),
        firewall: a.policy.firewall,
    })
}

/// The error with its line, in one line.
fn place(text: &str, e: &toml::de::Error) -> String {
    let line = e.span().and_then(|s| text.get(..s.start)).map(|t| t.matches('\n').count() + 1);
    let what = e.message().replace('\n', "; ");
    line.map_or(what.clone(), |l| format!("line {l}: {what}"))
}

fn unknown(key: &str, what: &str, valid: &[&str], show: impl Fn(&str) -> String) -> String {
    let all: Vec<_> = valid.iter().map(|k| show(k)).collect();
    let near = valid.iter().min_by_key(|k| distance(key, k)).filter(|k| distance(key, k) <= 1 + key.len() / 3);
    let hint = near.map_or(String::new(), |k| format!(" did you mean {}?", show(k)));
    format!("unknown {what}: {};{hint} valid are {}", show(key), all.join(", "))
}

/// Edits (insert, delete, replace) between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_means_defaults_and_what_is_said_counts() {
        assert_eq!(parse("").unwrap(), Agent::default());
        let a = parse("[chip]\nport = [\"swp1=none\"]\n[agent]\nsocket = \"/x\"\nreceive-buffer = 4096\n").unwrap();
        assert_eq!((a.socket, a.receive_buffer, a.firewall), (PathBuf::from("/x"), 4096, Firewall::Punt));
        for text in ["[agent]\npolicy.firewall = \"ignore\"\n", "[agent.policy]\nfirewall = \"ignore\"\n"] {
            assert_eq!(parse(text).unwrap().firewall, Firewall::Ignore);
        }
    }

    #[test]
    fn a_typo_is_named_with_its_nearest() {
        for (text, has) in [
            ("[agent]\nsokcet = \"/x\"\n", "unknown key in [agent]: sokcet; did you mean socket?"),
            ("[agnet]\n", "unknown section: [agnet]; did you mean [agent]?"),
            ("[agent]\nzzzzzz = 1\n", "valid are chip, socket, record, receive-buffer, policy"),
            ("[agent]\n\nreceive-buffer = \"big\"\n", "line 3: "),
            ("[agent]\nreceive-buffer = 0\n", "receive-buffer is 0"),
            ("[agent\n", "line 1: "),
            ("[agent.policy]\nfirewal = \"ignore\"\n", "unknown field `firewal`"),
            ("[agent.policy]\nfirewall = \"off\"\n", "unknown variant `off`"),
            ("agent = 3\n", "write [agent]"),
            // The chip's section as well.
            ("[chip]\nprot = []\n", "unknown key in [chip]: prot; did you mean port?"),
            ("[chip]\nport = [\"swp1\"]\n", "NAME=WIRE"),
            ("[chip]\nport = 3\n", "line 2: "),
            ("[chip.policer]\narpp = { rate = 1, burst = 1 }\n", "no trap class \"arpp\""),
            ("[chip]\nprofile = \"huge\"\n", "small, tor, unlimited"),
        ] {
            let e = parse(text).unwrap_err();
            assert!(e.contains(has), "{e}");
            assert!(!e.contains('\n'), "{e}");
        }
    }

    #[test]
    fn a_named_file_has_to_be_there() {
        let e = load(Some(Path::new("/nonexistent/virga.toml"))).unwrap_err();
        assert!(e.contains("/nonexistent/virga.toml"), "{e}");
    }
}
