//! `start`, `instances`, `cancel`, `release`: starts, lists and stops instances.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, Payload, encode, query};
use super::digits;
use super::each::each;
use super::error::{CliError, ErrorClass};
use super::output::{self, Output, cell, table, tell, time};
use super::period::CreatedPeriod;
use super::source;
use super::start_from::{BATCH_ITEMS_MAX, Source, start_from};
use crate::model::InstanceStatus;
use crate::model::effects::LogLevel;
use crate::model::plain::plain;

const POLL_FIRST: Duration = Duration::from_millis(50);
const POLL_MAX: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct StartArguments {
    /// The workflow; with --from, for lines that name none
    #[arg(required_unless_present = "from")]
    workflow: Option<String>,
    /// JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON", default_value = "{}")]
    input: String,
    /// The entity that the instance is about, for finding it later
    #[arg(long, value_name = "TYPE/ID")]
    entity: Option<String>,
    /// The project that the instance belongs to
    #[arg(long, value_name = "ID")]
    project: Option<String>,
    /// Repeating the command with the same key returns the first instance
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Wait until the instance has ended; exit code 0 only if it completed
    #[arg(long)]
    wait: bool,
    /// Start many instances: FILE has a JSON object a line, - is stdin
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["input", "entity", "project", "idempotency_key", "wait"],
        long_help = "Start many instances. FILE, or stdin if it is -, has a JSON object a line: \
            {\"input\": …, \"entity_type\": …, \"entity_id\": …, \"project_id\": …, \"idempotency_key\": …, \
            \"workflow\": …}, all of them optional. The ids are printed in the order of the lines; lines that fail are \
            told with their numbers on stderr, and do not stop the others."
    )]
    from: Option<String>,
    /// With --from: a line without idempotency_key gets PREFIX and its line number as key, so that
    /// the command can be repeated after a lost connection and starts nothing twice
    #[arg(long, value_name = "PREFIX", requires = "from")]
    idempotency_prefix: Option<String>,
    /// With --from: lines sent in one request
    #[arg(long, value_name = "LINES", requires = "from", default_value_t = 1_000, value_parser = batch_size)]
    batch_size: usize,
}

fn batch_size(text: &str) -> Result<usize, String> {
    let size = text
        .parse()
        .ok()
        .filter(|size| (1..=BATCH_ITEMS_MAX).contains(size));
    size.ok_or_else(|| format!("use a number from 1 to {BATCH_ITEMS_MAX}"))
}

