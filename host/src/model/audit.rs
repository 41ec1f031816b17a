//! What is written down of who did what: the names of actions, and how they end.

use serde::{Deserialize, Serialize};

/// What somebody did that others may ask about later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuditAction {
    /// Looks after an alert.
    AlertAcknowledge,
    /// Approved or rejected.
    ApprovalDecide,
    /// Had caches give back the memory of what has run out.
    CacheCleanup,
    /// Emptied caches.
    CacheClear,
    /// Stopped an instance.
    InstanceCancel,
    /// End the quarantine of an instance.
    InstanceRelease,
    /// Had the monitor forget its numbers.
    MetricsReset,
    /// Deleted a version of a plugin.
    PluginDelete,
    /// Uploaded a version of a plugin.
    PluginUpload,
    /// Deleted finished instances.
    RetentionRun,
    /// Showed no token, or one that is not valid.
    SignInFail,
    /// Has nobody told of alerts for a while.
    SilenceCreate,
    /// Ended a silence.
    SilenceDelete,
    /// Made a token.
    TokenCreate,
    /// Revoked a token.
    TokenRevoke,
    /// Applied a workflow's definition.
    WorkflowApply,
    /// Let a workflow take no more instances.
    WorkflowArchive,
    /// Let an archived workflow take instances again.
    WorkflowUnarchive,
}

impl AuditAction {
    /// Every action, by name.
    pub const ALL: [Self; 18] = [
        Self::AlertAcknowledge,
        Self::ApprovalDecide,
        Self::CacheCleanup,
        Self::CacheClear,
        Self::InstanceCancel,
        Self::InstanceRelease,
        Self::MetricsReset,
        Self::PluginDelete,
        Self::PluginUpload,
        Self::RetentionRun,
        Self::SignInFail,
        Self::SilenceCreate,
        Self::SilenceDelete,
        Self::TokenCreate,
        Self::TokenRevoke,
        Self::WorkflowApply,
        Self::WorkflowArchive,
        Self::WorkflowUnarchive,
    ];

    /// As in JSON, in the database and on the command line: `noun.verb`. Never changed, since it is written down.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AlertAcknowledge => "alert.acknowledge",
            Self::ApprovalDecide => "approval.decide",
            Self::CacheCleanup => "cache.cleanup",
            Self::CacheClear => "cache.clear",
            Self::InstanceCancel => "instance.cancel",
            Self::InstanceRelease => "instance.release",
            Self::MetricsReset => "metrics.reset",
            Self::PluginDelete => "plugin.delete",
            Self::PluginUpload => "plugin.upload",
            Self::RetentionRun => "retention.run",
            Self::SignInFail => "sign-in.fail",
            Self::SilenceCreate => "silence.create",
            Self::SilenceDelete => "silence.delete",
            Self::TokenCreate => "token.create",
            Self::TokenRevoke => "token.revoke",
            Self::WorkflowApply => "workflow.apply",
            Self::WorkflowArchive => "workflow.archive",
            Self::WorkflowUnarchive => "workflow.unarchive",
        }
    }
}

impl Serialize for AuditAction {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl std::str::FromStr for AuditAction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|action| action.as_str() == text)
            .ok_or_else(|| {
                format!(
                    "unknown action; use one of {}",
                    Self::ALL.map(Self::as_str).join(", ")
                )
            })
    }
}

/// How far an action came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// It was asked for, and its end was not written down: it is under way, or the client went away, or the host died
    /// meanwhile. It may have happened.
    Begun,
    /// It happened.
    Done,
    /// It did not happen; or, if the host failed, maybe not.
    Failed,
    /// It was not allowed.
    Refused,
}

impl AuditOutcome {
    /// As in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

impl std::str::FromStr for AuditOutcome {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Begun, Self::Done, Self::Failed, Self::Refused]
            .into_iter()
            .find(|outcome| outcome.as_str() == text)
            .ok_or_else(|| "use begun, done, failed or refused".to_owned())
    }
}
