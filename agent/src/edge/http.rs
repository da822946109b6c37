//! The operators' interface: HTTP and JSON over a Unix socket, `curl --unix-socket` included.
//!
//! A request becomes a question to the core; the answer's JSON is the core's. Errors are `{"error": "one sentence"}`.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hal::TableId;
use serde::Deserialize;
use tokio::sync::oneshot;

use crate::input::{Listed, Reply, Request};

use super::runner::Msg;
use super::wake::Waker;

/// Group that may talk to the daemon.
pub const GROUP: &str = "virga";
/// Routes in a page unless asked otherwise, and at most.
const PAGE: (u32, u32) = (1000, 1000);
/// An answer that only reads is given up on after this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// `settle` waits this long unless asked otherwise, and at most this long.
const SETTLE: (f64, f64) = (30.0, 3600.0);

/// Asks the core questions on behalf of operators.
#[derive(Clone)]
pub struct Asker {
    inbox: Sender<Msg>,
    waker: Waker,
    last: Arc<AtomicU64>,
}

impl Asker {
    /// Of the core's thread that reads `inbox`.
    pub fn new(inbox: Sender<Msg>, waker: Waker) -> Asker {
        Asker { inbox, waker, last: Arc::default() }
    }

    /// Ask; `None` if the core's thread is gone. Dropping the future withdraws the question.
    pub async fn ask(&self, request: Request) -> Option<Reply> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Msg::Ask { id, request, reply }).ok()?;
        self.waker.wake();
        let mut gone = Gone { asker: self, id, answered: false };
        let reply = answer.await.ok();
        gone.answered = true;
        reply
    }
}

/// Withdraws the question when its asker goes away without an answer.
struct Gone<'a> {
    asker: &'a Asker,
    id: u64,
    answered: bool,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        if !self.answered && self.asker.inbox.send(Msg::Gone(self.id)).is_ok() {
            self.asker.waker.wake();
        }
    }
}

/// All routes.
pub fn router(asker: Asker) -> Router {
    let simple = |r: Request| get(move |State(a): State<Asker>| async move { answer(&a, r).await });
    Router::new()
        .route("/v1/status", simple(Request::Status))
        .route("/v1/links", simple(Request::List(Listed::Links)))
        .route("/v1/neighs", simple(Request::List(Listed::Neighs)))
        .route("/v1/nexthops", simple(Request::List(Listed::NextHops)))
        .route("/v1/fdb", simple(Request::List(Listed::Fdb)))
        .route("/v1/vlans", simple(Request::List(Listed::Vlans)))
        .route("/v1/stp", simple(Request::List(Listed::Stp)))
        .route("/v1/buckets", get(buckets))
        .route("/v1/counters", simple(Request::Counters))
        .route("/v1/resources", simple(Request::Resources))
        .route("/v1/check", simple(Request::Check))
        .route("/v1/routes", get(routes))
        .route("/v1/tables/{name}", get(table))
        .route("/v1/settle", get(settle).post(settle))
        .method_not_allowed_fallback(|| async {
            error(StatusCode::METHOD_NOT_ALLOWED, "this resource can only be read: use GET")
        })
        .fallback(|uri: Uri| async move {
            error(
                StatusCode::NOT_FOUND,
                &format!(
                    "no such resource: {}; there are /v1/status, links, neighs, nexthops, fdb, vlans, stp, buckets, routes, counters, resources, tables/NAME, check and settle",
                    uri.path()
                ),
            )
        })
        .with_state(asker)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    cursor: Option<u64>,
    max: Option<u32>,
}

