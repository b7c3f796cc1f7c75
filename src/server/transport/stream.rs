//! A connection that speaks HTTP/2: opened, and asked for the first words of it, within a time.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};

/// What a client of HTTP/2 says first.
pub(in crate::server) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client of HTTP/1 says first: a method, and a space.
const METHODS: [&[u8]; 9] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
];
/// What such a client is told: it is most often a person who has taken this for another port.
const HTTP1_ANSWER: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\n\
    content-type: text/plain\r\n\
    content-length: 44\r\n\
    connection: close\r\n\
    \r\n\
    This port speaks gRPC, which needs HTTP/2.\r\n";
/// How much of what it says beyond that is thrown away: what nobody has read when a connection is
/// closed resets it, and the answer is lost with it.
const HTTP1_BYTES_MAX: u64 = 64 * 1024;

/// What the first bytes of a peer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Http2,
    Http1,
    /// Nobody knows yet.
    Unclear,
    Other,
}

impl First {
    fn of(said: &[u8]) -> Self {
        if said == PREFACE {
            Self::Http2
        } else if METHODS.iter().any(|method| said.starts_with(method)) {
            Self::Http1
        } else if PREFACE.starts_with(said) || METHODS.iter().any(|it| it.starts_with(said)) {
            Self::Unclear
        } else {
            Self::Other
        }
    }
}

/// A stream whose peer has said that it speaks HTTP/2.
pub(super) struct Opened {
    stream: Wire,
    /// What of the first words is still to be read again.
    first: &'static [u8],
}

/// What bytes go over.
enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Opened {
    /// Waits for the first words, which have to come over TLS if there is any. A peer that speaks
    /// HTTP/1 is told that nobody here does.
    ///
    /// # Errors
    /// When the peer says anything else, or leaves.
    pub(super) async fn accept(
        stream: TcpStream,
        tls: Option<Arc<ServerConfig>>,
    ) -> io::Result<Self> {
        let mut stream = match tls {
            None => Wire::Plain(stream),
            Some(tls) => Wire::Tls(Box::new(TlsAcceptor::from(tls).accept(stream).await?)),
        };
        let (mut said, mut length) = ([0; PREFACE.len()], 0_usize);
        loop {
            let read = stream.read(said.get_mut(length..).unwrap_or_default()).await?;
            length = length.saturating_add(read);
            match First::of(said.get(..length).unwrap_or_default()) {
                First::Http2 => return Ok(Self { stream, first: PREFACE }),
                First::Unclear if read > 0 => {}
                First::Http1 => {
                    stream.refuse_http1().await?;
                    return Err(wrong("the peer speaks HTTP/1"));
                }
                First::Unclear | First::Other => {
                    return Err(wrong("the peer does not speak HTTP/2"));
                }
            }
        }
    }

    /// The certificate that the peer has proved to own, as DER.
    pub(super) fn certificate(&self) -> Option<Vec<u8>> {
        match &self.stream {
            Wire::Plain(_) => None,
            Wire::Tls(tls) => {
                let certificates = tls.get_ref().1.peer_certificates()?;
                certificates.first().map(|certificate| certificate.to_vec())
            }
        }
    }
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Wire {
    /// Tells the peer so, and hears what it still has to say.
    async fn refuse_http1(&mut self) -> io::Result<()> {
        self.write_all(HTTP1_ANSWER).await?;
        self.shutdown().await?;
        tokio::io::copy(&mut self.take(HTTP1_BYTES_MAX), &mut tokio::io::sink()).await?;
        Ok(())
    }
}

impl AsyncRead for Opened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let (now, later) = self.first.split_at(buffer.remaining().min(self.first.len()));
        buffer.put_slice(now);
        self.first = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Opened {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Wire::Tls(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_who_speaks() {
        for (said, first) in [
            (PREFACE, First::Http2),
            (b"", First::Unclear),
            (b"P", First::Unclear),
            (b"PRI * HTTP/2.0\r\n\r\nSM", First::Unclear),
            (b"PUT", First::Unclear),
            (b"OPTIONS", First::Unclear),
            (b"GET ", First::Http1),
            (b"GET / HTTP/1.1\r\n", First::Http1),
            (b"POST /very/long/path/to/s", First::Http1),
            (b"get / HTTP/1.1\r\n", First::Other),
            (b"GETS / HTTP/1.1\r\n", First::Other),
            (b"PRI * HTTP/1.1\r\n", First::Other),
            (b"\x16\x03\x01", First::Other),
            (b"SSH-2.0-", First::Other),
        ] {
            assert_eq!(First::of(said), first, "{}", said.escape_ascii());
        }
    }

    #[test]
    fn the_answer_is_as_long_as_it_says() {
        let text = std::str::from_utf8(HTTP1_ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        let mut lines = head.split("\r\n");
        assert_eq!(lines.next(), Some("HTTP/1.1 505 HTTP Version Not Supported"));
        assert!(lines.all(|line| line.contains(": ") && !line.starts_with(' ')), "{head}");
    }
}
