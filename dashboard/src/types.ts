// The host's responses, as far as the page shows them. Fields that some hosts lack are optional.

export type Permission =
  | "workflow_read"
  | "workflow_start"
  | "workflow_manage"
  | "plugin_read"
  | "plugin_manage"
  | "approval_decide"
  | "operator";

export interface Principal {
  team: string;
  user: string;
  permissions: Permission[];
}

export interface Page<T> {
  items: T[];
  next: string | null;
}

export interface Timing {
  count: number;
  min_ms: number;
  max_ms: number;
  avg_ms: number;
  p50_ms: number;
  p95_ms: number;
  p99_ms: number;
}
export interface Operation extends Timing {
  errors: number;
  error_rate: number;
  per_minute: number;
}

export interface Lifecycle {
  created: number;
  completed: number;
  rejected: number;
  cancelled: number;
  failed: number;
  rejection_rate: number;
  durations: Timing;
}
export interface ApprovalCounts {
  submitted: number;
  approved: number;
  rejected: number;
  expired: number;
  cancelled: number;
  waiting: Timing;
}
export interface Batch {
  calls: number;
  items: number;
  failed_items: number;
  largest: number;
  durations: Timing;
}

export interface Cache {
  kind: string;
  entries: number;
  bytes: number;
  hits: number;
  misses: number;
  hit_rate: number | null;
  coalesced: number;
  stale: number;
  invalidated: number;
  expired: number;
  evictions: number;
  loads: number;
  load_avg_us: number;
  saved_us: number;
  ttl_ms: number;
  entries_max: number;
  bytes_max: number;
}

/** Hit rates that a cache would have with other settings. */
export interface CacheAdvice {
  kind: string;
  sampled_reads: number;
  /** Hit rates of LRU caches of other sizes; empty while too little is known. */
  curve: { entries: number; hit_rate: number }[];
  suggestion: { entries: number | null; bytes: number | null; ttl_ms: number | null } | null;
  reason: string;
}

/** A metric that a plugin declared, with one combination of labels. */
export interface Series {
  name: string;
  labels: Record<string, string>;
  kind: "counter" | "gauge" | "histogram";
  value?: number;
  count?: number;
  errors?: number;
  avg?: number;
  p50?: number;
  p95?: number;
  p99?: number;
}

export interface Stats {
  started_at: string;
  since: string;
  uptime_seconds: number;
  operations: Record<string, Operation>;
  lifecycle: Lifecycle;
  approvals: ApprovalCounts;
  batches: Record<string, Batch>;
  limits: Record<string, number>;
  plugins: { team: string; plugin: string; series: Series[] }[];
  instances: Record<string, number>;
  caches: Cache[];
  commits: {
    groups: number;
    commits: number;
    conflicts: number;
    largest_group: number;
    queue: number;
  };
  peers: number;
}

export interface Summary {
  status: "ok" | "degraded" | "alerting";
  headline: string;
  lines: string[];
  uptime_seconds: number;
  operations: {
    count: number;
    error_rate: number;
    p50_ms: number;
    p95_ms: number;
    p99_ms: number;
    per_minute: number;
  };
  cache_hit_rate: number | null;
  slowest: { operation: string; p95_ms: number }[];
  most_errors: { operation: string; errors?: number; error_rate?: number }[];
  alerts_firing: number | null;
}

/** One second of the live stream. A value is null if it could not be measured. */
export interface Snapshot {
  at: string;
  operations: {
    per_minute: number | null;
    error_rate: number | null;
    p50_ms: number | null;
    p95_ms: number | null;
    p99_ms: number | null;
  };
  lifecycle: Partial<Lifecycle>;
  approvals: Partial<ApprovalCounts>;
  /** Hits and misses only grow. Some hosts do not send them. */
  caches: {
    kind: string;
    hit_rate: number | null;
    entries: number;
    hits?: number;
    misses?: number;
  }[];
  queue_depth: number | null;
  running: number | null;
  batches: { items_per_minute: number | null; avg_items: number | null };
  alerts_firing: number | null;
}

export interface OperationPoint extends Operation {
  at: string;
}
export interface MetricPoint {
  at: string;
  value: number;
  per_minute?: number | null;
}
export interface HistoryNames {
  operations: string[];
  metrics: string[];
}
/** Several series of one period, in the order of the request. */
export interface HistorySeries {
  step_seconds: number;
  from: string;
  to: string;
  series: (
    | { operation: string; points: OperationPoint[] }
    | { metric: string; kind: "counter" | "gauge" | null; points: MetricPoint[] }
  )[];
}

