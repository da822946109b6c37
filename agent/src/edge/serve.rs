//! Connections of operators: how many, how long, and what becomes of those that do not behave. What is asked is `http.rs`.
//!
//! One request a connection. Beyond [`MOST`] connections the next ones are told so and closed. A request has to be there whole
//! within [`Times::request`], its head within [`HEAD`] bytes; an answer has to be taken, part by part, within [`Times::stuck`];
//! whoever closes the sending side has gone, and the question is withdrawn.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep, timeout};

/// Connections served at a time.
pub const MOST: usize = 64;
/// Connections that are being told that there are too many; what comes beyond them waits in the kernel's queue.
const REFUSED: usize = 16;
/// Longest head of a request, in bytes.
const HEAD: usize = 16 << 10;
/// Pause when no connection can be taken, for want of descriptors for example.
const PAUSE: Duration = Duration::from_millis(200);

/// How long peers are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// For a request to arrive.
    pub request: Duration,
    /// For a peer to take any part of its answer.
    pub stuck: Duration,
    /// For one that is refused to send its request and take the refusal.
    pub refusal: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times { request: Duration::from_secs(10), stuck: Duration::from_secs(10), refusal: Duration::from_secs(1) }
    }
}

/// Serve `router` on `listener`, for ever.
pub async fn serve(listener: UnixListener, router: Router, times: Times) {
    let served = Arc::new(Semaphore::new(MOST));
    let refused = Arc::new(Semaphore::new(REFUSED));
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(HEAD).timer(TokioTimer::new()).header_read_timeout(times.request);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!("an operator's connection was lost: {e}");
                sleep(PAUSE).await;
                continue;
            }
        };
        if let Ok(permit) = Arc::clone(&served).try_acquire_owned() {
            let service = TowerToHyperService::new(router.clone());
            let connection = http.serve_connection(TokioIo::new(Patient::new(stream, times.stuck)), service);
            tokio::spawn(async move {
                if let Err(e) = connection.await {
                    tracing::debug!("an operator's connection ended: {e}");
                }
                drop(permit);
            });
        } else if let Ok(permit) = Arc::clone(&refused).acquire_owned().await {
            tokio::spawn(async move {
                // One that does not even take the refusal is closed without.
                let _ = timeout(times.refusal, refuse(stream)).await;
                drop(permit);
            });
        }
    }
}

