//! The bytes of a connection, below TLS and above it.
//!
//! ```text
//! TCP ─▶ Wire: reads past the poller, follows TLS records ─▶ (rustls) ─▶ PlainText: sees heads begin ─▶ hyper
//! ```

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::counts::Counts;
use super::traffic::Traffic;

/// A socket that is read past the poller on demand, below TLS if there is any.
pub(super) struct Wire {
    stream: TcpStream,
    traffic: Arc<Traffic>,
    /// The records of TLS.
    records: Option<Records>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, traffic: Arc<Traffic>, tls: bool) -> Self {
        Self { stream, traffic, records: tls.then(Records::default) }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let mut poll = Pin::new(&mut this.stream).poll_read(context, buffer);
        if poll.is_pending() && this.traffic.read_directly.swap(false, Ordering::Relaxed) {
            // The poller may not have heard yet of bytes that are there.
            match (&*SockRef::from(&this.stream)).read(buffer.initialize_unfilled()) {
                Ok(bytes) => {
                    buffer.advance(bytes);
                    poll = Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => poll = Poll::Ready(Err(error)),
            }
        }
        let bytes = &buffer.filled()[before..];
        if let Some(records) = this.records.as_mut().filter(|_| !bytes.is_empty()) {
            let began = records.follow(bytes);
            this.traffic.received_records(records.is_open(), began);
        }
        poll
    }
}

/// Follows the records of TLS through a stream, to know whether one has begun and is not complete:
///
/// ```text
/// type (1 byte), version (2), length of what follows (2, big-endian), …
/// ```
#[derive(Debug, Default)]
struct Records {
    /// How many bytes of the header have come.
    header: u8,
    length: u16,
    /// How many bytes are missing after the header.
    missing: usize,
}

impl Records {
    /// Goes on over these bytes; tells whether a record began in them.
    fn follow(&mut self, mut bytes: &[u8]) -> bool {
        let mut began = false;
        while let Some((byte, rest)) = bytes.split_first() {
            if self.missing > 0 {
                let skipped = self.missing.min(bytes.len());
                self.missing -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            began |= self.header == 0;
            self.header += 1;
            // Only the last two bytes of the header stay.
            self.length = self.length << 8 | u16::from(*byte);
            if self.header == 5 {
                self.missing = self.length.into();
                self.header = 0;
            }
            bytes = rest;
        }
        began
    }

    fn is_open(&self) -> bool {
        self.header > 0 || self.missing > 0
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.traffic.wrote(&poll);
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.traffic.wrote(&poll);
        poll
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A connection in plain text, above TLS if there is any, that ends when its peer sends what it should not.
pub(super) struct PlainText<S> {
    stream: S,
    traffic: Arc<Traffic>,
    counts: Arc<Counts>,
}

impl<S> PlainText<S> {
    pub(super) fn new(stream: S, traffic: Arc<Traffic>, counts: Arc<Counts>) -> Self {
        Self { stream, traffic, counts }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PlainText<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        Poll::Ready(self.traffic.received(&buffer.filled()[before..]).map_err(|why| {
            self.counts.count_dropped(why);
            io::Error::other("the peer sends what it should not")
        }))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PlainText<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn bytes_that_the_poller_has_not_heard_of_are_read_on_demand() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        peer.write_all(b"GET").unwrap();
        assert_eq!(stream.peek(&mut [0; 8]).unwrap(), 3, "they are there");
        stream.set_nonblocking(true).unwrap();
        // The poller is asked only when this test waits, which it does not.
        let stream = TcpStream::from_std(stream).unwrap();
        let traffic = Arc::new(Traffic::for_tests());
        let mut wire = Wire::new(stream, Arc::clone(&traffic), false);
        let mut read = async || {
            let mut bytes = [0; 8];
            let mut buffer = ReadBuf::new(&mut bytes);
            let poll =
                poll_fn(|context| Poll::Ready(Pin::new(&mut wire).poll_read(context, &mut buffer)));
            poll.await.map(|read| read.map(|()| buffer.filled().to_vec()).unwrap())
        };
        assert_eq!(read().await, Poll::Pending);
        traffic.read_directly.store(true, Ordering::Relaxed);
        assert_eq!(read().await, Poll::Ready(b"GET".to_vec()));
        traffic.read_directly.store(true, Ordering::Relaxed);
        assert_eq!(read().await, Poll::Pending, "there is nothing more");
    }

    #[test]
    fn a_record_is_open_from_its_first_byte_to_its_last_however_it_is_cut() {
        // Of 3 bytes, of none, and of 300.
        let mut stream = vec![22, 3, 1, 0, 3, 9, 9, 9, 23, 3, 3, 0, 0, 23, 3, 3, 1, 44];
        stream.extend([0; 300]);
        let ends = [8, 13, 318];
        let begins = [0, 8, 13];
        for step in 1..=stream.len() {
            let mut records = Records::default();
            let mut at = 0;
            for bytes in stream.chunks(step) {
                let began = records.follow(bytes);
                assert_eq!(
                    began,
                    begins.iter().any(|begin| (at..at + bytes.len()).contains(begin))
                );
                at += bytes.len();
                assert_eq!(records.is_open(), !ends.contains(&at), "cut at {at}");
            }
        }
    }
}
