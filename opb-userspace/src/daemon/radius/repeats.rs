//! Requests of the last half minute: a client that misses an answer sends the same request again,
//! and gets the same answer (RFC 5080, section 2.2.2).

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// What repeats of a request have in common: the source with its port, the identifier, and the
/// authenticator, which is a digest of the rest.
pub(super) type Id = (SocketAddr, u8, [u8; 16]);

const KEPT: Duration = Duration::from_secs(30);
/// The most answers that are kept. Beyond that, the oldest are forgotten: a repeat is then recorded
/// again, which changes nothing.
const MOST: usize = 200_000;
/// The most bytes of the answers that are kept. An answer has the Proxy-State of its request, so up
/// to 4 kB.
const MOST_BYTES: usize = 64 << 20;

#[derive(Default)]
pub(super) struct Repeats {
    /// Without an answer, the request waits for one.
    seen: HashMap<Id, Option<Box<[u8]>>>,
    /// The answered ones, in the order of answers.
    answered: VecDeque<(Instant, Id)>,
    /// The bytes of the answers.
    bytes: usize,
}

pub(super) enum Seen<'a> {
    Waiting,
    Answered(&'a [u8]),
}

impl Repeats {
    pub(super) fn seen(&self, id: &Id) -> Option<Seen<'_>> {
        self.seen.get(id).map(|answer| match answer {
            Some(answer) => Seen::Answered(answer),
            None => Seen::Waiting,
        })
    }

    pub(super) fn wait(&mut self, id: Id) {
        self.seen.insert(id, None);
    }

    pub(super) fn forget(&mut self, id: &Id) {
        let answer = self.seen.remove(id).flatten();
        self.bytes -= answer.map_or(0, |answer| answer.len());
    }

    pub(super) fn answered(&mut self, id: Id, response: Vec<u8>) {
        self.forget(&id);
        self.bytes += response.len();
        self.seen.insert(id, Some(response.into()));
        self.answered.push_back((Instant::now(), id));
        while (self.answered.len() > MOST || self.bytes > MOST_BYTES)
            && let Some((_, oldest)) = self.answered.pop_front()
        {
            self.forget(&oldest);
        }
    }

    pub(super) fn forget_old(&mut self) {
        while let Some(&(since, id)) = self.answered.front()
            && since.elapsed() >= KEPT
        {
            self.forget(&id);
            self.answered.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_and_bounded() {
        let mut repeats = Repeats::default();
        let id = |number: usize| {
            let mut authenticator = [0; 16];
            authenticator[..8].copy_from_slice(&number.to_le_bytes());
            (SocketAddr::from(([192, 0, 2, 10], 1813)), 1, authenticator)
        };
        repeats.wait(id(0));
        assert!(matches!(repeats.seen(&id(0)), Some(Seen::Waiting)));
        repeats.forget(&id(0));
        assert!(repeats.seen(&id(0)).is_none(), "it may come again");
        for number in 0..=MOST {
            repeats.answered(id(number), vec![5]);
        }
        assert!(repeats.seen(&id(0)).is_none() && repeats.seen.len() == MOST);
        assert!(matches!(repeats.seen(&id(MOST)), Some(Seen::Answered(&[5]))));
        repeats.forget_old();
        assert_eq!(repeats.seen.len(), MOST, "not old yet");

        let mut repeats = Repeats::default();
        (0..20).for_each(|number| repeats.answered(id(number), vec![5; MOST_BYTES / 16]));
        assert_eq!((repeats.seen.len(), repeats.bytes), (16, MOST_BYTES));
        assert!(repeats.seen(&id(3)).is_none() && repeats.seen(&id(4)).is_some());
    }
}
