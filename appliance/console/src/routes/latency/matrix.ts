import type { Schemas } from "../../api/client";

/** The latencies as a square of names, first by site, then by node: pure. */

export interface Ends {
  a: string;
  b: string;
}

export type Measured = Pick<Schemas["LatencyRowOut"], "a" | "b" | "rtt_ms" | "loss">;

export interface Cell {
  /** The worst of all pairs in it. */
  rtt_ms: number;
  loss: number;
  pairs: number;
}

export interface Matrix {
  names: string[];
  at: (row: string, column: string) => Cell | undefined;
}

const order = new Intl.Collator("en", { numeric: true });
export const NO_SITE = "no site";

/** Merges rows by what `nameOf` calls their ends. */
export function matrixOf(
  rows: readonly Measured[],
  nameOf: (node: string) => string | undefined,
): Matrix {
  const cells = new Map<string, Cell>();
  const names = new Set<string>();
  const key = (a: string, b: string): string => JSON.stringify(a < b ? [a, b] : [b, a]);
  for (const row of rows) {
    const a = nameOf(row.a);
    const b = nameOf(row.b);
    if (a === undefined || b === undefined) continue;
    names.add(a).add(b);
    const before = cells.get(key(a, b));
    cells.set(key(a, b), {
      rtt_ms: Math.max(before?.rtt_ms ?? 0, row.rtt_ms),
      loss: Math.max(before?.loss ?? 0, row.loss ?? 0),
      pairs: (before?.pairs ?? 0) + 1,
    });
  }
  return {
    names: [...names].sort(order.compare),
    at: (row, column) => cells.get(key(row, column)),
  };
}

/** Says which nodes two sites have between them; both may be the same, or none. */
export function betweenSites(one: string, other: string): string {
  if (one !== other) return `${one} and ${other}`;
  return one === NO_SITE ? "nodes without a site" : `nodes of ${one}`;
}

/** Points of a line in a box of `width` x `height`, the newest at the right; one is a dot there. */
export function lineOf(
  values: readonly number[],
  width: number,
  height: number,
): { points: string; most: number } {
  const most = Math.max(1, ...values);
  const [only] = values;
  if (only !== undefined && values.length === 1) {
    const y = (height - (only / most) * height).toFixed(1);
    // No longer than a hair: what is seen of it is its round end.
    return { points: `${(width - 0.1).toFixed(1)},${y} ${width.toFixed(1)},${y}`, most };
  }
  const step = width / Math.max(1, values.length - 1);
  const points = values
    .map(
      (value, index) =>
        `${(index * step).toFixed(1)},${(height - (value / most) * height).toFixed(1)}`,
    )
    .join(" ");
  return { points, most };
}
