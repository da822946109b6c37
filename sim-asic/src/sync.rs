//! All that one writer and many readers share without locks: atomic words, records under a seqlock, and quiescent
//! states. Nothing else in the crate names an atomic `Ordering`.
//!
//! One thread writes tables; any number read them. Each kind of word here has exactly one writer at a time, so a
//! read-modify-write is a load and a store. Not here: what the words mean.

use std::sync::PoisonError;

#[cfg(loom)]
use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
    sync::{Arc, Mutex, MutexGuard},
    thread::yield_now,
};
#[cfg(not(loom))]
use std::{
    hint::spin_loop,
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
    sync::{Arc, Mutex, MutexGuard},
    thread::yield_now,
};

/// An array of 32-bit words, all zero at first. Memory is reserved at once and touched when used.
#[derive(Debug)]
pub struct Words32(Box<[AtomicU32]>);

/// An array of 64-bit words, all zero at first. Memory is reserved at once and touched when used.
#[derive(Debug)]
pub struct Words64(Box<[AtomicU64]>);

#[cfg(not(loom))]
fn zeroed<T: zerocopy::FromZeros>(n: usize) -> Box<[T]>
where
    [T]: zerocopy::KnownLayout<PointerMetadata = usize>,
{
    let Ok(words) = <[T] as zerocopy::FromZeros>::new_box_zeroed_with_elems(n) else {
        // As `vec![]` does: there is no chip without its tables.
        std::alloc::handle_alloc_error(std::alloc::Layout::new::<T>())
    };
    huge_pages(&words);
    words
}

/// Ask for large pages under a large array: lookups go all over it, and each would else miss the TLB.
#[cfg(not(loom))]
fn huge_pages<T>(words: &[T]) {
    const HUGE: usize = 2 << 20;
    let bytes = words.as_ptr_range();
    let (first, end) = ((bytes.start as usize).next_multiple_of(HUGE), bytes.end as usize / HUGE * HUGE);
    if end >= first + 2 * HUGE {
        // SAFETY: the range lies within one live allocation, and the advice changes neither its content nor its access.
        unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_HUGEPAGE) };
    }
}

