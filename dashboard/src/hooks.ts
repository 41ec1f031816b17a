// Hooks that views share: data that is loaded repeatedly, the address, the clock.
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

/**
 * Loads when `key` changes and every `everyMs`. The old data stays while the same key is loaded
 * again.
 */
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
        // The last data stays beside the error, because old numbers are better than none.
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

/** The properties of a view. */
export interface ViewProps {
  address: Address;
}

/** Parses `#/instances/7?status=running` into the view, its argument and its filter. */
export function readAddress(): Address {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const slash = path.indexOf("/");
  const view = slash < 0 ? path : path.slice(0, slash);
  let argument: string | null = null;
  try {
    argument = slash < 0 ? null : decodeURIComponent(path.slice(slash + 1));
  } catch {
    // The address has a percent sign that begins no escape; the argument is ignored.
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

/** Returns the live numbers, and renders again whenever there are newer ones. */
export function useLive(): Live {
  const live = useContext(LiveContext);
  if (live === null) throw new Error("live numbers are for those who are signed in");
  const [, setTurn] = useState(0);
  useEffect(() => live.subscribe(() => setTurn((turn) => turn + 1)), [live]);
  return live;
}

const phone = matchMedia("(max-width: 720px)");

/** Returns true while the window is as narrow as a phone. The style sheet has the same width. */
export function useIsPhone(): boolean {
  const [isPhone, setIsPhone] = useState(phone.matches);
  useEffect(() => {
    const look = () => setIsPhone(phone.matches);
    phone.addEventListener("change", look);
    return () => phone.removeEventListener("change", look);
  }, []);
  return isPhone;
}

const clockListeners = new Set<() => void>();
let clockTimer: ReturnType<typeof setInterval> | undefined;
const CLOCK_MS = 5_000;

/**
 * Returns the time, updated every few seconds. All users share one timer, so that they change
 * together.
 */
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
