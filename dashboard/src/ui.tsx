// The parts of views. Preact puts all text into text nodes.
import type { ComponentChildren, TargetedEvent, TargetedKeyboardEvent } from "preact";
import { useEffect, useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { ApiError } from "./api";
import * as format from "./format";
import { useIsPhone, useNow, type Resource } from "./hooks";

export type Tone = "good" | "bad" | "warn" | "info" | "plain";

export const TONES: Record<string, Tone> = {
    completed: "good",
    approved: "good",
    resolved: "good",
    ok: "good",
    better: "good",
    succeeded: "good",
    failed: "bad",
    rejected: "bad",
    firing: "bad",
    critical: "bad",
    worse: "bad",
    alerting: "bad",
    error: "bad",
    waiting: "warn",
    pending: "warn",
    expired: "warn",
    warning: "warn",
    degraded: "warn",
    retry: "warn",
    running: "info",
    same: "info",
    info: "info",
};

export function Badge({ text, tone }: { text: string; tone?: Tone }) {
    return (
        <span class={`badge badge-${tone ?? TONES[text] ?? "plain"}`}>{format.words(text)}</span>
    );
}

/**
 * The time since or until a moment. The exact time is the title and, for devices without hovering,
 * the date and time.
 */
export function Time({ at, exact }: { at: string | null; exact?: boolean }) {
    const now = useNow();
    if (at === null) return <>{format.NONE}</>;
    return (
        <time dateTime={at} title={format.fullTime(at)}>
            {exact === true
                ? `${format.time(at)} (${format.relative(at, now)})`
                : format.relative(at, now)}
        </time>
    );
}

interface ButtonProps {
    onClick?: () => void;
    children: ComponentChildren;
    kind?: "primary" | "danger" | "quiet";
    disabled?: boolean;
    type?: "button" | "submit";
    label?: string;
    pressed?: boolean;
}

export function Button({
    onClick,
    children,
    kind,
    disabled,
    type = "button",
    label,
    pressed,
}: ButtonProps) {
    return (
        <button
            type={type}
            class={kind === undefined ? "button" : `button button-${kind}`}
            onClick={onClick}
            disabled={disabled}
            aria-label={label}
            aria-pressed={pressed}
        >
            {children}
        </button>
    );
}

/**
 * A choice of one among a few, such as the window of the numbers. It is a group of radio buttons,
 * which arrow keys control.
 */
export function Choice<T extends string>({
    label,
    options,
    value,
    onChange,
}: {
    label: string;
    options: readonly (readonly [T, string])[];
    value: T;
    onChange: (value: T) => void;
}) {
    const name = useId();
    return (
        <fieldset class="choice">
            <legend class="visually-hidden">{label}</legend>
            {options.map(([key, text]) => (
                <label key={key}>
                    <input
                        type="radio"
                        name={name}
                        checked={key === value}
                        onChange={() => onChange(key)}
                    />
                    <span>{text}</span>
                </label>
            ))}
        </fieldset>
    );
}

export function Field({
    label,
    children,
    hint,
}: {
    label: string;
    children: ComponentChildren;
    hint?: string;
}) {
    return (
        <label class="field">
            <span>{label}</span>
            {children}
            {hint !== undefined && <small>{hint}</small>}
        </label>
    );
}

/** The filters of a list. On a phone they are folded, with the number of those that are set. */
export function Filters({ set, children }: { set: number; children: ComponentChildren }) {
    const isPhone = useIsPhone();
    if (!isPhone) return <div class="toolbar">{children}</div>;
    return (
        <details class="filters">
            <summary class="button">Filters{set > 0 && ` (${set} set)`}</summary>
            <div class="toolbar">{children}</div>
        </details>
    );
}

export function Tile({
    label,
    value,
    detail,
    tone,
    href,
    trend,
}: {
    label: string;
    value: string;
    detail?: string | undefined;
    tone?: Tone | undefined;
    href?: string;
    /** Ascending times with the values measured then. */
    trend?: [number, number | null][];
}) {
    const content = (
        <>
            <span class="tile-label">{label}</span>
            <span class="tile-value">{value}</span>
            <span class="tile-detail">{detail ?? "\u00a0"}</span>
            {trend !== undefined && <Trend values={trend} />}
        </>
    );
    const name = `tile card${tone === undefined ? "" : ` tile-${tone}`}`;
    return href === undefined ? (
        <div class={name}>{content}</div>
    ) : (
        <a class={name} href={href}>
            {content}
        </a>
    );
}

const TREND_WIDTH = 100;
const TREND_HEIGHT = 30;

/** A line without axes that shows only the direction. The numbers are in the charts. */
function Trend({ values }: { values: [number, number | null][] }) {
    const known = values.filter((pair): pair is [number, number] => pair[1] !== null);
    const [first, last] = [known[0]?.[0] ?? 0, known.at(-1)?.[0] ?? 0];
    if (first === last) return null;
    const top = Math.max(...known.map(([, value]) => value), Number.MIN_VALUE);
    const points = known.map(([at, value]) => {
        const x = ((at - first) / (last - first)) * TREND_WIDTH;
        return `${x.toFixed(1)},${(TREND_HEIGHT - 2 - (value / top) * (TREND_HEIGHT - 4)).toFixed(1)}`;
    });
    return (
        <svg
            class="trend"
            viewBox={`0 0 ${TREND_WIDTH} ${TREND_HEIGHT}`}
            preserveAspectRatio="none"
            aria-hidden="true"
        >
            <polygon
                points={`0,${TREND_HEIGHT} ${points.join(" ")} ${TREND_WIDTH},${TREND_HEIGHT}`}
            />
            <polyline points={points.join(" ")} />
        </svg>
    );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
    return (
        <div class="empty">
            <svg viewBox="0 0 48 48" aria-hidden="true">
                <path d="M6 14h12v8h11v8h13v8" />
            </svg>
            <p class="empty-title">{title}</p>
            {children !== undefined && <p>{children}</p>}
        </div>
    );
}

/** Shows data, or a message while it loads or if loading failed. */
export function Loaded<T>({
    resource,
    what,
    children,
    quiet,
}: {
    resource: Resource<T>;
    what: string;
    children: (data: T) => ComponentChildren;
    /** Another element shows that the data is loading. */
    quiet?: boolean;
}) {
    const { data, error, loading, reload } = resource;
    return (
        <>
            {error !== undefined && (
                <Problem error={error} what={what} onRetry={reload} isOld={data !== undefined} />
            )}
            {data === undefined && error === undefined && loading && quiet !== true && (
                <Skeleton what={what} />
            )}
            {data !== undefined && children(data)}
        </>
    );
}

function Problem({
    error,
    what,
    onRetry,
    isOld,
}: {
    error: ApiError;
    what: string;
    onRetry: () => void;
    isOld: boolean;
}) {
    if (error.isMissingRoute) return <Empty title={`This host does not offer ${what}.`} />;
    if (error.status === 403)
        return <Empty title={`You may not see ${what}.`}>{error.message}</Empty>;
    return (
        <div class="notice notice-bad" role="alert">
            <p>
                <b>Could not load {what}.</b> {error.message}
                {isOld && " What is shown is older."}
            </p>
            <Button onClick={onRetry}>Try again</Button>
        </div>
    );
}

function Skeleton({ what }: { what: string }) {
    return (
        <div class="skeleton" role="status">
            <span class="visually-hidden">Loading {what}</span>
            {[0, 1, 2, 3].map((line) => (
                <span key={line} class="skeleton-line" />
            ))}
        </div>
    );
}

export interface Column<T> {
    name: string;
    cell: (row: T, index: number) => ComponentChildren;
    /** Makes the column sortable. */
    value?: (row: T) => number | string;
    isNumber?: boolean;
}

interface TableProps<T> {
    caption: string;
    columns: Column<T>[];
    rows: T[];
    rowKey: (row: T) => string;
    sort?: string;
    empty?: string;
}

/** A table that sorts by its column heads. The first column names the row. */
export function Table<T>({ caption, columns, rows, rowKey, sort, empty }: TableProps<T>) {
    const [by, setBy] = useState<{ name: string; up: boolean } | null>(
        sort === undefined
            ? null
            : {
                  name: sort,
                  up: false,
              },
    );
    const value = columns.find((column) => column.name === by?.name)?.value;
    const sorted =
        value === undefined
            ? rows
            : [...rows].sort((left, right) => {
                  const [a, b] = [value(left), value(right)];
                  const order =
                      typeof a === "number" && typeof b === "number"
                          ? a - b
                          : String(a).localeCompare(String(b));
                  return by?.up === true ? order : -order;
              });
    if (rows.length === 0) return <Empty title={empty ?? "Nothing here."} />;
    return (
        <Sideways label={caption}>
            <table>
                <caption class="visually-hidden">{caption}</caption>
                <thead>
                    <tr>
                        {columns.map((column) => {
                            const isBy = by?.name === column.name;
                            const order = isBy ? (by.up ? "ascending" : "descending") : undefined;
                            return (
                                <th
                                    key={column.name}
                                    scope="col"
                                    class={column.isNumber === true ? "number" : ""}
                                    aria-sort={order}
                                >
                                    {column.value === undefined ? (
                                        column.name
                                    ) : (
                                        <button
                                            type="button"
                                            class="sort"
                                            data-order={order}
                                            onClick={() =>
                                                setBy({
                                                    name: column.name,
                                                    up: isBy ? !by.up : column.isNumber !== true,
                                                })
                                            }
                                        >
                                            {column.name}
                                        </button>
                                    )}
                                </th>
                            );
                        })}
                    </tr>
                </thead>
                <tbody>
                    {sorted.map((row, place) => (
                        <tr key={rowKey(row)}>
                            {columns.map((column, index) =>
                                index === 0 ? (
                                    <th key={column.name} scope="row">
                                        {column.cell(row, place)}
                                    </th>
                                ) : (
                                    <td
                                        key={column.name}
                                        class={column.isNumber === true ? "number" : ""}
                                    >
                                        {column.cell(row, place)}
                                    </td>
                                ),
                            )}
                        </tr>
                    ))}
                </tbody>
            </table>
        </Sideways>
    );
}

/** A card that scrolls sideways, with a shade and a hint at each edge that hides something. */
function Sideways({ label, children }: { label: string; children: ComponentChildren }) {
    const box = useRef<HTMLDivElement>(null);
    const [hidden, setHidden] = useState("");
    useEffect(() => {
        const element = box.current;
        if (element === null) return undefined;
        const look = () => {
            const rest = element.scrollWidth - element.clientWidth - element.scrollLeft;
            setHidden(
                [element.scrollLeft > 1 ? "left" : "", rest > 1 ? "right" : ""].join(" ").trim(),
            );
        };
        const watching = new ResizeObserver(look);
        watching.observe(element);
        if (element.firstElementChild !== null) watching.observe(element.firstElementChild);
        element.addEventListener("scroll", look, { passive: true });
        return () => {
            watching.disconnect();
            element.removeEventListener("scroll", look);
        };
    }, []);
    return (
        <div class="sideways card" data-hidden={hidden}>
            <div class="scroll" ref={box} tabIndex={0} role="region" aria-label={label}>
                {children}
            </div>
        </div>
    );
}

/**
 * The browser's own modal dialog: it keeps the focus inside, closes with Escape and gives the focus
 * back.
 */
export function Dialog({
    title,
    children,
    onClose,
    wide,
}: {
    title: string;
    children: ComponentChildren;
    onClose: () => void;
    wide?: boolean;
}) {
    const dialog = useRef<HTMLDialogElement>(null);
    const id = useId();
    // This runs before painting, so that the next key press goes to the dialog.
    useLayoutEffect(() => {
        const before = document.activeElement;
        dialog.current?.showModal();
        return () => {
            if (before instanceof HTMLElement && before.isConnected) before.focus();
        };
    }, []);
    return (
        <dialog
            ref={dialog}
            class={wide === true ? "wide" : ""}
            aria-labelledby={id}
            onClose={onClose}
            onClick={(event) => {
                if (event.target === dialog.current) onClose();
            }}
        >
            <div class="dialog-body">
                <header>
                    <h2 id={id}>{title}</h2>
                    <button type="button" class="icon-button" aria-label="Close" onClick={onClose}>
                        ✕
                    </button>
                </header>
                {children}
            </div>
        </dialog>
    );
}

/**
 * A text field that reports its value only when the user is done. Until then the typed text
 * survives renders of its parents.
 */
export function Typed({
    value,
    onDone,
    list,
}: {
    value: string;
    onDone: (text: string) => void;
    list?: string;
}) {
    const [text, setText] = useState(value);
    useEffect(() => setText(value), [value]);
    return (
        <input
            type="search"
            list={list}
            value={text}
            onInput={(event) => setText(event.currentTarget.value)}
            onChange={(event) => onDone(event.currentTarget.value.trim())}
        />
    );
}

/** Submits a form with Ctrl+Enter (on a Mac also Cmd+Enter), also from a field of several lines. */
function submitWithControl(event: TargetedKeyboardEvent<HTMLFormElement>): void {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.repeat) return;
    event.preventDefault();
    const button = event.currentTarget.querySelector<HTMLButtonElement>("button[type=submit]");
    if (button !== null && !button.disabled) event.currentTarget.requestSubmit(button);
}

