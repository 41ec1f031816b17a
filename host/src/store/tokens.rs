//! Tokens: only their hashes are stored.
//!
//! What surprises: the owner of the data directory can make a token while no host runs ([`create_token_offline`]), and
//! the last token that makes its holder an operator goes only when that is said: without one, the host would be out of
//! everybody's reach.

use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::audit::{self, AuditEntry};
use super::backend::{Address, Conn, Connection, on};
use super::cache::Fresh;
use super::stale::Stale;
use super::{Store, StoreError, from_json, parse, to_json};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::model::{Name, Permission, Principal};

/// A token to be stored.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its id, for listing and revoking.
    pub id: Uuid,
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// Whom it stands for.
    pub principal: Principal,
    /// When it was made.
    pub created_at: Timestamp,
    /// No longer valid from this time on.
    pub expires_at: Option<Timestamp>,
}

/// A token as it is listed: never with its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    /// Its id.
    pub id: Uuid,
    /// Its team.
    pub team: Name,
    /// Its user.
    pub user: String,
    /// What it allows.
    pub permissions: Vec<Permission>,
    /// When it was made.
    pub created_at: Timestamp,
    /// No longer valid from this time on.
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

/// The tokens of operators that have not expired, for those who warn in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperatorTokens {
    /// How many there are.
    pub count: u64,
    /// When the last of them expires; none: one of them does not.
    pub last_expires_at: Option<Timestamp>,
}

/// The text of `permissions` of every operator's token has this, and of no other: they are stored as JSON.
const OPERATORS: &str = "SELECT id, expires_at FROM tokens WHERE permissions LIKE '%\"operator\"%' \
    AND (expires_at IS NULL OR expires_at > $1)";
const REVOKE: &str =
    "DELETE FROM tokens WHERE id = $1 AND ($2 IS NULL OR team = $2) RETURNING hash";
/// Two operators who revoke each other at once are told apart by who comes first. SQLite has one writer anyway.
const REVOKING_LOCK: i64 = i64::from_be_bytes(*b"sw-token");

/// Makes a token in a database that no host needs to have open, and says so in the audit. For who owns the database.
///
/// A SQLite file must be there already, and no host may have it open.
///
/// # Errors
/// [`StoreError::Locked`] if a host has the file; those of [`Store::open`].
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
        let mut writing = backend.begin().await?;
        insert(&mut writing, &token).await?;
        audit::insert(&mut writing, entry).await?;
        // No host has asked for this token before, so none has to forget that it is not there.
        writing.commit().await
    };
    let written = written.await;
    backend.close().await;
    written
}

async fn insert(connection: &mut Connection, token: &NewToken) -> Result<(), StoreError> {
    let permissions = to_json(&token.principal.permissions)?;
    on!(connection, c => sqlx::query(
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
    Ok(on!(connection, c => sqlx::query_as(
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
    Ok(on!(connection, c => sqlx::query_as(OPERATORS).bind(now.as_micros()).fetch_all(c).await)?)
}

impl Store {
    /// Stores a token's hash.
    ///
    /// # Errors
    /// [`StoreError::Constraint`] if the id or the hash is there already.
    pub async fn insert_token(&self, token: NewToken) -> Result<(), StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut writing = store.core().backend.begin().await?;
            insert(&mut writing, &token).await?;
            store
                .core()
                .commit(writing, &[Stale::Token { hash: token.hash }])
                .await
        })
        .await
    }

    /// Whom the token with this hash stands for; none if there is no such token or it has expired. Cached.
    ///
    /// # Errors
    /// The database's.
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
                Ok(live.then(|| Fresh::new(principal, 512).until(expires_at)))
            },
        )
        .await
    }

    /// All tokens, or one team's, expired ones included, by id.
    ///
    /// # Errors
    /// The database's.
    pub async fn tokens(&self, team: Option<&Name>) -> Result<Vec<Token>, StoreError> {
        let (store, team) = (self.clone(), team.cloned());
        self.detached(async move {
            let team = team.as_ref().map(Name::as_str);
            let mut connection = store.read().await?;
            let rows: Vec<TokenRow> = on!(connection, c => sqlx::query_as(
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

    /// Ends a token: of `team`, or of any team. The last one of an operator that has not expired only with `force`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::LastOperator`].
    pub async fn revoke_token(
        &self,
        team: Option<&Name>,
        id: Uuid,
        force: bool,
    ) -> Result<(), StoreError> {
        let (store, team) = (self.clone(), team.cloned());
        self.detached(async move {
            let team = team.as_ref().map(Name::as_str);
            let mut writing = store.core().backend.begin().await?;
            if !force {
                // Held until COMMIT, so that what is read here stays true.
                if let Conn::Postgres(c) = writing.conn() {
                    sqlx::query("SELECT pg_advisory_xact_lock($1)")
                        .bind(REVOKING_LOCK)
                        .execute(c)
                        .await?;
                }
                let operators = operators(&mut writing, store.now()).await?;
                if matches!(operators.as_slice(), [(last, _)] if *last == id) {
                    writing.rollback().await?;
                    return Err(StoreError::LastOperator);
                }
            }
            let hash: Option<Vec<u8>> = on!(writing, c => sqlx::query_scalar(REVOKE)
                .bind(id)
                .bind(team)
                .fetch_optional(c)
                .await)?;
            let hash = hash.and_then(|hash| <[u8; 32]>::try_from(hash.as_slice()).ok());
            let stale: Vec<_> = hash.map(|hash| Stale::Token { hash }).into_iter().collect();
            store.core().commit(writing, &stale).await?;
            hash.map(|_| ()).ok_or(StoreError::NotFound)
        })
        .await
    }

    /// The tokens of operators.
    ///
    /// # Errors
    /// The database's.
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

    /// The token with this hash, even if it has expired. Never from a cache: for what is written down of a sign-in that
    /// failed.
    ///
    /// # Errors
    /// The database's.
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

    /// Whether anybody was ever given a token that was not revoked.
    ///
    /// # Errors
    /// The database's.
    pub async fn has_tokens(&self) -> Result<bool, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut connection = store.read().await?;
            Ok(on!(connection, c => sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM tokens)").fetch_one(c).await)?)
        })
        .await
    }
}
