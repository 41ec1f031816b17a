// Lossless JSON: numbers of a browser have 53 bits, integers of workflows have 64.

/** A whole number with more digits than a browser's number keeps, as the host wrote it. */
export class LongNumber {
  constructor(readonly digits: string) {}

  /** Returns a number for arithmetic, which loses digits. */
  valueOf(): number {
    return Number(this.digits);
  }

  toString(): string {
    return this.digits;
  }

  toJSON(): string {
    return MARK + this.digits;
  }
}

// The mark is random for each page, so no response of the host can contain it.
const MARK = `digits ${crypto.getRandomValues(new Uint32Array(4)).join("-")} `;
const MARKED = new RegExp(`"${MARK}(-?\\d+)"`, "gu");
/** Matches texts, which stay unchanged, and numbers. */
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/gu;
const LONG = /^-?\d{16,}$/u;

/** Parses like `JSON.parse`, with a {@link LongNumber} for each whole number that a browser's number cannot hold. */
export function parse(text: string): unknown {
  if (!/\d{16}/u.test(text)) return JSON.parse(text);
  let found = false;
  const marked = text.replace(TOKENS, (token) => {
    if (!LONG.test(token) || Number.isSafeInteger(Number(token))) return token;
    found = true;
    return `"${MARK}${token}"`;
  });
  if (!found) return JSON.parse(text);
  return JSON.parse(marked, (_, value: unknown) =>
    typeof value === "string" && value.startsWith(MARK)
      ? new LongNumber(value.slice(MARK.length))
      : value,
  );
}

/** Formats like `JSON.stringify` with two spaces; long numbers keep their digits. */
export function pretty(value: unknown): string {
  return (JSON.stringify(value, null, 2) ?? "").replace(MARKED, "$1");
}

/** Formats like `JSON.stringify`; long numbers keep their digits. */
export function stringify(value: unknown): string {
  return JSON.stringify(value).replace(MARKED, "$1");
}