/** Asks for confirmation, shows an error of the action, and closes after success. */
export function ActionDialog({
    title,
    children,
    action,
    kind = "primary",
    disabled,
    run,
    onClose,
    onDone,
}: {
    title: string;
    children: ComponentChildren;
    action: string;
    kind?: "primary" | "danger";
    disabled?: boolean;
    run: () => Promise<unknown>;
    onClose: () => void;
    onDone: () => void;
}) {
    const [state, setState] = useState<"asking" | "busy" | ApiError>("asking");
    const submit = (event: TargetedEvent<HTMLFormElement>) => {
        event.preventDefault();
        setState("busy");
        run().then(
            () => {
                onDone();
                onClose();
            },
            (error: ApiError) => setState(error),
        );
    };
    return (
        <Dialog title={title} onClose={onClose}>
            <form onSubmit={submit} onKeyDown={submitWithControl}>
                {children}
                {typeof state === "object" && (
                    <p class="notice notice-bad" role="alert">
                        {state.message}
                    </p>
                )}
                <div class="actions">
                    <Button onClick={onClose}>Cancel</Button>
                    <Button
                        type="submit"
                        kind={kind}
                        disabled={state === "busy" || disabled === true}
                    >
                        {state === "busy" ? "Working…" : action}
                    </Button>
                </div>
            </form>
        </Dialog>
    );
}

