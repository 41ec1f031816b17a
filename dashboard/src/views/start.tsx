// The dialog that starts an instance. Its form comes from the schema of the workflow's input.
import { useId, useMemo, useRef, useState } from "preact/hooks";
import { ApiError, postJson, segment } from "../api";
import {
    FieldError,
    fieldsOf,
    type FormField,
    type FormValues,
    inputOf,
    propertyOf,
    valuesOf,
} from "../form";
import { link } from "../hooks";
import * as json from "../json";
import { may } from "../session";
import { ActionDialog, Field, say } from "../ui";

/** Starts an instance and shows it. */
export function Start({
    workflow,
    schema,
    onClose,
}: {
    workflow: string;
    schema: unknown;
    onClose: () => void;
}) {
    const fields = useMemo(() => fieldsOf(schema), [schema]);
    const [values, setValues] = useState<FormValues>(() =>
        Object.fromEntries(fields.map(({ name, first }) => [name, first])),
    );
    const [asJson, setAsJson] = useState(fields.length === 0);
    const [input, setInput] = useState("{}");
    const [errors, setErrors] = useState<Record<string, string>>({});
    const [about, setAbout] = useState({ entity_type: "", entity_id: "", project_id: "" });
    const form = useRef<HTMLDivElement>(null);
    // One key for each dialog: sending twice starts one instance.
    const key = useMemo(() => `dashboard-${randomId()}`, []);

    const fail = (found: Record<string, string>) => {
        setErrors(found);
        // After the fields have got their messages.
        setTimeout(() => form.current?.querySelector<HTMLElement>("[aria-invalid=true]")?.focus());
    };
    const run = async () => {
        setErrors({});
        let text: string;
        try {
            text = asJson ? typedJson(input) : inputOf(fields, values);
        } catch (error) {
            if (!(error instanceof FieldError)) throw error;
            fail({ [error.field]: error.message });
            throw new ApiError(0, "form", "One field is not right.");
        }
        const rest = Object.entries(about).filter(([, value]) => value !== "");
        const extra = rest.map(([name, value]) => `,"${name}":${JSON.stringify(value)}`);
        const started = await postJson<{ id: string }>(
            `/workflows/${segment(workflow)}/instances`,
            `{"input":${text}${extra.join("")}}`,
            { "idempotency-key": key },
        ).catch((error: ApiError) => {
            const found: Record<string, string> = {};
            for (const { path, message } of error.problems) found[propertyOf(path)] ??= message;
            if (!asJson) fail(found);
            throw error;
        });
        if (started !== null && may("workflow_read")) location.hash = link("instances", started.id);
    };
    const [kept, setKept] = useState(false);
    const change = (wanted: boolean) => {
        setErrors({});
        setKept(false);
        if (wanted) {
            try {
                setInput(json.pretty(json.parse(inputOf(fields, values))));
            } catch (error) {
                if (error instanceof FieldError) fail({ [error.field]: error.message });
                return;
            }
            setAsJson(true);
            return;
        }
        const read = valuesOf(fields, input);
        if (read === null) return setKept(true);
        setValues(read);
        setAsJson(false);
    };
    return (
        <ActionDialog
            title={`Start ${workflow}`}
            action="Start instance"
            run={run}
            onClose={onClose}
            onDone={() => say("Started.")}
        >
            {fields.length > 0 && (
                <label class="check">
                    <input
                        type="checkbox"
                        checked={asJson}
                        onClick={(event) => {
                            event.preventDefault();
                            change(!asJson);
                        }}
                    />
                    <span>As JSON</span>
                </label>
            )}
            {kept && (
                <p class="notice" role="status">
                    The form has no place for this text. Correct it, or start with it as it is.
                </p>
            )}
            {asJson ? (
                <Field label="Input, as JSON">
                    <textarea
                        class="code"
                        autofocus
                        rows={8}
                        spellcheck={false}
                        value={input}
                        onInput={(event) => setInput(event.currentTarget.value)}
                    />
                </Field>
            ) : (
                <div ref={form}>
                    {fields.map((field, index) => (
                        <Property
                            key={field.name}
                            field={field}
                            first={index === 0}
                            value={values[field.name] ?? ""}
                            error={errors[field.name]}
                            onValue={(value) => setValues({ ...values, [field.name]: value })}
                        />
                    ))}
                </div>
            )}
            <div class="pair">
                {(
                    [
                        ["entity_type", "Entity type", 128],
                        ["entity_id", "Entity id", 256],
                        ["project_id", "Project", 256],
                    ] as const
                ).map(([name, label, longest]) => (
                    <Field key={name} label={label}>
                        <input
                            type="text"
                            maxLength={longest}
                            value={about[name]}
                            onInput={(event) =>
                                setAbout({ ...about, [name]: event.currentTarget.value })
                            }
                        />
                    </Field>
                ))}
            </div>
        </ActionDialog>
    );
}

function typedJson(input: string): string {
    const text = input.trim() === "" ? "null" : input;
    try {
        JSON.parse(text);
    } catch (error) {
        throw new ApiError(0, "json", `The input is not JSON: ${(error as Error).message}`);
    }
    return text;
}

/** One property of the input, with its description and its mistake. */
function Property({
    field,
    first,
    value,
    error,
    onValue,
}: {
    field: FormField;
    first: boolean;
    value: string;
    error: string | undefined;
    onValue: (value: string) => void;
}) {
    const id = useId();
    const { kind, label, hint, required, whole } = field;
    const about = [hint === "" ? "" : `${id}-hint`, error === undefined ? "" : `${id}-error`];
    const described = about.filter((part) => part !== "").join(" ");
    const shared = {
        id,
        value,
        autofocus: first,
        "aria-required": required,
        "aria-invalid": error !== undefined,
        ...(described === "" ? {} : { "aria-describedby": described }),
    };
    const typed = (event: { currentTarget: { value: string } }) =>
        onValue(event.currentTarget.value);
    return (
        <div class="field property">
            <label for={id}>
                {label}
                {required && " (required)"}
            </label>
            {kind === "json" ? (
                <textarea {...shared} class="code" rows={3} spellcheck={false} onInput={typed} />
            ) : kind === "choice" || kind === "boolean" ? (
                <select {...shared} onChange={typed}>
                    <option value="">–</option>
                    {(kind === "boolean" ? ["true", "false"] : field.options).map((option) => (
                        <option key={option} value={option}>
                            {optionText(option)}
                        </option>
                    ))}
                </select>
            ) : kind === "time" ? (
                <input {...shared} type="datetime-local" step={1} onInput={typed} />
            ) : (
                <input
                    {...shared}
                    type="text"
                    inputMode={kind === "text" ? "text" : whole ? "numeric" : "decimal"}
                    onInput={typed}
                />
            )}
            {hint !== "" && <small id={`${id}-hint`}>{hint}</small>}
            {error !== undefined && (
                <small id={`${id}-error`} class="mistake">
                    {error}
                </small>
            )}
        </div>
    );
}

const optionText = (option: string): string =>
    option.startsWith('"') ? String(JSON.parse(option)) : option;

/** `crypto.randomUUID` exists only on https and localhost. */
const randomId = (): string =>
    [...crypto.getRandomValues(new Uint8Array(16))]
        .map((byte) => byte.toString(16).padStart(2, "0"))
        .join("");
