// A chart over time. For people who cannot see the canvas, the numbers are also in a sentence and
// in a table.
import { createContext, type ComponentChildren } from "preact";
import { useContext, useEffect, useId, useMemo, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { NONE } from "./format";
import { colour, onTheme } from "./theme";

export interface Line {
    label: string;
    values: (number | null)[];
    colour: string;
    fill?: boolean;
}

interface Props {
    title: string;
    /** The unit of the values, if their format does not show it. */
    unit?: string;
    /** Seconds since 1970, ascending. */
    times: number[];
    lines: Line[];
    format: (value: number | null) => string;
    /** A shorter format for the axis, where there is less room. */
    axis?: (value: number) => string;
    /** Charts with the same group share the cursor. */
    group?: string;
    /** The first and the last time to draw; by default those of the data. */
    range?: [number, number];
    /**
     * The minimum for the top of the scale, so that small changes of a quiet line do not look
     * large.
     */
    topMin?: number;
    empty?: string;
    /** Called with the period that the user marks, in seconds since 1970. */
    onZoom?: (range: [number, number]) => void;
}

/** Leaves the period that was zoomed into; charts call it for Escape. */
export const ZoomOut = createContext<(() => void) | null>(null);

/** The hint beside charts that zoom. */
export const ZOOM_HINT =
    "Mark a part of a chart to zoom in: with the mouse, or with Shift, the arrow keys and Enter.";

const HEIGHT = 180;
/** A shorter mark, in pixels, is a click. */
const MARK_MIN = 8;
/** Width of a letter of the axis, and its distance from the plot, in pixels. */
const LETTER = 6.3;
const AXIS_GAP = 14;
/** Maximum number of rows in the table. A longer table is of no use. */
const ROWS_MAX = 120;
/**
 * Seconds between the rows of a live chart. Each row covers about a minute, so no values are missed
 * in between.
 */
const ROWS_APART_S = [1, 5, 10, 30, 60];
const clock = new Intl.DateTimeFormat("en-GB", {
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
});
const minute = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const day = new Intl.DateTimeFormat("en-GB", {
    day: "numeric",
    month: "short",
    hour: "2-digit",
    minute: "2-digit",
});
const second = new Intl.DateTimeFormat("en-GB", {
    day: "numeric",
    month: "short",
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
});

const DAY_S = 86_400;

/**
 * Labels below the axis: seconds when ticks are closer than a minute, days when they are days
 * apart.
 */
function ticks(_: uPlot, splits: number[]): string[] {
    const apart = splits.length < 2 ? 60 : (splits[1] ?? 0) - (splits[0] ?? 0);
    const form =
        apart >= DAY_S
            ? date
            : (splits.at(-1) ?? 0) - (splits[0] ?? 0) > DAY_S
              ? day
              : apart < 60
                ? clock
                : minute;
    return splits.map((split) => form.format(split * 1_000));
}

/** Values without neighbours. No line leads to or from them, so they need a point to be seen. */
function lonely(plot: uPlot, series: number): number[] {
    const values = plot.data[series] ?? [];
    const isThere = (index: number) => values[index] !== null && values[index] !== undefined;
    return [...values.keys()].filter(
        (index) => isThere(index) && !isThere(index - 1) && !isThere(index + 1),
    );
}

function options(
    props: Props,
    width: number,
    onCursor: (index: number | null) => void,
    onDraw: () => void,
): uPlot.Options {
    const text = colour("muted");
    const grid = { stroke: colour("line"), width: 1 };
    const font = "11px system-ui, sans-serif";
    const axis = { stroke: text, grid, ticks: { show: false }, font };
    return {
        width,
        height: HEIGHT,
        padding: [8, 14, 0, 0],
        legend: { show: false },
        cursor: {
            y: false,
            drag: { x: props.onZoom !== undefined, y: false, setScale: false },
            points: { size: 7 },
            ...(props.group === undefined ? {} : { sync: { key: props.group } }),
        },
        scales: {
            x: {
                time: true,
                ...(props.range === undefined
                    ? {}
                    : { range: () => props.range as uPlot.Range.MinMax }),
            },
            y: {
                range: (_, __, max) => [
                    0,
                    Math.max((max ?? 0) * 1.15, props.topMin ?? 0, Number.MIN_VALUE * 1e300),
                ],
            },
        },
        axes: [
            { ...axis, space: 64, size: 28, values: ticks },
            {
                ...axis,
                // As wide as its labels, so that the plot uses the rest of the card.
                size: (_, labels) =>
                    Math.max(
                        24,
                        ...(labels ?? []).map((label) => label.length * LETTER + AXIS_GAP),
                    ),
                gap: 4,
                space: 34,
                values: (_, splits) => splits.map((split) => (props.axis ?? props.format)(split)),
            },
        ],
        series: [
            {},
            ...props.lines.map((line): uPlot.Series => ({
                label: line.label,
                stroke: colour(line.colour),
                width: 1.75,
                points: {
                    size: 5,
                    fill: colour(line.colour),
                    filter: (plot, series) => lonely(plot, series),
                },
                ...(line.fill === true ? { fill: colour(`${line.colour}-soft`) } : {}),
            })),
        ],
        hooks: {
            draw: [onDraw],
            setCursor: [(plot) => onCursor(plot.cursor.idx ?? null)],
            setSelect: [
                (plot) => {
                    const { left, width } = plot.select;
                    if (width === 0) return;
                    const marked: [number, number] = [
                        plot.posToVal(left, "x"),
                        plot.posToVal(left + width, "x"),
                    ];
                    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
                    if (width >= MARK_MIN) props.onZoom?.(marked);
                },
            ],
        },
    };
}

/** A period that is marked with the keyboard: where the mark began, and where the cursor is. */
type Mark = [from: number, to: number];

/** Moves with a key: from the index of a point to another one, or not at all. */
const MOVES: Record<string, (from: number, first: number, last: number) => number> = {
    ArrowLeft: (from) => from - 1,
    ArrowRight: (from) => from + 1,
    Home: (_, first) => first,
    End: (_, __, last) => last,
};

function select(plot: uPlot, mark: Mark | null) {
    const [left, right] = (mark ?? [0, 0])
        .map((time) => plot.valToPos(time, "x"))
        .sort((one, other) => one - other) as [number, number];
    const size =
        mark === null
            ? { left: 0, width: 0, height: 0 }
            : { left, width: right - left, height: plot.over.clientHeight };
    plot.setSelect({ top: 0, ...size }, false);
}

function pointAt(plot: uPlot, time: number | null) {
    const left = time === null ? -10 : plot.valToPos(time, "x");
    plot.setCursor({ left, top: time === null ? -10 : 0 });
}

/**
 * The title of the chart that the keyboard has just zoomed. Other numbers are loaded then, and the
 * chart leaves the page meanwhile; it gets the focus when it returns.
 */
let returning: string | null = null;
document.addEventListener("focusin", () => (returning = null));

function takeFocus(element: HTMLElement | null) {
    if (document.activeElement === document.body) element?.focus();
}

/** Stands in the place of charts that have no numbers. It takes their focus and their Escape. */
export function InPlaceOfCharts({ children }: { children: ComponentChildren }) {
    const zoomOut = useContext(ZoomOut);
    const box = useRef<HTMLDivElement>(null);
    const chart = useRef(returning);
    useEffect(() => {
        if (chart.current !== null) takeFocus(box.current);
    }, []);
    const onKeyDown = ({ key }: KeyboardEvent) => {
        if (key !== "Escape" || zoomOut === null) return;
        returning = chart.current;
        zoomOut();
    };
    return (
        <div ref={box} tabIndex={-1} onKeyDown={onKeyDown}>
            {children}
        </div>
    );
}

/** The cursor and the mark that the keyboard moves. */
function useKeys(
    plot: { current: uPlot | null },
    { title, times, onZoom }: Props,
): {
    mark: Mark | null;
    onKeyDown: (event: KeyboardEvent) => void;
    /** Moves the cursor after the numbers have changed. */
    drawCursor: () => void;
    /** Draws the mark with each drawing of the plot, whose scales may have changed. */
    drawMark: () => void;
    clear: () => void;
} {
    const zoomOut = useContext(ZoomOut);
    const [mark, setMark] = useState<Mark | null>(null);
    const at = useRef<number | null>(null);
    const latest = useRef(mark);
    latest.current = mark;
    const drawCursor = () => {
        if (plot.current !== null && at.current !== null) pointAt(plot.current, at.current);
    };
    const drawMark = () => {
        if (plot.current !== null && latest.current !== null) select(plot.current, latest.current);
    };
    const show = (time: number | null, marked: Mark | null) => {
        [at.current, latest.current] = [time, marked];
        setMark(marked);
        if (plot.current === null) return;
        pointAt(plot.current, time);
        select(plot.current, marked);
    };
    const clear = () => {
        if (at.current !== null || latest.current !== null) show(null, null);
    };
    const move = (built: uPlot, key: string, isMarking: boolean) => {
        const { min, max } = built.scales["x"] ?? {};
        const shown = [...times.keys()].filter((index) => {
            const time = times[index] ?? NaN;
            return time >= (min ?? -Infinity) && time <= (max ?? Infinity);
        });
        const [first, last] = [shown[0], shown.at(-1)];
        if (first === undefined || last === undefined) return;
        const from = built.cursor.idx ?? (key === "ArrowLeft" ? last + 1 : last);
        const to = MOVES[key]?.(from, first, last) ?? from;
        const time = times[Math.min(last, Math.max(first, to))] ?? null;
        if (time === null) return;
        const begin = latest.current?.[0] ?? times[Math.min(last, from)] ?? time;
        show(time, isMarking && onZoom !== undefined ? [begin, time] : null);
    };
    const onKeyDown = (event: KeyboardEvent) => {
        const built = plot.current;
        if (built === null || event.ctrlKey || event.altKey || event.metaKey) return;
        const marked = latest.current;
        if (event.key in MOVES) {
            move(built, event.key, event.shiftKey);
        } else if (event.key === "Enter" && marked !== null && marked[0] !== marked[1]) {
            show(null, null);
            returning = title;
            onZoom?.([Math.min(...marked), Math.max(...marked)]);
        } else if (event.key === "Escape" && (marked !== null || at.current !== null)) {
            show(null, null);
        } else if (event.key === "Escape" && zoomOut !== null) {
            returning = title;
            zoomOut();
        } else {
            return;
        }
        event.preventDefault();
    };
    return { mark, onKeyDown, drawCursor, drawMark, clear };
}

export function Chart(props: Props) {
    const { title, times, lines, format } = props;
    const box = useRef<HTMLDivElement>(null);
    const plot = useRef<uPlot | null>(null);
    const keys = useKeys(plot, props);
    const redraw = useRef(keys.drawMark);
    redraw.current = keys.drawMark;
    const hint = useId();
    const latest = useRef(props);
    latest.current = props;
    const [cursor, setCursor] = useState<number | null>(null);
    const [turn, setTurn] = useState(0);
    const isEmpty = times.length === 0;
    const shape = lines.map((line) => line.label).join("\n");

    useEffect(() => onTheme(() => setTurn((before) => before + 1)), []);
    // The plot is built anew when the lines or the colours change. Otherwise it only gets the new
    // numbers.
    useEffect(() => {
        const element = box.current;
        if (element === null || isEmpty) return undefined;
        const proxy: Props = {
            ...latest.current,
            get range() {
                return latest.current.range as [number, number];
            },
        };
        if (proxy.onZoom !== undefined) proxy.onZoom = (range) => latest.current.onZoom?.(range);
        if (latest.current.range === undefined) delete (proxy as Partial<Props>).range;
        const built = new uPlot(
            options(proxy, element.clientWidth, setCursor, () => redraw.current()),
            data(latest.current),
            element,
        );
        plot.current = built;
        const watching = new ResizeObserver(() =>
            built.setSize({ width: element.clientWidth, height: HEIGHT }),
        );
        watching.observe(element);
        return () => {
            watching.disconnect();
            built.destroy();
            plot.current = null;
        };
    }, [shape, turn, isEmpty, format, props.group]);
    useEffect(() => {
        plot.current?.setData(data(latest.current));
        // The plot computes its scales in a microtask.
        queueMicrotask(keys.drawCursor);
    }, [times, lines]);
    useEffect(() => {
        if (returning === title) takeFocus(box.current);
    }, [title, isEmpty]);

    const shown = cursor !== null && cursor < times.length ? cursor : times.length - 1;
    const at = times[shown];
    return (
        <figure class="chart card">
            <figcaption>
                <span class="chart-title">
                    {title}
                    {props.unit !== undefined && <span class="unit"> {props.unit}</span>}
                </span>
                <span class="chart-time">
                    {keys.mark !== null
                        ? `${periodOf(keys.mark)}: Enter zooms in`
                        : cursor !== null && at !== undefined
                          ? clock.format(at * 1_000)
                          : ""}
                </span>
            </figcaption>
            <ul class="legend">
                {lines.map((line) => (
                    <li key={line.label}>
                        <span class={`swatch swatch-${line.colour}`} aria-hidden="true" />
                        {line.label}{" "}
                        <b>
                            {format(cursor === null ? lastOf(line) : (line.values[shown] ?? null))}
                        </b>
                    </li>
                ))}
            </ul>
            {isEmpty ? (
                <p class="chart-empty">{props.empty ?? "No numbers in this period."}</p>
            ) : (
                <div
                    class="plot"
                    ref={box}
                    tabIndex={0}
                    role="slider"
                    aria-label={sentence(props)}
                    aria-describedby={hint}
                    aria-valuemin={0}
                    aria-valuemax={times.length - 1}
                    aria-valuenow={shown}
                    aria-valuetext={
                        keys.mark !== null
                            ? `Marked: ${periodOf(keys.mark)}`
                            : cursor === null
                              ? "newest"
                              : valuesAt(props, shown)
                    }
                    onKeyDown={keys.onKeyDown}
                    onBlur={keys.clear}
                />
            )}
            <span id={hint} class="visually-hidden">
                The arrow keys read the points.
                {props.onZoom !== undefined &&
                    " With Shift they mark a period, and Enter zooms in. Escape removes the mark, or zooms out."}
            </span>
            {!isEmpty && <Numbers {...props} />}
        </figure>
    );
}

const periodOf = (mark: Mark): string =>
    [Math.min(...mark), Math.max(...mark)].map((time) => clock.format(time * 1_000)).join(" – ");

function valuesAt({ times, lines, format }: Props, index: number): string {
    const values = lines.map(({ label, values }) => `${label} ${format(values[index] ?? null)}`);
    return [clock.format((times[index] ?? 0) * 1_000), ...values].join(", ");
}

/** The newest measured value. */
const lastOf = ({ values }: Line): number | null =>
    values.findLast((value) => value !== null) ?? null;

const data = ({ times, lines }: Props): uPlot.AlignedData => [
    times,
    ...lines.map((line) => line.values),
];

function sentence({ title, lines, format }: Props): string {
    const parts = lines.map(({ label, values }) => {
        const known = values.filter((value) => value !== null);
        if (known.length === 0) return `${label}: nothing measured`;
        const [low, high] = known.reduce<[number, number]>(
            ([low, high], value) => [Math.min(low, value), Math.max(high, value)],
            [Infinity, -Infinity],
        );
        return `${label}: last ${format(known.at(-1) ?? null)}, from ${format(low)} to ${format(high)}`;
    });
    return `Chart of ${title}. ${parts.join("; ")}.`;
}

const isLive = (times: number[]): boolean => (times.at(-1) ?? 0) - (times.at(-2) ?? 0) < 10;

/**
 * The indexes of the rows: all of them, or for a live chart as many as cover all of it, and always
 * the newest.
 */
function rowsOf(times: number[]): number[] {
    const all = times.map((_, index) => index);
    if (!isLive(times) || times.length <= ROWS_MAX) return all;
    const span = (times.at(-1) ?? 0) - (times[0] ?? 0);
    const apart = ROWS_APART_S.find((seconds) => span / seconds < ROWS_MAX) ?? 60;
    const place = (index: number) => Math.floor((times[index] ?? Infinity) / apart);
    return all.filter((index) => place(index) !== place(index + 1));
}

/** The table of numbers. Its rows are made only when the user opens it. */
function Numbers({ title, times, lines, format }: Props) {
    const [open, setOpen] = useState(false);
    const rows = useMemo(
        () => (open ? rowsOf(times).slice(-ROWS_MAX).reverse() : []),
        [open, times],
    );
    const apart = (times.at(-1) ?? 0) - (times.at(-2) ?? 0);
    const form = apart < 60 ? second : day;
    return (
        <details class="numbers" onToggle={(event) => setOpen(event.currentTarget.open)}>
            <summary>
                As a table<span class="visually-hidden">: {title}</span>
            </summary>
            {open && (
                <div class="scroll" tabIndex={0} role="region" aria-label={`${title} as a table`}>
                    <table>
                        <thead>
                            <tr>
                                <th scope="col">Time</th>
                                {lines.map((line) => (
                                    <th scope="col" class="number" key={line.label}>
                                        {line.label}
                                    </th>
                                ))}
                            </tr>
                        </thead>
                        <tbody>
                            {rows.map((row) => (
                                <tr key={times[row]}>
                                    <td>
                                        <time
                                            dateTime={new Date(
                                                (times[row] ?? 0) * 1_000,
                                            ).toISOString()}
                                        >
                                            {form.format((times[row] ?? 0) * 1_000)}
                                        </time>
                                    </td>
                                    {lines.map((line) => {
                                        const value = line.values[row];
                                        return (
                                            <td class="number" key={line.label}>
                                                {value == null ? NONE : format(value)}
                                            </td>
                                        );
                                    })}
                                </tr>
                            ))}
                        </tbody>
                    </table>
                </div>
            )}
        </details>
    );
}
