//! Duties towards the service manager: ready, stopping, watchdog (`sd_notify(3)`). Without one, nothing happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sd_notify::NotifyState;

fn tell(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::warn!("the service manager can't be told: {e}");
    }
}

/// The chip holds all that the kernel knows.
pub fn ready(text: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(text)]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// About to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Feed the watchdog, if one is set, as long as the core's thread moves. Never returns.
pub async fn watchdog(beat: Arc<AtomicU64>) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut tick = tokio::time::interval(limit / 3);
    let mut last = None;
    loop {
        tick.tick().await;
        let now = beat.load(Ordering::Relaxed);
        if last.replace(now) != Some(now) {
            tell(&[NotifyState::Watchdog]);
        }
    }
}
