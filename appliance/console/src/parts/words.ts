/** Numbers, ages and foreign text as people read them. */

const UNITS: readonly (readonly [number, string])[] = [
  [86_400, "d"],
  [3_600, "h"],
  [60, "min"],
  [1, "s"],
];

/** A length of time in its largest unit; below a second "just now" is said by the caller. */
export function lengthOf(seconds: number): string {
  for (const [size, unit] of UNITS) {
    if (seconds >= size) return `${String(Math.floor(seconds / size))} ${unit}`;
  }
  return "0 s";
}

// Two clocks that agree are this far apart on screen: the one here ticks by the second, and the
// appliance's is told in whole seconds.
const SAME_S = 3;

export function ageOf(atMs: number, nowMs: number): string {
  const seconds = (nowMs - atMs) / 1_000;
  if (seconds <= -SAME_S) return `in ${lengthOf(-seconds)}`;
  return seconds < 1 ? "just now" : `${lengthOf(seconds)} ago`;
}

export function absolute(atMs: number): string {
  return `${new Date(atMs).toISOString().replace("T", " ").slice(0, 19)} UTC`;
}

export function octets(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? String(value) : value.toFixed(1)} ${units[unit] ?? ""}`;
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

/** What was typed one after the other, apart by commas or spaces. */
export function listed(text: string): string[] {
  return text.split(/[\s,]+/).filter(Boolean);
}

// Control characters, and those that turn, hide or join what stands beside them.
const ACTIVE =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
const SHOWN_MAX = 500;

/** Text that others wrote, with every character that does something made visible. */
export function inert(text: string): string {
  const shown = text.replace(ACTIVE, (character) => {
    const code = character.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
    return `⟨U+${code}⟩`;
  });
  return shown.length > SHOWN_MAX ? `${shown.slice(0, SHOWN_MAX)}…` : shown;
}