/// Have the cache line of `at` fetched while other things go on: unlike a load, nothing behind it waits for it.
#[inline(always)]
fn prefetch<T>(at: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch changes nothing but caches, and every x86-64 has it.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(at).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

impl Words32 {
    /// `n` words.
    pub fn new(n: usize) -> Self {
        #[cfg(not(loom))]
        return Words32(zeroed(n));
        #[cfg(loom)]
        return Words32((0..n).map(|_| AtomicU32::new(0)).collect());
    }
    /// How many there are.
    pub fn size(&self) -> usize {
        self.0.len()
    }
    /// The word, and whatever was written before it was set; 0 outside of the array.
    #[inline(always)]
    pub fn get(&self, i: usize) -> u32 {
        self.0.get(i).map_or(0, |w| w.load(Ordering::Acquire))
    }
    /// Say that the word is soon read.
    #[inline(always)]
    pub fn prefetch(&self, i: usize) {
        self.0.get(i).map(prefetch);
    }
    /// Set the word; what was written before is seen by whoever sees the new value.
    #[inline(always)]
    pub fn set(&self, i: usize, v: u32) {
        if let Some(w) = self.0.get(i) {
            w.store(v, Ordering::Release);
        }
    }
    /// Set the word to `new` and return what it was: for marks that a reader sets and the writer takes.
    pub fn swap(&self, i: usize, new: u32) -> u32 {
        self.0.get(i).map_or(0, |w| w.swap(new, Ordering::AcqRel))
    }
}

impl Words64 {
    /// `n` words.
    pub fn new(n: usize) -> Self {
        #[cfg(not(loom))]
        return Words64(zeroed(n));
        #[cfg(loom)]
        return Words64((0..n).map(|_| AtomicU64::new(0)).collect());
    }
    /// How many there are.
    pub fn size(&self) -> usize {
        self.0.len()
    }
    /// The word, and whatever was written before it was set; 0 outside of the array.
    #[inline(always)]
    pub fn get(&self, i: usize) -> u64 {
        self.0.get(i).map_or(0, |w| w.load(Ordering::Acquire))
    }
    /// Say that the word is soon read.
    #[inline(always)]
    pub fn prefetch(&self, i: usize) {
        self.0.get(i).map(prefetch);
    }
    /// Set the word; what was written before is seen by whoever sees the new value.
    #[inline(always)]
    pub fn set(&self, i: usize, v: u64) {
        if let Some(w) = self.0.get(i) {
            w.store(v, Ordering::Release);
        }
    }
    /// Set the word to `new` if it is `was`: for what several may write.
    pub fn replace(&self, i: usize, was: u64, new: u64) {
        if let Some(w) = self.0.get(i) {
            let _ = w.compare_exchange(was, new, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

impl Words64 {
    /// The first word that begins a cache line.
    pub fn first_line(&self) -> usize {
        (self.0.as_ptr() as usize).wrapping_neg() % LINE / size_of::<u64>()
    }
}

/// A counter with one writer.
#[derive(Debug)]
pub struct Counter(AtomicU64);

impl Default for Counter {
    fn default() -> Self {
        Counter(AtomicU64::new(0))
    }
}

impl Counter {
    /// Count `n` more. Only one thread may do so.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }
    /// What was counted.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often a reader tries to get a record that is being written before it gives up.
const TRIES: usize = if cfg!(loom) { 2 } else { 64 };

/// Records of `N` words that are read whole: each under a seqlock.
#[derive(Debug)]
pub struct Records<const N: usize>(Words64);

impl<const N: usize> Records<N> {
    /// `n` records, all words zero.
    pub fn new(n: usize) -> Self {
        Records(Words64::new(n * (N + 1)))
    }
    /// The record, never a mixture of two; `None` where the writer was interrupted in the midst of it, or outside of the array.
    #[inline(always)]
    pub fn get(&self, i: usize) -> Option<[u64; N]> {
        let cells = self.0.0.get(i * (N + 1)..(i + 1) * (N + 1))?;
        let (seq, words) = cells.split_first()?;
        for _ in 0..TRIES {
            let before = seq.load(Ordering::Acquire);
            if before & 1 == 0 {
                let mut v = [0; N];
                for (v, w) in v.iter_mut().zip(words) {
                    *v = w.load(Ordering::Relaxed);
                }
                fence(Ordering::Acquire);
                if seq.load(Ordering::Relaxed) == before {
                    return Some(v);
                }
            }
            spin_loop();
        }
        None
    }
    /// Write the record. Only one thread may do so.
    pub fn set(&self, i: usize, v: [u64; N]) {
        let Some((seq, words)) = self.0.0.get(i * (N + 1)..(i + 1) * (N + 1)).and_then(|c| c.split_first()) else {
            return;
        };
        let before = seq.load(Ordering::Relaxed);
        seq.store(before.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (v, w) in v.iter().zip(words) {
            w.store(*v, Ordering::Relaxed);
        }
        seq.store(before.wrapping_add(2), Ordering::Release);
    }
}

/// What a reader's cell holds while it reads nothing.
const IDLE: u64 = u64::MAX;

#[derive(Debug)]
struct Shared {
    /// Counts retirements; starts at 1.
    now: AtomicU64,
    /// One cell a reader.
    readers: Mutex<Vec<Arc<AtomicU64>>>,
}

/// Quiescent states: tells the writer when no reader can still hold what it took out of the tables.
#[derive(Clone, Debug)]
pub struct Epochs(Arc<Shared>);

/// A reader's announcement cell.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    cell: Arc<AtomicU64>,
}

/// While it lives, nothing that its reader can reach is used for something else.
#[derive(Debug)]
pub struct Pin<'a>(&'a AtomicU64);

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Epochs {
    fn default() -> Self {
        Epochs(Arc::new(Shared { now: AtomicU64::new(1), readers: Mutex::new(Vec::new()) }))
    }
}

impl Epochs {
    /// A new reader.
    pub fn reader(&self) -> Reader {
        let cell = Arc::new(AtomicU64::new(IDLE));
        lock(&self.0.readers).push(cell.clone());
        Reader { shared: self.0.clone(), cell }
    }
    /// Say that something was taken out of the tables, and get the stamp for [`Epochs::passed`]. Writer only.
    pub fn retire(&self) -> u64 {
        self.0.now.fetch_add(1, Ordering::AcqRel) + 1
    }
    /// Whether no reader can still see what was retired with this stamp. Writer only.
    pub fn passed(&self, stamp: u64) -> bool {
        // Pairs with the fence in `pin`: either we see the reader's announcement, or it sees what we took out.
        fence(Ordering::SeqCst);
        lock(&self.0.readers).iter().all(|c| {
            let at = c.load(Ordering::Acquire);
            at == IDLE || at >= stamp
        })
    }
    /// Wait until [`Epochs::passed`]: no longer than a reader's batch takes. Writer only.
    pub fn wait(&self, stamp: u64) {
        while !self.passed(stamp) {
            yield_now();
        }
    }
}

impl Reader {
    /// Begin to read.
    #[inline]
    pub fn pin(&self) -> Pin<'_> {
        self.cell.store(self.shared.now.load(Ordering::Acquire), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Pin(&self.cell)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        lock(&self.shared.readers).retain(|c| !Arc::ptr_eq(c, &self.cell));
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.0.store(IDLE, Ordering::Release);
    }
}

/// Every interleaving, not some: `RUSTFLAGS="--cfg loom" cargo test -p virga-sim-asic --lib --release loom`.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;

    #[test]
    fn loom_records_are_never_mixed() {
        loom::model(|| {
            let r = Arc::new(Records::<2>::new(1));
            let w = r.clone();
            let writer = loom::thread::spawn(move || {
                w.set(0, [1, 1]);
                w.set(0, [2, 2]);
            });
            if let Some([a, b]) = r.get(0) {
                assert_eq!(a, b);
            }
            assert!(writer.join().is_ok());
        });
    }

    #[test]
    fn loom_what_a_word_leads_to_is_whole() {
        loom::model(|| {
            let t = Arc::new((Words32::new(1), Words64::new(2)));
            let w = t.clone();
            let writer = loom::thread::spawn(move || {
                w.1.set(1, 7);
                w.0.set(0, 1);
            });
            if t.0.get(0) == 1 {
                assert_eq!(t.1.get(1), 7);
            }
            assert!(writer.join().is_ok());
        });
    }

    #[test]
    fn loom_nothing_is_reused_while_a_reader_may_see_it() {
        loom::model(|| {
            let e = Epochs::default();
            let t = Arc::new((Words32::new(1), Words32::new(2)));
            t.1.set(0, 5);
            t.1.set(1, 6);
            let (reader, r) = (e.reader(), t.clone());
            let other = loom::thread::spawn(move || {
                let pin = reader.pin();
                let at = r.0.get(0);
                let v = r.1.get(at as usize);
                drop(pin);
                assert_eq!(v, 5 + at, "the reader saw a slot that was used for something else");
            });
            t.0.set(0, 1);
            let stamp = e.retire();
            e.wait(stamp);
            t.1.set(0, 99);
            assert!(other.join().is_ok());
        });
    }

    /// What the chip calls "in force": once the grace period is over, no worker sends by what stood before.
    #[test]
    fn loom_after_the_grace_period_nothing_leaves_by_the_old_state() {
        loom::model(|| {
            const OLD: u32 = 1;
            const NEW: u32 = 2;
            const ACKNOWLEDGED: u32 = 3;
            let turns = Epochs::default();
            // The table, and the wire: the last that was put on it.
            let t = Arc::new((Words32::new(1), Words32::new(1)));
            t.0.set(0, OLD);
            let (turn, r) = (turns.reader(), t.clone());
            let worker = loom::thread::spawn(move || {
                let _turn = turn.pin();
                let verdict = r.0.get(0);
                r.1.swap(0, verdict);
            });
            t.0.set(0, NEW);
            turns.wait(turns.retire());
            t.1.swap(0, ACKNOWLEDGED);
            assert!(worker.join().is_ok());
            assert_ne!(t.1.get(0), OLD, "a frame left by the old state after the acknowledgement");
        });
    }
}
