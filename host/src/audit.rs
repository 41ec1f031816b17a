//! Records audited actions: an entry before the action, and its outcome afterwards. If the first
//! write fails, the caller must not act.
//!
//! HTTP handlers record the actions of users. A [`Recorder`] needs no request, so other modules can
//! record what the host does by itself.

use serde_json::Value;

use crate::clock::Clock;
use crate::model::{AuditAction, AuditOutcome, Name};
use crate::store::{AuditActor, AuditEntry, Store, StoreError};

/// Longest subject, in characters; longer ones are cut, so that an entry stays small.
const SUBJECT_CHARS_MAX: usize = 200;

/// Writes the audit entries of one request, or of one task of the host.
pub(crate) struct Recorder {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    /// The actor; none for a failed sign-in.
    pub(crate) actor: Option<AuditActor>,
    /// The id of the request. Empty if there is none.
    pub(crate) request_id: String,
    /// The address that the request came from. Empty if there is none.
    pub(crate) source: String,
}

impl Recorder {
    /// Writes an entry for an action on the actor's team, before the action.
    ///
    /// # Errors
    /// The database's. The caller must not act then.
    pub(crate) async fn begin(
        &self,
        action: AuditAction,
        subject: impl ToString,
        detail: Value,
    ) -> Result<BegunEntry, StoreError> {
        self.begin_for(self.team(), action, subject, detail).await
    }

    /// Like [`Recorder::begin`], but for an action on another team or, if `team` is none, on the
    /// host or all teams.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn begin_for(
        &self,
        team: Option<Name>,
        action: AuditAction,
        subject: impl ToString,
        detail: Value,
    ) -> Result<BegunEntry, StoreError> {
        let entry = self.entry(team, action, subject.to_string(), detail);
        self.store.insert_audit(vec![entry.clone()]).await?;
        Ok(BegunEntry {
            store: self.store.clone(),
            entry,
        })
    }

    /// Like [`Recorder::begin`], but for several actions, each with a subject and a detail.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn begin_each(
        &self,
        action: AuditAction,
        things: impl IntoIterator<Item = (String, Value)>,
    ) -> Result<BegunEntries, StoreError> {
        let entries: Vec<_> = things
            .into_iter()
            .map(|(subject, detail)| self.entry(self.team(), action, subject, detail))
            .collect();
        if !entries.is_empty() {
            self.store.insert_audit(entries.clone()).await?;
        }
        Ok(BegunEntries {
            store: self.store.clone(),
            entries,
        })
    }

    /// Writes an entry for a request that was refused. A failure is only logged.
    pub(crate) async fn refused(&self, action: AuditAction, subject: String, detail: Value) {
        let mut entry = self.entry(self.team(), action, subject, detail);
        entry.outcome = AuditOutcome::Refused;
        if let Err(error) = self.store.insert_audit(vec![entry]).await {
            tracing::error!(%error, "could not write a refused request into the audit");
        }
    }

    fn team(&self) -> Option<Name> {
        self.actor.as_ref().map(|actor| actor.team.clone())
    }

    fn entry(
        &self,
        team: Option<Name>,
        action: AuditAction,
        subject: String,
        detail: Value,
    ) -> AuditEntry {
        AuditEntry {
            id: self.clock.new_id(),
            at: self.clock.now(),
            team,
            actor: self.actor.clone(),
            action,
            subject: cut(subject),
            detail,
            outcome: AuditOutcome::Begun,
            request_id: self.request_id.clone(),
            source: self.source.clone(),
        }
    }
}

fn cut(text: String) -> String {
    if text.len() <= SUBJECT_CHARS_MAX {
        text
    } else {
        text.chars().take(SUBJECT_CHARS_MAX).collect()
    }
}

/// The entry of an action that has begun. Its holder must record the outcome.
#[must_use]
pub(crate) struct BegunEntry {
    store: Store,
    entry: AuditEntry,
}

impl BegunEntry {
    /// Sets the team and the subject, if they became known only during the action.
    pub(crate) fn known(&mut self, team: Option<Name>, subject: String) {
        (self.entry.team, self.entry.subject) = (team, cut(subject));
    }

    /// Adds a field to the detail.
    pub(crate) fn note(&mut self, name: &str, value: Value) {
        if let Value::Object(detail) = &mut self.entry.detail {
            detail.insert(name.to_owned(), value);
        }
    }

    /// Writes the outcome; `failure` is the code of the action's error. If the outcome cannot be
    /// written, the entry stays `begun` and the action stays done.
    pub(crate) async fn finish(mut self, failure: Option<&str>) {
        finish(&mut self.entry, failure);
        write(&self.store, vec![self.entry]).await;
    }
}

/// The entries of several actions that have begun.
#[must_use]
pub(crate) struct BegunEntries {
    store: Store,
    entries: Vec<AuditEntry>,
}

impl BegunEntries {
    /// Writes the outcomes, like [`BegunEntry::finish`]. There is one failure for each entry.
    pub(crate) async fn finish<'a>(mut self, failures: impl Iterator<Item = Option<&'a str>>) {
        for (entry, failure) in self.entries.iter_mut().zip(failures) {
            finish(entry, failure);
        }
        if !self.entries.is_empty() {
            write(&self.store, self.entries).await;
        }
    }
}

fn finish(entry: &mut AuditEntry, failure: Option<&str>) {
    entry.outcome = if failure.is_none() {
        AuditOutcome::Done
    } else {
        AuditOutcome::Failed
    };
    if let (Some(code), Value::Object(detail)) = (failure, &mut entry.detail) {
        detail.insert("code".to_owned(), code.into());
    }
}

async fn write(store: &Store, entries: Vec<AuditEntry>) {
    if let Err(error) = store.end_audit(entries).await {
        tracing::error!(%error, "could not write an outcome into the audit; its entry stays begun");
    }
}
