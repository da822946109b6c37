//! The operator's side of the daemon's socket: one HTTP request, one answer, blocking.
//!
//! HTTP/1.0 on purpose: the answer ends with the connection, and there is nothing to negotiate.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// The daemon's socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Its body.
    pub body: Value,
}

/// Why there is no answer; one sentence.
#[derive(Debug)]
pub enum GetError {
    /// No daemon is there, yet.
    Absent(String),
    /// Anything else.
    Failed(String),
}

impl From<GetError> for String {
    fn from(e: GetError) -> String {
        match e {
            GetError::Absent(s) | GetError::Failed(s) => s,
        }
    }
}

impl Client {
    /// For the daemon that listens on `path`.
    pub fn new(path: &Path) -> Client {
        Client { path: path.to_owned() }
    }

    /// `GET` of `url`; waits `patience` for each part of the answer.
    ///
    /// # Errors
    /// One sentence: no daemon, no right, or an answer that is none.
    pub fn get(&self, url: &str, patience: Duration) -> Result<Answer, GetError> {
        let shown = self.path.display();
        let mut s = UnixStream::connect(&self.path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                GetError::Absent(format!("no agent listens on {shown}: start virgad, or name its socket with --socket"))
            }
            io::ErrorKind::PermissionDenied => GetError::Failed(format!(
                "the agent's socket {shown} is not yours to use: join group {}, or run as root",
                crate::edge::http::GROUP
            )),
            _ => GetError::Failed(format!("the agent's socket {shown} can't be reached: {e}")),
        })?;
        self.exchange(&mut s, url, patience).map_err(GetError::Failed)
    }

    fn exchange(&self, s: &mut UnixStream, url: &str, patience: Duration) -> Result<Answer, String> {
        let shown = self.path.display();
        let fail = |e: io::Error| match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("the agent at {shown} does not answer: it may be busy or stuck; see its log")
            }
            _ => format!("the connection to the agent at {shown} broke: {e}"),
        };
        s.set_read_timeout(Some(patience)).map_err(fail)?;
        s.set_write_timeout(Some(patience)).map_err(fail)?;
        write!(s, "GET {url} HTTP/1.0\r\nHost: virgad\r\n\r\n").map_err(fail)?;
        let mut text = Vec::new();
        s.read_to_end(&mut text).map_err(fail)?;
        parse(&text).ok_or_else(|| format!("what listens on {shown} did not answer as virgad does: is it stopping?"))
    }

    /// The body of a good answer.
    ///
    /// # Errors
    /// As [`Client::get`], and the daemon's own sentence.
    pub fn fetch(&self, url: &str) -> Result<Value, String> {
        let a = self.get(url, Duration::from_secs(90))?;
        if a.status == 200 { Ok(a.body) } else { Err(a.error()) }
    }

    /// All pages of `url`, item by item.
    ///
    /// # Errors
    /// As [`Client::fetch`], or the first error of `each`.
    pub fn pages(&self, url: &str, each: &mut dyn FnMut(Value) -> Result<(), String>) -> Result<(), String> {
        let mut cursor = 0u64;
        loop {
            let join = if url.contains('?') { '&' } else { '?' };
            let mut page = self.fetch(&format!("{url}{join}cursor={cursor}"))?;
            if let Value::Array(items) = page["items"].take() {
                items.into_iter().try_for_each(&mut *each)?;
            }
            match page["next"].as_u64() {
                Some(next) => cursor = next,
                None => return Ok(()),
            }
        }
    }
}

impl Answer {
    /// The daemon's sentence about what went wrong.
    pub fn error(&self) -> String {
        match self.body["error"].as_str() {
            Some(e) => e.to_owned(),
            None => format!("the agent answered with HTTP status {}", self.status),
        }
    }
}

/// Status and body of a whole answer; `None` if it is not one or not whole.
fn parse(text: &[u8]) -> Option<Answer> {
    let end = text.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&text[..end]).ok()?;
    let body = &text[end + 4..];
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    first.next()?.strip_prefix("HTTP/1.")?;
    let status = first.next()?.parse().ok()?;
    for (name, value) in lines.filter_map(|l| l.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") && value.trim().parse() != Ok(body.len()) {
            return None;
        }
    }
    Some(Answer { status, body: serde_json::from_slice(body).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_answers_are_taken_and_others_are_not() {
        let a = parse(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 13\r\n\r\n{\"error\":\"x\"}").unwrap();
        assert_eq!((a.status, a.error().as_str()), (503, "x"));
        for bad in [
            &b""[..],
            b"HTTP/1.0 200 OK\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nContent-Length: 20\r\n\r\n{}",
            b"SSH-2.0-x\r\n\r\n{}",
            b"HTTP/1.0 abc\r\n\r\n{}",
        ] {
            assert!(parse(bad).is_none(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn no_daemon_is_one_sentence_with_the_remedy() {
        let e = Client::new(Path::new("/nonexistent/virgad.sock")).fetch("/v1/status").unwrap_err();
        assert!(e.contains("/nonexistent/virgad.sock") && e.contains("start virgad"), "{e}");
    }
}
