// Bundles NiiVue into built/niivue.js, with the licence texts of all that it holds beside it: `scripts/viewer`.
import { build } from "esbuild";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "built");
mkdirSync(out, { recursive: true });

const result = await build({
  absWorkingDir: here,
  alias: { zarrita: join(here, "zarr_stub.mjs") },
  bundle: true,
  format: "iife",
  globalName: "niivue",
  legalComments: "inline",
  logLevel: "warning",
  metafile: true,
  minify: true,
  outfile: join(out, "niivue.js"),
  stdin: { contents: 'export { Niivue, NVImage } from "@niivue/niivue";', resolveDir: here },
  target: "es2020",
});

const packages = new Set();
for (const path of Object.keys(result.metafile.inputs)) {
  const found = path.match(/.*node_modules\/((?:@[^/]+\/)?[^/]+)\//);
  if (found) packages.add(found[1]);
}
const texts = [...packages].sort().map((name) => {
  const folder = join(here, "node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const named = readdirSync(folder).find((file) => /^licen[cs]e/i.test(file));
  const kept = join(here, "licences", `${name.replace("/", "+")}.txt`); // of packages that are published without
  const file = named ? join(folder, named) : kept;
  if (!existsSync(file)) throw new Error(`${name} has no licence text; put it into ${kept}`);
  return `${name} ${version} (${license})\n\n${readFileSync(file, "utf8").trim()}\n`;
});
writeFileSync(join(out, "LICENCES.txt"), texts.join(`\n${"-".repeat(80)}\n\n`));
