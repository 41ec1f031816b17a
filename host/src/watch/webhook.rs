//! Tells the operator's receiver of alerts: JSON by POST, one message after the other.
//!
//! Looking after alerts never waits for the receiver. What is owed stands in the database; the queue here only bounds
//! what is in hand, and what does not fit is owed at the next look again. So a message that was not sent before a crash
//! is sent after it, and one that was may be sent twice: receivers tell by the alert's id and the event. After
//! `alerts.webhook.attempts_max` tries a message is given up as if it had been told, so that a receiver that is gone
//! for good costs a bounded number of requests.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use serde_json::json;
use sha2::Sha256;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::WatchParts;
use crate::clock::Timestamp;
use crate::config::{Secret, WebhookConfig};
use crate::model::TraceParent;
use crate::monitor::alerts::{Notice, ToldState};
use crate::outgoing;
use crate::store::Alert;
use crate::trace::{Caller, SpanKind};

/// Messages in hand; further ones are owed until the next look.
const QUEUE_MAX: usize = 64;
/// The longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// As an operation among the numbers.
const OPERATION: &str = "send_alert";

/// Where messages are handed in.
pub(super) struct Webhook {
    /// None without a receiver.
    queue: Option<mpsc::Sender<Message>>,
    in_hand: Arc<Mutex<HashSet<Uuid>>>,
}

/// Who sends them.
pub(super) struct Sender {
    config: WebhookConfig,
    agent: ureq::Agent,
    queue: mpsc::Receiver<Message>,
    in_hand: Arc<Mutex<HashSet<Uuid>>>,
}

struct Message {
    alert: Uuid,
    told: ToldState,
    body: Arc<str>,
}

impl Webhook {
    /// Both ends; without a receiver, nothing is sent. The secret is in the settings by now, wherever it came from.
    pub(super) fn new(config: &WebhookConfig) -> (Self, Option<Sender>) {
        let in_hand = Arc::default();
        if config.url.is_empty() {
            return (
                Self {
                    queue: None,
                    in_hand,
                },
                None,
            );
        }
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let sender = Sender {
            config: config.clone(),
            agent: outgoing::agent(config.timeout),
            queue: messages,
            in_hand: Arc::clone(&in_hand),
        };
        (
            Self {
                queue: Some(queue),
                in_hand,
            },
            Some(sender),
        )
    }

    /// The alerts of which a message is in hand. To be asked before it is read what they were told: a message that is
    /// sent in between is then still in this set, and one that was sent before has been noted.
    pub(super) fn in_hand(&self) -> HashSet<Uuid> {
        self.in_hand.lock().clone()
    }

    /// Takes a message in hand. None about this alert may be.
    pub(super) fn tell(&self, notice: Notice, alert: &Alert) {
        let Some(queue) = &self.queue else { return };
        let told = if notice == Notice::Resolved {
            ToldState::Resolved
        } else {
            ToldState::Firing
        };
        let body = json!({ "event": notice, "alert": alert })
            .to_string()
            .into();
        // Under the lock, so that it is not sent and taken out before it is in.
        let mut in_hand = self.in_hand.lock();
        if queue
            .try_send(Message {
                alert: alert.id,
                told,
                body,
            })
            .is_ok()
        {
            in_hand.insert(alert.id);
        }
    }
}

impl Sender {
    /// Sends until the host stops.
    pub(super) async fn send_until_stopped(mut self, parts: &WatchParts, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.send(parts) => {}
        }
    }

    async fn send(&mut self, parts: &WatchParts) {
        while let Some(Message { alert, told, body }) = self.queue.recv().await {
            if let Err(problem) = self.deliver(parts, &body).await {
                tracing::error!(%alert, problem, "gave up telling the webhook of an alert");
            }
            if let Err(error) = parts
                .store
                .mark_alert_told(alert, told, parts.clock.now())
                .await
            {
                tracing::warn!(%alert, %error, "could not note that an alert was told; it is told again");
            }
            self.in_hand.lock().remove(&alert);
        }
    }

    async fn deliver(&self, parts: &WatchParts, body: &Arc<str>) -> Result<(), String> {
        let mut backoff = self.config.backoff;
        let mut attempt = 1;
        loop {
            let began = parts.clock.monotonic();
            let mut span = parts
                .tracer
                .root(SpanKind::Client, Caller::Untraced)
                .named("POST");
            span.set("http.request.method", "POST");
            let sent = self
                .attempt(parts.clock.now(), Arc::clone(body), span.context())
                .await;
            if sent.is_err() {
                span.fail("delivery");
            }
            drop(span);
            let duration = parts.clock.monotonic().duration_since(began);
            parts
                .monitor
                .record(None, OPERATION, duration, sent.is_ok());
            match sent {
                Err(problem) if attempt < self.config.attempts_max => {
                    tracing::warn!(
                        problem,
                        attempt,
                        "the webhook did not take an alert; it is tried again"
                    );
                }
                sent => return sent,
            }
            parts
                .clock
                .sleep_until(parts.clock.now().after(backoff))
                .await;
            backoff = backoff.saturating_mul(2).min(BACKOFF_MAX);
            attempt += 1;
        }
    }

    /// One request. The address may hold a secret, so no problem repeats it.
    async fn attempt(
        &self,
        now: Timestamp,
        body: Arc<str>,
        trace: Option<TraceParent>,
    ) -> Result<(), String> {
        let (agent, url, secret) = (
            self.agent.clone(),
            self.config.url.clone(),
            self.config.secret.clone(),
        );
        let posting = move || {
            let mut request = agent
                .post(url.expose())
                .header("content-type", "application/json");
            if let Some(trace) = trace {
                request = request.header("traceparent", trace.to_string());
            }
            if !secret.is_empty() {
                request = request.header("stepwell-signature", signature(&secret, now, &body));
            }
            match request.send(body.as_bytes()) {
                Ok(response) if response.status().is_success() => Ok(()),
                Ok(response) => Err(format!("it answers {}", response.status().as_u16())),
                Err(error) => Err(outgoing::problem(&error)),
            }
        };
        tokio::task::spawn_blocking(posting)
            .await
            .unwrap_or_else(|error| Err(error.to_string()))
    }
}

/// `t=SECONDS,v1=HEX` with the HMAC-SHA256 of `SECONDS.BODY`: who knows the secret can tell that the message is ours,
/// and how old it is.
fn signature(secret: &Secret, now: Timestamp, body: &str) -> String {
    let seconds = now.as_micros().div_euclid(1_000_000);
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
        .expect("a key may have any length");
    mac.update(format!("{seconds}.{body}").as_bytes());
    let mut text = format!("t={seconds},v1=");
    for byte in mac.finalize().into_bytes() {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `printf '1800000000.{}' | openssl dgst -sha256 -hmac hunter2`.
    #[test]
    fn the_signature_is_what_other_programs_work_out() {
        let now = Timestamp::from_micros(1_800_000_000_999_999);
        let expected =
            "t=1800000000,v1=7239e2d1c1f3491b9a6ab52790e9ef5793dac9fccbfbbded40996f2c35d75f88";
        assert_eq!(
            signature(&Secret::from("hunter2".to_owned()), now, "{}"),
            expected
        );
    }
}
