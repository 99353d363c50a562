//! Every queue, table and decoder has a limit here. Reaching one is a typed refusal, never growth, a panic or a hang.

use std::time::Duration;

use crate::{Error, ErrorKind, Result};

/// The shortest time to live that a lease may have: its holders renew it three times in that time, and a pause of a
/// tenth of a second is nothing unusual on a busy machine.
pub const MIN_LEASE_TTL: Duration = Duration::from_millis(100);

/// The most leases that any engine can be given ([`Limits::with_leases`]): what a peer's can be counted against.
pub const LEASES_MAX: u32 = 1 << 20;

/// The engine's limits. The defaults suit one engine per NPU with up to 64 peers; the memory that they fix is stated in
/// `docs/OPERATIONS.md`.
///
/// ```
/// let limits = ropeway_core::Limits::default().with_peers(8).with_transfers_per_peer(64);
/// assert!(limits.validate().is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct Limits {
    pub(crate) peers: u32,
    pub(crate) regions: u32,
    pub(crate) caches: u32,
    pub(crate) parts_per_cache: u32,
    pub(crate) leases: u32,
    pub(crate) blocks_per_lease: u32,
    pub(crate) grants_per_peer: u32,
    pub(crate) transfers: u32,
    pub(crate) transfers_per_peer: u32,
    pub(crate) runs_per_raw_plan: u32,
    pub(crate) served_requests_per_peer: u32,
    pub(crate) served_bytes_per_peer: u64,
    pub(crate) notifications_per_lease: u32,
    pub(crate) completions: u32,
    pub(crate) handshakes: u32,
    pub(crate) control_frame_bytes: u32,
    pub(crate) copy_threads: u32,
    pub(crate) streams: u32,
    pub(crate) lease_ttl: Duration,
    pub(crate) first_contact_grace: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) abandon_after: Duration,
    pub(crate) quarantine_fatal_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peers: 256,
            regions: 4_096,
            caches: 64,
            parts_per_cache: 1_024,
            leases: 16_384,
            blocks_per_lease: 131_072,
            grants_per_peer: 4_096,
            transfers: 4_096,
            transfers_per_peer: 256,
            runs_per_raw_plan: 1 << 20,
            served_requests_per_peer: 256,
            served_bytes_per_peer: 64 << 30,
            notifications_per_lease: 4_096,
            completions: 4_096,
            handshakes: 32,
            control_frame_bytes: 4 << 20,
            copy_threads: 0,
            streams: 1,
            lease_ttl: Duration::from_secs(30),
            first_contact_grace: Duration::from_secs(120),
            heartbeat: Duration::from_secs(5),
            abandon_after: Duration::from_secs(60),
            quarantine_fatal_after: Duration::from_secs(600),
        }
    }
}

