//! The nouns and rules of Stepwell: pure, no I/O, no async, no clock. A rule that needs the time
//! receives `now`. The manifest proves it: no dependency can do any of these.
//!
//! A workflow definition describes the steps ([`definition`]). An instance records one run of them
//! ([`instance`]). Only [`transition`] changes an instance according to its definition.

pub mod address;
pub mod alert;
pub mod approval;
pub mod audit;
pub mod child;
pub mod definition;
pub mod duration;
pub mod effects;
pub mod event;
pub mod expression;
pub mod failure;
pub mod identity;
pub mod instance;
pub mod json;
pub mod name;
pub mod pattern;
pub mod pins;
pub mod plain;
pub mod plugin;
pub mod precondition;
mod progress;
pub mod request;
pub mod schema;
pub mod section;
pub mod similar;
pub mod steps;
pub mod text;
pub mod timestamp;
pub mod token_bucket;
pub mod trace;
pub mod transition;
pub mod workflow;
pub mod yaml;

pub use address::StepAddress;
pub use alert::{AlertEventKind, AlertRule, AlertState, Severity};
pub use approval::{Approval, ApprovalStatus, Decision, NewApproval};
pub use audit::{AuditAction, AuditOutcome};
pub use child::{Child, ChildEnd, NewChild};
pub use definition::{Definition, Step};
pub use effects::{AttemptLog, Effects, EntryKey, Guard, Space, StorageWrite, WriteAction};
pub use failure::{Blame, Failure};
pub use identity::{Permission, Principal, check_user};
pub use instance::{Attempt, AttemptOutcome, Instance, InstanceStatus, NewInstance, Parent};
pub use json::Json;
pub use name::{Name, StepId};
pub use pattern::Pattern;
pub use plugin::{Grants, Manifest, PluginVersion};
pub use precondition::Precondition;
pub use request::{IdempotencyKey, RequestHash, StartRequest};
pub use schema::Schema;
pub use section::Section;
pub use steps::StepAction;
pub use timestamp::Timestamp;
pub use token_bucket::TokenBucket;
pub use trace::TraceParent;
pub use workflow::WorkflowStatus;
