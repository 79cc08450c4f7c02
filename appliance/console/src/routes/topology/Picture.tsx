import { Button } from "@patternfly/react-core";
import { useCallback, useEffect, useRef, type KeyboardEvent, type PointerEvent } from "react";
import { coloursOf, draw, type Picture as Drawn, type View } from "./draw";
import { nodeAt } from "./layout";

const ZOOM_MIN = 0.03;
const ZOOM_MAX = 3;
const STEP = 1.25;
const PAN = 60;
const CLICK_PX = 4;
const MARGIN = 24;

interface PictureProps {
  picture: Drawn;
  label: string;
  choose: (node: string) => void;
}

/** The canvas with pan and zoom by mouse, finger and keyboard; drawn once a frame at most. */
export function Picture({ picture, label, choose }: PictureProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const view = useRef<View>();
  const shown = useRef(picture);
  const frame = useRef(0);
  shown.current = picture;

  const fit = useCallback((): void => {
    const element = canvas.current;
    if (!element) return;
    const { width, height } = shown.current.layout;
    const scale = Math.min(
      1.4,
      (element.clientWidth - 2 * MARGIN) / Math.max(width, 1),
      (element.clientHeight - 2 * MARGIN) / Math.max(height, 1),
    );
    view.current = {
      scale,
      x: width / 2 - element.clientWidth / 2 / scale,
      y: height / 2 - element.clientHeight / 2 / scale,
    };
  }, []);

  const redraw = useCallback((): void => {
    if (frame.current) return;
    frame.current = requestAnimationFrame(() => {
      frame.current = 0;
      const element = canvas.current;
      if (!element) return;
      const ratio = window.devicePixelRatio || 1;
      const width = Math.round(element.clientWidth * ratio);
      const height = Math.round(element.clientHeight * ratio);
      if (element.width !== width || element.height !== height) {
        element.width = width;
        element.height = height;
      }
      if (!view.current) fit();
      if (view.current) draw(element, shown.current, view.current, coloursOf(element));
    });
  }, [fit]);

  useEffect(redraw, [picture, redraw]);

  const zoom = useCallback(
    (factor: number, atX?: number, atY?: number): void => {
      const element = canvas.current;
      const now = view.current;
      if (!element || !now) return;
      const scale = Math.min(ZOOM_MAX, Math.max(ZOOM_MIN, now.scale * factor));
      const x = atX ?? element.clientWidth / 2;
      const y = atY ?? element.clientHeight / 2;
      view.current = {
        scale,
        x: now.x + x / now.scale - x / scale,
        y: now.y + y / now.scale - y / scale,
      };
      redraw();
    },
    [redraw],
  );
  const pan = (x: number, y: number): void => {
    const now = view.current;
    if (!now) return;
    view.current = { ...now, x: now.x + x / now.scale, y: now.y + y / now.scale };
    redraw();
  };

  useEffect(() => {
    const element = canvas.current;
    if (!element) return undefined;
    // React listens to wheels passively: a page that scrolls along can't be zoomed.
    const wheel = (event: WheelEvent): void => {
      event.preventDefault();
      zoom(event.deltaY < 0 ? STEP : 1 / STEP, event.offsetX, event.offsetY);
    };
    const resized = new ResizeObserver(redraw);
    const themed = new MutationObserver(redraw);
    element.addEventListener("wheel", wheel, { passive: false });
    resized.observe(element);
    themed.observe(document.documentElement, { attributeFilter: ["class"] });
    return () => {
      element.removeEventListener("wheel", wheel);
      resized.disconnect();
      themed.disconnect();
      cancelAnimationFrame(frame.current);
      frame.current = 0;
    };
  }, [redraw, zoom]);

  const grabbed = useRef<{ x: number; y: number; moved: number }>();
  const down = (event: PointerEvent<HTMLCanvasElement>): void => {
    event.currentTarget.setPointerCapture(event.pointerId);
    grabbed.current = { x: event.clientX, y: event.clientY, moved: 0 };
  };
  const move = (event: PointerEvent<HTMLCanvasElement>): void => {
    const from = grabbed.current;
    if (!from) return;
    const dx = event.clientX - from.x;
    const dy = event.clientY - from.y;
    grabbed.current = {
      x: event.clientX,
      y: event.clientY,
      moved: from.moved + Math.abs(dx) + Math.abs(dy),
    };
    pan(-dx, -dy);
  };
  const up = (event: PointerEvent<HTMLCanvasElement>): void => {
    const from = grabbed.current;
    const now = view.current;
    grabbed.current = undefined;
    if (!from || !now || from.moved > CLICK_PX) return;
    const { offsetX, offsetY } = event.nativeEvent;
    const x = now.x + offsetX / now.scale;
    const y = now.y + offsetY / now.scale;
    choose(nodeAt(shown.current.layout, x, y)?.id ?? "");
  };
  const keys: Record<string, () => void> = {
    ArrowLeft: () => pan(-PAN, 0),
    ArrowRight: () => pan(PAN, 0),
    ArrowUp: () => pan(0, -PAN),
    ArrowDown: () => pan(0, PAN),
    "+": () => zoom(STEP),
    "-": () => zoom(1 / STEP),
    Escape: () => choose(""),
  };
  const key = (event: KeyboardEvent): void => {
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  };
  return (
    <div className="cairn-picture">
      <div className="cairn-zoom">
        <Button variant="secondary" size="sm" aria-label="Zoom in" onClick={() => zoom(STEP)}>
          +
        </Button>
        <Button variant="secondary" size="sm" aria-label="Zoom out" onClick={() => zoom(1 / STEP)}>
          −
        </Button>
        <Button
          variant="secondary"
          size="sm"
          onClick={() => {
            fit();
            redraw();
          }}
        >
          Show all
        </Button>
      </div>
      <canvas
        ref={canvas}
        role="img"
        aria-label={label}
        tabIndex={0}
        onPointerDown={down}
        onPointerMove={move}
        onPointerUp={up}
        onPointerCancel={() => (grabbed.current = undefined)}
        onKeyDown={key}
      />
    </div>
  );
}
