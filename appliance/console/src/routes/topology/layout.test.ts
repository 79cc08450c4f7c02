import { describe, expect, it } from "vitest";
import {
  bandOf,
  bundlesOf,
  layoutOf,
  nodeAt,
  strokesOf,
  type Edge,
  type TopologyNode,
} from "./layout";

const node = (id: string, site: string): TopologyNode => ({
  id,
  name: id,
  site,
  state: "approved",
  health: "up",
  connected: true,
  role: "host",
  gateways: [],
  vsubnets: [],
  reported_at: null,
  stale: false,
});
const edge = (a: string, b: string, rtt_ms: number | null, up = true): Edge => ({
  a,
  b,
  vsubnets: [],
  path: "direct",
  rtt_ms,
  loss: 0,
  mtu: 1400,
  up,
  stale: false,
  at: "2026-11-26T20:15:04Z",
});

const THOUSAND = Array.from({ length: 1000 }, (_, n) =>
  node(`vm-${String(n)}`, `site-${String(n % 13)}`),
);

describe("the picture", () => {
  it("has each node once, inside the box of its site, and no two at one place", () => {
    const { sites, places } = layoutOf(THOUSAND);
    expect(places.size).toBe(1000);
    expect(new Set([...places.values()].map(({ x, y }) => `${String(x)}/${String(y)}`)).size).toBe(
      1000,
    );
    for (const site of sites) {
      for (const { x, y } of site.nodes) {
        expect(x > site.x && x < site.x + site.width).toBe(true);
        expect(y > site.y && y < site.y + site.height).toBe(true);
      }
    }
  });
  it("has boxes that do not cover each other", () => {
    const { sites } = layoutOf(THOUSAND);
    for (const a of sites) {
      for (const b of sites.filter((each) => each !== a)) {
        const isApart =
          a.x + a.width <= b.x ||
          b.x + b.width <= a.x ||
          a.y + a.height <= b.y ||
          b.y + b.height <= a.y;
        expect(isApart).toBe(true);
      }
    }
  });
  it("does not depend on the order of what was answered", () => {
    const placesOf = (nodes: TopologyNode[]) =>
      [...layoutOf(nodes).places].map(([id, { x, y }]) => [id, x, y]).sort();
    expect(placesOf([...THOUSAND].reverse())).toEqual(placesOf(THOUSAND));
  });
  it("finds the node that is pointed at", () => {
    const layout = layoutOf(THOUSAND);
    const place = layout.places.get("vm-500");
    expect(nodeAt(layout, (place?.x ?? 0) + 5, place?.y ?? 0)?.id).toBe("vm-500");
    expect(nodeAt(layout, -50, -50)).toBeUndefined();
  });
  it("is empty where there is no node", () => {
    expect(layoutOf([])).toMatchObject({ sites: [], height: 0 });
  });
});

describe("edges", () => {
  it.each([
    [9.9, true, "near"],
    [10, true, "middle"],
    [50, true, "far"],
    [150, true, "very far"],
    [null, true, "unknown"],
    [1, false, "down"],
  ])("of %s ms, up %s, are %s", (rtt_ms, up, band) => expect(bandOf({ rtt_ms, up })).toBe(band));
  it("of very many nodes are one line for each two sites, of the median's look", () => {
    const layout = layoutOf([node("a", "x"), node("b", "x"), node("c", "y"), node("d", "y")]);
    const bundles = bundlesOf(
      [edge("a", "c", 5), edge("a", "d", 60), edge("b", "c", 70), edge("a", "b", 1)],
      layout,
    );
    expect(bundles.map(({ band, lines }) => [band, lines.length])).toEqual([["far", 1]]);
  });
  it("of one look are drawn together, and those of unknown nodes not at all", () => {
    const { places } = layoutOf([node("a", "x"), node("b", "x"), node("c", "y")]);
    const strokes = strokesOf(
      [edge("a", "b", 1), edge("a", "c", 2), edge("b", "c", 70), edge("a", "gone", 1)],
      places,
    );
    expect(strokes.map(({ band, lines }) => [band, lines.length])).toEqual([
      ["near", 2],
      ["far", 1],
    ]);
  });
});
