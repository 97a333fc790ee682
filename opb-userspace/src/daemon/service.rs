//! The service manager (sd_notify(3)): it learns when the policy is enforced, what the state is,
//! and that the enforcer works. Without a service manager, nothing is sent.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::health::Board;
use crate::{
    api::status::State,
    text::{line, short},
};

/// The longest time between two looks at the state.
const EVERY: Duration = Duration::from_secs(5);
/// Pings, and looks at the enforcer, in the time after which the service manager restarts the
/// daemon.
const PINGS: u32 = 4;
/// The longest text of a state, in characters.
const LONGEST: usize = 200;

/// Says that the policy is enforced. From then on, tells changes of the state, and sends a ping
/// while the enforcer moves. If it is stuck, the pings stop, and the service manager restarts the
/// daemon. The kernel continues to enforce meanwhile.
pub(super) async fn follow(board: Board) {
    let mut known = text(&board);
    send(&[NotifyState::Ready, NotifyState::Status(&known)]);
    let watchdog = sd_notify::watchdog_enabled();
    let mut tick = interval(watchdog.map_or(EVERY, |limit| EVERY.min(limit / PINGS)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if watchdog.is_some_and(|limit| board.enforcer_moves(limit / 2)) {
            send(&[NotifyState::Watchdog]);
        }
        let now = text(&board);
        if now != known {
            send(&[NotifyState::Status(&now)]);
            known = now;
        }
    }
}

/// Says that the daemon stops on request.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping]);
}

fn send(news: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(news) {
        warn!("the service manager cannot be reached: {error}");
    }
}

/// The state in one line, as `systemctl status` shows it.
fn text(board: &Board) -> String {
    let Some(status) = board.status() else { return "starting".to_owned() };
    match (status.state, status.problems.first()) {
        (State::Enforcing, _) => "enforcing".to_owned(),
        (State::Degraded, None) => "degraded".to_owned(),
        (State::Degraded, Some(first)) => {
            let more = match status.problems.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more: opb status)"),
            };
            format!("degraded: {}{more}", line(&short(&first.text, LONGEST)))
        }
    }
}
