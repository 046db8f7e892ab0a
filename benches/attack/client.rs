//! An HTTP/1.1 client that says exactly what it is meant to say, from an address of its choice.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use crate::tally::Tally;

/// How long it takes at most to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How much of a head, and of a body that is kept, is read at most.
const HEAD_BYTES_MAX: usize = 64 << 10;
const BODY_BYTES_MAX: usize = 64 << 20;

/// Who has which address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    /// Whether all have one.
    pub(crate) are_same: bool,
}

impl Addresses {
    /// That of the one attacker.
    pub(crate) fn attacker(self) -> IpAddr {
        self.pick([127, 0, 0, 2])
    }

    /// That of one of several attackers.
    pub(crate) fn one_of_many(self, number: usize) -> IpAddr {
        self.pick([127, 0, 1, last_byte(number)])
    }

    /// That of a normal player.
    pub(crate) fn player(self, number: usize) -> IpAddr {
        self.pick([127, 0, 9, last_byte(number % 90)])
    }

    /// That of the probe.
    pub(crate) fn probe(self) -> IpAddr {
        self.pick([127, 0, 9, 99])
    }

    /// That of whoever looks after the server.
    pub(crate) fn operator(self) -> IpAddr {
        self.pick([127, 0, 9, 98])
    }

    fn pick(self, address: [u8; 4]) -> IpAddr {
        if self.are_same { Ipv4Addr::LOCALHOST.into() } else { Ipv4Addr::from(address).into() }
    }
}

fn last_byte(number: usize) -> u8 {
    u8::try_from(number % 250 + 1).unwrap_or(1)
}

/// A stream that counts what is written.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) stream: TcpStream,
    tally: Option<Arc<Tally>>,
}

impl Counted {
    /// Connects; with `receive_bytes`, with so small a buffer for what comes.
    pub(crate) async fn connect(
        from: IpAddr,
        to: SocketAddr,
        receive_bytes: Option<u32>,
        tally: Option<&Arc<Tally>>,
    ) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // Ports that wait for the end of an earlier connection are of use again.
        socket.set_reuseaddr(true)?;
        if let Some(bytes) = receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.bind(SocketAddr::new(from, 0))?;
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(to)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, tally: tally.cloned() })
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let (Poll::Ready(Ok(count)), Some(tally)) = (&written, &self.tally) {
            tally.sent(*count);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A connection on which one request follows the other.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Counted,
    /// What was read and belongs to no answer yet.
    read: Vec<u8>,
}

/// The head of an answer, and how long its body was.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    /// Whether the connection is not to be used again.
    pub(crate) closes: bool,
    pub(crate) body_bytes: usize,
}

impl Connection {
    pub(crate) async fn open(
        from: IpAddr,
        to: SocketAddr,
        tally: Option<&Arc<Tally>>,
    ) -> io::Result<Self> {
        let stream = Counted::connect(from, to, None, tally).await?;
        Ok(Self { stream, read: Vec::new() })
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads the next answer; its body is thrown away.
    pub(crate) async fn answer(&mut self) -> io::Result<Response> {
        let (mut response, length) = self.head().await?;
        response.body_bytes = length;
        let mut rest = length - self.take_read(length).len();
        while rest > 0 {
            self.fill().await?;
            rest -= self.take_read(rest).len();
        }
        Ok(response)
    }

    /// Reads the next answer and gives its body.
    pub(crate) async fn answer_with_body(&mut self) -> io::Result<(Response, Vec<u8>)> {
        let (mut response, length) = self.head().await?;
        response.body_bytes = length;
        let mut body = self.take_read(length.min(BODY_BYTES_MAX));
        while body.len() < length.min(BODY_BYTES_MAX) {
            self.fill().await?;
            let rest = length - body.len();
            body.append(&mut self.take_read(rest));
        }
        Ok((response, body))
    }

    async fn head(&mut self) -> io::Result<(Response, usize)> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.read, b"\r\n\r\n") {
                let head = self.take_read(at + 4);
                return parse_head(&head).ok_or_else(|| io::ErrorKind::InvalidData.into());
            }
            if self.read.len() > HEAD_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Takes at most so much of what was read.
    fn take_read(&mut self, bytes: usize) -> Vec<u8> {
        let rest = self.read.split_off(bytes.min(self.read.len()));
        std::mem::replace(&mut self.read, rest)
    }
}

/// The head of an answer, and how long its body will be.
fn parse_head(head: &[u8]) -> Option<(Response, usize)> {
    let head = str::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let (mut location, mut closes, mut length) = (None, false, 0);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        match name {
            "location" => location = Some(value.to_owned()),
            "connection" => closes = value == "close",
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    Some((Response { status, location, closes, body_bytes: 0 }, length))
}

/// The head of a POST; `more` are further lines of it.
pub(crate) fn post_head(path: &str, more: &str, body_bytes: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{more}\
         content-length: {body_bytes}\r\n\r\n"
    )
}

/// A whole POST.
pub(crate) fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let mut request = post_head(path, "", body.len()).into_bytes();
    request.extend_from_slice(body);
    request
}

/// A whole POST of a packed body.
pub(crate) fn post_gzip(path: &str, packed: &[u8]) -> Vec<u8> {
    let mut request = post_head(path, "content-encoding: gzip\r\n", packed.len()).into_bytes();
    request.extend_from_slice(packed);
    request
}
