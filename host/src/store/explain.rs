//! Tests: what the plans of the queries look like. No query may read a whole table, or sort what an index has sorted.

use sqlx::{AssertSqlSafe, Sqlite};
use uuid::Uuid;

use super::backend::on;
use super::{InstanceFilter, Page, Store, approvals, instances};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::model::{ApprovalStatus, InstanceStatus, Name};

fn team() -> Name {
    "acme".parse().expect("is a name")
}

fn page() -> Page {
    Page { after: Some(Uuid::max()), limit: 50 }
}

fn instance_list(filter: InstanceFilter) -> String {
    instances::list::<Sqlite>(&team(), &filter, &page()).into_string()
}

fn approval_list(approver: Option<&str>, status: Option<ApprovalStatus>) -> String {
    approvals::list::<Sqlite>(&team(), approver, status, &page()).into_string()
}

async fn plan(store: &Store, sql: &str) -> String {
    let mut connection = store.core().backend.read().await.expect("connects");
    let explain = format!("EXPLAIN QUERY PLAN {sql}");
    let rows: Vec<(i64, i64, i64, String)> =
        on!(connection, c => sqlx::query_as(AssertSqlSafe(explain)).fetch_all(c).await).expect("explains");
    rows.into_iter().map(|row| row.3).collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn queries_use_indexes() {
    let config = Config::defaults().expect("the defaults load");
    let clock = Clock::manual(Timestamp::from_micros(0));
    let store = Store::open_in_memory(&config, clock).await.expect("opens");
    let text = |text: &str| Some(text.to_owned());
    let filter = InstanceFilter::default;
    let (running, pending) = (Some(InstanceStatus::Running), Some(ApprovalStatus::Pending));
    let expense = Some(team());
    let queries = [
        // The seven patterns of the specification, in its order.
        ("idx_workflow_approvals_approver_status", approval_list(Some("bob"), pending)),
        ("idx_workflow_approvals_instance_id", approvals::OF_INSTANCE.to_owned()),
        ("idx_workflow_instances_status", instance_list(InstanceFilter { status: running, ..filter() })),
        (
            "idx_workflow_instances_entity",
            instance_list(InstanceFilter { entity_type: text("a"), entity_id: text("b"), ..filter() }),
        ),
        (
            "idx_workflow_approvals_status_expires",
            "SELECT id FROM workflow_approvals WHERE status = 'pending' AND expires_at <= $1 ORDER BY expires_at \
             LIMIT 100"
                .to_owned(),
        ),
        ("idx_workflow_instances_started_by", instance_list(InstanceFilter { started_by: text("ann"), ..filter() })),
        (
            "idx_workflow_instances_workflow_status",
            instance_list(InstanceFilter { workflow: expense.clone(), status: running, ..filter() }),
        ),
        // The other lists, and what the engine asks all the time.
        ("idx_workflow_instances_workflow_id", instance_list(InstanceFilter { workflow: expense, ..filter() })),
        ("idx_workflow_instances_project_id", instance_list(InstanceFilter { project_id: text("p"), ..filter() })),
        ("idx_workflow_instances_team", instance_list(filter())),
        ("idx_workflow_approvals_approver_id", approval_list(Some("bob"), None)),
        ("idx_workflow_approvals_status", approval_list(None, pending)),
        ("idx_workflow_instances_owner_wake_at", instances::DUE.to_owned()),
    ];
    for (index, sql) in queries {
        let plan = plan(&store, &sql).await;
        assert!(plan.contains(&format!(" {index} ")), "{sql}\n{plan}");
        assert!(!plan.contains("SCAN workflow_instances;") && !plan.ends_with("SCAN workflow_instances"), "{plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
    }
    store.close().await;
}