/** The button that loads the next page of a list. */
export function More({ pages }: { pages: { more: (() => void) | null; busy: boolean } }) {
    if (pages.more === null) return null;
    return (
        <p class="more">
            <Button onClick={pages.more} disabled={pages.busy}>
                {pages.busy ? "Loading…" : "Show more"}
            </Button>
        </p>
    );
}

export function Facts({ facts }: { facts: [string, ComponentChildren][] }) {
    return (
        <dl class="facts">
            {facts.map(([name, value]) => (
                <div key={name}>
                    <dt>{name}</dt>
                    <dd>{value}</dd>
                </div>
            ))}
        </dl>
    );
}

/** A longer text is shown without colours, because each piece of text is a node of its own. */
const COLOURED_CHARS_MAX = 50_000;
const TOKENS =
    /("(?:[^"\\]|\\.)*")(\s*:)?|\b(?:true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/gu;

function coloured(text: string): ComponentChildren {
    if (text.length > COLOURED_CHARS_MAX) return text;
    const parts: ComponentChildren[] = [];
    let done = 0;
    for (const token of text.matchAll(TOKENS)) {
        const [whole, quoted, colon] = token;
        const shown = quoted ?? whole;
        const kind = quoted === undefined ? "literal" : colon === undefined ? "string" : "key";
        parts.push(
            text.slice(done, token.index),
            <span key={token.index} class={`json-${kind}`}>
                {shown}
            </span>,
        );
        done = token.index + shown.length;
    }
    return [...parts, text.slice(done)];
}

