// Numbers and times as text. All functions return plain text, which Preact puts into text nodes.

const integers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const NONE = "–";

export function count(value: number | null | undefined): string {
  if (value === null || value === undefined) return NONE;
  if (Math.abs(value) >= 100_000) return compact.format(value);
  return Number.isInteger(value) || value >= 10 ? integers.format(value) : value.toFixed(1);
}

/** A short number for an axis, where there is little room and no need for precision. */
export const rough = (value: number): string => compact.format(value);

export const perMinute = (value: number | null | undefined): string =>
  value === null || value === undefined ? NONE : `${count(value)}/min`;

export function milliseconds(value: number | null | undefined): string {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0 ms";
  if (value < 1) return `${Math.max(1, Math.round(value * 1_000))} µs`;
  if (value < 10) return `${value.toFixed(1)} ms`;
  if (value < 1_000) return `${Math.round(value)} ms`;
  if (value < 60_000) return `${(value / 1_000).toFixed(value < 10_000 ? 2 : 1)} s`;
  return seconds(value / 1_000);
}

const UNITS: [string, number][] = [
  ["d", 86_400],
  ["h", 3_600],
  ["min", 60],
  ["s", 1],
];

/** A length of time in its two largest units. */
export function seconds(value: number): string {
  let rest = Math.round(value);
  const parts: string[] = [];
  for (const [unit, size] of UNITS) {
    const whole = Math.floor(rest / size);
    if (whole > 0 || (unit === "s" && parts.length === 0)) parts.push(`${whole} ${unit}`);
    rest -= whole * size;
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}

export function percent(value: number | null | undefined): string {
  if (value === null || value === undefined) return NONE;
  const scaled = value * 100;
  // A share that is neither none nor all must not be shown as 0 % or 100 %.
  const digits = scaled !== 0 && scaled !== 100 && (scaled < 1 || scaled > 99) ? 2 : 1;
  return `${Number(scaled.toFixed(digits))} %`;
}

export function bytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB"];
  let scaled = value;
  let unit = 0;
  while (scaled >= 1_024 && unit < units.length - 1) {
    scaled /= 1_024;
    unit += 1;
  }
  return `${unit === 0 || scaled >= 100 ? Math.round(scaled) : scaled.toFixed(1)} ${units[unit]}`;
}

const clocks = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});
const dates = new Intl.DateTimeFormat("en-GB", {
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});
const fullDates = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "long" });

/** Returns the microseconds within the second of a time. A `Date` has only milliseconds. */
const micros = (text: string): number =>
  Number((/\.(\d{1,6})/u.exec(text)?.[1] ?? "0").padEnd(6, "0"));

/** Milliseconds since 1970, with the microseconds as a fraction. */
export const instant = (text: string): number =>
  Math.floor(Date.parse(text) / 1_000) * 1_000 + micros(text) / 1_000;

/** The time of day, to the microsecond. */
export const clock = (text: string): string =>
  `${clocks.format(new Date(text))}.${String(micros(text)).padStart(6, "0")}`;
export const time = (text: string): string => dates.format(new Date(text));
export const fullTime = (text: string): string => fullDates.format(new Date(text));

/** A length of time in its largest unit, with the next unit while that is a large part. */
function roughly(value: number): string {
  const [unit, size] = UNITS.find(([, length]) => value >= length) ?? ["s", 1];
  return size > 60 && value < 5 * size ? seconds(value) : `${Math.round(value / size)} ${unit}`;
}

/** The time since or until a moment. */
export function relative(text: string, now = Date.now()): string {
  const difference = (Date.parse(text) - now) / 1_000;
  if (Math.abs(difference) < 5) return "just now";
  return difference < 0 ? `${roughly(-difference)} ago` : `in ${roughly(difference)}`;
}

const ID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/iu;
export const isId = (text: string): boolean => ID.test(text);

/** The end of an id, which differs between ids made one after the other. */
export const shortId = (id: string): string => (id.length > 12 ? `…${id.slice(-8)}` : id);

/** Replaces underscores: `p95_latency` becomes "p95 latency". */
export const words = (name: string): string => name.replaceAll("_", " ");

/** Makes the first letter a capital. */
export const capital = (text: string): string => text.slice(0, 1).toUpperCase() + text.slice(1);

export { pretty } from "./json";
