//! `token create|list|revoke`: manages tokens.

use std::path::PathBuf;

use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use serde_json::{Value, json};

use super::client::{Client, Payload, encode, query};
use super::error::CliError;
use super::output::{self, Output, cell, table, tell, time};
use super::{Global, serve, settings};
use crate::app::{AppError, OfflineToken, create_token_offline};
use crate::clock::Clock;
use crate::http::secret;
use crate::model::{Name, Permission};
use crate::store::{NewToken, StoreError};

#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Create a token; its text is printed only this once
    ///
    /// With --data-dir or --database the token is created in the database itself, without a server
    /// and without a token: for the owner of the data directory who has no operator token. A SQLite
    /// database must not be open in a server at the time; a PostgreSQL database may be.
    Create {
        /// The user that the token authenticates
        user: String,
        /// A permission of the token; can be repeated
        #[arg(
            long = "permission",
            short = 'p',
            value_name = "PERMISSION",
            required = true,
            value_delimiter = ',',
            value_parser = PossibleValuesParser::new(Permission::ALL.map(Permission::as_str))
                .try_map(|text| text.parse::<Permission>())
        )]
        permissions: Vec<Permission>,
        /// The token's team; by default your own
        #[arg(long)]
        team: Option<String>,
        /// Lifetime of the token, for example 30d; by default it does not expire
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<String>,
        /// Without a server: the data directory of the stopped server
        #[arg(long, value_name = "DIRECTORY")]
        data_dir: Option<PathBuf>,
        /// Without a server: the database, sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE
        #[arg(long, value_name = "URL")]
        database: Option<String>,
    },
    /// List tokens, without their texts
    List {
        /// Only tokens of this team
        #[arg(long)]
        team: Option<String>,
        /// Rows of a page, 1 to 200; by default 50
        #[arg(long)]
        limit: Option<u32>,
        /// Continue after the token with this id
        #[arg(long, value_name = "ID")]
        after: Option<String>,
    },
    /// Revoke a token
    Revoke {
        /// The token's id
        id: String,
        /// Revoke even the last operator token; then only `token create --data-dir` can create
        /// another
        #[arg(long)]
        force: bool,
    },
}

pub(super) fn run(
    global: &Global,
    client: &Client,
    output: Output,
    command: TokenCommand,
) -> Result<(), CliError> {
    match command {
        TokenCommand::Create {
            user,
            permissions,
            team,
            expires_in,
            data_dir,
            database,
        } => {
            let created = if data_dir.is_some() || database.is_some() {
                create_offline(
                    global,
                    New {
                        user,
                        permissions,
                        team,
                        expires_in,
                    },
                    data_dir,
                    database,
                )?
            } else {
                let body = json!({ "user": user, "permissions": permissions, "team": team, "expires_in": expires_in });
                client.post("/tokens", Payload::Json(&body))?
            };
            output.show(&created, |created| {
                tell(&output::escape(&format!(
                    "token {} for {} of team {}; it is not shown again",
                    cell(created, "/id"),
                    cell(created, "/user"),
                    cell(created, "/team")
                )));
                format!("{}\n", output::escape(&cell(created, "/token")))
            })
        }
        TokenCommand::List { team, limit, after } => {
            let query = query([
                ("team", team),
                ("limit", limit.map(|limit| limit.to_string())),
                ("after", after),
            ]);
            let list = client.get(&format!("/tokens{query}"))?;
            output.show(&list, |list| {
                output::tell_next(list);
                table(
                    &["TOKEN", "TEAM", "USER", "PERMISSIONS", "CREATED", "EXPIRES"],
                    output::items(list).iter().map(row),
                )
            })
        }
        TokenCommand::Revoke { id, force } => {
            let query = if force { "?force=true" } else { "" };
            client.delete(&format!("/tokens/{}{query}", encode(&id)))?;
            output.confirm(&json!({ "revoked": id }), &format!("revoked {id}"))
        }
    }
}

/// The arguments of a token that is created offline.
struct New {
    user: String,
    permissions: Vec<Permission>,
    team: Option<String>,
    expires_in: Option<String>,
}

/// Creates a token in the database and returns the API's response for it.
fn create_offline(
    global: &Global,
    new: New,
    data_dir: Option<PathBuf>,
    database: Option<String>,
) -> Result<Value, CliError> {
    let New {
        user,
        permissions,
        team,
        expires_in,
    } = new;
    let mut config = settings::load(global)?;
    if let Some(data_dir) = data_dir {
        config.data_dir = data_dir;
    }
    if let Some(database) = database {
        config.database.url = database;
    }
    let wrong = |error: &dyn std::fmt::Display| CliError::new(error.to_string());
    let team = team
        .map(|team| team.parse::<Name>())
        .transpose()
        .map_err(|error| wrong(&error))?;
    let expires_in = expires_in
        .map(|time| secret::lifetime(&time))
        .transpose()
        .map_err(|error| wrong(&error))?;
    let wanted = OfflineToken {
        user,
        team,
        permissions,
        expires_in,
    };
    let created = serve::runtime()?.block_on(create_token_offline(&config, &Clock::System, wanted));
    let (secret, NewToken { id, principal, created_at, expires_at, .. }) = created.map_err(|error| {
        let message = format!("cannot {error}");
        match error {
            AppError::Store(StoreError::Locked(_)) => CliError::with_hint(
                message,
                "stop the server first, or make the token through it: without --data-dir, with an operator's token in \
                 STEPWELL_TOKEN",
            ),
            _ => CliError::new(message),
        }
    })?;
    Ok(json!({
        "id": id,
        "token": secret,
        "team": principal.team,
        "user": principal.user,
        "permissions": principal.permissions,
        "created_at": created_at,
        "expires_at": expires_at,
    }))
}

fn row(token: &Value) -> Vec<String> {
    let permissions = token
        .get("permissions")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let permissions: Vec<_> = permissions.iter().filter_map(Value::as_str).collect();
    vec![
        cell(token, "/id"),
        cell(token, "/team"),
        cell(token, "/user"),
        permissions.join(", "),
        time(token, "/created_at"),
        time(token, "/expires_at"),
    ]
}
