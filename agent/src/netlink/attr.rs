//! The walker: messages of a buffer, attributes of a message. Never reads out of bounds, never panics.

/// A message that is not what its type says: refused whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed netlink message: {0}")]
pub struct Malformed(pub &'static str);

/// One message: `struct nlmsghdr` (`linux/netlink.h`) taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// `nlmsg_type`
    pub kind: u16,
    /// `nlmsg_flags`
    pub flags: u16,
    /// `nlmsg_seq`
    pub seq: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

/// A `u16` of the machine's order at `at`.
#[inline]
pub fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*b.get(at..)?.first_chunk()?))
}

/// A `u32` of the machine's order at `at`.
#[inline]
pub fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*b.get(at..)?.first_chunk()?))
}

/// The messages in `buf`, in order. A message whose length is not true ends it, with an error.
pub fn messages(buf: &[u8]) -> Messages<'_> {
    Messages(buf)
}

/// See [`messages`].
#[derive(Clone, Debug)]
pub struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let b = self.0;
        if b.is_empty() {
            return None;
        }
        let whole = u32_at(b, 0).map_or(0, |l| l as usize);
        if whole < 16 || whole > b.len() {
            self.0 = &[];
            return Some(Err(Malformed("length in header")));
        }
        self.0 = b.get(whole.next_multiple_of(4)..).unwrap_or(&[]);
        let (Some(kind), Some(flags), Some(seq), Some(body)) =
            (u16_at(b, 4), u16_at(b, 6), u32_at(b, 8), b.get(16..whole))
        else {
            return Some(Err(Malformed("header")));
        };
        Some(Ok(Message { kind, flags, seq, body }))
    }
}

/// One attribute (`struct nlattr`, `linux/netlink.h`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr<'a> {
    /// `nla_type` without its two flag bits.
    pub kind: u16,
    /// Its payload.
    pub data: &'a [u8],
}

impl Attr<'_> {
    /// The payload as a `u8`.
    ///
    /// # Errors
    /// It is not one byte.
    #[inline]
    pub fn u8(&self) -> Result<u8, Malformed> {
        match self.data {
            [b] => Ok(*b),
            _ => Err(Malformed("attribute is not one byte")),
        }
    }
    /// The payload as a `u16` of the machine's order.
    ///
    /// # Errors
    /// It is not two bytes.
    pub fn u16(&self) -> Result<u16, Malformed> {
        Ok(u16::from_ne_bytes(self.data.try_into().map_err(|_| Malformed("attribute is not two bytes"))?))
    }
    /// The payload as a `u32` of the machine's order.
    ///
    /// # Errors
    /// It is not four bytes.
    #[inline]
    pub fn u32(&self) -> Result<u32, Malformed> {
        Ok(u32::from_ne_bytes(self.data.try_into().map_err(|_| Malformed("attribute is not four bytes"))?))
    }
    /// The payload as a text that ends at its first NUL; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        let end = self.data.iter().position(|b| *b == 0).unwrap_or(self.data.len());
        String::from_utf8_lossy(&self.data[..end]).into_owned()
    }
    /// The attributes nested in it.
    pub fn nested(&self) -> Attrs<'_> {
        Attrs(self.data)
    }
}

/// Attributes, one after the other. One whose length is not true ends it, with an error.
#[derive(Clone, Debug)]
pub struct Attrs<'a>(pub &'a [u8]);

impl<'a> Attrs<'a> {
    /// The attributes of a message that begins with a fixed header of `fixed` bytes.
    ///
    /// # Errors
    /// The message is shorter.
    #[inline]
    pub fn after(body: &'a [u8], fixed: usize) -> Result<(&'a [u8], Attrs<'a>), Malformed> {
        let (head, rest) = body.split_at_checked(fixed).ok_or(Malformed("shorter than its fixed header"))?;
        let pad = fixed.next_multiple_of(4) - fixed;
        Ok((head, Attrs(rest.get(pad..).unwrap_or(&[]))))
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<Attr<'a>, Malformed>;
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let b = self.0;
        if b.is_empty() {
            return None;
        }
        let (len, kind) = match b {
            [a, b, c, d, ..] => (usize::from(u16::from_ne_bytes([*a, *b])), u16::from_ne_bytes([*c, *d])),
            _ => (0, 0),
        };
        if len < 4 || len > b.len() {
            self.0 = &[];
            return Some(Err(Malformed("length of an attribute")));
        }
        self.0 = b.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        // NLA_F_NESTED and NLA_F_NET_BYTEORDER are the two highest bits.
        Some(Ok(Attr { kind: kind & 0x3fff, data: &b[4..len] }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_lie_end_the_walk() {
        let mut b = vec![0u8; 24];
        b[0] = 24;
        b[4] = 16;
        b[16] = 9; // an attribute of nine bytes where eight are
        let m: Vec<_> = messages(&b).collect();
        assert_eq!(m.len(), 1);
        let m = m[0].unwrap();
        assert_eq!((m.kind, m.body.len()), (16, 8));
        assert_eq!(Attrs(m.body).collect::<Vec<_>>(), [Err(Malformed("length of an attribute"))]);
        b[0] = 25;
        assert_eq!(messages(&b).collect::<Vec<_>>(), [Err(Malformed("length in header"))]);
        assert_eq!(messages(&b[..7]).collect::<Vec<_>>(), [Err(Malformed("length in header"))]);
    }
}
