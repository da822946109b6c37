//! The MTU of a wire's device: the netdev's, and room for VLAN tags, which AF_PACKET and drivers count.
//!
//! What is asked of the device and what is made of its answers; asking is `ports.rs`'s.

/// Bytes of VLAN tags that a wire has room for besides its netdev's MTU.
pub const TAGS: u32 = 8;

/// What the device last said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mtu {
    /// The netdev's MTU that it refused, so that it is not asked again and again.
    refused: Option<u32>,
    /// The netdev's MTU that it took, but no room for tags.
    narrow: Option<u32>,
}

impl Mtu {
    /// Whether the device does not have the netdev's MTU.
    pub fn refused(&self) -> bool {
        self.refused.is_some()
    }
    /// Have a device of MTU `is` follow a netdev of MTU `want`; `set` sets the device's. Whether it was asked, and its refusal of
    /// even the netdev's own.
    pub fn follow<E>(&mut self, is: u32, want: u32, mut set: impl FnMut(u32) -> Result<(), E>) -> (bool, Option<E>) {
        if is == want.saturating_add(TAGS) || (is == want && self.narrow == Some(want)) {
            self.refused = None;
            return (false, None);
        }
        if self.refused == Some(want) {
            return (false, None);
        }
        *self = Mtu::default();
        if set(want.saturating_add(TAGS)).is_ok() {
            return (true, None);
        }
        self.narrow = Some(want);
        let no = if is == want { None } else { set(want).err() };
        self.refused = no.as_ref().map(|_| want);
        (true, no)
    }
}

/// What a device of MTU `is` has for frames without tags, where a netdev's MTU was `before`.
pub fn untagged(is: u32, before: Option<u32>) -> u32 {
    before.filter(|b| (*b..=b.saturating_add(TAGS)).contains(&is)).unwrap_or(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_tags_where_there_is_some() {
        /// A device that takes up to `max`.
        fn device(max: u32, is: &mut u32, asked: &mut u32) -> impl FnMut(u32) -> Result<(), ()> {
            move |m| {
                *asked += 1;
                if m > max {
                    return Err(());
                }
                *is = m;
                Ok(())
            }
        }
        for (max, is_then, refused) in [(9000, 1508, false), (1507, 1500, false), (1400, 1300, true)] {
            let (mut m, mut is, mut asked) = (Mtu::default(), 1300, 0);
            for _ in 0..3 {
                let now = is;
                m.follow(now, 1500, device(max, &mut is, &mut asked));
                assert_eq!((is, m.refused()), (is_then, refused), "{max}");
            }
            assert!(asked <= 2, "{asked} times");
        }
        // One that has the netdev's already, and no more to give.
        let (mut m, mut is, mut asked) = (Mtu::default(), 1500, 0);
        let now = is;
        assert_eq!(m.follow(now, 1500, device(1500, &mut is, &mut asked)), (true, None));
        assert_eq!((is, m.refused()), (1500, false));
        assert_eq!(untagged(1508, Some(1500)), 1500);
        assert_eq!(untagged(1500, Some(1500)), 1500);
        assert_eq!(untagged(9000, Some(1500)), 9000);
        assert_eq!(untagged(1508, None), 1508);
    }
}
