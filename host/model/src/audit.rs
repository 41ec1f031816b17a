//! The audit's vocabulary: names of actions, and their outcomes.

use serde::{Deserialize, Serialize};

/// An action that the audit records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuditAction {
    /// A user acknowledged an alert.
    AlertAcknowledge,
    /// An approver approved or rejected.
    ApprovalDecide,
    /// A user had expired entries removed from the caches.
    CacheCleanup,
    /// A user emptied caches.
    CacheClear,
    /// A user cancelled an instance.
    InstanceCancel,
    /// A user released an instance from quarantine.
    InstanceRelease,
    /// A user reset the monitor's metrics.
    MetricsReset,
    /// A user deleted a version of a plugin.
    PluginDelete,
    /// A user uploaded a version of a plugin.
    PluginUpload,
    /// A user deleted finished instances.
    RetentionRun,
    /// A request came without a token, or with an invalid one.
    SignInFail,
    /// A user silenced alerts for a while.
    SilenceCreate,
    /// A user ended a silence.
    SilenceDelete,
    /// A user created a token.
    TokenCreate,
    /// A user revoked a token.
    TokenRevoke,
    /// A user applied a workflow definition.
    WorkflowApply,
    /// A user archived a workflow.
    WorkflowArchive,
    /// A user unarchived a workflow.
    WorkflowUnarchive,
}

impl AuditAction {
    /// Every action, sorted by name.
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

    /// Returns the name used in JSON, in the database and on the command line: `noun.verb`. A name
    /// never changes, because stored entries contain it.
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

/// The outcome of an audited action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// No result is recorded: the action is under way, the client disconnected, or the host
    /// crashed. The action may have happened.
    Begun,
    /// The action happened.
    Done,
    /// The action did not happen. After a failure of the host, it may have.
    Failed,
    /// The action was not permitted.
    Refused,
}

impl AuditOutcome {
    /// Returns the name used in JSON and in the database.
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
