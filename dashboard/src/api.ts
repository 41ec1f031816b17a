// Requests to the host that served this page.
import { BASE } from "./base";
import * as json from "./json";
import { session, signOut } from "./session";
import type { Page, Principal } from "./types";

/** An error response, with the message of the host. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    /** The mistakes of an input, each with its place as a JSON pointer. */
    readonly problems: { path: string; message: string }[] = [],
  ) {
    super(message);
  }

  /** True if the host does not have this route, because it is an older or smaller one. */
  get isMissingRoute(): boolean {
    return this.code === "no-such-path" || this.code === "method-not-allowed";
  }
}

/** An array is a parameter that is repeated. */
export type Query = Record<string, string | number | string[] | null | undefined>;

export function withQuery(path: string, query: Query = {}): string {
  const given = Object.entries(query).filter(
    ([, value]) => value !== null && value !== undefined && value !== "",
  );
  const pairs = given.flatMap(([name, value]) =>
    (Array.isArray(value) ? value : [value]).map((one) => [name, String(one)]),
  );
  const text = new URLSearchParams(pairs).toString();
  return text === "" ? path : `${path}?${text}`;
}

const authorization = (token: string) => ({
  authorization: `Bearer ${token}`,
  accept: "application/json",
});

async function failure(response: Response): Promise<ApiError> {
  const body = (await response.json().catch(() => null)) as {
    error?: {
      code?: string;
      message?: string;
      problems?: { path?: string; message: string }[];
    };
  } | null;
  const { code, message, problems } = body?.error ?? {};
  const placed = (problems ?? []).flatMap(({ path, message }) =>
    path === undefined ? [] : [{ path, message }],
  );
  return new ApiError(
    response.status,
    code ?? "unknown",
    message ?? `The host answered ${response.status}.`,
    placed,
  );
}

/**
 * Sends a request with the token of the signed-in user. A token that is no longer valid leads back
 * to the sign-in.
 */
export async function send(path: string, init: RequestInit = {}): Promise<Response> {
  const asked = session();
  const token = asked?.token ?? "";
  const response = await fetch(`${BASE}${path}`, {
    ...init,
    headers: { ...authorization(token), ...init.headers },
    cache: "no-store",
    credentials: "omit",
    referrerPolicy: "no-referrer",
    redirect: "error",
  }).catch((error: unknown) => {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, "unreachable", "The host does not answer.");
  });
  if (response.ok) return response;
  const error = await failure(response);
  // A response to an earlier session says nothing about this one.
  if (response.status === 401 && session() === asked) signOut();
  throw error;
}

export async function get<T>(path: string, query?: Query, signal?: AbortSignal): Promise<T> {
  const response = await send(withQuery(path, query), { signal: signal ?? null });
  return json.parse(await response.text()) as T;
}

export const post = <T>(path: string, body?: unknown): Promise<T | null> =>
  postJson(path, body === undefined ? undefined : json.stringify(body));

/** Posts a text that is JSON already, so that numbers keep their digits. */
export async function postJson<T>(
  path: string,
  body?: string,
  headers: Record<string, string> = {},
): Promise<T | null> {
  const response = await send(
    path,
    body === undefined
      ? { method: "POST" }
      : { method: "POST", body, headers: { "content-type": "application/json", ...headers } },
  );
  return response.status === 204 ? null : (json.parse(await response.text()) as T);
}

export async function remove(path: string): Promise<void> {
  await send(path, { method: "DELETE" });
}

/** Loads all pages of a list, up to a bound that the page shows beside the list. */
export async function getAll<T>(
  path: string,
  signal?: AbortSignal,
  pagesMax = 5,
): Promise<Page<T>> {
  const items: T[] = [];
  let next: string | null = null;
  for (let page = 0; page < pagesMax; page += 1) {
    const answer: Page<T> = await get(path, { limit: 200, after: next }, signal);
    items.push(...answer.items);
    next = answer.next;
    if (next === null) break;
  }
  return { items, next };
}

/** Loads the user of a token, before that user is signed in. */
export async function whoIs(token: string): Promise<Principal> {
  const response = await fetch(`${BASE}/whoami`, {
    headers: authorization(token),
    cache: "no-store",
    credentials: "omit",
  }).catch(() => {
    throw new ApiError(0, "unreachable", "The host does not answer.");
  });
  if (!response.ok) throw await failure(response);
  return (await response.json()) as Principal;
}

export const segment = (text: string): string => encodeURIComponent(text);
