//! One message: sent by swaks, found again in a mailbox.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Result;

use crate::{
    faq::{Happened, Outcome, PATIENCE},
    mta::Postfix,
    process,
    topology::Host,
};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Tls {
    Off,
    Start,
    Wrapped,
}

/// A message that is unlike all others.
pub(crate) struct Letter {
    pub(crate) token: String,
    to: String,
}

impl Letter {
    pub(crate) fn to(to: String) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        // Ends in a letter: no token is the beginning of another one.
        Self { token: format!("opb-letter-{}-{number}-x", std::process::id()), to }
    }

    /// Sends and then looks into the mailbox.
    pub(crate) fn deliver(
        &self,
        from: &Host,
        server: SocketAddr,
        tls: Tls,
        receiver: &Postfix,
        limit: Duration,
    ) -> Result<Happened> {
        match self.send(from, server, tls, limit)? {
            Ok(()) => self.look_for_at(receiver),
            Err(reason) => self.look_out_for_at(receiver, reason),
        }
    }

    /// One SMTP session by swaks. The inner error is what swaks says why it could not.
    pub(crate) fn send(
        &self,
        from: &Host,
        server: SocketAddr,
        tls: Tls,
        limit: Duration,
    ) -> Result<Result<(), String>> {
        let mut swaks = from.netns.command("swaks");
        // Somebody's ~/.swaksrc is not part of the lab.
        swaks.env("HOME", "/nonexistent").args(["--silent", "2"]);
        swaks.args(["--server", &server.ip().to_string(), "--port", &server.port().to_string()]);
        swaks.args(["--timeout", &limit.as_secs().to_string(), "--helo", "client.example"]);
        swaks.args(["--from", "sender@client.example", "--to", &self.to]);
        swaks.args(["--header", &format!("Subject: {}", self.token)]);
        swaks.args(["--header", &format!("Message-Id: <{}@client.example>", self.token)]);
        swaks.args(["--body", &self.token]);
        swaks.args(match tls {
            Tls::Off => [].as_slice(),
            Tls::Start => ["--tls"].as_slice(),
            Tls::Wrapped => ["--tls-on-connect"].as_slice(),
        });
        if server.is_ipv6() {
            swaks.arg("-6");
        }
        let output = process::run(&mut swaks, limit * 4)?;
        if output.status.success() {
            return Ok(Ok(()));
        }
        let said = output.stdout + &output.stderr;
        let reason = said.lines().find(|line| line.starts_with("***")).unwrap_or(&said);
        Ok(Err(reason.trim_start_matches(['*', ' ', '\t']).to_owned()))
    }

    pub(crate) fn look_for_at(&self, receiver: &Postfix) -> Result<Happened> {
        Ok(if receiver.receives(&self.token, PATIENCE)? {
            Happened::new(Outcome::Delivered, "in the mailbox")
        } else {
            Happened::new(Outcome::Lost, "accepted, but not in the mailbox")
        })
    }

    /// A sender that failed does not prove that nothing arrived.
    pub(crate) fn look_out_for_at(&self, receiver: &Postfix, reason: String) -> Result<Happened> {
        Ok(if receiver.has(&self.token)? {
            Happened::new(Outcome::Delivered, format!("in the mailbox, though: {reason}"))
        } else {
            Happened::new(Outcome::Blocked, reason)
        })
    }
}
