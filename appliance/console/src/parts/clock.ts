import { useSyncExternalStore } from "react";

/** One clock for all ages on screen, set by the appliance's own time. */
let skewMs = 0;
let nowMs = Date.now();
const listeners = new Set<() => void>();
let timer: ReturnType<typeof setInterval> | undefined;

const SKEW_NOTED_MS = 2_000; // the Date header has whole seconds

export function noteServerTime(date: string | null): void {
  const at = date === null ? NaN : Date.parse(date);
  if (Number.isNaN(at)) return;
  const skew = at - Date.now();
  skewMs = Math.abs(skew) < SKEW_NOTED_MS ? 0 : skew;
}

export function serverNow(): number {
  return Date.now() + skewMs;
}

/** Returns what the appliance's clock showed at a moment of the browser's own. */
export function serverTimeOf(localMs: number): number {
  return localMs + skewMs;
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  if (timer === undefined) nowMs = serverNow(); // while nobody listened, it stood
  timer ??= setInterval(() => {
    nowMs = serverNow();
    for (const each of listeners) each();
  }, 1_000);
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) {
      clearInterval(timer);
      timer = undefined;
    }
  };
}

/** Returns the time now in ms, by the second. */
export function useNow(): number {
  return useSyncExternalStore(subscribe, () => nowMs);
}