export interface Alert {
  id: string;
  rule: string;
  severity: string;
  team: string | null;
  subject: string;
  state: "pending" | "firing" | "resolved";
  since: string;
  fired_at: string | null;
  resolved_at: string | null;
  value: number;
  threshold: number;
  unit: string;
  message: string;
  evidence: Record<string, unknown>;
  acknowledged: { by: string; at: string; comment: string | null } | null;
  silenced_until: string | null;
}
export interface Silence {
  id: string;
  rule?: string | null;
  subject?: string | null;
  until: string;
  comment: string;
  created_by: string;
  team: string | null;
}
export interface AuditEntry {
  id: string;
  at: string;
  team: string | null;
  actor: { user: string; team: string } | null;
  action: string;
  subject: string;
  detail: Record<string, unknown>;
  outcome: "begun" | "done" | "failed" | "refused";
  request_id: string;
  source: string;
}

export interface PluginVersion {
  id: string;
  name: string;
  version: string;
  description: string;
  digest: string;
  component_bytes: number;
  steps: { name: string; description: string }[];
  metrics: string[];
  grants: { interfaces: string[]; shared_buckets: string[] };
  uploaded_by: string;
  uploaded_at: string;
}
export interface Comparison {
  plugin: string;
  baseline: Operation & { version: string };
  candidate: Operation & { version: string };
  verdict: "better" | "same" | "worse" | "too_few_calls";
  reasons: string[];
}

export interface Workflow {
  id: string;
  name: string;
  description: string;
  status: string;
  latest_version: number;
  created_by: string;
  created_at: string;
  updated_at: string;
}
export interface Step {
  id: string;
  plugin?: string;
  step?: string;
  needs?: string[];
  when?: string;
  input?: unknown;
  retry?: { max_attempts: number };
  approval?: { title: string };
}
/** Only the shown fields are named. A definition that is applied again keeps all its fields. */
export interface Definition {
  name: string;
  description?: string;
  /** The JSON Schema of the input. */
  input?: unknown;
  steps: Step[];
  output?: unknown;
}
export interface WorkflowVersion {
  name: string;
  version: number;
  created_by: string;
  created_at: string;
  definition: Definition;
  /** The text as it was applied; null for a version that an earlier release applied. */
  source?: string | null;
}

export interface NewestVersion extends WorkflowVersion {
  status: string;
}

export interface Failure {
  code: string;
  message: string;
  blame: string;
  retryable: boolean;
}
/** An instance in a list. */
export interface InstanceSummary {
  id: string;
  workflow: string;
  workflow_version: number;
  entity_type: string | null;
  entity_id: string | null;
  project_id: string | null;
  started_by: string;
  /** The instance whose `workflow` step started this one. */
  parent_id?: string;
  status: string;
  current_step: string | null;
  metadata: unknown;
  failure: Failure | null;
  created_at: string;
  started_at: string;
  updated_at: string;
  completed_at: string | null;
  crashes?: number;
  quarantined_at?: string;
}
export interface Instance extends InstanceSummary {
  input: unknown;
  output: unknown;
}
export interface Attempt {
  step: string;
  number: number;
  outcome: string;
  plugin: string | null;
  output: unknown;
  /** Set if the response has no room for the output; `url` is the path of the whole attempt. */
  output_omitted?: { bytes: number; url: string };
  failure: Failure | null;
  started_at: string;
  finished_at: string;
  retry_at: string | null;
}
/** An attempt with `?fields=input`. Without an input if it could not be evaluated. */
export interface AttemptWithInput extends Attempt {
  input?: unknown;
}
export interface Approval {
  id: string;
  instance_id: string;
  workflow: string;
  step: string;
  approver_id: string;
  title: string;
  quorum: number;
  status: string;
  comment: string | null;
  created_at: string;
  expires_at: string;
  decided_at: string | null;
}
export interface InstanceDetails extends Instance {
  attempts: Attempt[];
  /** The number of earlier attempts that are left out. */
  attempts_omitted?: number;
  approvals: Approval[];
  /** Instances that `workflow` steps have started. */
  children?: ChildLink[];
}

export interface ChildLink {
  id: string;
  /** The address of the step that started it. */
  step: string;
  workflow: string;
}

/** The log lines of one attempt. */
export interface AttemptLog {
  step: string;
  number: number;
  dropped: number;
  lines: { at: string; level: string; line: string }[];
}
