//! Reading into memory that was not initialised: zeroing it first would cost as much as the read.

#![expect(unsafe_code, reason = "marks what the kernel wrote as initialised")]

use std::os::fd::AsFd;

use bytes::{BufMut as _, BytesMut};
use rustix::io::Errno;

/// Reads once, behind what the buffer holds. Returns how many bytes came.
pub(crate) fn read_into(fd: impl AsFd, buffer: &mut BytesMut) -> Result<usize, Errno> {
    let (read, _) = rustix::io::read(fd, buffer.spare_capacity_mut())?;
    let count = read.len();
    // SAFETY: these bytes are the first of the spare capacity, and the kernel has written them.
    unsafe { buffer.advance_mut(count) };
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn only_what_came_is_there_and_never_more_than_the_room() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(&[7; 100]).unwrap();
        let mut buffer = BytesMut::with_capacity(64);
        buffer.extend_from_slice(b"ab");
        let room = buffer.capacity() - buffer.len();
        assert_eq!(read_into(&b, &mut buffer), Ok(room.min(100)));
        assert_eq!(buffer.len(), 2 + room.min(100));
        assert!(buffer.starts_with(b"ab\x07") && buffer.ends_with(b"\x07"));
    }
}
