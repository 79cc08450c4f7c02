import type { Schemas } from "../../api/client";

/** Where everything is on the picture of the topology: pure, in units of the picture. */

export type Topology = Schemas["TopologyOut"];
export type TopologyNode = Schemas["TopologyNodeOut"];
export type Edge = Schemas["EdgeOut"];

export interface Place {
  node: TopologyNode;
  x: number;
  y: number;
}

export interface SiteBox {
  name: string;
  x: number;
  y: number;
  width: number;
  height: number;
  nodes: Place[];
}

export interface Layout {
  sites: SiteBox[];
  places: Map<string, Place>;
  width: number;
  height: number;
}

const STEP_X = 110;
const STEP_Y = 64;
const HEAD = 34;
const PAD = 40;
const GAP = 70;
const NO_SITE = "no site";

const order = new Intl.Collator("en", { numeric: true });

/** Sites as boxes beside and under each other, the nodes of each in rows, always the same way. */
export function layoutOf(nodes: readonly TopologyNode[]): Layout {
  const bySite = new Map<string, TopologyNode[]>();
  for (const node of nodes) {
    const site = node.site || NO_SITE;
    const known = bySite.get(site);
    if (known) known.push(node);
    else bySite.set(site, [node]);
  }
  const boxes = [...bySite]
    .sort(([a], [b]) => order.compare(a, b))
    .map(([name, members]) => boxOf(name, members));
  const area = boxes.reduce((sum, { width, height }) => sum + (width + GAP) * (height + GAP), 0);
  const rowWidth = Math.max(Math.sqrt(area) * 1.4, ...boxes.map(({ width }) => width));
  let x = 0;
  let y = 0;
  let rowHeight = 0;
  let right = 0;
  for (const box of boxes) {
    if (x > 0 && x + box.width > rowWidth) {
      x = 0;
      y += rowHeight + GAP;
      rowHeight = 0;
    }
    moveTo(box, x, y);
    right = Math.max(right, x + box.width);
    rowHeight = Math.max(rowHeight, box.height);
    x += box.width + GAP;
  }
  const places = new Map(
    boxes.flatMap((box) => box.nodes.map((place) => [place.node.id, place] as const)),
  );
  return { sites: boxes, places, width: right, height: y + rowHeight };
}

function boxOf(name: string, members: TopologyNode[]): SiteBox {
  const sorted = [...members].sort(
    (a, b) => order.compare(a.name, b.name) || order.compare(a.id, b.id),
  );
  const columns = Math.max(1, Math.ceil(Math.sqrt(sorted.length * 0.8)));
  const rows = Math.ceil(sorted.length / columns);
  return {
    name,
    x: 0,
    y: 0,
    width: Math.max(columns, 2) * STEP_X + PAD,
    height: rows * STEP_Y + HEAD + PAD / 2,
    nodes: sorted.map((node, index) => ({
      node,
      x: (index % columns) * STEP_X + STEP_X / 2 + PAD / 2,
      y: Math.floor(index / columns) * STEP_Y + HEAD + STEP_Y / 2,
    })),
  };
}

function moveTo(box: SiteBox, x: number, y: number): void {
  box.x = x;
  box.y = y;
  for (const place of box.nodes) {
    place.x += x;
    place.y += y;
  }
}

export type Band = "near" | "middle" | "far" | "very far" | "unknown" | "down";

export const BANDS: readonly { band: Band; says: string }[] = [
  { band: "near", says: "under 10 ms" },
  { band: "middle", says: "10 to 50 ms" },
  { band: "far", says: "50 to 150 ms" },
  { band: "very far", says: "150 ms and more" },
  { band: "unknown", says: "not measured" },
  { band: "down", says: "down" },
];

export function bandOf(edge: Pick<Edge, "up" | "rtt_ms">): Band {
  if (!edge.up) return "down";
  if (edge.rtt_ms === null) return "unknown";
  if (edge.rtt_ms < 10) return "near";
  if (edge.rtt_ms < 50) return "middle";
  return edge.rtt_ms < 150 ? "far" : "very far";
}

export interface Line {
  x1: number;
  y1: number;
  x2: number;
  y2: number;
}

export interface Stroke {
  band: Band;
  path: Edge["path"];
  lines: Line[];
}

/** Lines of one look together: a picture is a few strokes, however many edges there are. */
export function strokesOf(edges: readonly Edge[], places: ReadonlyMap<string, Place>): Stroke[] {
  const found = new Map<string, Stroke>();
  for (const edge of edges) {
    const a = places.get(edge.a);
    const b = places.get(edge.b);
    if (!a || !b) continue;
    const band = bandOf(edge);
    const key = `${band}/${edge.path}`;
    let stroke = found.get(key);
    if (!stroke) {
      stroke = { band, path: edge.path, lines: [] };
      found.set(key, stroke);
    }
    stroke.lines.push({ x1: a.x, y1: a.y, x2: b.x, y2: b.y });
  }
  return [...found.values()];
}

/** One line for all paths between two sites, of the median's look: for pictures of very many. */
export function bundlesOf(edges: readonly Edge[], { sites, places }: Layout): Stroke[] {
  const boxes = new Map(sites.map((site) => [site.name, site]));
  const bundles = new Map<string, Edge[]>();
  for (const edge of edges) {
    const ends = [edge.a, edge.b].map((id) => places.get(id)?.node);
    if (!ends[0] || !ends[1]) continue;
    const names = ends.map((node) => node?.site || NO_SITE).sort();
    if (names[0] === names[1]) continue;
    const key = JSON.stringify(names);
    const known = bundles.get(key);
    if (known) known.push(edge);
    else bundles.set(key, [edge]);
  }
  const strokes: Stroke[] = [];
  for (const [key, bundle] of bundles) {
    const [a, b] = (JSON.parse(key) as string[]).map((name) => boxes.get(name));
    const up = bundle.filter((each) => each.up);
    const sorted = (up.length > 0 ? up : bundle).sort((x, y) => (x.rtt_ms ?? 0) - (y.rtt_ms ?? 0));
    const median = sorted[Math.floor(sorted.length / 2)];
    if (!a || !b || !median) continue;
    const line = {
      x1: a.x + a.width / 2,
      y1: a.y + a.height / 2,
      x2: b.x + b.width / 2,
      y2: b.y + b.height / 2,
    };
    strokes.push({ band: bandOf(median), path: median.path, lines: [line] });
  }
  return strokes;
}

/** The node at a point, within reach of a finger. */
export function nodeAt(layout: Layout, x: number, y: number): TopologyNode | undefined {
  for (const site of layout.sites) {
    const isInside =
      x >= site.x && y >= site.y && x <= site.x + site.width && y <= site.y + site.height;
    if (!isInside) continue;
    const place = site.nodes.find((each) => Math.hypot(each.x - x, each.y - y) <= STEP_Y / 2);
    if (place) return place.node;
  }
  return undefined;
}
