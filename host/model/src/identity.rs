//! Users and their permissions.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Name;

/// A permission of a token. Each is granted separately; only `operator` implies the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Read workflows, instances and metrics.
    WorkflowRead,
    /// Start instances.
    WorkflowStart,
    /// Apply workflow definitions, cancel instances.
    WorkflowManage,
    /// Read plugins.
    PluginRead,
    /// Upload and delete plugins.
    PluginManage,
    /// Read and decide the user's own approvals.
    ApprovalDecide,
    /// Everything, including tokens and the metrics of all teams.
    Operator,
}

impl Permission {
    /// Every permission, in display order.
    pub const ALL: [Self; 7] = [
        Self::WorkflowRead,
        Self::WorkflowStart,
        Self::WorkflowManage,
        Self::PluginRead,
        Self::PluginManage,
        Self::ApprovalDecide,
        Self::Operator,
    ];

    /// Returns the name used in JSON and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WorkflowRead => "workflow_read",
            Self::WorkflowStart => "workflow_start",
            Self::WorkflowManage => "workflow_manage",
            Self::PluginRead => "plugin_read",
            Self::PluginManage => "plugin_manage",
            Self::ApprovalDecide => "approval_decide",
            Self::Operator => "operator",
        }
    }
}

impl std::str::FromStr for Permission {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|permission| permission.as_str() == text)
            .ok_or_else(|| {
                let known: Vec<_> = Self::ALL
                    .iter()
                    .map(|permission| permission.as_str())
                    .collect();
                format!("unknown permission; use one of {}", known.join(", "))
            })
    }
}

/// Longest user name, in bytes.
pub const USER_BYTES_MAX: usize = 128;

/// Checks the name of a user before a token is created: 1 to 128 of a-z, A-Z, 0-9 and `. _ - @ +`,
/// first a letter or digit.
///
/// Only ASCII is allowed, because people tell approvers, starters and actors apart by sight, and
/// Unicode has many letters that look alike. `*` stands for all users in lists, `:` separates
/// `plugin:<name>`, and brackets mark the host's own names, such as `(offline)`. Users with tokens
/// older than this rule keep their names.
///
/// # Errors
/// A sentence that states the rule.
pub fn check_user(user: &str) -> Result<(), String> {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'@' | b'+');
    let well_formed = (1..=USER_BYTES_MAX).contains(&user.len())
        && user.starts_with(|first: char| first.is_ascii_alphanumeric())
        && user.bytes().all(allowed);
    if well_formed {
        return Ok(());
    }
    let shown: String = user
        .chars()
        .take(40)
        .flat_map(char::escape_default)
        .collect();
    Err(format!(
        "'{shown}' is not a valid user: use 1 to {USER_BYTES_MAX} of a-z, A-Z, 0-9 and . _ - @ +, and start with a \
         letter or digit"
    ))
}

/// A user who has shown a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The team whose data the user can see.
    pub team: Name,
    /// The name shown as `started_by`, `approver` and `decided_by`. 1 to 128 bytes.
    pub user: String,
    /// The permissions of the token.
    pub permissions: Vec<Permission>,
    /// The token's id; none if there is no token, as in a local run.
    pub token: Option<Uuid>,
}

impl Principal {
    /// Returns true if the user has `permission`, or is an operator.
    pub fn may(&self, permission: Permission) -> bool {
        self.permissions
            .iter()
            .any(|held| *held == permission || *held == Permission::Operator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_told_apart_by_what_people_see() {
        for user in [
            "ann",
            "ann@example.org",
            "Ann.Lee",
            "ci_runner-2",
            "ann+test@example.org",
            "7",
        ] {
            assert_eq!(check_user(user), Ok(()), "{user}");
        }
        let long = "a".repeat(USER_BYTES_MAX + 1);
        // A Cyrillic letter, a bidirectional control and an invisible character are among them.
        let refused = [
            "",
            "*",
            "ann*",
            "\u{430}nn",
            "ann\u{202e}",
            "an\u{200b}n",
            "ann lee",
            "plugin:x",
            "(offline)",
            "-a",
            "a\n",
            &long,
        ];
        for user in refused {
            let problem = check_user(user).expect_err(user);
            assert!(
                problem.is_ascii() && problem.contains("is not a valid user: use 1 to 128"),
                "{problem}"
            );
        }
    }
}
