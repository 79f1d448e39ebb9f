//! Output of a program: passed on line by line, and kept in part. And its input: the payload.

use std::io;

use serde_json::value::{RawValue, to_raw_value};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Stderr, Stdout, stderr, stdout,
};
use tokio::process::ChildStdin;
use tokio::sync::Mutex;
use tokio::time::{Duration, sleep};
use tokio_util::sync::CancellationToken;

use crate::show::note;

/// Of a program's standard output, for the result.
const RESULT_BYTES_MAX: usize = 64 << 10;
/// Of a program's standard error, for the reason.
const REASON_BYTES_MAX: usize = 4 << 10;
/// A line that is passed on as a whole; a longer one in parts.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Read at once.
const CHUNK_BYTES: usize = 8 << 10;
/// What a pipe may still hold when its program has ended (pipe(7)); other processes may write more.
const REST_BYTES_MAX: usize = 1 << 20;
/// How long to wait for that rest: it is there already, only its readiness may not be known yet.
const REST_WAIT: Duration = Duration::from_millis(100);

/// Our own standard output and error, shared by the programs.
pub(super) struct Console {
    passes_stdout: bool,
    stdout: Mutex<Stdout>,
    stderr: Mutex<Stderr>,
}

impl Console {
    pub(super) fn new(passes_stdout: bool) -> Self {
        Self {
            passes_stdout,
            stdout: Mutex::new(stdout()),
            stderr: Mutex::new(stderr()),
        }
    }

    /// Reads a program's standard output to its end.
    pub(super) async fn carry_stdout(
        &self,
        pipe: impl AsyncRead + Unpin,
        kept: &mut Head,
        ended: &CancellationToken,
    ) {
        let sink = self.passes_stdout.then_some(&self.stdout);
        carry(pipe, |chunk| kept.add(chunk), sink, ended).await;
    }

    /// Reads a program's standard error to its end.
    pub(super) async fn carry_stderr(
        &self,
        pipe: impl AsyncRead + Unpin,
        kept: &mut Tail,
        ended: &CancellationToken,
    ) {
        carry(pipe, |chunk| kept.add(chunk), Some(&self.stderr), ended).await;
    }

    /// A line of our own on standard output.
    pub(super) async fn print(&self, mut line: String) {
        line.push('\n');
        // The reader may be gone.
        pass_on(Some(&self.stdout), line.as_bytes()).await;
    }

    pub(super) async fn flush(&self) {
        // The reader is gone.
        self.stdout.lock().await.flush().await.ok();
        self.stderr.lock().await.flush().await.ok();
    }
}

/// The payload and the end of the input. A program need not read it.
pub(super) async fn feed(mut pipe: ChildStdin, payload: &str) {
    let write = async {
        pipe.write_all(payload.as_bytes()).await?;
        pipe.write_all(b"\n").await
    };
    if let Err(error) = write.await
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        note!("cannot give a program its payload: {error}");
    }
}

/// Passes whole lines on, so that programs that run at once do not write into each other's. What is
/// read is kept first: passing it on may wait for a slow reader.
async fn carry<W: AsyncWrite + Unpin>(
    mut pipe: impl AsyncRead + Unpin,
    mut keep: impl FnMut(&[u8]),
    mut sink: Option<&Mutex<W>>,
    ended: &CancellationToken,
) {
    let (mut chunk, mut pending) = (vec![0; CHUNK_BYTES], Vec::new());
    let mut rest = REST_BYTES_MAX;
    while rest > 0 {
        let count = tokio::select! {
            biased;
            count = pipe.read(&mut chunk) => count.unwrap_or(0),
            () = async { ended.cancelled().await; sleep(REST_WAIT).await } => 0,
        };
        if count == 0 {
            break;
        }
        if ended.is_cancelled() {
            rest = rest.saturating_sub(count);
        }
        keep(&chunk[..count]);
        if sink.is_none() {
            continue;
        }
        pending.extend_from_slice(&chunk[..count]);
        let lines = match pending.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if pending.len() > LINE_BYTES_MAX => pending.len(),
            None => 0,
        };
        sink = pass_on(sink, &pending[..lines]).await;
        pending.drain(..lines);
    }
    pass_on(sink, &pending).await;
}

/// Gives the sink back if it still takes something.
async fn pass_on<'a, W: AsyncWrite + Unpin>(
    sink: Option<&'a Mutex<W>>,
    text: &[u8],
) -> Option<&'a Mutex<W>> {
    if text.is_empty() {
        return sink;
    }
    let mut open = sink?.lock().await;
    let written = async {
        open.write_all(text).await?;
        open.flush().await
    };
    written.await.is_ok().then_some(sink).flatten()
}

/// The first of what a program wrote.
#[derive(Default)]
pub(super) struct Head {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Head {
    fn add(&mut self, chunk: &[u8]) {
        let room = RESULT_BYTES_MAX - self.bytes.len();
        self.is_cut |= chunk.len() > room;
        self.bytes
            .extend_from_slice(&chunk[..chunk.len().min(room)]);
    }

    /// As JSON if it is, else as a JSON string without its last line break; nothing if there was
    /// nothing.
    pub(super) fn into_result(self) -> Option<Box<RawValue>> {
        let text = String::from_utf8_lossy(&self.bytes);
        if text.is_empty() {
            return None;
        }
        let json = (!self.is_cut)
            .then(|| serde_json::from_str(&text).ok())
            .flatten();
        let plain = text.strip_suffix('\n').unwrap_or(&text);
        json.or_else(|| to_raw_value(plain).ok())
    }
}

/// The last of what a program wrote.
#[derive(Default)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Tail {
    fn add(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
        let over = self.bytes.len().saturating_sub(REASON_BYTES_MAX);
        self.is_cut |= over > 0;
        self.bytes.drain(..over);
    }

    /// Whole lines, unless a single one is longer.
    pub(super) fn text(&self) -> String {
        let whole = match self.bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) if self.is_cut && end + 1 < self.bytes.len() => &self.bytes[end + 1..],
            _ => &self.bytes,
        };
        String::from_utf8_lossy(whole).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_json_or_a_string() {
        let result = |text: &[u8]| {
            let mut head = Head::default();
            text.chunks(7).for_each(|chunk| head.add(chunk));
            head.into_result().map(|result| result.get().to_owned())
        };
        assert_eq!(result(b""), None);
        assert_eq!(result(b"{\"a\": 1.50}\n").as_deref(), Some("{\"a\": 1.50}"));
        assert_eq!(result(b"two\nlines\n").as_deref(), Some("\"two\\nlines\""));
        assert_eq!(result(b"\xff").as_deref(), Some("\"\u{fffd}\""));
        let (fits, over) = (
            vec![b'1'; RESULT_BYTES_MAX],
            vec![b'1'; RESULT_BYTES_MAX + 1],
        );
        assert!(result(&fits).unwrap().starts_with('1'));
        let cut = result(&over).unwrap();
        assert_eq!(
            (cut.len(), cut.starts_with('"')),
            (RESULT_BYTES_MAX + 2, true)
        );
    }

    #[test]
    fn a_reason_is_the_end_in_whole_lines() {
        let mut tail = Tail::default();
        tail.add(b"short\n");
        assert_eq!(tail.text(), "short");
        for n in 0..2_000 {
            tail.add(format!("line {n}\n").as_bytes());
        }
        assert!(tail.text().starts_with("line ") && tail.text().ends_with("line 1999"));
        assert!(tail.text().len() <= REASON_BYTES_MAX);
    }
}
