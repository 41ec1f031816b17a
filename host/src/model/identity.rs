//! Who asks, and what they may do.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Name;

/// What a token's holder may do. Granted one by one; only `operator` implies the others.
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
    /// Read one's own approvals and decide them.
    ApprovalDecide,
    /// Everything, tokens and all teams' numbers included.
    Operator,
}

impl Permission {
    /// Every permission, in the order shown to people.
    pub const ALL: [Self; 7] = [
        Self::WorkflowRead,
        Self::WorkflowStart,
        Self::WorkflowManage,
        Self::PluginRead,
        Self::PluginManage,
        Self::ApprovalDecide,
        Self::Operator,
    ];

    /// As in JSON and on the command line.
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

/// Longest name of a user, in bytes.
pub const USER_BYTES_MAX: usize = 128;

/// Checks the name of a user who is to get a token: 1 to 128 of a-z, A-Z, 0-9 and `. _ - @ +`, first a letter or digit.
///
/// ASCII alone, because approvers, starters and actors are told apart by what people see: among all of Unicode's letters
/// there are too many that look alike. `*` stands for everybody in lists, `:` separates `plugin:<name>`, and brackets
/// are the host's own, such as `(offline)`. Users that got their tokens before this rule keep their names.
///
/// # Errors
/// A sentence that says what a name may be.
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
    /// The team that owns all the user sees.
    pub team: Name,
    /// 1 to 128 bytes; what `started_by`, `approver` and `decided_by` say.
    pub user: String,
    /// What the token allows.
    pub permissions: Vec<Permission>,
    /// The token's id; none for who acts without one, as in a local run.
    pub token: Option<Uuid>,
}

impl Principal {
    /// Whether the user may do what `permission` names.
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
        // A Cyrillic letter, a bidirectional and an invisible one among them.
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
