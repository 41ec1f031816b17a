//! Tokens that no operator creates: the first token of a database, and tokens that the owner of the
//! data directory creates while no host runs.
//!
//! The text of the first token is written into a file of the data directory, and never into a log,
//! because logs are collected, stored and read by many. The file stays until its owner deletes it.
//! The file reveals nothing new: a user that can read it can also create an operator token with
//! [`create_token_offline`].

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::AppError;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::secret;
use crate::model::{AuditAction, AuditOutcome, Name, Permission, Principal, check_user};
use crate::private;
use crate::store::{self, AuditActor, AuditEntry, NewToken, Store};

/// The team and the user of the first token.
const FIRST_TEAM: &str = "default";
const FIRST_USER: &str = "operator";
/// The name of the file in the data directory that contains the first token.
const FIRST_TOKEN_FILE: &str = "first-token";
/// The audit's name for the creator of offline tokens. No user can have this name, because names of
/// users contain no brackets.
const OFFLINE_USER: &str = "(offline)";

/// The operator token of the first start.
#[derive(Clone, Debug)]
pub struct FirstToken {
    /// The token's text. The database contains only its hash.
    pub secret: String,
    /// The file with the token's text. Only the user that runs the host can read it.
    pub path: PathBuf,
}

/// A token to create without a host.
#[derive(Clone, Debug)]
pub struct OfflineToken {
    /// The user of the token.
    pub user: String,
    /// The team; none for the team of the first token.
    pub team: Option<Name>,
    /// The permissions of the token.
    pub permissions: Vec<Permission>,
    /// The time until the token expires; none if it does not expire.
    pub expires_in: Option<std::time::Duration>,
}

/// Creates an operator token if the database has no token at all.
pub(super) async fn make_if_none(
    store: &Store,
    clock: &Clock,
    data_dir: &Path,
) -> Result<Option<FirstToken>, AppError> {
    if store.has_tokens().await? {
        return Ok(None);
    }
    let wanted = OfflineToken {
        user: FIRST_USER.to_owned(),
        team: None,
        permissions: vec![Permission::Operator],
        expires_in: None,
    };
    let (secret, token) = make(wanted, clock)?;
    let path = data_dir.join(FIRST_TOKEN_FILE);
    // The file is written before the token is stored, so that a full disk cannot lose the text of a
    // valid token.
    write(&path, &secret)
        .map_err(|error| AppError::Token(format!("write it into {}: {error}", path.display())))?;
    store.insert_token(token).await?;
    tracing::info!(path = %path.display(), "made the first operator token: its text is in this file");
    Ok(Some(FirstToken { secret, path }))
}

/// Creates a token in the configured database and records it in the audit. No host may have a
/// SQLite database open. Returns the token's text and the stored row.
///
/// # Errors
/// Fails with [`AppError::Token`] if the token is not valid, and with [`AppError::Store`] if the
/// database fails.
pub async fn create_token_offline(
    config: &Config,
    clock: &Clock,
    wanted: OfflineToken,
) -> Result<(String, NewToken), AppError> {
    let (secret, token) = make(wanted, clock)?;
    let Principal {
        team,
        user,
        permissions,
        ..
    } = &token.principal;
    let entry = AuditEntry {
        id: clock.new_id(),
        at: token.created_at,
        team: Some(team.clone()),
        actor: Some(AuditActor {
            user: OFFLINE_USER.to_owned(),
            team: team.clone(),
            token: None,
        }),
        action: AuditAction::TokenCreate,
        subject: token.id.to_string(),
        detail: json!({ "user": user, "permissions": permissions, "expires_at": token.expires_at }),
        outcome: AuditOutcome::Done,
        request_id: OFFLINE_USER.to_owned(),
        source: String::new(),
    };
    store::create_token_offline(config, token.clone(), entry).await?;
    Ok((secret, token))
}

fn make(wanted: OfflineToken, clock: &Clock) -> Result<(String, NewToken), AppError> {
    let token_error = |error: &dyn std::fmt::Display| AppError::Token(error.to_string());
    let OfflineToken {
        user,
        team,
        mut permissions,
        expires_in,
    } = wanted;
    check_user(&user).map_err(AppError::Token)?;
    let team = match team {
        Some(team) => team,
        None => FIRST_TEAM.parse().map_err(|error| token_error(&error))?,
    };
    permissions.sort_unstable();
    permissions.dedup();
    let secret = secret::generate().map_err(|error| token_error(&error))?;
    let hash = secret::hash(&secret).ok_or_else(|| token_error(&"its form is wrong"))?;
    let (id, created_at) = (clock.new_id(), clock.now());
    let expires_at = expires_in.map(|time| created_at.after(time));
    let principal = Principal {
        team,
        user,
        permissions,
        token: Some(id),
    };
    Ok((
        secret,
        NewToken {
            id,
            hash,
            principal,
            created_at,
            expires_at,
        },
    ))
}

fn write(path: &Path, secret: &str) -> std::io::Result<()> {
    // An older file belongs to another database, because this one has no tokens.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private::create_new(path)?;
    writeln!(file, "{secret}")?;
    file.sync_all()
}
