//! A collector of traces: receives OTLP over HTTP and keeps it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use crate::harness::eventually;

/// A collector that accepts everything until the test's process ends.
pub struct Collector {
    pub url: String,
    taken: Arc<Mutex<ReceivedRequests>>,
}

#[derive(Default)]
struct ReceivedRequests {
    /// The request line and headers of each request.
    heads: Vec<String>,
    bodies: Vec<Vec<u8>>,
    resources: Vec<KeyValue>,
    spans: Vec<Span>,
}

impl Collector {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("is bound"));
        let taken = Arc::<Mutex<ReceivedRequests>>::default();
        let taking = Arc::clone(&taken);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                take(connection.expect("connects"), &taking);
            }
        });
        Self { url, taken }
    }

    /// Returns all spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.taken
            .lock()
            .expect("the collector works")
            .spans
            .clone()
    }

    /// Returns the spans of a trace.
    pub fn trace(&self, trace_id: &str) -> Vec<Span> {
        self.spans()
            .into_iter()
            .filter(|span| hex(&span.trace_id) == trace_id)
            .collect()
    }

    /// Waits until the spans of a trace satisfy `whole`, and returns them.
    #[track_caller]
    pub fn wait(&self, trace_id: &str, whole: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        eventually("the trace arrives", || {
            Some(self.trace(trace_id)).filter(|spans| whole(spans))
        })
    }

    /// Returns an attribute of the resource that sent the spans.
    pub fn resource(&self, key: &str) -> String {
        text(
            &self.taken.lock().expect("the collector works").resources,
            key,
        )
    }

    /// Returns the request lines and headers of all requests.
    pub fn heads(&self) -> Vec<String> {
        self.taken
            .lock()
            .expect("the collector works")
            .heads
            .clone()
    }

    /// Returns true if any request contains the text.
    pub fn has_seen(&self, text: &str) -> bool {
        let taken = self.taken.lock().expect("the collector works");
        taken.bodies.iter().any(|body| {
            body.windows(text.len())
                .any(|window| window == text.as_bytes())
        })
    }
}

/// Reads one request. The host opens a connection for each.
fn take(connection: TcpStream, taken: &Mutex<ReceivedRequests>) {
    let mut reader = BufReader::new(connection);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        // A host that is killed breaks off.
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let length = lines
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map(|(_, value)| value)
        .next();
    let mut body = vec![0; length.expect("a length").parse().expect("a number")];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let request = ExportTraceServiceRequest::decode(body.as_slice()).expect("is OTLP");
    let mut taken = taken.lock().expect("the collector works");
    for resource in request.resource_spans {
        taken.resources.extend(
            resource
                .resource
                .into_iter()
                .flat_map(|resource| resource.attributes),
        );
        taken.spans.extend(
            resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans),
        );
    }
    taken.heads.push(head);
    taken.bodies.push(body);
    // The host may be gone by now.
    let _ = reader
        .get_mut()
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
}

/// Returns an attribute as text; empty if it is absent.
pub fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes
        .iter()
        .find(|attribute| attribute.key == key)
        .and_then(|found| found.value.clone());
    match found.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
