//! The queries whose plans are checked, with the index that each needs.

use super::*;

/// The last hour of the seeded instances.
fn recent() -> Period {
    Period {
        from: Some(seconds(INSTANCES - 3_600)),
        to: Some(seconds(INSTANCES)),
    }
}

fn by_id() -> Cursor {
    Cursor {
        at: None,
        key: Uuid::max(),
    }
}

/// A cursor for lists that begin with the lowest id.
fn by_id_upwards() -> Cursor {
    Cursor {
        at: None,
        key: Uuid::nil(),
    }
}

fn by_time() -> Cursor {
    Cursor {
        at: Some(seconds(INSTANCES - 60)),
        key: Uuid::nil(),
    }
}

/// Returns each index with a query that needs it.
pub(super) fn queries(one: Uuid) -> Vec<(&'static str, Sql)> {
    let text = |text: &str| Some(text.to_owned());
    let acme = || name("acme");
    let (waiting, pending) = (Some(InstanceStatus::Waiting), Some(ApprovalStatus::Pending));
    let workflow_list = |status, created, after| {
        let filter = WorkflowFilter { status, created };
        workflows::list(
            &acme(),
            &filter,
            &Page {
                after: Some(after),
                limit: PAGE,
            },
        )
    };
    let instance_list = |filter: InstanceFilter, after| {
        instances::list(
            &acme(),
            &filter,
            &Page {
                after: Some(after),
                limit: PAGE,
            },
        )
    };
    let approval_list = |filter: ApprovalFilter, after| {
        approvals::list(
            &acme(),
            &filter,
            &Page {
                after: Some(after),
                limit: PAGE,
            },
        )
    };
    let audit_list = |team: Option<&Name>, filter: AuditFilter| {
        audit::list(
            team,
            &filter,
            &Page {
                after: Some(Cursor {
                    at: Some(seconds(1_000)),
                    key: Uuid::nil(),
                }),
                limit: PAGE,
            },
        )
    };
    let by_actor = || AuditFilter {
        actor: Some("seldom".to_owned()),
        ..AuditFilter::default()
    };
    let filter = InstanceFilter::default;
    let asked = ApprovalFilter::default;
    let (all, by_name) = (
        Period::default(),
        Cursor {
            at: None,
            key: name("w-5"),
        },
    );
    let by_time_and_name = Cursor {
        at: Some(seconds(1_000)),
        key: name("w-5"),
    };
    let soon = Period {
        from: None,
        to: Some(seconds(86_400 + 600)),
    };
    let micros = |time: Timestamp| Bind::Number(time.as_micros());
    let series = |team| HistoryQuery {
        team,
        kind: SeriesKind::Operation,
        name: "number-7".to_owned(),
        from: seconds(0),
        to: seconds(600),
        step: HistoryStep::Fine,
        seconds: 10,
        own: false,
        rows_max: 1_000,
    };
    vec![
        // The seven main query patterns.
        (
            "idx_workflow_approvals_approver_status",
            approval_list(
                ApprovalFilter {
                    approver: text("user-1"),
                    status: pending,
                    ..asked()
                },
                by_id_upwards(),
            ),
        ),
        (
            "idx_workflow_approvals_instance_id",
            Sql::with_binds(
                approvals::OF_INSTANCE,
                vec![Bind::Id(one), Bind::from(acme().as_str()), Bind::Number(1)],
            ),
        ),
        (
            "idx_workflow_instances_status",
            instance_list(
                InstanceFilter {
                    status: waiting,
                    ..filter()
                },
                by_id(),
            ),
        ),
        (
            "idx_workflow_instances_entity",
            instance_list(
                InstanceFilter {
                    entity_type: text("invoice"),
                    entity_id: text("7"),
                    ..filter()
                },
                by_id(),
            ),
        ),
        (
            "idx_workflow_approvals_status_expires",
            approval_list(
                ApprovalFilter {
                    status: pending,
                    expires: soon,
                    ..asked()
                },
                by_time(),
            ),
        ),
        (
            "idx_workflow_instances_started_by",
            instance_list(
                InstanceFilter {
                    started_by: text("user-9"),
                    ..filter()
                },
                by_id(),
            ),
        ),
        (
            "idx_workflow_instances_workflow_status",
            instance_list(
                InstanceFilter {
                    workflow: Some(name("expense")),
                    status: waiting,
                    ..filter()
                },
                by_id(),
            ),
        ),
        // The other filters.
        (
            "idx_workflows_status",
            workflow_list(Some(WorkflowStatus::Archived), all, by_name),
        ),
        (
            "idx_workflows_created_at",
            workflow_list(None, recent(), by_time_and_name.clone()),
        ),
        (
            "idx_workflows_status_created",
            workflow_list(Some(WorkflowStatus::Archived), recent(), by_time_and_name),
        ),
        (
            "idx_workflow_instances_workflow_id",
            instance_list(
                InstanceFilter {
                    workflow: Some(name("expense")),
                    ..filter()
                },
                by_id(),
            ),
        ),
        (
            "idx_workflow_instances_project_id",
            instance_list(
                InstanceFilter {
                    project_id: text("project-7"),
                    ..filter()
                },
                by_id(),
            ),
        ),
        (
            "idx_workflow_instances_status_created",
            instance_list(
                InstanceFilter {
                    status: waiting,
                    created: recent(),
                    ..filter()
                },
                by_time(),
            ),
        ),
        (
            "idx_workflow_instances_started_at",
            instance_list(
                InstanceFilter {
                    started: recent(),
                    ..filter()
                },
                by_time(),
            ),
        ),
        (
            "idx_workflow_approvals_approver_id",
            approval_list(
                ApprovalFilter {
                    approver: text("user-9"),
                    ..asked()
                },
                by_id_upwards(),
            ),
        ),
        (
            "idx_workflow_approvals_status",
            approval_list(
                ApprovalFilter {
                    status: pending,
                    ..asked()
                },
                by_id_upwards(),
            ),
        ),
        (
            "idx_workflow_approvals_instance_step",
            approval_list(
                ApprovalFilter {
                    instance: Some(one),
                    step: Some("manager".parse().expect("is a step")),
                    ..asked()
                },
                by_id_upwards(),
            ),
        ),
        (
            "idx_workflow_approvals_expires_at",
            approval_list(
                ApprovalFilter {
                    expires: soon,
                    ..asked()
                },
                by_time(),
            ),
        ),
        (
            "idx_workflow_approvals_created_at",
            approval_list(
                ApprovalFilter {
                    created: recent(),
                    ..asked()
                },
                by_time(),
            ),
        ),
        (
            "idx_workflow_approvals_approver_status_created",
            approval_list(
                ApprovalFilter {
                    approver: text("user-1"),
                    status: pending,
                    created: recent(),
                    ..asked()
                },
                by_time(),
            ),
        ),
        // The lists without a filter, and the frequent queries of the engine.
        (
            "idx_workflow_instances_created_at",
            instance_list(filter(), by_time()),
        ),
        (
            "idx_workflow_approvals_created_at",
            approval_list(asked(), by_time()),
        ),
        (
            "idx_workflow_instances_owner_team_wake_at",
            Sql::with_binds(
                instances::DUE,
                vec![
                    Bind::Id(Uuid::nil()),
                    "acme".into(),
                    micros(seconds(INSTANCES)),
                    Bind::Number(PAGE.into()),
                ],
            ),
        ),
        (
            "idx_workflow_instances_parent_id",
            instance_list(
                InstanceFilter {
                    parent: Some(Uuid::from_u128(7)),
                    ..InstanceFilter::default()
                },
                by_id(),
            ),
        ),
        (
            "idx_workflow_instances_parent_id",
            Sql::with_binds(
                children::LINKS,
                vec![
                    Bind::Id(Uuid::from_u128(7)),
                    "acme".into(),
                    Bind::Number(100),
                ],
            ),
        ),
        (
            "idx_workflow_instances_root_id",
            Sql::with_binds(
                trees::UNFINISHED,
                vec![
                    Bind::Id(Uuid::from_u128(7)),
                    Bind::Id(one),
                    Bind::Number(100),
                ],
            ),
        ),
        (
            "idx_idempotency_keys_created_at",
            Sql::with_binds(
                idempotency::OLD,
                vec![micros(seconds(100)), Bind::Number(100)],
            ),
        ),
        (
            "idx_workflow_instances_owner_team_wake_at",
            Sql::with_binds(
                instances::DUE_TEAMS,
                vec![Bind::Id(Uuid::nil()), micros(seconds(INSTANCES))],
            ),
        ),
        (
            "idx_workflow_instances_quarantined",
            instance_list(
                InstanceFilter {
                    quarantined: true,
                    ..filter()
                },
                by_id(),
            ),
        ),
        (
            "idx_workflow_instances_quarantined",
            quarantine::count(Some(&acme())),
        ),
        (
            "idx_workflow_instances_quarantined",
            quarantine::count(None),
        ),
        (
            "idx_workflow_instances_completed_at",
            retention::batch(&acme(), seconds(5_000), None, 500),
        ),
        (
            "idx_workflow_instances_completed_at",
            retention::batch(&acme(), seconds(5_000), Some(by_time()), 500),
        ),
        (
            "idx_workflow_instances_completed_at",
            Sql::with_binds(retention::NEXT_TEAM, vec!["acme".into()]),
        ),
        // The history: a series, its points, the list of series, the points of one host, old
        // points.
        (
            "idx_history_series_team_kind_name",
            history::named(&series(Some(acme()))),
        ),
        (
            "idx_history_series_kind_name",
            history::named(&series(None)),
        ),
        (
            "idx_history_points_series_step_at",
            history::points(&series(None), [one], None),
        ),
        (
            "idx_history_points_series_step_at",
            history::points(&series(None), [one], Some(one)),
        ),
        (
            "idx_history_points_series_step_at",
            history::listed(Some(&acme()), HistoryStep::Fine, (seconds(0), seconds(600))),
        ),
        (
            "idx_history_points_step_at",
            Sql::with_binds(
                history::OF_HOST,
                vec![Bind::Number(10), micros(seconds(100)), Bind::Id(one)],
            ),
        ),
        (
            "idx_history_points_step_at",
            Sql::with_binds(
                &format!("SELECT at {}", history::OLD),
                vec![
                    Bind::Number(10),
                    micros(seconds(100)),
                    Bind::Number(PAGE.into()),
                ],
            ),
        ),
        // Alerts: active ones, resolved ones without a notification of their end, a page of
        // resolved ones, old ones.
        ("idx_alerts_active", alerts::active(Some(&acme()))),
        ("idx_alerts_active", alerts::active(None)),
        ("idx_alerts_untold", alerts::untold()),
        (
            "idx_alerts_resolved",
            alerts::resolved(
                Some("acme"),
                &Page {
                    after: Some(one),
                    limit: PAGE,
                },
            ),
        ),
        (
            "idx_alerts_resolved_at",
            Sql::with_binds(alerts::NEWEST, vec![Bind::Number(10_000)]),
        ),
        (
            "idx_alerts_resolved_at",
            Sql::with_binds(
                alerts::OLD,
                vec![micros(seconds(100)), Bind::Number(PAGE.into())],
            ),
        ),
        (
            "idx_alert_silences_until",
            silences::not_ended(Some(&acme()), seconds(INSTANCES - 60)),
        ),
        ("idx_alert_silences_until", silences::ended(seconds(60))),
        // The audit: a team's page, a page of all teams, old entries, the next team, entries above
        // a team's bounds.
        (
            "idx_audit_team_at",
            audit_list(Some(&acme()), AuditFilter::default()),
        ),
        ("idx_audit_at", audit_list(None, AuditFilter::default())),
        (
            "idx_audit_actor_team_at",
            audit_list(Some(&acme()), by_actor()),
        ),
        ("idx_audit_actor_at", audit_list(None, by_actor())),
        (
            "idx_audit_at",
            Sql::with_binds(
                audit::OLD,
                vec![micros(seconds(40)), Bind::Number(PAGE.into())],
            ),
        ),
        (
            "idx_audit_team_at",
            Sql::with_binds(audit::NEXT_TEAM, vec!["acme".into()]),
        ),
        (
            "idx_audit_team_class_at",
            Sql::with_binds(audit::CLASSES, vec!["acme".into()]),
        ),
        (
            "idx_audit_team_class_at",
            Sql::with_binds(
                audit::OLDEST,
                vec!["".into(), "cache.clear".into(), Bind::Number(PAGE.into())],
            ),
        ),
    ]
}