macro_rules! limits {
    ($($(#[$doc:meta])* $field:ident, $with:ident: $kind:ty;)*) => {
        impl Limits {
            $(
                $(#[$doc])*
                pub fn $field(&self) -> $kind {
                    self.$field
                }

                /// Sets the limit of the same name.
                #[must_use]
                pub fn $with(mut self, value: $kind) -> Self {
                    self.$field = value;
                    self
                }
            )*
        }
    };
}

limits! {
    /// Connected peers. 256: a decode rank meets each prefill rank of its deployment.
    peers, with_peers: u32;
    /// Registered regions. 4,096: what HIXL's client/server mode can register.
    regions, with_regions: u32;
    /// Published caches.
    caches, with_caches: u32;
    /// Parts of one cache. 1,024: 78 layers with four planes each, twice over.
    parts_per_cache, with_parts_per_cache: u32;
    /// Leases held open or not yet proven free. One word each in the fence segment.
    leases, with_leases: u32;
    /// Blocks of one lease, all groups together. 131,072: 16 M tokens in blocks of 128.
    blocks_per_lease, with_blocks_per_lease: u32;
    /// Grants that one peer may hold of us at a time, and we of it.
    grants_per_peer, with_grants_per_peer: u32;
    /// Transfers in flight, all peers together.
    transfers, with_transfers: u32;
    /// Transfers in flight towards one peer.
    transfers_per_peer, with_transfers_per_peer: u32;
    /// Entries of a raw copy list.
    runs_per_raw_plan, with_runs_per_raw_plan: u32;
    /// Requests of one peer that we serve at a time.
    served_requests_per_peer, with_served_requests_per_peer: u32;
    /// Bytes of one peer's requests that we serve at a time.
    served_bytes_per_peer, with_served_bytes_per_peer: u64;
    /// Notifications of one lease: one bit each at the receiver.
    notifications_per_lease, with_notifications_per_lease: u32;
    /// Completions waiting to be drained. A transfer holds its place from submit on, so none is lost.
    completions, with_completions: u32;
    /// Handshakes that have not finished, all sources together.
    handshakes, with_handshakes: u32;
    /// Bytes of one control message after reassembly.
    control_frame_bytes, with_control_frame_bytes: u32;
    /// Threads that copy a batch, the one in `wait()` among them. 0: as calibration chose.
    copy_threads, with_copy_threads: u32;
    /// Data connections per tcp peer. 1: more do not help on few cores.
    streams, with_streams: u32;
    /// How long a lease lives without a renewal; at least [`MIN_LEASE_TTL`].
    lease_ttl, with_lease_ttl: Duration;
    /// How long a lease waits for its first claim. 120 s: on a busy machine 30 s ran out before the first contact.
    first_contact_grace, with_first_contact_grace: Duration;
    /// Longest pause between heartbeats of a peer session while it holds grants; none are sent otherwise. Shorter where a
    /// third of the shortest lease's time to live is shorter, and a minute at most.
    heartbeat, with_heartbeat: Duration;
    /// When a transfer that does not end is given up. 60 s: longer than the hardware's own retries.
    abandon_after, with_abandon_after: Duration;
    /// When memory withheld in quarantine becomes a fatal event.
    quarantine_fatal_after, with_quarantine_fatal_after: Duration;
}

impl Limits {
    /// Checks the limits against each other and against what the wire and the tables can hold.
    ///
    /// # Errors
    /// [`ErrorKind::ApiMisuse`], naming the limit, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let ranges: [(&str, u64, u64, u64); 14] = [
            ("peers", self.peers.into(), 1, 65_536),
            ("regions", self.regions.into(), 1, 65_535),
            ("caches", self.caches.into(), 1, 65_535),
            ("parts_per_cache", self.parts_per_cache.into(), 1, 65_535),
            ("leases", self.leases.into(), 1, LEASES_MAX.into()),
            ("blocks_per_lease", self.blocks_per_lease.into(), 1, 1 << 20),
            ("grants_per_peer", self.grants_per_peer.into(), 1, 1 << 20),
            ("transfers", self.transfers.into(), 1, 1 << 20),
            ("transfers_per_peer", self.transfers_per_peer.into(), 1, 1 << 16),
            ("notifications_per_lease", self.notifications_per_lease.into(), 0, 1 << 20),
            ("completions", self.completions.into(), 1, 1 << 24),
            ("control_frame_bytes", self.control_frame_bytes.into(), 65_536, 64 << 20),
            ("copy_threads", self.copy_threads.into(), 0, 256),
            ("streams", self.streams.into(), 1, 64),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(Error::new(
                    ErrorKind::ApiMisuse,
                    "limits",
                    format!("limit {name} is {value}; it must be between {low} and {high}"),
                ));
            }
        }
        if self.lease_ttl < MIN_LEASE_TTL {
            let text = format!("lease_ttl is {:?}; it must be at least {MIN_LEASE_TTL:?}", self.lease_ttl);
            return Err(Error::new(ErrorKind::ApiMisuse, "limits", text));
        }
        if self.heartbeat.saturating_mul(3) > self.lease_ttl {
            return Err(Error::new(
                ErrorKind::ApiMisuse,
                "limits",
                format!(
                    "heartbeat {:?} is more than a third of lease_ttl {:?}; one lost heartbeat would expire leases",
                    self.heartbeat, self.lease_ttl
                ),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_any_length_are_judged_and_never_overflow() {
        let endless = Limits::default().with_heartbeat(Duration::MAX);
        assert_eq!(endless.validate().unwrap_err().kind(), ErrorKind::ApiMisuse);
        assert!(endless.with_lease_ttl(Duration::MAX).validate().is_ok());
        let brief =
            Limits::default().with_heartbeat(Duration::ZERO).with_lease_ttl(Duration::from_millis(99));
        assert!(brief.validate().unwrap_err().to_string().contains("lease_ttl"));
    }

    #[test]
    fn arrival_bits_cannot_be_made_to_fill_the_memory() {
        let refused = Limits::default().with_notifications_per_lease(u32::MAX).validate().unwrap_err();
        assert!(refused.to_string().contains("notifications_per_lease"));
    }
}
