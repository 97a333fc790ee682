//! A connection that fails when the other end stops reading.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// Bytes that buy the other end a second of patience: a reader that takes a little now and then must
/// not keep a large answer in memory for hours.
const RATE: u64 = 64 << 10;

/// A connection whose writes fail after `limit` without progress.
pub(super) struct Stall<Io> {
    io: Io,
    limit: Duration,
    /// What is left of it, with what was bought.
    patience: Duration,
    /// Runs while nothing can be written, since then.
    waiting: Option<(Pin<Box<Sleep>>, Instant)>,
}

impl<Io> Stall<Io> {
    pub(super) fn new(io: Io, limit: Duration) -> Self {
        Self { io, limit, patience: limit, waiting: None }
    }

    fn bound<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        length: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        let Poll::Ready(written) = written else {
            let patience = self.patience;
            let (sleep, _) =
                self.waiting.get_or_insert_with(|| (Box::pin(sleep(patience)), Instant::now()));
            ready!(sleep.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        };
        let spent = self.waiting.take().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let length = written.as_ref().map_or(0, length) as u64;
        let bought = Duration::from_nanos(length.saturating_mul(1_000_000_000 / RATE));
        self.patience = (self.patience.saturating_sub(spent) + bought).min(self.limit);
        Poll::Ready(written)
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Stall<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Stall<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.bound(context, written, |length| *length)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.bound(context, written, |length| *length)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        self.bound(context, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(context);
        self.bound(context, shut, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn writes_fail_when_the_other_end_does_not_read() {
        let (near, mut far) = duplex(8);
        let mut near = Stall::new(near, Duration::from_millis(100));
        near.write_all(b"12345678").await.expect("there is room");
        let mut taken = [0; 4];
        far.read_exact(&mut taken).await.expect("there is something");
        near.write_all(b"1234").await.expect("there is room again");
        let error = near.write_all(b"1").await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    /// One byte each 20 ms would last for as long as the answer has bytes.
    #[tokio::test]
    async fn who_reads_a_byte_now_and_then_is_left() {
        let (near, mut far) = duplex(8);
        let mut near = Stall::new(near, Duration::from_millis(200));
        let reader = tokio::spawn(async move {
            let mut byte = [0];
            for _ in 0..200 {
                sleep(Duration::from_millis(20)).await;
                if far.read_exact(&mut byte).await.is_err() {
                    break;
                }
            }
        });
        let start = Instant::now();
        let error = near.write_all(&[0; 190]).await.expect_err("it takes too long");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        drop(near);
        reader.await.expect("no panic");
    }

    /// However long it takes as a whole.
    #[tokio::test]
    async fn who_reads_fast_enough_gets_all_of_it() {
        let (near, mut far) = duplex(4 << 10);
        let mut near = Stall::new(near, Duration::from_millis(500));
        let reader = tokio::spawn(async move {
            let (mut some, mut all) = (vec![0; 16 << 10], 0);
            while all < 256 << 10 {
                sleep(Duration::from_millis(60)).await;
                far.read_exact(&mut some).await.expect("there is more");
                all += some.len();
            }
        });
        near.write_all(&vec![0; 256 << 10]).await.expect("it is read");
        reader.await.expect("no panic");
    }
}
