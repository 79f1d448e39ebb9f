//! A client of RabbitMQ that writes properties byte by byte, so that it can send what no library
//! would: strings that are not UTF-8, tables within tables without end.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// A connection with one channel, with confirms.
#[derive(Debug)]
pub struct Raw(TcpStream);

/// The content of the header frame that describes a message: flags and properties.
#[derive(Clone, Debug, Default)]
pub struct Properties {
    /// Content of the table of headers.
    pub headers: Option<Vec<u8>>,
    /// By their places in the protocol's order of properties, from 0 (`content_type`) to 13
    /// (`cluster_id`).
    pub strings: Vec<(u16, Vec<u8>)>,
}

/// The places of some properties.
pub mod place {
    /// Of the body.
    pub const CONTENT_TYPE: u16 = 0;
    /// Of a call.
    pub const CORRELATION_ID: u16 = 5;
    /// Where the answer goes.
    pub const REPLY_TO: u16 = 6;
    /// Of a job.
    pub const MESSAGE_ID: u16 = 8;
    /// Of the program that wrote it.
    pub const APP_ID: u16 = 12;
}

impl Raw {
    /// Connects as the default user.
    ///
    /// # Errors
    ///
    /// What the operating system says, or that the server ended the connection.
    pub fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut raw = Self(stream);
        raw.0.write_all(b"AMQP\0\0\x09\x01")?;
        raw.expect(10, 10)?;
        // start-ok: an empty table, mechanism, response, locale.
        raw.method(
            0,
            10,
            11,
            &[
                &[0, 0, 0, 0][..],
                &short(b"PLAIN"),
                &long(b"\0guest\0guest"),
                &short(b"en_US"),
            ]
            .concat(),
        )?;
        let tune = raw.expect(10, 30)?;
        raw.method(0, 10, 31, &[&tune[..6], &[0, 0]].concat())?;
        raw.method(0, 10, 40, &[&short(b"/")[..], &short(b""), &[0]].concat())?;
        raw.expect(10, 41)?;
        raw.method(1, 20, 10, &short(b""))?;
        raw.expect(20, 11)?;
        raw.method(1, 85, 10, &[0])?;
        raw.expect(85, 11)?;
        Ok(raw)
    }

    /// Publishes by the default exchange; returns when the server has confirmed it.
    ///
    /// # Errors
    ///
    /// If the server refuses it.
    pub fn publish(&mut self, queue: &str, properties: &Properties, body: &[u8]) -> io::Result<()> {
        self.method(
            1,
            60,
            40,
            &[&[0, 0][..], &short(b""), &short(queue.as_bytes()), &[0]].concat(),
        )?;
        let mut flags = 0;
        let mut written = Vec::new();
        for place in 0..14 {
            match &properties.headers {
                Some(headers) if place == 2 => written.extend(long(headers)),
                _ => match properties.strings.iter().find(|(at, _)| *at == place) {
                    Some((_, text)) => written.extend(short(text)),
                    None => continue,
                },
            }
            flags |= 1_u16 << (15 - place);
        }
        let size = u64::try_from(body.len()).unwrap_or(u64::MAX).to_be_bytes();
        self.frame(
            2,
            1,
            &[&[0, 60, 0, 0][..], &size, &flags.to_be_bytes(), &written].concat(),
        )?;
        if !body.is_empty() {
            self.frame(3, 1, body)?;
        }
        self.expect(60, 80).map(drop)
    }

    fn frame(&mut self, kind: u8, channel: u16, content: &[u8]) -> io::Result<()> {
        let frame = [&[kind][..], &channel.to_be_bytes(), &long(content), &[0xce]].concat();
        self.0.write_all(&frame)
    }

    fn method(
        &mut self,
        channel: u16,
        class: u16,
        method: u16,
        arguments: &[u8],
    ) -> io::Result<()> {
        self.frame(
            1,
            channel,
            &[&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat(),
        )
    }

    /// The arguments of the next method, which is to be this one.
    fn expect(&mut self, class: u16, method: u16) -> io::Result<Vec<u8>> {
        loop {
            let mut head = [0; 7];
            self.0.read_exact(&mut head)?;
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
            let mut content = vec![0; usize::try_from(size).unwrap_or(usize::MAX) + 1];
            self.0.read_exact(&mut content)?;
            if head[0] == 1 {
                let wanted = [class.to_be_bytes(), method.to_be_bytes()].concat();
                return match content.strip_prefix(&*wanted) {
                    Some(arguments) => Ok(arguments.to_vec()),
                    None => Err(io::Error::other(format!(
                        "the server said {}",
                        String::from_utf8_lossy(&content)
                    ))),
                };
            }
        }
    }
}

/// A short string.
pub fn short(text: &[u8]) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[length][..], &text[..length.into()]].concat()
}

/// Bytes with their length before them, as long strings, tables and arrays have.
pub fn long(bytes: &[u8]) -> Vec<u8> {
    [
        &u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()[..],
        bytes,
    ]
    .concat()
}
