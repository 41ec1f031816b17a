// Lists in pages: the first page is loaded by the filter, the next when the user asks for more.
import { useState } from "preact/hooks";
import { get, type ApiError, type Query } from "./api";
import { useResource, type Resource } from "./hooks";
import type { Page } from "./types";

export interface Pages<T> extends Resource<T[]> {
  more: (() => void) | null;
  busy: boolean;
}

const ROWS = 50;

/**
 * Loads the first page again every `everyMs` until the user loads more, because rows must not move
 * while they are read.
 */
export function usePages<T>(path: string, query: Query, everyMs?: number): Pages<T> {
  const key = `${path} ${JSON.stringify(query)}`;
  const ask = (after: string | null, signal?: AbortSignal) =>
    get<Page<T>>(path, { ...query, limit: ROWS, after }, signal);
  // The pages are stored beside their key, so that pages of another filter are not shown under this
  // one.
  const [later, setLater] = useState<{
    key: string;
    first: Page<T>;
    items: T[];
    next: string | null;
  } | null>(null);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<ApiError>();
  const first = useResource(
    key,
    (signal) => ask(null, signal),
    later?.key === key ? undefined : everyMs,
  );
  const own = later !== null && later.first === first.data ? later : null;
  const next = own === null ? (first.data?.next ?? null) : own.next;
  const more = () => {
    const page = first.data;
    if (page === undefined || next === null) return;
    setBusy(true);
    setProblem(undefined);
    ask(next)
      .then(
        ({ items, next: following }) =>
          setLater({ key, first: page, items: [...(own?.items ?? []), ...items], next: following }),
        setProblem,
      )
      .finally(() => setBusy(false));
  };
  return {
    data: first.data && [...first.data.items, ...(own?.items ?? [])],
    error: first.error ?? problem,
    loading: first.loading,
    reload: () => {
      setProblem(undefined);
      setLater(null);
      first.reload();
    },
    more: next === null ? null : more,
    busy,
  };
}