/** JSON, or a text as it is, in long lines that wrap, with a button that copies it. */
export function Code({ label, value, text }: { label: string; value?: unknown; text?: string }) {
    const shown = text ?? format.pretty(value);
    return (
        <div class="code-box">
            <pre class="code" tabIndex={0} role="region" aria-label={label}>
                {text === undefined ? coloured(shown) : shown}
            </pre>
            <Copy text={shown} label={label} />
        </div>
    );
}

/** A button that copies a text. */
export function Copy({ text, label }: { text: string; label: string }) {
    const copy = () => {
        copied(text).then(
            () => say("Copied."),
            () => say("The browser did not permit copying."),
        );
    };
    return (
        <button type="button" class="copy" aria-label={`Copy: ${label}`} onClick={copy}>
            Copy
        </button>
    );
}

/** Browsers offer the clipboard only on https and localhost. Elsewhere a selection is copied. */
async function copied(text: string): Promise<void> {
    if (navigator.clipboard !== undefined) return navigator.clipboard.writeText(text);
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "visually-hidden";
    (document.querySelector("dialog[open]") ?? document.body).append(field);
    const before = document.activeElement;
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    if (before instanceof HTMLElement) before.focus();
    if (!done) throw new Error("not copied");
}

/** Characters after which a name may break. */
const BREAKS = /(?<=[-_./:@])(?=[^-_./:@])/u;

/** A name, which wraps after its separators and not inside of a word. */
export function Name({ text }: { text: string }) {
    return (
        <>
            {text
                .split(BREAKS)
                .flatMap((part, index) => (index === 0 ? [part] : [<wbr key={index} />, part]))}
        </>
    );
}

/** Shows a text of several lines unchanged. */
export function PlainText({ label, text }: { label: string; text: string }) {
    return (
        <pre class="code" tabIndex={0} role="region" aria-label={label}>
            {text}
        </pre>
    );
}

const toasts = { show: (_: string): void => undefined };

/** Shows a message on the screen and to screen readers. */
export const say = (text: string): void => toasts.show(text);

export function Toasts() {
    const [text, setText] = useState("");
    useEffect(() => {
        toasts.show = setText;
        return () => {
            toasts.show = () => undefined;
        };
    }, []);
    useEffect(() => {
        if (text === "") return undefined;
        const timer = setTimeout(() => setText(""), 6_000);
        return () => clearTimeout(timer);
    }, [text]);
    return (
        <div class="toasts" role="status" aria-live="polite">
            {text !== "" && <p class="toast">{text}</p>}
        </div>
    );
}
