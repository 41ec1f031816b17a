//! `alerts`: lists, acknowledges and silences alerts.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, Payload, encode, query};
use super::error::CliError;
use super::output::{self, Output, cell, number, table, time};

const ALERTS: &str = "/workflow-metrics/alerts";
const SILENCES: &str = "/workflow-metrics/silences";

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct AlertsArguments {
    #[command(subcommand)]
    command: Option<AlertsCommand>,
    /// Only alerts in this state; by default pending and firing alerts
    #[arg(long, value_parser = ["pending", "firing", "resolved"])]
    state: Option<String>,
    /// Alerts of this team; for operators, who otherwise see all teams
    #[arg(long)]
    team: Option<String>,
}

#[derive(Subcommand)]
enum AlertsCommand {
    /// Acknowledge an alert, which ends its repeated notifications
    Acknowledge {
        /// The alert's id
        id: String,
        /// A note for other users
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
    },
    /// Suppress notifications of alerts for a while
    Silence {
        /// Alerts about this subject; * stands for any characters
        subject: String,
        /// Only alerts of this rule
        #[arg(long, value_parser = ["error_rate", "p95_latency", "cache_hit_rate", "rejection_rate"])]
        rule: Option<String>,
        /// Duration of the silence, at most 30d
        #[arg(long = "for", value_name = "DURATION", default_value = "2h")]
        duration: String,
        /// The reason
        #[arg(long, value_name = "TEXT", default_value = "")]
        comment: String,
        /// Alerts of this team; for operators, who otherwise silence all teams and the host
        #[arg(long)]
        team: Option<String>,
    },
    /// List the silences that have not ended
    Silences,
    /// End a silence
    Unsilence {
        /// The silence's id
        id: String,
    },
}

pub(super) fn alerts(
    client: &Client,
    output: Output,
    arguments: AlertsArguments,
) -> Result<(), CliError> {
    let AlertsArguments {
        command,
        state,
        team,
    } = arguments;
    match command {
        None => {
            let answer = client.get(&format!(
                "{ALERTS}{}",
                query([("state", state), ("team", team)])
            ))?;
            output.show(&answer, |answer| alerts_table(list(answer, "alerts")))
        }
        Some(AlertsCommand::Acknowledge { id, comment }) => {
            let body = json!({ "comment": comment });
            let alert = client.post(
                &format!("{ALERTS}/{}/acknowledge", encode(&id)),
                Payload::Json(&body),
            )?;
            output.confirm(
                &alert,
                &output::escape(&format!("acknowledged: {}", cell(&alert, "/message"))),
            )
        }
        Some(AlertsCommand::Silence {
            subject,
            rule,
            duration,
            comment,
            team,
        }) => {
            let body = json!({ "subject": subject, "rule": rule, "duration": duration, "comment": comment });
            let silence = client.post(
                &format!("{SILENCES}{}", query([("team", team)])),
                Payload::Json(&body),
            )?;
            let told = format!(
                "silenced until {}: {}",
                time(&silence, "/until"),
                cell(&silence, "/id")
            );
            output.confirm(&silence, &output::escape(&told))
        }
        Some(AlertsCommand::Silences) => {
            let answer = client.get(SILENCES)?;
            output.show(&answer, |answer| silences_table(list(answer, "silences")))
        }
        Some(AlertsCommand::Unsilence { id }) => {
            client.delete(&format!("{SILENCES}/{}", encode(&id)))?;
            output.confirm(
                &json!({ "ended": id }),
                &output::escape(&format!("ended: {id}")),
            )
        }
    }
}

fn list<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer
        .get(name)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn alerts_table(alerts: &[Value]) -> String {
    let value = |alert: &Value| {
        let value = alert
            .get("value")
            .and_then(Value::as_f64)
            .unwrap_or_default();
        if cell(alert, "/unit") == "ratio" {
            format!("{} %", number(value * 100.0))
        } else {
            number(value)
        }
    };
    let rows = alerts.iter().map(|alert| {
        vec![
            cell(alert, "/id"),
            cell(alert, "/state"),
            cell(alert, "/severity"),
            cell(alert, "/team"),
            cell(alert, "/rule"),
            cell(alert, "/subject"),
            value(alert),
            time(alert, "/since"),
            cell(alert, "/acknowledged/by"),
        ]
    });
    table(
        &[
            "ALERT",
            "STATE",
            "SEVERITY",
            "TEAM",
            "RULE",
            "SUBJECT",
            "VALUE",
            "SINCE",
            "ACKNOWLEDGED BY",
        ],
        rows,
    )
}

fn silences_table(silences: &[Value]) -> String {
    let rows = silences.iter().map(|silence| {
        vec![
            cell(silence, "/id"),
            cell(silence, "/team"),
            cell(silence, "/rule"),
            cell(silence, "/subject"),
            time(silence, "/until"),
            cell(silence, "/created_by"),
            cell(silence, "/comment"),
        ]
    });
    table(
        &[
            "SILENCE", "TEAM", "RULE", "SUBJECT", "UNTIL", "BY", "COMMENT",
        ],
        rows,
    )
}
