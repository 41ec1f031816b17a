// The way back to an earlier version of a plugin: workflows that would run another version of it are applied again with
// this one. What runs already keeps the versions that it began with, and every change is a new version of its workflow,
// so that a rollback can itself be rolled back.
import { get, getAll, post, segment } from "./api";
import type { Definition, Workflow, WorkflowVersion } from "./types";

/** `expense@1.1.0` and `expense` are both of the plugin `expense`. */
const pluginOf = (reference: string): string => reference.split("@")[0] ?? reference;

/** A workflow, and its definition as it would be. */
export interface Change {
  workflow: string;
  definition: Definition;
}

/** What must change so that new instances run `reference`, which is `plugin@version`, or `plugin` for the newest. */
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

/** Applies the changes one after the other; the first that the host refuses ends it. */
export async function apply(changes: Change[]): Promise<void> {
  for (const { definition } of changes) await post("/workflows", definition);
}
