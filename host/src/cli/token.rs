//! `token create|list|revoke`

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{Client, Payload, encode, query};
use super::error::CliError;
use super::output::{self, Output, cell, table, tell, time};
use crate::model::Permission;

#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token; its text is printed this once
    Create {
        /// Who holds it
        user: String,
        /// What it allows; can be given several times
        #[arg(long = "permission", short = 'p', value_name = "PERMISSION", required = true, value_delimiter = ',')]
        permissions: Vec<Permission>,
        /// Another team than yours
        #[arg(long)]
        team: Option<String>,
        /// For example 30d; otherwise it does not expire
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<String>,
    },
    /// List tokens, without their texts
    List {
        /// Only this team's
        #[arg(long)]
        team: Option<String>,
        /// Most rows, up to 200
        #[arg(long)]
        limit: Option<u32>,
        /// Go on after this id
        #[arg(long, value_name = "ID")]
        after: Option<String>,
    },
    /// Revoke a token
    Revoke {
        /// Its id
        id: String,
    },
}

pub(super) fn run(client: &Client, output: Output, command: TokenCommand) -> Result<(), CliError> {
    match command {
        TokenCommand::Create { user, permissions, team, expires_in } => {
            let body = json!({ "user": user, "permissions": permissions, "team": team, "expires_in": expires_in });
            let created = client.post("/tokens", Payload::Json(&body))?;
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
            let query = query([("team", team), ("limit", limit.map(|limit| limit.to_string())), ("after", after)]);
            let list = client.get(&format!("/tokens{query}"))?;
            output.show(&list, |list| {
                output::tell_next(list);
                table(
                    &["TOKEN", "TEAM", "USER", "PERMISSIONS", "CREATED", "EXPIRES"],
                    output::items(list).iter().map(row),
                )
            })
        }
        TokenCommand::Revoke { id } => {
            client.delete(&format!("/tokens/{}", encode(&id)))?;
            output.confirm(&json!({ "revoked": id }), &format!("revoked {id}"))
        }
    }
}

fn row(token: &Value) -> Vec<String> {
    let permissions = token.get("permissions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
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
