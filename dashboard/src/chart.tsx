// A chart over time. For people who cannot see the canvas, the numbers are also in a sentence and
// in a table.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
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
    /** Called with the period that the user marks with the mouse, in seconds since 1970. */
    onZoom?: (range: [number, number]) => void;
}

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

export function Chart(props: Props) {
    const { title, times, lines, format } = props;
    const box = useRef<HTMLDivElement>(null);
    const plot = useRef<uPlot | null>(null);
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
            options(proxy, element.clientWidth, setCursor),
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
    useEffect(() => plot.current?.setData(data(latest.current)), [times, lines]);

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
                    {cursor !== null && at !== undefined ? clock.format(at * 1_000) : ""}
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
                <div class="plot" ref={box} role="img" aria-label={sentence(props)} />
            )}
            {!isEmpty && <Numbers {...props} />}
        </figure>
    );
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
