// The page: sign-in, or the frame with navigation around the view that the address names.
import { render, type ComponentChildren, type TargetedMouseEvent } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { BASE } from "./base";
import { link, LiveContext, useAddress, useLive, type ViewProps } from "./hooks";
import { Live, type LiveState } from "./live";
import { may, onSession, session, signOutEverywhere } from "./session";
import { showTextHarmlessly } from "./text";
import { onTheme, startTheme, theme, toggleTheme } from "./theme";
import type { Permission } from "./types";
import { Empty, Toasts } from "./ui";
import { Alerts } from "./views/alerts";
import { Audit } from "./views/audit";
import { Approvals } from "./views/approvals";
import { Caches } from "./views/caches";
import { History } from "./views/history";
import { Instances } from "./views/instances";
import { Operations } from "./views/operations";
import { Overview } from "./views/overview";
import { Plugins } from "./views/plugins";
import { Mark, SignIn } from "./views/signin";
import { Workflows } from "./views/workflows";
import "./style.css";

interface View {
    name: string;
    title: string;
    icon: string;
    needs: Permission;
    show: (props: ViewProps) => ComponentChildren;
}

const VIEWS: View[] = [
    {
        name: "overview",
        title: "Overview",
        icon: "M4 4h7v9H4zM13 4h7v5h-7zM13 11h7v9h-7zM4 15h7v5H4z",
        needs: "workflow_read",
        show: Overview,
    },
    {
        name: "operations",
        title: "Operations",
        icon: "M4 20V10M10 20V4M16 20v-7M21 20H3",
        needs: "workflow_read",
        show: Operations,
    },
    {
        name: "history",
        title: "History",
        icon: "M3 17l5-6 4 3 8-9M3 21h18",
        needs: "workflow_read",
        show: History,
    },
    {
        name: "alerts",
        title: "Alerts",
        icon: "M12 3a6 6 0 0 0-6 6v4l-2 3h16l-2-3V9a6 6 0 0 0-6-6zM10 20h4",
        needs: "workflow_read",
        show: Alerts,
    },
    {
        name: "instances",
        title: "Instances",
        icon: "M4 6h9M7 12h10M11 18h9",
        needs: "workflow_read",
        show: Instances,
    },
    {
        name: "workflows",
        title: "Workflows",
        icon: "M4 4h6v5H4zM14 15h6v5h-6zM7 9v5a3 3 0 0 0 3 3h4",
        needs: "workflow_read",
        show: Workflows,
    },
    {
        name: "approvals",
        title: "Approvals",
        icon: "M4 5h16v14H4zM8 12l3 3 5-6",
        needs: "approval_decide",
        show: Approvals,
    },
    {
        name: "plugins",
        title: "Plugins",
        icon: "M12 3l8 4.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9",
        needs: "plugin_read",
        show: Plugins,
    },
    {
        name: "caches",
        title: "Caches",
        icon: "M4 6c0-1.7 16-1.7 16 0v12c0 1.7-16 1.7-16 0zM4 6c0 1.7 16 1.7 16 0M4 12c0 1.7 16 1.7 16 0",
        needs: "workflow_read",
        show: Caches,
    },
    {
        name: "audit",
        title: "Audit",
        icon: "M6 3h9l4 4v14H6zM9 11h7M9 15h7",
        needs: "workflow_manage",
        show: Audit,
    },
];

const LIVE_TEXT: Record<LiveState, string> = {
    connecting: "Connecting",
    live: "Live",
    polling: "Every 5 s",
    stale: "Stale",
};
const LIVE_HINT: Record<LiveState, string> = {
    connecting: "Waiting for the first numbers",
    live: "New numbers arrive every second",
    polling: "The live stream is not available; the numbers are asked for every five seconds",
    stale: "The host does not answer; what is shown is old",
};

function Icon({ path }: { path: string }) {
    return (
        <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
            <path d={path} />
        </svg>
    );
}

function LiveBadge() {
    const { state } = useLive();
    return (
        <span class={`live live-${state}`} role="status" title={LIVE_HINT[state]}>
            <span class="live-dot" aria-hidden="true" />
            {LIVE_TEXT[state]}
        </span>
    );
}

