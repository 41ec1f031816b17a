// What views have in common: data that is loaded and loaded again, the address, the clock.
import { createContext } from "preact";
import { useCallback, useContext, useEffect, useRef, useState } from "preact/hooks";
import type { ApiError } from "./api";
import type { Live } from "./live";

export interface Resource<T> {
  data: T | undefined;
  error: ApiError | undefined;
  loading: boolean;
  reload: () => void;
}

/** Loads when `key` changes and every `everyMs`. What was shown stays while the same is loaded again. */
export function useResource<T>(
  key: string,
  load: (signal: AbortSignal) => Promise<T>,
  everyMs?: number,
): Resource<T> {
  const [state, setState] = useState<{ key: string; data?: T; error?: ApiError; loading: boolean }>(
    {
      key,
      loading: true,
    },
  );
  const [turn, setTurn] = useState(0);
  const loader = useRef(load);
  loader.current = load;
  useEffect(() => {
    const aborting = new AbortController();
    setState((before) =>
      before.key === key ? { ...before, loading: true } : { key, loading: true },
    );
    loader.current(aborting.signal).then(
      (data) => {
        if (!aborting.signal.aborted) setState({ key, data, loading: false });
      },
      (error: ApiError) => {
        // The last good answer stays beside the error: old numbers are better than none.
        if (!aborting.signal.aborted)
          setState((before) => ({ ...before, key, error, loading: false }));
      },
    );
    return () => aborting.abort();
  }, [key, turn]);
  const reload = useCallback(() => setTurn((before) => before + 1), []);
  useEffect(() => {
    if (everyMs === undefined) return undefined;
    const timer = setInterval(() => {
      if (!document.hidden) reload();
    }, everyMs);
    return () => clearInterval(timer);
  }, [everyMs, reload]);
  const current: typeof state = state.key === key ? state : { key, loading: true };
  return { data: current.data, error: current.error, loading: current.loading, reload };
}

export interface Address {
  view: string;
  argument: string | null;
  query: URLSearchParams;
}

/** `#/instances/7?status=running`: the view, what of it, and how it is narrowed. */
export function readAddress(): Address {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const slash = path.indexOf("/");
  const view = slash < 0 ? path : path.slice(0, slash);
  let argument: string | null = null;
  try {
    argument = slash < 0 ? null : decodeURIComponent(path.slice(slash + 1));
  } catch {
    // Somebody typed a percent sign that begins nothing; then nothing is meant.
  }
  return { view: view === "" ? "overview" : view, argument, query: new URLSearchParams(query) };
}

export function link(
  view: string,
  argument?: string | null,
  query: Record<string, string> = {},
): string {
  const given = new URLSearchParams(
    Object.entries(query).filter(([, value]) => value !== ""),
  ).toString();
  const path =
    argument === undefined || argument === null ? view : `${view}/${encodeURIComponent(argument)}`;
  return `#/${path}${given === "" ? "" : `?${given}`}`;
}

export function useAddress(): Address {
  const [address, setAddress] = useState(readAddress);
  useEffect(() => {
    const read = () => setAddress(readAddress());
    addEventListener("hashchange", read);
    return () => removeEventListener("hashchange", read);
  }, []);
  return address;
}

export const LiveContext = createContext<Live | null>(null);

/** The live numbers, and a new turn whenever there are newer ones. */
export function useLive(): Live {
  const live = useContext(LiveContext);
  if (live === null) throw new Error("live numbers are for those who are signed in");
  const [, setTurn] = useState(0);
  useEffect(() => live.subscribe(() => setTurn((turn) => turn + 1)), [live]);
  return live;
}

const clockListeners = new Set<() => void>();
let clockTimer: ReturnType<typeof setInterval> | undefined;
const CLOCK_MS = 5_000;

/** The time, every few seconds. One timer for all that ask, so that what is shown changes together. */
export function useNow(): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const listener = () => setNow(Date.now());
    clockListeners.add(listener);
    clockTimer ??= setInterval(() => clockListeners.forEach((tell) => tell()), CLOCK_MS);
    return () => {
      clockListeners.delete(listener);
      if (clockListeners.size > 0) return;
      clearInterval(clockTimer);
      clockTimer = undefined;
    };
  }, []);
  return now;
}
