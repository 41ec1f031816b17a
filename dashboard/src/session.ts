// The signed-in user. The token is stored in this tab's session storage and sent in a header, never
// in a URL.
import type { Permission, Principal } from "./types";

const KEY = "stepwell.token";

export interface Session {
  token: string;
  principal: Principal;
}

let current: Session | null = null;
const listeners = new Set<() => void>();

/** The token that this tab still holds after a reload. */
export const storedToken = (): string | null => sessionStorage.getItem(KEY);

export const session = (): Session | null => current;

export function signIn(next: Session): void {
  sessionStorage.setItem(KEY, next.token);
  current = next;
  listeners.forEach((listener) => listener());
}

export function signOut(): void {
  sessionStorage.removeItem(KEY);
  current = null;
  listeners.forEach((listener) => listener());
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
