//! Failed sign-ins: requests without a token or with an invalid one.
//!
//! All failures are counted. A bounded number of them a minute goes into the audit of the host, not
//! of a team. The bound is needed because failing costs a stranger nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Services;
use super::audit::{MINUTE, Recorder};
use super::request_id::RequestId;
use super::source::RequestHead;
use crate::clock::Timestamp;
use crate::model::AuditAction;

/// The reason of a failed sign-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailedSignIn {
    /// The request has no token.
    Missing,
    /// The header does not hold a well-formed token.
    Malformed,
    /// No token with this hash exists, or the token has expired. Revoked tokens are deleted, so
    /// they are unknown too.
    Invalid([u8; 32]),
}

/// Counters of failed sign-ins. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct SignIns(Arc<SignInCounters>);

#[derive(Debug, Default)]
struct SignInCounters {
    missing: AtomicU64,
    malformed: AtomicU64,
    invalid: AtomicU64,
    written: Mutex<AuditedFailures>,
}

/// The audited failures of the current minute.
#[derive(Debug, Default)]
struct AuditedFailures {
    since: Option<Timestamp>,
    all: u32,
    addresses: HashMap<IpAddr, u32>,
    told: bool,
}

impl FailedSignIn {
    const fn reason(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Invalid(_) => "invalid",
        }
    }
}

impl SignIns {
    /// Returns the number of failures since the start, by reason.
    pub(super) fn failed(&self) -> [(&'static str, u64); 3] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("missing", read(&self.0.missing)),
            ("malformed", read(&self.0.malformed)),
            ("invalid", read(&self.0.invalid)),
        ]
    }

    /// Counts a failure, and writes it into the audit unless the minute's bounds are reached.
    /// `asked` is the method and pattern of the route.
    pub(super) async fn record(
        &self,
        services: &Services,
        head: &RequestHead,
        id: RequestId,
        failed: FailedSignIn,
        asked: String,
    ) {
        let counter = match failed {
            FailedSignIn::Missing => &self.0.missing,
            FailedSignIn::Malformed => &self.0.malformed,
            FailedSignIn::Invalid(_) => &self.0.invalid,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let source = head.source(&services.config.server.trusted_proxies);
        let (all_max, address_max) = (
            services.config.audit.failed_sign_ins_per_minute_max,
            services.config.audit.failed_sign_ins_per_address_max,
        );
        let now = services.clock.now();
        if !self
            .0
            .written
            .lock()
            .admit(network(source), now, all_max, address_max)
        {
            return;
        }
        let detail = detail(services, failed, now).await;
        Recorder::new(services, None, head, id)
            .refused(AuditAction::SignInFail, asked, detail)
            .await;
    }
}

/// Returns the audit detail: the reason, and the holder of a token that has expired.
async fn detail(services: &Services, failed: FailedSignIn, now: Timestamp) -> Value {
    if let FailedSignIn::Invalid(hash) = failed
        && let Ok(Some(token)) = services.store.token_by_hash(hash).await
        && token.expires_at.is_some_and(|at| at <= now)
    {
        return json!({ "reason": "expired", "token": token.id, "user": token.user, "team": token.team });
    }
    json!({ "reason": if let FailedSignIn::Invalid(_) = failed { "unknown" } else { failed.reason() } })
}

/// Returns the network that counts as one address: an IPv6 subscriber has the 2^64 addresses of a
/// /64 network.
fn network(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}

impl AuditedFailures {
    /// Returns whether to audit another failure of an address. Only audited addresses are
    /// remembered, so there are at most `all_max`.
    fn admit(&mut self, address: IpAddr, now: Timestamp, all_max: u32, address_max: u32) -> bool {
        if self.since.is_none_or(|since| now.since(since) >= MINUTE) {
            *self = Self {
                since: Some(now),
                ..Self::default()
            };
        }
        let of_address = self.addresses.get(&address).copied().unwrap_or(0);
        if self.all >= all_max || of_address >= address_max {
            // Logged once a minute, not for each request.
            if !std::mem::replace(&mut self.told, true) {
                tracing::warn!(source = %address, "failed sign-ins are left out of the audit for the rest of this minute");
            }
            return false;
        }
        self.all += 1;
        self.addresses.insert(address, of_address + 1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_admitted_of_an_address_and_of_all_and_again_in_the_next_minute() {
        let address = |text: &str| network(text.parse().expect("is an address"));
        let (start, mut written) = (Timestamp::from_micros(0), AuditedFailures::default());
        let mut admit = |text: &str, at| written.admit(address(text), at, 5, 2);
        assert_eq!(
            [(); 3].map(|()| admit("192.0.2.1", start)),
            [true, true, false]
        );
        // Addresses of one IPv6 network count together.
        assert!(
            admit("2001:db8::1", start)
                && admit("2001:db8::2", start)
                && !admit("2001:db8::3", start)
        );
        assert!(admit("192.0.2.2", start), "the fifth");
        assert!(!admit("192.0.2.3", start), "there were enough of all");
        assert!(admit("192.0.2.1", start.after(MINUTE)));
    }
}
