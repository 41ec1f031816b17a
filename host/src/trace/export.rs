//! Sends spans to the collector: OTLP, protobuf by HTTP, in batches, on a thread of its own.
//!
//! No caller waits for the collector. Spans that the collector does not take in time, and spans
//! that find the queue full, are dropped and counted. The log reports dropped spans at most once a
//! minute. The SDK's batch processor does not report what it drops, so this module counts the spans
//! in the queue and never lets the processor's queue overflow.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    Protocol, SpanExporter as OtlpExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor as _,
};
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::config::TracingConfig;
use crate::outgoing;

/// The minimum time between two log lines about dropped spans.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// The maximum length of a collector's response. A collector responds with a few bytes about
/// refused spans.
const ANSWER_BYTES_MAX: u64 = 64 * 1_024;

/// A reason why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// An entry of `tracing.headers` is not valid. The message does not show the text, because it
    /// is a secret.
    #[error("read tracing.headers: write name=value,name=value")]
    Headers,
    /// The file with the headers cannot be read.
    #[error("read tracing.headers from {path}: {source}")]
    HeadersFile {
        /// The path of the file.
        path: String,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The exporter refuses a setting or an environment variable.
    #[error("send traces: {0}")]
    Exporter(String),
}

/// Numbers of exported, dropped and waiting spans.
pub(super) struct ExportStats {
    pub(super) exported: u64,
    pub(super) dropped: u64,
    pub(super) waiting: u64,
}

/// The exporter that takes ended spans.
pub(super) struct Export {
    processor: BatchSpanProcessor,
    counts: Arc<SpanCounts>,
    queue_max: usize,
}

#[derive(Debug, Default)]
struct SpanCounts {
    waiting: AtomicUsize,
    exported: AtomicU64,
    dropped: AtomicU64,
    stopped: AtomicBool,
}

impl Export {
    pub(super) fn start(
        config: &TracingConfig,
        url: &str,
        headers: &str,
        clock: Clock,
    ) -> Result<Self, TraceError> {
        let exporter = OtlpExporter::builder()
            .with_http()
            .with_http_client(Collector(outgoing::agent(config.timeout)))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(url)
            .with_timeout(config.timeout)
            .with_headers(read_headers(headers)?)
            .build()
            .map_err(|error| TraceError::Exporter(error.to_string()))?;
        let counts = Arc::new(SpanCounts::default());
        let counted = CountingExporter {
            exporter,
            counts: Arc::clone(&counts),
            clock,
            drop_log: Mutex::default(),
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(config.queue_max)
            .with_max_export_batch_size(config.batch_max)
            .with_scheduled_delay(config.interval)
            .build();
        let mut processor = BatchSpanProcessor::new(counted, batches);
        // The builder adds the attributes of OTEL_RESOURCE_ATTRIBUTES.
        let resource = Resource::builder().with_service_name(config.service_name.clone());
        processor.set_resource(&resource.with_attribute(version()).build());
        Ok(Self {
            processor,
            counts,
            queue_max: config.queue_max,
        })
    }

    /// Queues an ended span, or drops it if the queue is full. Never waits.
    pub(super) fn hand_over(&self, span: SpanData) {
        let counts = &self.counts;
        let full = counts.waiting.fetch_add(1, Ordering::Relaxed) >= self.queue_max;
        if full || counts.stopped.load(Ordering::Relaxed) {
            counts.waiting.fetch_sub(1, Ordering::Relaxed);
            counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.processor.on_end(span);
    }

    pub(super) fn stats(&self) -> ExportStats {
        ExportStats {
            exported: self.counts.exported.load(Ordering::Relaxed),
            dropped: self.counts.dropped.load(Ordering::Relaxed),
            waiting: u64::try_from(self.counts.waiting.load(Ordering::Relaxed)).unwrap_or(u64::MAX),
        }
    }

    /// Blocks until the waiting spans are sent. Returns false if they were not sent within the
    /// time.
    pub(super) fn stop(&self, within: Duration) -> bool {
        self.counts.stopped.store(true, Ordering::Relaxed);
        self.processor.shutdown_with_timeout(within).is_ok()
    }
}

fn version() -> opentelemetry::KeyValue {
    opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))
}

/// Parses `name=value,name=value`.
fn read_headers(text: &str) -> Result<HashMap<String, String>, TraceError> {
    let entries = text
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty());
    let headers = entries.map(|entry| {
        let (name, value) = entry.split_once('=').ok_or(TraceError::Headers)?;
        let (name, value) = (name.trim(), value.trim());
        // The exporter would silently leave out a header that it cannot send, and the collector's
        // refusal would be hard to explain.
        let sendable = Request::builder().header(name, value).body(()).is_ok();
        if sendable {
            Ok((name.to_owned(), value.to_owned()))
        } else {
            Err(TraceError::Headers)
        }
    });
    headers.collect()
}

/// An exporter that counts the exported and the dropped spans.
#[derive(Debug)]
struct CountingExporter {
    exporter: OtlpExporter,
    counts: Arc<SpanCounts>,
    clock: Clock,
    drop_log: Mutex<DropLog>,
}

/// The dropped spans that the log already reported.
#[derive(Debug, Default)]
struct DropLog {
    at: Option<Instant>,
    dropped: u64,
}

impl SpanExporter for CountingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        self.counts.waiting.fetch_sub(spans, Ordering::Relaxed);
        let counter = if exported.is_ok() {
            &self.counts.exported
        } else {
            &self.counts.dropped
        };
        counter.fetch_add(u64::try_from(spans).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.tell(exported.as_ref().err().map(ToString::to_string).as_deref());
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl CountingExporter {
    fn tell(&self, problem: Option<&str>) {
        let dropped = self.counts.dropped.load(Ordering::Relaxed);
        let now = self.clock.monotonic();
        let mut drop_log = self.drop_log.lock();
        let lately = drop_log
            .at
            .is_some_and(|at| now.duration_since(at) < TOLD_EVERY);
        if dropped == drop_log.dropped || lately {
            return;
        }
        let new = dropped - drop_log.dropped;
        *drop_log = DropLog {
            at: Some(now),
            dropped,
        };
        drop(drop_log);
        let problem = problem.unwrap_or("it is too slow for tracing.queue_max");
        tracing::warn!(
            dropped = new,
            problem,
            "the collector did not take traces; they are gone"
        );
    }
}

/// The host's own HTTP client. It runs on the exporter's thread, which may block.
#[derive(Debug)]
struct Collector(ureq::Agent);

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, body.to_vec());
        let mut response = self
            .0
            .run(request)
            .map_err(|error| outgoing::problem(&error))?;
        let mut answer = Response::new(Bytes::new());
        *answer.status_mut() = response.status();
        answer.headers_mut().extend(response.headers_mut().drain());
        *answer.body_mut() = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec()?
            .into();
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_names_and_values() {
        let headers = read_headers(" authorization = Bearer a=b , x-team=core,").expect("are some");
        assert_eq!(
            headers.get("authorization").map(String::as_str),
            Some("Bearer a=b")
        );
        assert_eq!(headers.get("x-team").map(String::as_str), Some("core"));
        for wrong in ["secret", "a b=c", "a=b\nc"] {
            let error = read_headers(&format!("x=y,{wrong}"))
                .map(|_| ())
                .unwrap_err()
                .to_string();
            assert!(!error.contains(wrong), "{error}");
        }
    }
}
