//! `/instances/{id}/logs`: the log lines of an instance's attempts.

use std::sync::Arc;

use serde::Serialize;

use super::error::ApiError;
use super::request::Request;
use super::response::{self, HandlerResult};
use crate::clock::Timestamp;
use crate::model::effects::{LogLevel, LogLine};
use crate::model::{Principal, StepAddress};
use crate::store::{LogCursor, LogPage};

/// The log of one attempt, as far as the level is asked for.
#[derive(Serialize)]
struct ShownLog<'a> {
    step: &'a StepAddress,
    number: u32,
    finished_at: Timestamp,
    /// Lines that were dropped because of the limits of an attempt.
    dropped: u32,
    lines: Vec<&'a LogLine>,
    #[serde(skip)]
    cursor: LogCursor,
}

pub(super) async fn list_logs(mut request: Request, principal: Arc<Principal>) -> HandlerResult {
    let id = request.id("id", "instance")?;
    let page = request.page::<LogCursor>()?;
    let step: Option<StepAddress> = request.query.parse("step")?;
    let level = request.query.parse_with("level", |text| {
        let known = LogLevel::ALL.map(LogLevel::as_str).join(", ");
        LogLevel::parse(text).ok_or_else(|| format!("use one of {known}"))
    })?;
    request.query.finish()?;
    let store = &request.services.store;
    let team = &principal.team;
    store
        .instance(team, id)
        .await?
        .ok_or_else(|| ApiError::not_found("instance"))?;
    let LogPage { logs, more } = store.logs(team, id, step, &page).await?;
    let least = level.unwrap_or(LogLevel::Trace);
    let shown = logs.iter().map(|log| ShownLog {
        step: &log.step,
        number: log.number,
        finished_at: log.finished_at,
        dropped: log.dropped,
        lines: log
            .lines
            .iter()
            .filter(|line| line.level >= least)
            .collect(),
        cursor: log.cursor(),
    });
    let shown: Vec<_> = shown.collect();
    response::page(&shown, more, request.answer_bytes_max(), |log| {
        log.cursor.to_string()
    })
}
