// The fields of a form, from the JSON Schema of a workflow's input.
import * as json from "./json";

interface Schema {
  $ref?: string;
  type?: string | string[];
  enum?: unknown[];
  const?: unknown;
  format?: string;
  title?: string;
  description?: string;
  default?: unknown;
  minimum?: unknown;
  maximum?: unknown;
  minLength?: unknown;
  maxLength?: unknown;
  required?: string[];
  properties?: Record<string, Schema>;
}

export type FieldKind = "text" | "number" | "boolean" | "choice" | "time" | "json";

/** One field. Its value is a text, whatever the kind; an empty text leaves the property out. */
export interface FormField {
  name: string;
  label: string;
  kind: FieldKind;
  required: boolean;
  whole: boolean;
  hint: string;
  /** The options of a choice, as JSON texts. */
  options: string[];
  /** The value at the beginning. */
  first: string;
}

export type FormValues = Record<string, string>;

/** Follows references inside the schema. */
function resolve(root: unknown, schema: Schema): Schema {
  let node = schema;
  for (let steps = 0; steps < 16 && typeof node.$ref === "string"; steps += 1) {
    const path = decodeURIComponent(node.$ref.replace(/^#\/?/u, ""));
    const names = path === "" ? [] : path.split("/");
    let target: unknown = root;
    for (const name of names) {
      const key = name.replaceAll("~1", "/").replaceAll("~0", "~");
      target = (target as Record<string, unknown> | undefined)?.[key];
    }
    if (typeof target !== "object" || target === null) break;
    const { $ref: _, ...beside } = node;
    node = { ...(target as Schema), ...beside };
  }
  return node;
}

function kindOf({ type, enum: options, format }: Schema): FieldKind {
  const types = (Array.isArray(type) ? type : [type]).filter((one) => one !== "null");
  if (options !== undefined && options.length <= 200) return "choice";
  if (types.length !== 1) return "json";
  switch (types[0]) {
    case "string":
      return format === "date-time" ? "time" : "text";
    case "integer":
    case "number":
      return "number";
    case "boolean":
      return "boolean";
    default:
      return "json";
  }
}

/** Returns the text of a field for a JSON value. */
function shown(kind: FieldKind, value: unknown): string {
  if (value === undefined) return "";
  if (kind === "text" && typeof value === "string") return value;
  if (kind === "time" && typeof value === "string") return localTime(value);
  if (kind === "json") return json.pretty(value);
  return json.stringify(value);
}

/** Returns a time as `datetime-local` shows it; an empty text if it is none. */
function localTime(text: string): string {
  const time = new Date(text);
  if (Number.isNaN(time.getTime())) return "";
  const local = new Date(time.getTime() - time.getTimezoneOffset() * 60_000);
  return local.toISOString().slice(0, 19);
}

/** Returns the fields; none if the schema is not that of an object with properties. */
export function fieldsOf(schema: unknown): FormField[] {
  if (typeof schema !== "object" || schema === null) return [];
  const root = resolve(schema, schema as Schema);
  const { properties, required } = root;
  if (properties === undefined) return [];
  return Object.entries(properties).map(([name, written]) => {
    const property = typeof written === "object" ? resolve(schema, written) : {};
    const kind = kindOf(property);
    const bounds = [
      property.minimum === undefined ? "" : `At least ${String(property.minimum)}.`,
      property.maximum === undefined ? "" : `At most ${String(property.maximum)}.`,
    ].filter((text) => text !== "");
    const hints = [
      property.description ?? "",
      ...bounds,
      kind === "json" ? "As JSON." : kind === "time" ? "In your time zone." : "",
    ].filter((text) => text !== "");
    return {
      name,
      label: property.title ?? name,
      kind,
      required: required?.includes(name) === true && property.default === undefined,
      whole: property.type === "integer",
      hint: hints.join(" "),
      options: (property.enum ?? []).map((option) => json.stringify(option)),
      first: shown(kind, property.default),
    };
  });
}

/** A value that is not what its field takes. */
export class FieldError extends Error {
  constructor(
    readonly field: string,
    message: string,
  ) {
    super(message);
  }
}

function written(field: FormField, text: string): string {
  const { name, kind, whole } = field;
  switch (kind) {
    case "text":
      return JSON.stringify(text);
    case "time": {
      const time = new Date(text);
      if (Number.isNaN(time.getTime())) throw new FieldError(name, "This is not a time.");
      return JSON.stringify(time.toISOString());
    }
    case "number": {
      const number = text.trim();
      const pattern = whole ? /^-?(0|[1-9]\d*)$/u : /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/u;
      if (!pattern.test(number))
        throw new FieldError(name, whole ? "Write a whole number." : "Write a number.");
      return number;
    }
    case "json":
      try {
        JSON.parse(text);
      } catch (error) {
        throw new FieldError(name, `This is not JSON: ${(error as Error).message}`);
      }
      return text;
    default:
      return text;
  }
}

/** Returns the input as JSON. Throws a {@link FieldError}. */
export function inputOf(fields: FormField[], values: FormValues): string {
  const parts = fields.flatMap((field) => {
    const text = values[field.name] ?? "";
    return text === "" ? [] : [`${JSON.stringify(field.name)}:${written(field, text)}`];
  });
  return `{${parts.join(",")}}`;
}

/** Returns the values of an input; null if the form has no place for a part of it. */
export function valuesOf(fields: FormField[], text: string): FormValues | null {
  let input: unknown;
  try {
    input = json.parse(text);
  } catch {
    return null;
  }
  if (typeof input !== "object" || input === null || Array.isArray(input)) return null;
  const values: FormValues = {};
  for (const [name, value] of Object.entries(input)) {
    const field = fields.find((field) => field.name === name);
    if (field === undefined) return null;
    const fits = !(field.kind === "text" || field.kind === "time") || typeof value === "string";
    if (!fits) return null;
    values[name] = shown(field.kind, value);
  }
  return values;
}

/** Returns the name of the property that a JSON pointer leads into. */
export function propertyOf(path: string): string {
  const [, name] = path.split("/");
  return (name ?? "").replaceAll("~1", "/").replaceAll("~0", "~");
}
