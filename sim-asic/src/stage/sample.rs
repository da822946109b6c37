//! Which routes are in use: each worker notes the destination of one forwarded packet a chunk.
//!
//! A sample is an address; the writer finds the route that it matches when asked. Sampling costs nothing per packet and
//! misses what is hardly used.

use std::sync::{Arc, Mutex, PoisonError};

use hal::TableId;

use crate::sync::{Counter, Records};

/// Samples that a worker keeps.
const KEPT: u64 = 64;

/// One worker's samples.
#[derive(Debug)]
pub(crate) struct Ring {
    records: Records<3>,
    count: Counter,
}

impl Ring {
    pub(crate) fn push(&self, table: TableId, vrf: u32, addr: u128) {
        let meta = u64::from(vrf) << 8 | u64::from(table as u8);
        self.records.set((self.count.get() % KEPT) as usize, [meta, (addr >> 64) as u64, addr as u64]);
        self.count.add(1);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Samples(Mutex<Vec<(Arc<Ring>, [u64; 2])>>);

impl Samples {
    pub(crate) fn worker(&self) -> Arc<Ring> {
        let ring = Arc::new(Ring { records: Records::new(KEPT as usize), count: Counter::default() });
        let mut rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rings.retain(|(r, _)| Arc::strong_count(r) > 1);
        rings.push((ring.clone(), [0; 2]));
        ring
    }

    /// Up to `max` samples of that table that were not taken before.
    pub(crate) fn take(&self, table: TableId, max: usize, mut f: impl FnMut(u32, u128)) {
        let mut left = max;
        for (ring, seen) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            let seen = &mut seen[usize::from(table == TableId::Route6)];
            let count = ring.count.get();
            *seen = (*seen).max(count.saturating_sub(KEPT));
            while *seen < count && left > 0 {
                if let Some([meta, high, low]) = ring.records.get((*seen % KEPT) as usize)
                    && meta as u8 == table as u8
                {
                    f((meta >> 8) as u32, u128::from(high) << 64 | u128::from(low));
                    left -= 1;
                }
                *seen += 1;
            }
        }
    }
}
