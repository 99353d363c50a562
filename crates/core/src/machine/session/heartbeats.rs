//! Heartbeats and silence, while leases are held between two engines; nothing at all otherwise.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::MIN_LEASE_TTL;

/// Heartbeats that may wait for their confirmation; older ones are forgotten, they would renew less than later ones.
const MAX_UNCONFIRMED: usize = 16;

/// Longest pause between heartbeats, whatever limits say: what silence means must not depend on a peer's word alone.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Shortest pause, whatever a peer says of its leases.
const MIN_PAUSE: Duration = Duration::from_millis(MIN_LEASE_TTL.as_millis() as u64 / 3);

#[derive(Debug)]
pub(super) struct Heartbeats {
    /// Our own longest pause, and the one that what we hold asks for.
    limit: Duration,
    every: Duration,
    silence: Duration,
    /// We hold grants of the peer: heartbeats are sent.
    ours: bool,
    /// The peer holds leases of ours: heartbeats are expected.
    theirs: bool,
    sequence: u64,
    /// When the heartbeats not yet confirmed were sent.
    sent: VecDeque<(u64, Duration)>,
    next: Duration,
    heard: Duration,
    silent: bool,
}

impl Heartbeats {
    pub(super) fn new(every: Duration, silence: Duration, now: Duration) -> Self {
        let limit = every.clamp(Duration::from_millis(1), MAX_PAUSE);
        Self {
            limit,
            every: limit,
            silence: silence.max(MIN_LEASE_TTL).max(limit * 3),
            ours: false,
            theirs: false,
            sequence: 0,
            sent: VecDeque::new(),
            next: now,
            heard: now,
            silent: false,
        }
    }

    pub(super) fn heard(&mut self, now: Duration) {
        self.heard = now;
        self.silent = false;
    }

    /// The peer sends heartbeats this often: shorter silence says nothing.
    pub(super) fn set_peer_pause(&mut self, pause: Duration) {
        self.silence = self.silence.max(pause.min(MAX_PAUSE) * 3);
    }

    /// `ours`: the longest pause that keeps what we hold.
    pub(super) fn set_holding(&mut self, ours: Option<Duration>, theirs: bool, now: Duration) {
        self.every = ours.map_or(self.limit, |pause| pause.max(MIN_PAUSE).min(self.limit));
        let ours = ours.is_some();
        // The claim's own time covers the first interval.
        let next = now.saturating_add(self.every);
        self.next = if ours && !self.ours { next } else { self.next.min(next) };
        if (ours || theirs) && !(self.ours || self.theirs) {
            // Silence while nothing was held is not held against the peer.
            self.heard(now);
        }
        (self.ours, self.theirs) = (ours, theirs);
    }

    /// The number of the heartbeat to send now, if one is due.
    pub(super) fn due(&mut self, now: Duration) -> Option<u64> {
        if !self.ours || now < self.next {
            return None;
        }
        self.sequence += 1;
        self.next = now.saturating_add(self.every);
        if self.sent.len() == MAX_UNCONFIRMED {
            self.sent.pop_front();
        }
        self.sent.push_back((self.sequence, now));
        Some(self.sequence)
    }

    /// Since when the peer is silent, once per silence.
    pub(super) fn fell_silent(&mut self, now: Duration) -> Option<Duration> {
        let late =
            (self.ours || self.theirs) && !self.silent && now >= self.heard.saturating_add(self.silence);
        self.silent |= late;
        late.then_some(self.heard)
    }

    /// When the confirmed heartbeat was sent; `None` for one that is forgotten.
    pub(super) fn confirm(&mut self, sequence: u64) -> Result<Option<Duration>, String> {
        if sequence > self.sequence {
            return Err(format!(
                "heartbeat {sequence} was confirmed; {} is the last one sent",
                self.sequence
            ));
        }
        let mut found = None;
        while let Some((number, sent)) = self.sent.front().copied().filter(|(number, _)| *number <= sequence)
        {
            self.sent.pop_front();
            found = (number == sequence).then_some(sent);
        }
        Ok(found)
    }

    pub(super) fn next_timer(&self) -> Option<Duration> {
        let beat = self.ours.then_some(self.next);
        let waits = (self.ours || self.theirs) && !self.silent;
        let silence = self.heard.checked_add(self.silence).filter(|_| waits);
        beat.into_iter().chain(silence).min()
    }
}
