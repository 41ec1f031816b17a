// Builds the page into the folder that the host embeds: `node build.mjs FOLDER`, with `--watch` again at every change.
// The output is committed and compared by `cargo xtask dashboard --check`, so nothing in it may depend on the machine.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import * as esbuild from "esbuild";

const source = join(dirname(fileURLToPath(import.meta.url)), "src");
const watch = process.argv.includes("--watch");
const target = resolve(
    process.argv.slice(2).find((argument) => !argument.startsWith("--")) ?? "dist",
);

/** Writes what was built, and beside it what the host sends to browsers that unpack gzip. */
const write = {
    name: "write",
    setup(build) {
        build.onEnd(async ({ errors, outputFiles }) => {
            if (errors.length > 0) return;
            await mkdir(target, { recursive: true });
            for (const { path, contents } of outputFiles) {
                await writeFile(path, contents);
                await writeFile(`${path}.gz`, gzipSync(contents, { level: 9 }));
            }
            for (const name of ["index.html", "icon.svg"]) {
                await writeFile(join(target, name), await readFile(join(source, name)));
            }
        });
    },
};

/** What is bundled wants to be named wherever it is copied to. */
const BUNDLED = ["preact", "uplot"];
const licences = await Promise.all(
    BUNDLED.map(
        async (name) =>
            `${name}\n\n${(await readFile(join(source, "../node_modules", name, "LICENSE"), "utf8")).trim()}`,
    ),
);

const options = {
    absWorkingDir: source,
    banner: { js: `/*!\n${licences.join("\n\n")}\n*/` },
    bundle: true,
    charset: "utf8",
    entryPoints: { dashboard: "main.tsx" },
    format: "esm",
    jsx: "automatic",
    jsxImportSource: "preact",
    legalComments: "inline",
    logLevel: "warning",
    minify: true,
    outdir: target,
    plugins: [write],
    target: ["es2022"],
    write: false,
};

if (watch) {
    await (await esbuild.context(options)).watch();
} else {
    await esbuild.build(options);
}
