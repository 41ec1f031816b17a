// The light or dark theme: the system's, until the user chooses.

export type Theme = "light" | "dark";

const KEY = "stepwell.theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set<() => void>();

const chosen = (): Theme | null => {
  const text = localStorage.getItem(KEY);
  return text === "light" || text === "dark" ? text : null;
};

export const theme = (): Theme => chosen() ?? (system.matches ? "dark" : "light");

function apply(): void {
  document.documentElement.dataset["theme"] = theme();
  listeners.forEach((listener) => listener());
}

export function startTheme(): void {
  apply();
  system.addEventListener("change", apply);
}

export function toggleTheme(): void {
  localStorage.setItem(KEY, theme() === "dark" ? "light" : "dark");
  apply();
}

export function onTheme(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** A colour of the style sheet, for the canvas of a chart. */
export const colour = (name: string): string =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