#[derive(Args)]
pub(super) struct InstancesArguments {
    /// Show this instance with its steps
    id: Option<String>,
    /// Show the log lines of the instance's attempts
    #[arg(long, requires = "id")]
    logs: bool,
    /// With --logs: only of this step, such as charge[3].pay
    #[arg(long, value_name = "STEP", requires = "logs")]
    step: Option<String>,
    /// With --logs: only lines of this level and above
    #[arg(long, requires = "logs", value_parser = LogLevel::ALL.map(LogLevel::as_str))]
    level: Option<String>,
    /// Only instances of this workflow
    #[arg(long, value_name = "NAME")]
    workflow: Option<String>,
    /// Only instances in this status
    #[arg(long, value_parser = InstanceStatus::ALL.map(InstanceStatus::as_str))]
    status: Option<String>,
    /// Only instances in quarantine: their host crashed several times in a row while driving them
    #[arg(long)]
    quarantined: bool,
    /// Only instances that a `workflow` step of this instance has started
    #[arg(long, value_name = "ID")]
    parent: Option<String>,
    /// Only instances about this entity, or this type of entity
    #[arg(long, value_name = "TYPE[/ID]")]
    entity: Option<String>,
    /// Only instances of this project
    #[arg(long, value_name = "ID")]
    project: Option<String>,
    /// Only instances that this user started
    #[arg(long, value_name = "USER")]
    started_by: Option<String>,
    #[command(flatten)]
    created: CreatedPeriod,
    /// Only instances whose first step began at this time or later
    #[arg(long, value_name = "TIME")]
    started_after: Option<String>,
    /// Only instances whose first step began before this time
    #[arg(long, value_name = "TIME")]
    started_before: Option<String>,
    /// With --json: add input, output, or all
    #[arg(long, value_name = "FIELDS", conflicts_with = "id")]
    fields: Option<String>,
    /// Rows of a page, 1 to 200; by default 50
    #[arg(long)]
    limit: Option<u32>,
    /// Continue after the previous page, with the cursor that it printed
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

#[derive(Args)]
pub(super) struct CancelArguments {
    /// Ids of the instances
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Also cancel all descendants: the instances that these created, the instances that those
    /// created, and so on. They create no more instances from then on
    #[arg(long)]
    descendants: bool,
}

pub(super) fn start(
    client: &Client,
    output: Output,
    arguments: StartArguments,
) -> Result<(), CliError> {
    if let Some(from) = &arguments.from {
        let source = Source {
            from,
            workflow: arguments.workflow.as_deref(),
            idempotency_prefix: arguments.idempotency_prefix.as_deref(),
            batch_size: arguments.batch_size,
        };
        return start_from(client, output, &source);
    }
    let mut body = json!({ "input": read_json(&arguments.input)? });
    if let (Some(entity), Some(fields)) = (&arguments.entity, body.as_object_mut()) {
        let (kind, id) = entity
            .split_once('/')
            .ok_or_else(|| CliError::new("--entity: write TYPE/ID").of(ErrorClass::Usage))?;
        fields.insert("entity_type".to_owned(), kind.into());
        fields.insert("entity_id".to_owned(), id.into());
    }
    if let (Some(project), Some(fields)) = (&arguments.project, body.as_object_mut()) {
        fields.insert("project_id".to_owned(), project.as_str().into());
    }
    let path = format!(
        "/workflows/{}/instances",
        encode(arguments.workflow.as_deref().unwrap_or_default())
    );
    let created = match &arguments.idempotency_key {
        Some(key) => client.post_once(&path, Payload::Json(&body), key)?,
        None => client.post(&path, Payload::Json(&body))?,
    };
    let id = cell(&created, "/id");
    if !arguments.wait {
        return output.show(&created, |_| format!("{}\n", output::escape(&id)));
    }
    let instance = wait(client, &id)?;
    output.show(&instance, details)?;
    match cell(&instance, "/status").as_str() {
        "completed" => Ok(()),
        other => Err(CliError::new(format!(
            "the instance is {other}: {}",
            cell(&instance, "/failure/message")
        ))
        .of(ErrorClass::Unsuccessful)),
    }
}

/// Polls until the instance has ended. Prints once which approvals it waits for.
fn wait(client: &Client, id: &str) -> Result<Value, CliError> {
    let mut pause = POLL_FIRST;
    let mut told = false;
    loop {
        let instance = client.get(&format!("/instances/{}", encode(id)))?;
        match InstanceStatus::parse(&cell(&instance, "/status")) {
            Some(status) if status.is_final() => return Ok(instance),
            Some(InstanceStatus::Waiting) if !told => {
                told = true;
                let approvals = instance
                    .get("approvals")
                    .and_then(Value::as_array)
                    .cloned()
                    .unwrap_or_default();
                for approval in approvals
                    .iter()
                    .filter(|approval| cell(approval, "/status") == "pending")
                {
                    let (approver, approval) =
                        (cell(approval, "/approver_id"), cell(approval, "/id"));
                    tell(&output::escape(&format!(
                        "waits for {approver}, approval {approval}"
                    )));
                }
            }
            _ => {}
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(POLL_MAX);
    }
}

pub(super) fn instances(
    client: &Client,
    output: Output,
    arguments: InstancesArguments,
) -> Result<(), CliError> {
    if let Some(id) = arguments.id.as_ref().filter(|_| arguments.logs) {
        return logs(client, output, id, &arguments);
    }
    if let Some(id) = &arguments.id {
        let instance = client.get(&format!("/instances/{}", encode(id)))?;
        return output.show(&instance, details);
    }
    let (entity_type, entity_id) = match arguments
        .entity
        .as_deref()
        .map(|entity| entity.split_once('/'))
    {
        Some(Some((kind, id))) => (Some(kind.to_owned()), Some(id.to_owned())),
        Some(None) => (arguments.entity, None),
        None => (None, None),
    };
    let filters = [
        ("workflow", arguments.workflow),
        ("status", arguments.status),
        ("entity_type", entity_type),
        ("entity_id", entity_id),
        ("project_id", arguments.project),
        ("started_by", arguments.started_by),
        ("started_after", arguments.started_after),
        ("started_before", arguments.started_before),
        ("fields", arguments.fields),
        ("parent", arguments.parent),
        (
            "quarantined",
            arguments.quarantined.then(|| "true".to_owned()),
        ),
        ("limit", arguments.limit.map(|limit| limit.to_string())),
        ("after", arguments.after),
    ];
    let query = query(filters.into_iter().chain(arguments.created.query()));
    let list = client.get(&format!("/instances{query}"))?;
    output.show(&list, |list| {
        output::tell_next(list);
        let rows = output::items(list).iter().map(|instance| {
            vec![
                cell(instance, "/id"),
                format!(
                    "{} v{}",
                    cell(instance, "/workflow"),
                    cell(instance, "/workflow_version")
                ),
                cell(instance, "/status"),
                cell(instance, "/current_step"),
                time(instance, "/created_at"),
                cell(instance, "/started_by"),
            ]
        });
        table(
            &[
                "INSTANCE",
                "WORKFLOW",
                "STATUS",
                "STEP",
                "CREATED",
                "STARTED BY",
            ],
            rows,
        )
    })
}

/// Shows a page of the log lines of an instance.
fn logs(
    client: &Client,
    output: Output,
    id: &str,
    arguments: &InstancesArguments,
) -> Result<(), CliError> {
    let query = query([
        ("step", arguments.step.clone()),
        ("level", arguments.level.clone()),
        ("limit", arguments.limit.map(|limit| limit.to_string())),
        ("after", arguments.after.clone()),
    ]);
    let list = client.get(&format!("/instances/{}/logs{query}", encode(id)))?;
    output.show(&list, |list| {
        output::tell_next(list);
        let mut text = String::new();
        for log in output::items(list) {
            let attempt = format!("{}#{}", cell(log, "/step"), cell(log, "/number"));
            let lines = log.get("lines").and_then(Value::as_array);
            for line in lines.into_iter().flatten() {
                let (at, level) = (time(line, "/at"), cell(line, "/level"));
                text.push_str(&format!(
                    "{at}  {level:5}  {attempt}  {}\n",
                    cell(line, "/line")
                ));
            }
            if log.get("dropped").and_then(Value::as_u64).unwrap_or(0) > 0 {
                let dropped = cell(log, "/dropped");
                text.push_str(&format!(
                    "{attempt}: {dropped} further lines were dropped\n"
                ));
            }
        }
        if text.is_empty() {
            text.push_str("no lines\n");
        }
        text
    })
}

/// Releases instances one by one: there is no batch request for it.
pub(super) fn release(
    client: &Client,
    output: Output,
    arguments: &CancelArguments,
) -> Result<(), CliError> {
    for id in &arguments.ids {
        let instance = client.post(
            &format!("/instances/{}/release", encode(id)),
            Payload::Empty,
        )?;
        output.confirm(&instance, &format!("released {id}"))?;
    }
    Ok(())
}

pub(super) fn cancel(
    client: &Client,
    output: Output,
    arguments: &CancelArguments,
) -> Result<(), CliError> {
    if arguments.descendants {
        return cancel_with_descendants(client, output, &arguments.ids);
    }
    if let [id] = arguments.ids.as_slice() {
        let instance = client.post(&format!("/instances/{}/cancel", encode(id)), Payload::Empty)?;
        return output.confirm(&instance, &format!("cancelled {id}"));
    }
    let item = |id: &str| json!({ "id": id, "cancel": true });
    each(
        client,
        output,
        "/instances:batch-update",
        &arguments.ids,
        item,
        |id, _| format!("cancelled {id}"),
    )
}

/// Repeats the request until all descendants are cancelled, because the server cancels a bounded
/// number with each. After a lost connection, the same command continues.
fn cancel_with_descendants(
    client: &Client,
    output: Output,
    ids: &[String],
) -> Result<(), CliError> {
    for id in ids {
        let bar = output::moving_line();
        let mut cancelled = 0_usize;
        let mut instance = loop {
            let path = format!("/instances/{}/cancel?descendants=true", encode(id));
            let instance = client.post(&path, Payload::Empty)?;
            let part = instance
                .pointer("/descendants/cancelled")
                .and_then(Value::as_u64);
            cancelled += part
                .and_then(|part| usize::try_from(part).ok())
                .unwrap_or_default();
            bar.set_message(format!("cancelled {id} and {cancelled} of its descendants"));
            bar.tick();
            if instance.pointer("/descendants/more") != Some(&Value::Bool(true)) {
                break instance;
            }
        };
        bar.finish_and_clear();
        if let Some(count) = instance.pointer_mut("/descendants/cancelled") {
            *count = cancelled.into();
        }
        output.confirm(
            &instance,
            &format!(
                "cancelled {id} and {}",
                output::count(cancelled, "descendant")
            ),
        )?;
    }
    Ok(())
}

/// Reads JSON from an argument: the text itself, `@FILE`, or `-` or `@-` for stdin.
pub(super) fn read_json(argument: &str) -> Result<Value, CliError> {
    let file = argument.strip_prefix('@').map(Path::new);
    let source = file.or_else(|| Some(Path::new(argument)).filter(|path| source::is_stdin(path)));
    let (text, name) = match source {
        Some(path) => (source::read_text(path)?, source::shown(path)),
        None => (argument.to_owned(), "the input".to_owned()),
    };
    digits::read(text.as_bytes()).map_err(|error| {
        CliError::with_hint(
            format!("{name} is not JSON: {}", plain(&error.to_string())),
            r#"write for example --input '{"name": "Ada"}', --input @file.json, or --input - for stdin"#,
        )
    })
}

fn details(instance: &Value) -> String {
    let mut facts = vec![
        ("instance", cell(instance, "/id")),
        (
            "workflow",
            format!(
                "{}, version {}",
                cell(instance, "/workflow"),
                cell(instance, "/workflow_version")
            ),
        ),
        ("status", cell(instance, "/status")),
        (
            "started",
            format!(
                "{} by {}",
                time(instance, "/created_at"),
                cell(instance, "/started_by")
            ),
        ),
    ];
    for (name, pointer) in [
        ("parent", "/parent_id"),
        ("step", "/current_step"),
        ("failure", "/failure/message"),
        ("output", "/output"),
    ] {
        if instance
            .pointer(pointer)
            .is_some_and(|value| !value.is_null())
        {
            facts.push((name, cell(instance, pointer)));
        }
    }
    if instance.get("completed_at").is_some_and(|at| !at.is_null()) {
        facts.push(("ended", time(instance, "/completed_at")));
    }
    let mut text = output::facts(&facts);
    let list = |name: &str| {
        instance
            .get(name)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let attempts = list("attempts");
    if !attempts.is_empty() {
        let rows = attempts.iter().map(|attempt| {
            vec![
                cell(attempt, "/step"),
                cell(attempt, "/number"),
                cell(attempt, "/outcome"),
                cell(attempt, "/plugin"),
                time(attempt, "/finished_at"),
                cell(attempt, "/failure/message"),
            ]
        });
        text.push('\n');
        text.push_str(&table(
            &["STEP", "ATTEMPT", "OUTCOME", "PLUGIN", "ENDED", "FAILURE"],
            rows,
        ));
    }
    let children = list("children");
    if !children.is_empty() {
        let rows = children.iter().map(|child| {
            vec![
                cell(child, "/step"),
                cell(child, "/id"),
                cell(child, "/workflow"),
            ]
        });
        text.push('\n');
        text.push_str(&table(&["STEP", "CHILD", "WORKFLOW"], rows));
    }
    let approvals = list("approvals");
    if !approvals.is_empty() {
        text.push('\n');
        text.push_str(&super::approvals::approvals_table(&approvals));
    }
    text
}
