// Signing in with a token.
import type { TargetedEvent } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, whoIs } from "../api";
import { signIn, signOut, storedToken, tokenOfOtherTab } from "../session";
import { Button } from "../ui";

export function SignIn() {
    const [token, setToken] = useState("");
    const typed = useRef("");
    typed.current = token;
    const [problem, setProblem] = useState("");
    const [busy, setBusy] = useState(storedToken() !== null);

    const enter = async (given: string): Promise<void> => {
        setBusy(true);
        setProblem("");
        try {
            signIn({ token: given, principal: await whoIs(given) });
        } catch (error) {
            if (error instanceof ApiError && error.status === 401) signOut();
            setProblem(error instanceof ApiError ? error.message : "This token did not work.");
            setBusy(false);
        }
    };

    useEffect(() => {
        const stored = storedToken();
        if (stored !== null) {
            void enter(stored);
            return;
        }
        void tokenOfOtherTab().then((token) => {
            // A user who began to type another token keeps the form.
            if (token !== null && typed.current === "") void enter(token);
        });
    }, []);

    const submit = (event: TargetedEvent<HTMLFormElement>) => {
        event.preventDefault();
        void enter(token.trim());
    };
    return (
        <main class="sign-in" id="main">
            <form class="card" onSubmit={submit}>
                <Mark />
                <h1>Stepwell</h1>
                <p class="muted">
                    Sign in with an access token. The open tabs of this browser share it until you
                    sign out or close them all. It is not stored on disk.
                </p>
                <label class="field">
                    <span>Token</span>
                    <input
                        type="password"
                        name="token"
                        autoComplete="off"
                        spellcheck={false}
                        placeholder="sw_…"
                        required
                        autofocus
                        value={token}
                        onInput={(event) => setToken(event.currentTarget.value)}
                        aria-invalid={problem !== ""}
                        aria-describedby="sign-in-problem"
                    />
                </label>
                <p
                    id="sign-in-problem"
                    class={problem === "" ? "" : "notice notice-bad"}
                    role="alert"
                >
                    {problem}
                </p>
                <Button type="submit" kind="primary" disabled={busy}>
                    {busy ? "Signing in…" : "Sign in"}
                </Button>
                <p class="muted small">
                    Whoever runs this host makes tokens with <code>stepwell token create</code>.
                </p>
            </form>
        </main>
    );
}

export function Mark() {
    return (
        <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
            <rect width="32" height="32" rx="8" />
            <path d="M6 9h7v5h6v5h7v5" />
        </svg>
    );
}