async fn routes(State(a): State<Asker>, q: Result<Query<PageQuery>, QueryRejection>) -> Response {
    match q {
        Ok(Query(q)) => {
            let max = q.max.unwrap_or(PAGE.0).clamp(1, PAGE.1);
            answer(&a, Request::Routes { cursor: q.cursor.unwrap_or(0), max }).await
        }
        Err(e) => error(StatusCode::BAD_REQUEST, &format!("{e}; it takes cursor=N and max=N")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CursorQuery {
    cursor: Option<u64>,
}

async fn buckets(State(a): State<Asker>, q: Result<Query<CursorQuery>, QueryRejection>) -> Response {
    let Ok(Query(q)) = q else { return error(StatusCode::BAD_REQUEST, "it takes cursor=N") };
    answer(&a, Request::Buckets { cursor: q.cursor.unwrap_or(0) }).await
}

async fn table(
    State(a): State<Asker>,
    UrlPath(name): UrlPath<String>,
    q: Result<Query<CursorQuery>, QueryRejection>,
) -> Response {
    let Ok(Query(q)) = q else { return error(StatusCode::BAD_REQUEST, "it takes cursor=N") };
    if TableId::by_name(&name).is_none() {
        let names: Vec<_> = TableId::ALL.iter().map(|t| t.name()).collect();
        let text = format!("the chip has no table {name:?}; there are {}", names.join(", "));
        return error(StatusCode::NOT_FOUND, &text);
    }
    answer(&a, Request::Table { name, cursor: q.cursor.unwrap_or(0) }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettleQuery {
    timeout: Option<f64>,
}

async fn settle(State(a): State<Asker>, q: Result<Query<SettleQuery>, QueryRejection>) -> Response {
    let timeout = match q {
        Ok(Query(q)) => q.timeout.unwrap_or(SETTLE.0),
        Err(e) => return error(StatusCode::BAD_REQUEST, &format!("{e}; it takes timeout=SECONDS")),
    };
    if !(0.0..=SETTLE.1).contains(&timeout) {
        return error(StatusCode::BAD_REQUEST, &format!("a timeout is from 0 to {} seconds", SETTLE.1));
    }
    match tokio::time::timeout(Duration::from_secs_f64(timeout), a.ask(Request::Settle)).await {
        Ok(reply) => respond(reply),
        Err(_) => {
            let what = waiting(&a).await;
            error(StatusCode::GATEWAY_TIMEOUT, &format!("not settled within {timeout} s: {what}"))
        }
    }
}

/// What settling waits for, in the core's words.
pub async fn waiting(a: &Asker) -> String {
    let status = tokio::time::timeout(Duration::from_secs(5), a.ask(Request::Status)).await;
    let Ok(Some(Reply::Json(text))) = status else { return "the agent is too busy to say what it waits for".into() };
    let Ok(status) = serde_json::from_str::<serde_json::Value>(&text) else { return "for an unknown reason".into() };
    let list: Vec<_> = status["waiting"].as_array().into_iter().flatten().filter_map(|w| w.as_str()).collect();
    if list.is_empty() { "changes kept coming".into() } else { list.join("; ") }
}

async fn answer(a: &Asker, request: Request) -> Response {
    match tokio::time::timeout(PATIENCE, a.ask(request)).await {
        Ok(reply) => respond(reply),
        Err(_) => error(StatusCode::GATEWAY_TIMEOUT, &format!("no answer from the agent's core within {PATIENCE:?}")),
    }
}

fn respond(reply: Option<Reply>) -> Response {
    match reply {
        Some(Reply::Json(text)) => json(StatusCode::OK, text),
        Some(Reply::Page { json: items, next }) => {
            let next = next.map_or("null".into(), |n| n.to_string());
            json(StatusCode::OK, format!("{{\"items\":{items},\"next\":{next}}}"))
        }
        Some(Reply::Error(why)) => error(StatusCode::SERVICE_UNAVAILABLE, &why),
        None => error(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping"),
    }
}

fn error(status: StatusCode, why: &str) -> Response {
    json(status, serde_json::json!({ "error": why }).to_string())
}

fn json(status: StatusCode, mut text: String) -> Response {
    text.push('\n');
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// The daemon's socket; its file is removed with it.
#[derive(Debug)]
pub struct Listener {
    /// Ready for tokio.
    pub inner: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Bind `path`, mode 0660, group `virga` where there is one. A stale socket is replaced.
    ///
    /// # Errors
    /// One sentence: a live daemon, something else in the way, or no right to make it.
    pub fn bind(path: &Path) -> Result<Listener, String> {
        let shown = path.display();
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir)
                .map_err(|e| format!("the directory of the socket {shown} can't be made: {e}"))?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(m) if !m.file_type().is_socket() => {
                return Err(format!("{shown} is in the way and not a socket: remove it, or choose another --socket"));
            }
            Ok(_) => match UnixStream::connect(path) {
                Ok(_) => {
                    return Err(format!(
                        "another virgad listens on {shown}: stop it first, or choose another --socket"
                    ));
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)
                        .map_err(|e| format!("the stale socket {shown} can't be removed: {e}"))?;
                }
                Err(e) => return Err(format!("the socket {shown} is there and can't be tried: {e}")),
            },
            Err(_) => {}
        }
        let fail =
            |e: io::Error| format!("the socket {shown} can't be made: {e}; run as root, or choose another --socket");
        let inner = UnixListener::bind(path).map_err(fail)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(fail)?;
        if let Some(gid) = group_id(GROUP)
            && let Err(e) = std::os::unix::fs::chown(path, None, Some(gid))
        {
            tracing::warn!("the socket {shown} can't be given to group {GROUP}: {e}");
        }
        inner.set_nonblocking(true).map_err(fail)?;
        Ok(Listener { inner, path: path.to_owned() })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Only tidiness: a stale socket is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// From `/etc/group`: no lookup beyond this file is worth a hanging start.
fn group_id(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string("/etc/group").ok()?;
    text.lines().find_map(|l| {
        let mut f = l.split(':');
        (f.next()? == name).then_some(())?;
        f.nth(1)?.parse().ok()
    })
}
