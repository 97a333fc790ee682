//! The body of a request, sent in pieces so that a progress bar can follow.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use indicatif::ProgressBar;

/// Bytes of a piece.
const PIECE: usize = 64 << 10;

/// The bytes still to send, and their progress bar.
pub(crate) struct Upload {
    rest: Bytes,
    bar: ProgressBar,
}

impl Default for Upload {
    fn default() -> Self {
        Self::new(Vec::new(), ProgressBar::hidden())
    }
}

impl Upload {
    pub(crate) fn new(bytes: Vec<u8>, bar: ProgressBar) -> Self {
        Self { rest: bytes.into(), bar }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        self.bar.inc(length as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
