//! Access tokens. Only their hashes are stored.
//!
//! The owner of the data directory can create a token while no host runs
//! ([`create_token_offline`]). The last operator token is revoked only on explicit request, because
//! without an operator token nobody could administer the host.

use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::audit::{self, AuditEntry};
use super::backend::{Address, Conn, Connection, with_backend};
use super::cache::Loaded;
use super::invalidation::Invalidation;
use super::{Store, StoreError, from_json, parse, to_json};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::model::{Name, Permission, Principal};

/// A new token to store.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// The id, for listing and revoking.
    pub id: Uuid,
    /// The SHA-256 hash of the token.
    pub hash: [u8; 32],
    /// The principal that the token authenticates.
    pub principal: Principal,
    /// The time of creation.
    pub created_at: Timestamp,
    /// The time from which the token is invalid; `None` if the token does not expire.
    pub expires_at: Option<Timestamp>,
}

/// A stored token, without its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    /// The id of the token.
    pub id: Uuid,
    /// The team of the token.
    pub team: Name,
    /// The user of the token.
    pub user: String,
    /// The permissions that the token grants.
    pub permissions: Vec<Permission>,
    /// The time of creation.
    pub created_at: Timestamp,
    /// The time from which the token is invalid; `None` if the token does not expire.
    pub expires_at: Option<Timestamp>,
}

#[derive(sqlx::FromRow)]
struct TokenRow {
    id: Uuid,
    team: String,
    user_id: String,
    permissions: String,
    created_at: i64,
    expires_at: Option<i64>,
}

impl TokenRow {
    fn into_token(self) -> Result<Token, StoreError> {
        Ok(Token {
            id: self.id,
            team: parse("a token's team", &self.team)?,
            user: self.user_id,
            permissions: from_json("a token's permissions", &self.permissions)?,
            created_at: Timestamp::from_micros(self.created_at),
            expires_at: self.expires_at.map(Timestamp::from_micros),
        })
    }
}

/// The operator tokens that have not expired, for warnings before the last of them expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperatorTokens {
    /// The number of tokens.
    pub count: u64,
    /// The latest expiry time; `None` if a token does not expire.
    pub last_expires_at: Option<Timestamp>,
}

/// Selects operator tokens that have not expired. Permissions are stored as JSON, so only operator
/// tokens contain the text `"operator"`.
const OPERATORS: &str = "SELECT id, expires_at FROM tokens WHERE permissions LIKE '%\"operator\"%' \
    AND (expires_at IS NULL OR expires_at > $1)";
const REVOKE: &str =
    "DELETE FROM tokens WHERE id = $1 AND ($2 IS NULL OR team = $2) RETURNING hash";
/// The advisory lock of revocations. Two operators who revoke each other's tokens at once are
/// serialised by it. SQLite has only one writer.
const REVOKING_LOCK: i64 = i64::from_be_bytes(*b"sw-token");

/// Creates a token in a database while no host needs to run, and records the creation in the audit
/// log. For the owner of the database.
///
/// A SQLite file must already exist, and no host may have it open.
///
/// # Errors
/// [`StoreError::Locked`] if a host has the SQLite file open, and the errors of [`Store::open`].
pub async fn create_token_offline(
    config: &Config,
    token: NewToken,
    entry: AuditEntry,
) -> Result<(), StoreError> {
    let address = Address::of(config)?;
    if let Address::File(path) = &address
        && !path.exists()
    {
        return Err(StoreError::Settings(format!(
            "there is no database at {}: name the data_dir or database.url of a host that was started before; its first \
             start makes a token by itself",
            path.display()
        )));
    }
    let (_locks, address) = super::alone(address)?;
    let backend = super::connect(&address, config).await?;
    let written = async {
        let mut transaction = backend.begin().await?;
        insert(&mut transaction, &token).await?;
        audit::insert(&mut transaction, entry).await?;
        // No host has looked this token up before, so no cache holds its absence.
        transaction.commit().await
    };
    let written = written.await;
    backend.close().await;
    written
}