/// Hear the request out, so that the refusal is read and not lost in a broken pipe.
async fn refuse(mut stream: UnixStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") && head.len() < HEAD {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let body = format!("{{\"error\":\"{MOST} connections are open already: end one, or wait\"}}\n");
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// A stream whose peer has to take what it is sent.
struct Patient {
    stream: UnixStream,
    patience: Duration,
    /// Runs while the peer takes nothing.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: UnixStream, patience: Duration) -> Patient {
        Patient { stream, patience, stuck: None }
    }

    /// Hand a result on, unless it has been pending for too long.
    fn watch<T>(&mut self, cx: &mut Context<'_>, got: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if got.is_ready() {
            self.stuck = None;
            return got;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        ready!(stuck.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let got = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, got)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let got = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, got)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::*;

    /// Short: each ends a connection here, and none has to last.
    const TIMES: Times = Times {
        request: Duration::from_millis(300),
        stuck: Duration::from_millis(300),
        refusal: Duration::from_millis(100),
    };

    /// A server with a short, a long and an unending answer.
    fn test(f: impl AsyncFn(&std::path::Path)) {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = std::env::temp_dir().join(format!("virga-serve-{}-{:p}", std::process::id(), &raw const rt));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("s");
        rt.block_on(async {
            let router = Router::new()
                .route("/short", get(|| async { "short" }))
                .route("/long", get(|| async { "x".repeat(8 << 20) }))
                .route("/never", get(std::future::pending::<&'static str>));
            tokio::spawn(serve(UnixListener::bind(&path).unwrap(), router, TIMES));
            f(&path).await;
        });
        std::fs::remove_dir_all(&dir).unwrap();
    }

    async fn ask(path: &std::path::Path, head: &[u8]) -> UnixStream {
        let mut s = UnixStream::connect(path).await.unwrap();
        // A peer that has had enough closes before it has read all.
        let _ = s.write_all(head).await;
        s
    }

    async fn rest(mut s: UnixStream) -> String {
        let mut text = Vec::new();
        let _ = s.read_to_end(&mut text).await;
        String::from_utf8_lossy(&text).into_owned()
    }

    #[test]
    fn a_request_is_answered_and_the_connection_closed() {
        test(async |path| {
            for version in ["1.0", "1.1"] {
                let head = format!("GET /short HTTP/{version}\r\nHost: v\r\n\r\n");
                let text = rest(ask(path, head.as_bytes()).await).await;
                assert!(text.contains(" 200 OK") && text.ends_with("short"), "{text}");
            }
        });
    }

    #[test]
    fn more_than_the_most_are_told_so() {
        test(async |path| {
            let mut held = Vec::new();
            for _ in 0..MOST {
                held.push(ask(path, b"GET /never HTTP/1.1\r\nHost: v\r\n\r\n").await);
            }
            for _ in 0..3 * REFUSED {
                let text = rest(ask(path, b"GET /short HTTP/1.1\r\nHost: v\r\n\r\n").await).await;
                assert!(text.contains(" 503 ") && text.contains("64 connections are open already"), "{text}");
            }
            // Silent ones are refused as well, and do not keep others from being.
            let silent = silent(path, 2 * REFUSED).await;
            let text = rest(ask(path, b"GET /short HTTP/1.1\r\nHost: v\r\n\r\n").await).await;
            assert!(text.contains(" 503 "), "{text}");
            drop(silent);
            // One goes, and there is room.
            drop(held.pop());
            let text = loop {
                let text = rest(ask(path, b"GET /short HTTP/1.1\r\nHost: v\r\n\r\n").await).await;
                if !text.contains(" 503 ") {
                    break text;
                }
            };
            assert!(text.ends_with("short"), "{text}");
        });
    }

    async fn silent(path: &std::path::Path, n: usize) -> Vec<UnixStream> {
        let mut all = Vec::new();
        for _ in 0..n {
            all.push(UnixStream::connect(path).await.unwrap());
        }
        all
    }

    #[test]
    fn slow_requests_are_cut_off() {
        test(async |path| {
            for start in [&b""[..], b"GET /sho", b"GET /short HTTP/1.1\r\nHost: v\r\n"] {
                assert_eq!(rest(ask(path, start).await).await, "");
            }
            // A byte now and then is no reprieve.
            let mut s = ask(path, b"GET /short HTTP/1.1\r\n").await;
            let begun = tokio::time::Instant::now();
            while s.write_all(b"x").await.is_ok() {
                assert!(begun.elapsed() < Duration::from_secs(20), "it is let go on");
                sleep(TIMES.request / 4).await;
            }
        });
    }

    #[test]
    fn huge_heads_are_refused() {
        test(async |path| {
            let many = "x: y\r\n".repeat(200);
            let long = "z".repeat(4 * HEAD);
            for head in [format!("GET /short HTTP/1.1\r\n{many}\r\n"), format!("GET /{long} HTTP/1.1\r\n\r\n")] {
                let text = rest(ask(path, head.as_bytes()).await).await;
                assert!(text.contains(" 431 ") || text.contains(" 414 "), "{text:?}");
            }
            let text = rest(ask(path, b"\x16\x03\x01 no http at all\r\n\r\n").await).await;
            assert!(text.contains(" 400 "), "{text:?}");
        });
    }

    #[test]
    fn who_does_not_read_is_cut_off() {
        test(async |path| {
            let mut s = ask(path, b"GET /long HTTP/1.1\r\nHost: v\r\n\r\n").await;
            // What is in the socket stays readable; the rest has been given up when writing fails.
            let begun = tokio::time::Instant::now();
            while s.write_all(b"x").await.is_ok() {
                assert!(begun.elapsed() < Duration::from_secs(20), "it is waited for");
                sleep(TIMES.stuck / 4).await;
            }
            assert!(rest(s).await.len() < 8 << 20);
            let text = rest(ask(path, b"GET /long HTTP/1.1\r\nHost: v\r\n\r\n").await).await;
            assert!(text.len() > 8 << 20, "who reads gets all");
        });
    }

    #[test]
    fn who_closes_its_sending_side_has_gone() {
        test(async |path| {
            let mut s = ask(path, b"GET /never HTTP/1.1\r\nHost: v\r\n\r\n").await;
            s.shutdown().await.unwrap();
            assert_eq!(rest(s).await, "");
        });
    }
}
