//! Wakes the core's thread out of `poll(2)` when another thread has put something into one of its queues.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// An eventfd; clones wake the same thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A new one.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new() -> io::Result<Waker> {
        Ok(Waker(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Make [`Waker::fd`] readable.
    pub fn wake(&self) {
        // It can only fail when it is readable already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Make it unreadable again; what was woken for before has to be looked at after this.
    pub fn clear(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0u8; 8]);
    }

    /// To poll for reading.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