function ThemeButton() {
    const [current, setCurrent] = useState(theme);
    useEffect(() => onTheme(() => setCurrent(theme())), []);
    const other = current === "dark" ? "light" : "dark";
    const sun =
        "M12 7a5 5 0 1 0 0 10 5 5 0 0 0 0-10M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.5 1.5M17.5 17.5L19 19M5 19l1.5-1.5M17.5 6.5L19 5";
    return (
        <button
            type="button"
            class="icon-button"
            onClick={toggleTheme}
            aria-label={`Switch to the ${other} theme`}
        >
            <Icon path={current === "dark" ? sun : "M20 14A8 8 0 0 1 10 4a8 8 0 1 0 10 10z"} />
        </button>
    );
}

function Navigation({ view }: { view: string }) {
    const { latest } = useLive();
    const firing = latest?.alerts_firing ?? 0;
    return (
        <nav aria-label="Views">
            <ul>
                {VIEWS.filter(({ needs }) => may(needs)).map(({ name, title, icon }) => (
                    <li key={name}>
                        <a href={link(name)} aria-current={name === view ? "page" : undefined}>
                            <Icon path={icon} />
                            {title}
                            {name === "alerts" && firing > 0 && (
                                <span class="count">
                                    {firing}
                                    <span class="visually-hidden"> firing</span>
                                </span>
                            )}
                        </a>
                    </li>
                ))}
            </ul>
        </nav>
    );
}

function Frame() {
    const address = useAddress();
    const live = useMemo(() => new Live(), []);
    const heading = useRef<HTMLHeadingElement>(null);
    const shownBefore = useRef(false);
    const view = VIEWS.find(({ name }) => name === address.view);
    const title = view?.title ?? "Not found";
    const principal = session()?.principal;

    useEffect(() => {
        if (may("workflow_read")) live.start();
        else live.state = "polling";
        return () => live.stop();
    }, [live]);
    useEffect(() => {
        document.title = `${address.argument === null ? title : `${address.argument} · ${title}`} · Stepwell`;
        // A screen reader reads a new view from its heading, as it would a new page. The first view
        // needs no change of focus.
        if (shownBefore.current) heading.current?.focus();
        shownBefore.current = true;
    }, [title, address.argument]);

    // The focus moves by script, because a link to `#main` would change the address, which names
    // the view.
    const skip = (event: TargetedMouseEvent<HTMLAnchorElement>) => {
        event.preventDefault();
        heading.current?.focus();
    };
    const Shown = view !== undefined && may(view.needs) ? view.show : null;
    return (
        <LiveContext.Provider value={live}>
            <a class="skip" href="#main" onClick={skip}>
                Skip to the content
            </a>
            <header class="top">
                <a class="brand" href={firstView()}>
                    <Mark />
                    Stepwell
                </a>
                {may("workflow_read") && <LiveBadge />}
                <span class="who">
                    <b>{principal?.user}</b>
                    <span class="muted">{principal?.team}</span>
                </span>
                <a class="muted" href={`${BASE}/reference`}>
                    API
                </a>
                <ThemeButton />
                <button type="button" class="button" onClick={signOutEverywhere}>
                    Sign out
                </button>
            </header>
            <Navigation view={address.view} />
            <main id="main">
                <h1 ref={heading} tabIndex={-1} class={address.argument === null ? "" : "crumb"}>
                    {address.argument === null ? title : <a href={link(address.view)}>{title}</a>}
                </h1>
                {Shown !== null ? (
                    <Shown key={address.view} address={address} />
                ) : (
                    <Empty
                        title={
                            view === undefined
                                ? "There is no such view."
                                : "Your token does not permit this view."
                        }
                    />
                )}
            </main>
            <Toasts />
        </LiveContext.Provider>
    );
}

const firstView = (): string => link(VIEWS.find(({ needs }) => may(needs))?.name ?? "overview");

function App() {
    const [signedIn, setSignedIn] = useState(() => session() !== null);
    useEffect(() => onSession(() => setSignedIn(session() !== null)), []);
    useEffect(() => {
        document.title = "Stepwell";
        // A user who may only decide approvals starts there.
        if (signedIn && location.hash === "" && !may("workflow_read"))
            location.replace(firstView());
    }, [signedIn]);
    return signedIn ? <Frame /> : <SignIn />;
}

startTheme();
const root = document.getElementById("root");
showTextHarmlessly();
if (root !== null) render(<App />, root);
