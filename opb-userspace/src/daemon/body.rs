//! A request body with a deadline. Otherwise, a client that announces a body and does not send it
//! would keep its connection, and the turn of large requests, for as long as a request may take.

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

use super::limits::{Limits, RefusedRequests};

/// Bytes that extend the deadline by one second.
const RATE: u64 = 4 << 20;

/// A body with a deadline. The time starts with the first read.
pub(super) struct Timely<B = Incoming> {
    body: B,
    limits: Limits,
    refused: Arc<RefusedRequests>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<B> Timely<B> {
    pub(super) fn new(body: B, limits: Limits, refused: Arc<RefusedRequests>) -> Self {
        Self { body, limits, refused, deadline: None }
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
        let Self { body, limits, refused, deadline } = &mut *self;
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
        refused.count(limits.name, "slow");
        let error = io::Error::new(io::ErrorKind::TimedOut, "the request body timed out");
        Poll::Ready(Some(Err(error.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
