// Rollback to an earlier version of a plugin. Workflows that would run another version of the
// plugin are applied again with this version. Running instances keep the versions that they began
// with. Every change is a new version of its workflow, so a rollback can itself be rolled back.
import { get, getAll, post, segment } from "./api";
import type { Definition, Workflow, WorkflowVersion } from "./types";

/** Returns the plugin `expense` for `expense@1.1.0` and for `expense`. */
const pluginOf = (reference: string): string => reference.split("@")[0] ?? reference;

/** A workflow with its new definition. */
export interface Change {
  workflow: string;
  definition: Definition;
}

/**
 * Returns the changes after which new instances run `reference`: `plugin@version`, or `plugin` for
 * the newest version.
 */
export async function changesFor(reference: string, signal?: AbortSignal): Promise<Change[]> {
  const plugin = pluginOf(reference);
  const { items } = await getAll<Workflow>("/workflows", signal);
  const changes: Change[] = [];
  for (const { name } of items) {
    const { definition } = await get<WorkflowVersion>(`/workflows/${segment(name)}`, {}, signal);
    const isOther = (used: string | undefined) =>
      used !== undefined && pluginOf(used) === plugin && used !== reference;
    if (!definition.steps.some((step) => isOther(step.plugin))) continue;
    const steps = definition.steps.map((step) =>
      isOther(step.plugin) ? { ...step, plugin: reference } : step,
    );
    changes.push({ workflow: name, definition: { ...definition, steps } });
  }
  return changes;
}

/** Applies the changes one after the other. Stops at the first change that the host refuses. */
export async function apply(changes: Change[]): Promise<void> {
  for (const { definition } of changes) await post("/workflows", definition);
}
