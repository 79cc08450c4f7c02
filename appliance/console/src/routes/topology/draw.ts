import { inert } from "../../parts/words";
import type { Band, Layout, Place, Stroke } from "./layout";

/** Draws the topology on a canvas: a few strokes for all edges, one fill per kind of node. */

export interface View {
  x: number; // what is at the left edge of the canvas
  y: number;
  scale: number;
}

export interface Colours {
  text: string;
  faint: string;
  box: string;
  border: string;
  chosen: string;
  bands: Record<Band, string>;
  health: Record<Place["node"]["health"], string>;
}

const DASHES = { direct: [], relayed: [8, 6], gateway: [2, 5] };
const NAMES_FROM = 0.55; // smaller than that nobody can read them
const SITES_FROM = 0.08;
const NAME_MAX = 15;
const RADIUS = 9;

/** The colours of the theme that the page has now. */
export function coloursOf(element: Element): Colours {
  const style = getComputedStyle(element);
  const of = (name: string): string => style.getPropertyValue(`--cairn-${name}`).trim();
  return {
    text: of("text"),
    faint: of("faint"),
    box: of("box"),
    border: of("border"),
    chosen: of("chosen"),
    bands: {
      near: of("near"),
      middle: of("middle"),
      far: of("far"),
      "very far": of("very-far"),
      unknown: of("faint"),
      down: of("down"),
    },
    health: { up: of("near"), stale: of("far"), down: of("down"), pending: of("chosen") },
  };
}

export interface Picture {
  layout: Layout;
  strokes: readonly Stroke[];
  /** Edges of the chosen node, drawn over all. */
  own: readonly Stroke[];
  chosen: string;
}

export function draw(
  canvas: HTMLCanvasElement,
  picture: Picture,
  view: View,
  colours: Colours,
): void {
  const context = canvas.getContext("2d");
  if (!context) return;
  const ratio = window.devicePixelRatio || 1;
  const font = getComputedStyle(canvas).fontFamily;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  const scale = view.scale * ratio;
  context.setTransform(scale, 0, 0, scale, -view.x * scale, -view.y * scale);
  boxes(context, picture.layout, view, colours, font);
  context.globalAlpha = picture.chosen ? 0.15 : 0.75;
  for (const stroke of picture.strokes) line(context, stroke, colours, 1.2 / view.scale);
  context.globalAlpha = 1;
  for (const stroke of picture.own) line(context, stroke, colours, 2.5 / view.scale);
  context.setLineDash([]);
  nodes(context, picture, colours);
  if (view.scale >= NAMES_FROM) names(context, picture.layout, view, canvas, colours, font);
}

function boxes(
  context: CanvasRenderingContext2D,
  layout: Layout,
  view: View,
  colours: Colours,
  font: string,
): void {
  context.setLineDash([]);
  context.fillStyle = colours.box;
  context.strokeStyle = colours.border;
  context.lineWidth = 1 / view.scale;
  context.beginPath();
  for (const { x, y, width, height } of layout.sites) context.roundRect(x, y, width, height, 12);
  context.fill();
  context.stroke();
  if (view.scale < SITES_FROM) return;
  context.fillStyle = colours.text;
  context.font = `600 ${String(Math.max(14, Math.min(40, 13 / view.scale)))}px ${font}`;
  context.textAlign = "start";
  context.textBaseline = "top";
  for (const { name, x, y, width } of layout.sites) {
    context.fillText(cut(inert(name), 40), x + 12, y + 10, width - 24);
  }
}

function line(
  context: CanvasRenderingContext2D,
  { band, path, lines }: Stroke,
  colours: Colours,
  width: number,
): void {
  context.strokeStyle = colours.bands[band];
  context.lineWidth = width;
  context.setLineDash(DASHES[path].map((each) => each * width));
  context.beginPath();
  for (const { x1, y1, x2, y2 } of lines) {
    context.moveTo(x1, y1);
    context.lineTo(x2, y2);
  }
  context.stroke();
}

function nodes(context: CanvasRenderingContext2D, picture: Picture, colours: Colours): void {
  const places = [...picture.layout.places.values()];
  for (const [health, colour] of Object.entries(colours.health)) {
    context.fillStyle = colour;
    context.beginPath();
    for (const { node, x, y } of places) {
      if (node.health !== health) continue;
      if (node.role === "gateway") {
        context.rect(x - RADIUS, y - RADIUS, 2 * RADIUS, 2 * RADIUS);
      } else {
        context.moveTo(x + RADIUS, y);
        context.arc(x, y, RADIUS, 0, 2 * Math.PI);
      }
    }
    context.fill();
  }
  const chosen = picture.layout.places.get(picture.chosen);
  if (!chosen) return;
  context.strokeStyle = colours.chosen;
  context.lineWidth = 4;
  context.beginPath();
  context.arc(chosen.x, chosen.y, RADIUS + 7, 0, 2 * Math.PI);
  context.stroke();
}

function names(
  context: CanvasRenderingContext2D,
  layout: Layout,
  view: View,
  canvas: HTMLCanvasElement,
  colours: Colours,
  font: string,
): void {
  const right = view.x + canvas.clientWidth / view.scale;
  const bottom = view.y + canvas.clientHeight / view.scale;
  context.fillStyle = colours.text;
  context.font = `12px ${font}`;
  context.textAlign = "center";
  context.textBaseline = "top";
  for (const { node, x, y } of layout.places.values()) {
    if (x < view.x - 60 || x > right + 60 || y < view.y - 30 || y > bottom + 30) continue;
    context.fillText(cut(inert(node.name), NAME_MAX), x, y + RADIUS + 4);
  }
}

function cut(text: string, max: number): string {
  return text.length > max ? `${text.slice(0, max - 1)}…` : text;
}
