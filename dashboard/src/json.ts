// JSON without losses: a browser's numbers have 53 bits, and those of workflows 64.

/** A whole number with more digits than a browser's number keeps, as the host wrote it. */
export class LongNumber {
  constructor(readonly digits: string) {}

  /** For arithmetic, which loses digits. */
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

// Nothing that the host sends can have it, since it is new for each page.
const MARK = `digits ${crypto.getRandomValues(new Uint32Array(4)).join("-")} `;
const MARKED = new RegExp(`"${MARK}(-?\\d+)"`, "gu");
/** Texts, which are left alone, and numbers. */
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/gu;
const LONG = /^-?\d{16,}$/u;

/** As `JSON.parse`, with a {@link LongNumber} for each whole number that a browser's number cannot hold. */
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

/** As `JSON.stringify` with two spaces; long numbers keep their digits. */
export function pretty(value: unknown): string {
  return (JSON.stringify(value, null, 2) ?? "").replace(MARKED, "$1");
}

/** As `JSON.stringify`; long numbers keep their digits. */
export function stringify(value: unknown): string {
  return JSON.stringify(value).replace(MARKED, "$1");
}
