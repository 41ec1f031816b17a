//! A span in progress. Dropping the span ends it and hands it to the exporter.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, SpanData, SpanEvents, SpanLinks,
};

use super::TracerState;
use crate::clock::Timestamp;
use crate::model::TraceParent;

/// A span; empty if it is not recorded. Every method of an empty span is one branch.
#[must_use = "a span ends when it is dropped"]
pub struct Span(Option<Box<Recording>>);

struct Recording {
    shared: Arc<TracerState>,
    own: TraceParent,
    data: SpanData,
    /// The start of the span; none if its end is already known.
    began: Option<Instant>,
    /// True if the span is recorded only because its caller asked for it.
    followed: bool,
}

/// The value of an attribute. A text is copied only if the span is recorded.
#[derive(Clone, Copy, Debug)]
pub enum Attribute<'a> {
    /// A name or a code.
    Text(&'a str),
    /// A number.
    Integer(i64),
}

impl<'a> From<&'a str> for Attribute<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<u16> for Attribute<'_> {
    fn from(number: u16) -> Self {
        Self::Integer(i64::from(number))
    }
}

impl From<u32> for Attribute<'_> {
    fn from(number: u32) -> Self {
        Self::Integer(i64::from(number))
    }
}

impl From<u64> for Attribute<'_> {
    fn from(number: u64) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Attribute<'_> {
    fn from(number: usize) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<Attribute<'_>> for Value {
    fn from(attribute: Attribute<'_>) -> Self {
        match attribute {
            Attribute::Text(text) => Self::from(text.to_owned()),
            Attribute::Integer(number) => Self::from(number),
        }
    }
}

impl Span {
    /// Returns a span that is not recorded.
    pub const fn none() -> Self {
        Self(None)
    }

    pub(super) fn begin(
        shared: &Arc<TracerState>,
        kind: SpanKind,
        trace_id: u128,
        parent: Option<TraceParent>,
        parent_is_remote: bool,
    ) -> Self {
        let span_id = u64::from_be_bytes(RandomIdGenerator::default().new_span_id().to_bytes());
        let own = TraceParent {
            trace_id,
            span_id,
            sampled: true,
        };
        let mut recording = Recording::new(shared, kind, own, parent, shared.clock.now());
        recording.data.parent_span_is_remote = parent_is_remote;
        recording.began = Some(shared.clock.monotonic());
        Self(Some(Box::new(recording)))
    }

    pub(super) fn past(
        shared: &Arc<TracerState>,
        own: TraceParent,
        parent: TraceParent,
        from: Timestamp,
        to: Timestamp,
    ) -> Self {
        let mut recording = Recording::new(shared, SpanKind::Internal, own, Some(parent), from);
        recording.data.end_time = system_time(to.max(from));
        Self(Some(Box::new(recording)))
    }

    /// Marks the span as recorded only because its caller asked for it.
    pub(super) fn on_the_callers_word(mut self) -> Self {
        if let Some(recording) = &mut self.0 {
            recording.followed = true;
        }
        self
    }

    /// Drops the span unless sampling picked it, because its caller has no valid token.
    pub fn disown(&mut self) {
        if let Some(recording) = self.0.take_if(|recording| recording.followed) {
            recording.shared.limiter.give_back();
        }
    }

    /// Returns the parent for child spans; none if the span is not recorded, and then its children
    /// are not either.
    pub fn context(&self) -> Option<TraceParent> {
        self.0.as_ref().map(|recording| recording.own)
    }

    /// Sets the name. `name` is called only if the span is recorded.
    pub fn name(&mut self, name: impl FnOnce() -> String) {
        if let Some(recording) = &mut self.0 {
            recording.data.name = name().into();
        }
    }

    /// Sets a constant name.
    #[must_use = "a span ends when it is dropped"]
    pub fn named(mut self, name: &'static str) -> Self {
        if let Some(recording) = &mut self.0 {
            recording.data.name = name.into();
        }
        self
    }

    /// Adds an attribute.
    pub fn set<'a>(&mut self, key: &'static str, value: impl Into<Attribute<'a>>) {
        if let Some(recording) = &mut self.0 {
            recording
                .data
                .attributes
                .push(KeyValue::new(key, Value::from(value.into())));
        }
    }

    /// Adds an attribute whose text is computed only if the span is recorded.
    pub fn set_with(&mut self, key: &'static str, value: impl FnOnce() -> String) {
        if let Some(recording) = &mut self.0 {
            recording.data.attributes.push(KeyValue::new(key, value()));
        }
    }

    /// Marks the span as failed. `reason` is a code, never a message, because a message may quote
    /// what a client sent.
    pub fn fail(&mut self, reason: &str) {
        self.set("error.type", reason);
        if let Some(recording) = &mut self.0 {
            recording.data.status = Status::error("");
        }
    }

    /// Links other spans, up to `tracing.links_max`. Further links are counted and dropped.
    pub fn link(&mut self, others: impl Iterator<Item = TraceParent>) {
        let Some(recording) = &mut self.0 else { return };
        let links_max = recording.shared.links_max;
        for other in others {
            let links = &mut recording.data.links;
            if links.links.len() < links_max {
                links.links.push(Link::with_context(context(other)));
            } else {
                links.dropped_count = links.dropped_count.saturating_add(1);
            }
        }
    }
}

impl Recording {
    fn new(
        shared: &Arc<TracerState>,
        kind: SpanKind,
        own: TraceParent,
        parent: Option<TraceParent>,
        from: Timestamp,
    ) -> Self {
        let start_time = system_time(from);
        let data = SpanData {
            span_context: context(own),
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.span_id)),
            parent_span_is_remote: false,
            span_kind: kind,
            name: "".into(),
            start_time,
            end_time: start_time,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: shared.scope.clone(),
        };
        Self {
            shared: Arc::clone(shared),
            own,
            data,
            began: None,
            followed: false,
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(recording) = self.0.take() else {
            return;
        };
        let Recording {
            shared,
            mut data,
            began,
            ..
        } = *recording;
        if let Some(began) = began {
            // The monotonic clock, because the wall clock may have been set back meanwhile.
            data.end_time = data.start_time + shared.clock.monotonic().duration_since(began);
        }
        shared.export.hand_over(data);
    }
}

fn context(parent: TraceParent) -> SpanContext {
    let flags = if parent.sampled {
        TraceFlags::SAMPLED
    } else {
        TraceFlags::default()
    };
    let (trace_id, span_id) = (TraceId::from(parent.trace_id), SpanId::from(parent.span_id));
    SpanContext::new(trace_id, span_id, flags, false, TraceState::NONE)
}

fn system_time(time: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(time.as_micros()).unwrap_or(0))
}
