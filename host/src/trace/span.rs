//! A span under way. It ends, and is handed on to be sent, when it is dropped.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, SpanData, SpanEvents, SpanLinks,
};

use super::Shared;
use crate::clock::Timestamp;
use crate::model::TraceParent;

/// A span, or nothing if nobody records it: then every method is a branch.
#[must_use = "a span ends when it is dropped"]
pub struct Span(Option<Box<Recording>>);

struct Recording {
    shared: Arc<Shared>,
    own: TraceParent,
    data: SpanData,
    /// When it began; none if its end is known already.
    began: Option<Instant>,
    /// Recorded only because the caller wants it.
    followed: bool,
}

/// A value of an attribute. Texts are copied only into spans that are recorded.
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
    /// One that nobody records.
    pub const fn none() -> Self {
        Self(None)
    }

    pub(super) fn begin(
        shared: &Arc<Shared>,
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
        shared: &Arc<Shared>,
        own: TraceParent,
        parent: TraceParent,
        from: Timestamp,
        to: Timestamp,
    ) -> Self {
        let mut recording = Recording::new(shared, SpanKind::Internal, own, Some(parent), from);
        recording.data.end_time = system_time(to.max(from));
        Self(Some(Box::new(recording)))
    }

    /// Recorded only because the caller wants it.
    pub(super) fn on_the_callers_word(mut self) -> Self {
        if let Some(recording) = &mut self.0 {
            recording.followed = true;
        }
        self
    }

    /// Its caller turns out to be nobody: forgets the span, unless it would have been recorded anyway.
    pub fn disown(&mut self) {
        if let Some(recording) = self.0.take_if(|recording| recording.followed) {
            recording.shared.follow.take_back();
        }
    }

    /// What its parts have as their parent; none if it is not recorded, and then they are not either.
    pub fn context(&self) -> Option<TraceParent> {
        self.0.as_ref().map(|recording| recording.own)
    }

    /// Names it. The text is worked out only if it is recorded.
    pub fn name(&mut self, name: impl FnOnce() -> String) {
        if let Some(recording) = &mut self.0 {
            recording.data.name = name().into();
        }
    }

    /// As [`Span::name`], with a text that is there.
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

    /// As [`Span::set`], with a text that is worked out only if the span is recorded.
    pub fn set_with(&mut self, key: &'static str, value: impl FnOnce() -> String) {
        if let Some(recording) = &mut self.0 {
            recording.data.attributes.push(KeyValue::new(key, value()));
        }
    }

    /// It did not do what it should, for this reason: a code, and never a message, which may quote what a client sent.
    pub fn fail(&mut self, reason: &str) {
        self.set("error.type", reason);
        if let Some(recording) = &mut self.0 {
            recording.data.status = Status::error("");
        }
    }

    /// Names other spans that it is about, `tracing.links_max` of them; the others are counted.
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
        shared: &Arc<Shared>,
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
            // Not the wall clock again: it may have been set back meanwhile.
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
