//! Bodies of requests with a deadline. Without it, a client that announces a body and does not send
//! it would keep its seat, and the turn of large requests, until the deadline of the request.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::BoxError;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::serve::{Limits, Refusals};

/// The deadline moves by one second for this many bytes received.
const RATE: u64 = 4 << 20;

/// A body with a deadline. Its time runs from the first read.
pub(super) struct Timely<B = Incoming> {
    body: B,
    limits: Limits,
    refusals: Arc<Refusals>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<B> Timely<B> {
    pub(super) fn new(body: B, limits: Limits, refusals: Arc<Refusals>) -> Self {
        Self { body, limits, refusals, deadline: None }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Timely<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    /// Fails with [`io::ErrorKind::TimedOut`] after the deadline.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { body, limits, refusals, deadline } = &mut *self;
        let deadline = deadline.get_or_insert_with(|| Box::pin(sleep(limits.body_time)));
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(context) {
            let frame = frame.transpose().map_err(Into::into)?;
            let length = frame.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
            let more = Duration::from_nanos(length.saturating_mul(1_000_000_000 / RATE));
            let end = deadline.deadline() + more;
            deadline.as_mut().reset(end);
            return Poll::Ready(frame.map(Ok));
        }
        ready!(deadline.as_mut().poll(context));
        refusals.count(limits.name, "slow");
        let error = io::Error::new(io::ErrorKind::TimedOut, "the body did not arrive in time");
        Poll::Ready(Some(Err(error.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
