//! Sends alerts to the operator's receiver: JSON by POST, one message after the other.
//!
//! Evaluating alerts never waits for the receiver. The database keeps which messages are due. The
//! queue here only bounds the messages in flight, and a message that does not fit is due again at
//! the next evaluation. A message that was not sent before a crash is sent after it. A message that
//! was sent may come twice; receivers recognise it by the alert's id and the event. After
//! `alerts.webhook.attempts_max` attempts a message is given up as if it had been sent, so a
//! receiver that is gone for good costs a bounded number of requests.

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

use super::BackgroundParts;
use crate::clock::Timestamp;
use crate::config::{Secret, WebhookConfig};
use crate::model::TraceParent;
use crate::monitor::alerts::{Notice, NoticeState};
use crate::outgoing;
use crate::store::Alert;
use crate::trace::{Caller, SpanKind};

/// Maximum number of queued messages. Further messages are due again at the next evaluation.
const QUEUE_MAX: usize = 64;
/// The longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// The operation that counts the requests to the receiver.
const OPERATION: &str = "send_alert";

/// The sending end of the queue of messages.
pub(super) struct Webhook {
    /// The queue; none if no receiver is configured.
    queue: Option<mpsc::Sender<Message>>,
    in_flight: Arc<Mutex<HashSet<Uuid>>>,
}

/// The task that sends the messages.
pub(super) struct Sender {
    config: WebhookConfig,
    agent: ureq::Agent,
    queue: mpsc::Receiver<Message>,
    in_flight: Arc<Mutex<HashSet<Uuid>>>,
}

struct Message {
    alert: Uuid,
    told: NoticeState,
    body: Arc<str>,
}

impl Webhook {
    /// Returns both ends. Without a receiver there is no sender, and no message is queued. `config`
    /// already contains the secret.
    pub(super) fn new(config: &WebhookConfig) -> (Self, Option<Sender>) {
        let in_flight = Arc::default();
        if config.url.is_empty() {
            return (
                Self {
                    queue: None,
                    in_flight,
                },
                None,
            );
        }
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let sender = Sender {
            config: config.clone(),
            agent: outgoing::agent(config.timeout),
            queue: messages,
            in_flight: Arc::clone(&in_flight),
        };
        (
            Self {
                queue: Some(queue),
                in_flight,
            },
            Some(sender),
        )
    }

    /// Returns the alerts that have a message in flight. Must be called before the alerts' `told`
    /// state is read. A message sent in between is then still in this set, and a message sent
    /// before has been recorded.
    pub(super) fn in_flight(&self) -> HashSet<Uuid> {
        self.in_flight.lock().clone()
    }

    /// Queues a message. The alert must have no other message in flight.
    pub(super) fn tell(&self, notice: Notice, alert: &Alert) {
        let Some(queue) = &self.queue else { return };
        let told = if notice == Notice::Resolved {
            NoticeState::Resolved
        } else {
            NoticeState::Firing
        };
        let body = json!({ "event": notice, "alert": alert })
            .to_string()
            .into();
        // The lock is held, so that the sender cannot remove the alert before it is inserted.
        let mut in_flight = self.in_flight.lock();
        if queue
            .try_send(Message {
                alert: alert.id,
                told,
                body,
            })
            .is_ok()
        {
            in_flight.insert(alert.id);
        }
    }
}

impl Sender {
    /// Sends messages until the host stops.
    pub(super) async fn send_until_stopped(
        mut self,
        parts: &BackgroundParts,
        stop: &CancellationToken,
    ) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.send(parts) => {}
        }
    }

    async fn send(&mut self, parts: &BackgroundParts) {
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
            self.in_flight.lock().remove(&alert);
        }
    }

    async fn deliver(&self, parts: &BackgroundParts, body: &Arc<str>) -> Result<(), String> {
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

    /// Sends one request. The URL may contain a secret, so error messages do not repeat it.
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

/// Returns `t=SECONDS,v1=HEX` with the HMAC-SHA256 of `SECONDS.BODY`. A receiver that knows the
/// secret can verify the sender and the age of the message.
fn signature(secret: &Secret, now: Timestamp, body: &str) -> String {
    let seconds = now.as_micros().div_euclid(1_000_000);
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
        .expect("a key may have any length");
    mac.update(format!("{seconds}.{body}").as_bytes());
    let mut text = format!("t={seconds},v1=");
    for byte in mac.finalize().into_bytes() {
        // Writing to a `String` never fails.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected value comes from `printf '1800000000.{}' | openssl dgst -sha256 -hmac hunter2`.
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
