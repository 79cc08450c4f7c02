import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import react from "@vitejs/plugin-react";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

const OUT = "../../build/console";
const COMPRESSED = /\.(js|css|html|svg|json)$/;

/** Compresses once at build what the appliance would else compress for each visitor. */
function precompressed(): Plugin {
  return {
    name: "precompressed",
    apply: "build",
    closeBundle() {
      for (const name of readdirSync(OUT, { recursive: true, encoding: "utf8" })) {
        if (!COMPRESSED.test(name)) continue;
        const path = join(OUT, name);
        const text = readFileSync(path);
        writeFileSync(`${path}.gz`, gzipSync(text, { level: 9 }));
        const quality = { [constants.BROTLI_PARAM_QUALITY]: 11 };
        writeFileSync(`${path}.br`, brotliCompressSync(text, { params: quality }));
      }
    },
  };
}

const NEVER_ON = /\.pf-v6-theme-(high-contrast|felt|glass)\b/;

/** Leaves out PatternFly's themes that nothing here turns on: a fifth of what a browser parses
 * before it shows anything. */
const withoutOtherThemes = {
  postcssPlugin: "without-other-themes",
  Rule(rule: { selectors: string[]; remove: () => unknown }) {
    const isOn = (selector: string): boolean =>
      !NEVER_ON.test(selector.replace(/:not\([^)]*\)/g, ""));
    const selectors = rule.selectors.filter(isOn);
    if (selectors.length === 0) rule.remove();
    else if (selectors.length < rule.selectors.length) rule.selectors = selectors;
  },
};

export default defineConfig({
  plugins: [react(), precompressed()],
  css: { postcss: { plugins: [withoutOtherThemes] } },
  build: {
    outDir: OUT,
    assetsInlineLimit: 0, // data: URLs would need a wider content security policy
    modulePreload: { polyfill: false },
    sourcemap: false,
    reportCompressedSize: false,
    chunkSizeWarningLimit: 600, // what a first page may have, compressed, is a test's business
    target: "es2022",
  },
  test: { environment: "jsdom", include: ["src/**/*.test.{ts,tsx}"] },
});
