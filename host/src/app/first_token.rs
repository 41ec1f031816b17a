//! Tokens that no operator makes: the first one of a database, and those that the owner of the data directory makes while
//! no host runs.
//!
//! The first token's text goes into a file of the data directory, and never into a log: logs are collected, kept and read
//! by many. The file stays until its owner deletes it. That gives nothing away: who can read it can make an operator
//! token anyway, with [`create_token_offline`].

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
/// Name of the file in the data directory that has its text.
const FIRST_TOKEN_FILE: &str = "first-token";
/// The audit's name for the maker of offline tokens. Nobody can be called so: users have no brackets.
const OFFLINE_USER: &str = "(offline)";

/// The operator token of a first start.
#[derive(Clone, Debug)]
pub struct FirstToken {
    /// Its text. Only its hash is in the database.
    pub secret: String,
    /// The file that has its text, readable by the user who runs the host.
    pub path: PathBuf,
}

/// A token to be made without a host.
#[derive(Clone, Debug)]
pub struct OfflineToken {
    /// Its user.
    pub user: String,
    /// Without it, the team of the first token.
    pub team: Option<Name>,
    /// Its permissions.
    pub permissions: Vec<Permission>,
    /// For how long; without it, it does not expire.
    pub expires_in: Option<std::time::Duration>,
}

/// Makes an operator token if the database has no token at all.
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
    // Before it is good for anything, so that no operator token is lost with a disk that is full.
    write(&path, &secret)
        .map_err(|error| AppError::Token(format!("write it into {}: {error}", path.display())))?;
    store.insert_token(token).await?;
    tracing::info!(path = %path.display(), "made the first operator token: its text is in this file");
    Ok(Some(FirstToken { secret, path }))
}

/// Makes a token in the configuration's database, which no host may have open if it is SQLite, and writes it into the
/// audit. Returns its text and what was stored of it.
///
/// # Errors
/// [`AppError::Token`] for what no token can be; the database's.
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
    // Of a database that is there no more: this one has no tokens.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private::create_new(path)?;
    writeln!(file, "{secret}")?;
    file.sync_all()
}
