-- The twin of sqlite/0012_quotas.sql: change both.

-- What each team has, as each host has changed it: the sum over the hosts is what there is. A host writes rows of its own
-- only, in the transactions that change it, so hosts do not wait for one another. What was there before belongs to the
-- host nil.
CREATE TABLE team_usage (
    team TEXT COLLATE "C" NOT NULL,
    host UUID NOT NULL,
    unfinished BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    CONSTRAINT team_usage_pkey PRIMARY KEY (team, host)
);

-- As store/usage.rs counts.
INSERT INTO team_usage (team, host, unfinished, stored_bytes)
SELECT team, '00000000-0000-0000-0000-000000000000', SUM(unfinished), SUM(stored_bytes) FROM (
    SELECT team, CASE WHEN completed_at IS NULL THEN 1 ELSE 0 END AS unfinished,
        512 + octet_length(pins) + octet_length(input) + octet_length(metadata)
            + COALESCE(octet_length(output), 0) + COALESCE(octet_length(failure), 0) AS stored_bytes
    FROM workflow_instances
    UNION ALL
    SELECT workflow_instances.team, 0,
        512 + COALESCE(octet_length(step_attempts.output), 0) + COALESCE(octet_length(step_attempts.failure), 0)
    FROM step_attempts JOIN workflow_instances ON workflow_instances.id = step_attempts.instance_id
    UNION ALL
    SELECT team, 0, 512 + octet_length(title) + COALESCE(octet_length(comment), 0) FROM workflow_approvals
    UNION ALL
    SELECT team, 0, 512 + octet_length(key) + octet_length(value) FROM plugin_storage
) AS counted GROUP BY team;
