//! Tokens: only their hashes are stored.

use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::backend::on;
use super::cache::Fresh;
use super::stale::Stale;
use super::{Store, StoreError, from_json, parse, to_json};
use crate::clock::Timestamp;
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

impl Store {
    /// Stores a token's hash.
    ///
    /// # Errors
    /// [`StoreError::Constraint`] if the id or the hash is there already.
    pub async fn insert_token(&self, token: NewToken) -> Result<(), StoreError> {
        let store = self.clone();
        self.detached(async move {
            let permissions = to_json(&token.principal.permissions)?;
            let mut writing = store.core().backend.begin().await?;
            on!(writing, c => sqlx::query(
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
            store.core().commit(writing, &[Stale::Token { hash: token.hash }]).await
        })
        .await
    }

    /// Whom the token with this hash stands for; none if there is no such token or it has expired. Cached.
    ///
    /// # Errors
    /// The database's.
    pub async fn principal_by_token_hash(&self, hash: [u8; 32]) -> Result<Option<Arc<Principal>>, StoreError> {
        self.cached(&self.core().caches.tokens, hash, 0, |store, hash| async move {
            let mut connection = store.read().await?;
            let row: Option<TokenRow> = on!(connection, c => sqlx::query_as(
                "SELECT id, team, user_id, permissions, created_at, expires_at FROM tokens WHERE hash = $1",
            )
            .bind(hash.as_slice())
            .fetch_optional(c)
            .await)?;
            drop(connection);
            let Some(row) = row else { return Ok(None) };
            let Token { id, team, user, permissions, expires_at, .. } = row.into_token()?;
            let principal = Arc::new(Principal { team, user, permissions, token: Some(id) });
            let live = expires_at.is_none_or(|deadline| deadline > store.now());
            Ok(live.then(|| Fresh::new(principal, 512).until(expires_at)))
        })
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

    /// Ends a token: of `team`, or of any team.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn revoke_token(&self, team: Option<&Name>, id: Uuid) -> Result<(), StoreError> {
        let (store, team) = (self.clone(), team.cloned());
        self.detached(async move {
            let team = team.as_ref().map(Name::as_str);
            let mut writing = store.core().backend.begin().await?;
            let hash: Option<Vec<u8>> = on!(writing, c => sqlx::query_scalar(
                "DELETE FROM tokens WHERE id = $1 AND ($2 IS NULL OR team = $2) RETURNING hash",
            )
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
