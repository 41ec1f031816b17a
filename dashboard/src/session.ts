// The signed-in user. The token is stored in this tab's session storage and sent in a header, never
// in a URL.
//
// A new tab asks the open tabs of the same browser for the token, over a broadcast channel. So the
// token lives only in open tabs, is never written to a disk, and is gone when the last tab is closed.
// The channel reaches only pages of the same origin. A page of the same origin can also open the
// dashboard and read it, so Stepwell should have an origin of its own.
import { BASE } from "./base";
import type { Permission, Principal } from "./types";

const KEY = "stepwell.token";
/** Milliseconds that a new tab waits for the others. */
const WAIT_MS = 400;

export interface Session {
  token: string;
  principal: Principal;
}

/** A new tab asks, another tab gives the token to it, or a user signed out. */
type Message =
  | { kind: "ask"; from: string }
  | { kind: "give"; to: string; token: string }
  | { kind: "out"; user: string; team: string };

let current: Session | null = null;
const listeners = new Set<() => void>();
/** Hosts under different paths of one origin have channels of their own. */
const channel = new BroadcastChannel(`stepwell.session ${BASE}`);

channel.addEventListener("message", ({ data }: MessageEvent<Message>) => {
  if (data.kind === "ask" && current !== null) {
    tell({ kind: "give", to: data.from, token: current.token });
  } else if (data.kind === "out" && current !== null) {
    const { user, team } = current.principal;
    if (data.user === user && data.team === team) signOut();
  }
});

const tell = (message: Message): void => channel.postMessage(message);

let hasAsked = false;

/**
 * Returns the token of another tab of this browser, if one is signed in. Only the first call asks:
 * after signing out, the sign-in stays empty.
 */
export async function tokenOfOtherTab(): Promise<string | null> {
  if (hasAsked) return null;
  hasAsked = true;
  const from = Math.random().toString(36);
  return new Promise((resolve) => {
    const done = (token: string | null) => {
      clearTimeout(timer);
      channel.removeEventListener("message", hear);
      resolve(token);
    };
    const hear = ({ data }: MessageEvent<Message>) => {
      if (data.kind === "give" && data.to === from) done(data.token);
    };
    const timer = setTimeout(() => done(null), WAIT_MS);
    channel.addEventListener("message", hear);
    tell({ kind: "ask", from });
  });
}

/** The token that this tab still holds after a reload. */
export const storedToken = (): string | null => sessionStorage.getItem(KEY);

export const session = (): Session | null => current;

export function signIn(next: Session): void {
  hasAsked = true;
  sessionStorage.setItem(KEY, next.token);
  current = next;
  listeners.forEach((listener) => listener());
}

export function signOut(): void {
  sessionStorage.removeItem(KEY);
  current = null;
  listeners.forEach((listener) => listener());
}

/** Signs out in all tabs in which this user is signed in. */
export function signOutEverywhere(): void {
  if (current !== null) {
    const { user, team } = current.principal;
    tell({ kind: "out", user, team });
  }
  signOut();
}

export function onSession(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Returns true if the user has the permission. The host checks every request again. */
export function may(permission: Permission): boolean {
  const held = current?.principal.permissions ?? [];
  return held.includes(permission) || held.includes("operator");
}