async fn insert(connection: &mut Connection, token: &NewToken) -> Result<(), StoreError> {
    let permissions = to_json(&token.principal.permissions)?;
    with_backend!(connection, c => sqlx::query(
        "INSERT INTO tokens (id, hash, team, user_id, permissions, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(token.id)
    .bind(token.hash.as_slice())
    .bind(token.principal.team.as_str())
    .bind(token.principal.user.as_str())
    .bind(permissions.as_str())
    .bind(token.created_at.as_micros())
    .bind(token.expires_at.map(Timestamp::as_micros))
    .execute(c)
    .await
    .map(|_| ()))?;
    Ok(())
}

async fn row_of(
    connection: &mut Connection,
    hash: [u8; 32],
) -> Result<Option<TokenRow>, StoreError> {
    Ok(with_backend!(connection, c => sqlx::query_as(
        "SELECT id, team, user_id, permissions, created_at, expires_at FROM tokens WHERE hash = $1",
    )
    .bind(hash.as_slice())
    .fetch_optional(c)
    .await)?)
}

async fn operators(
    connection: &mut Connection,
    now: Timestamp,
) -> Result<Vec<(Uuid, Option<i64>)>, StoreError> {
    Ok(
        with_backend!(connection, c => sqlx::query_as(OPERATORS).bind(now.as_micros()).fetch_all(c).await)?,
    )
}

impl Store {
    /// Stores the hash of a token.
    ///
    /// # Errors
    /// [`StoreError::Constraint`] if the id or the hash already exists.
    pub async fn insert_token(&self, token: NewToken) -> Result<(), StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut transaction = store.core().backend.begin().await?;
            insert(&mut transaction, &token).await?;
            store
                .core()
                .commit(transaction, &[Invalidation::Token { hash: token.hash }])
                .await
        })
        .await
    }

    /// Returns the principal of the token with this hash; `None` if there is no such token or it
    /// has expired. Cached.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn principal_by_token_hash(
        &self,
        hash: [u8; 32],
    ) -> Result<Option<Arc<Principal>>, StoreError> {
        self.cached(
            &self.core().caches.tokens,
            hash,
            0,
            |store, hash| async move {
                let mut connection = store.read().await?;
                let row = row_of(&mut connection, hash).await?;
                drop(connection);
                let Some(row) = row else { return Ok(None) };
                let Token {
                    id,
                    team,
                    user,
                    permissions,
                    expires_at,
                    ..
                } = row.into_token()?;
                let principal = Arc::new(Principal {
                    team,
                    user,
                    permissions,
                    token: Some(id),
                });
                let live = expires_at.is_none_or(|deadline| deadline > store.now());
                Ok(live.then(|| Loaded::new(principal, 512).until(expires_at)))
            },
        )
        .await
    }

    /// Returns the tokens of one team or of all teams, expired ones included, sorted by id.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn tokens(&self, team: Option<&Name>) -> Result<Vec<Token>, StoreError> {
        let (store, team) = (self.clone(), team.cloned());
        self.detached(async move {
            let team = team.as_ref().map(Name::as_str);
            let mut connection = store.read().await?;
            let rows: Vec<TokenRow> = with_backend!(connection, c => sqlx::query_as(
                "SELECT id, team, user_id, permissions, created_at, expires_at FROM tokens \
                 WHERE $1 IS NULL OR team = $1 ORDER BY id",
            )
            .bind(team)
            .fetch_all(c)
            .await)?;
            rows.into_iter().map(TokenRow::into_token).collect()
        })
        .await
    }

    /// Revokes a token of `team`, or of any team if `team` is `None`. The last operator token that
    /// has not expired is revoked only with `force`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::LastOperator`], and errors of the database.
    pub async fn revoke_token(
        &self,
        team: Option<&Name>,
        id: Uuid,
        force: bool,
    ) -> Result<(), StoreError> {
        let (store, team) = (self.clone(), team.cloned());
        self.detached(async move {
            let team = team.as_ref().map(Name::as_str);
            let mut transaction = store.core().backend.begin().await?;
            if !force {
                // The lock is held until COMMIT, so that the operators read here stay the same.
                if let Conn::Postgres(c) = transaction.conn() {
                    sqlx::query("SELECT pg_advisory_xact_lock($1)")
                        .bind(REVOKING_LOCK)
                        .execute(c)
                        .await?;
                }
                let operators = operators(&mut transaction, store.now()).await?;
                if matches!(operators.as_slice(), [(last, _)] if *last == id) {
                    transaction.rollback().await?;
                    return Err(StoreError::LastOperator);
                }
            }
            let hash: Option<Vec<u8>> = with_backend!(transaction, c => sqlx::query_scalar(REVOKE)
                .bind(id)
                .bind(team)
                .fetch_optional(c)
                .await)?;
            let hash = hash.and_then(|hash| <[u8; 32]>::try_from(hash.as_slice()).ok());
            let invalidations: Vec<_> = hash
                .map(|hash| Invalidation::Token { hash })
                .into_iter()
                .collect();
            store.core().commit(transaction, &invalidations).await?;
            hash.map(|_| ()).ok_or(StoreError::NotFound)
        })
        .await
    }

    /// Returns the number and the latest expiry of the operator tokens that have not expired.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn operator_tokens(&self) -> Result<OperatorTokens, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut connection = store.core().backend.read().await?;
            let tokens = operators(&mut connection, store.now()).await?;
            let last = tokens
                .iter()
                .map(|(_, expires_at)| expires_at.unwrap_or(i64::MAX))
                .max();
            let last_expires_at = last
                .filter(|last| *last < i64::MAX)
                .map(Timestamp::from_micros);
            Ok(OperatorTokens {
                count: tokens.len() as u64,
                last_expires_at,
            })
        })
        .await
    }

    /// Returns the token with this hash, even if it has expired. Never cached. The audit log uses
    /// the token of a failed sign-in.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn token_by_hash(&self, hash: [u8; 32]) -> Result<Option<Token>, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut connection = store.core().backend.read().await?;
            row_of(&mut connection, hash)
                .await?
                .map(TokenRow::into_token)
                .transpose()
        })
        .await
    }

    /// Returns whether any token is stored, expired ones included.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn has_tokens(&self) -> Result<bool, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut connection = store.read().await?;
            Ok(with_backend!(connection, c => sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM tokens)").fetch_one(c).await)?)
        })
        .await
    }
}
