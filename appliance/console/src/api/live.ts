import { withProof } from "./client";
import { EventParser, type StreamEvent } from "./sse";

/** How the stream of this appliance is; `since` in ms. */
export interface LinkState {
  state: "connecting" | "live" | "lost";
  since: number;
}

export const SILENT_MS = 4_500; // two missing beats; a dead replica is named within 5 s
const AGAIN_MS = [500, 1_000, 2_000, 4_000] as const;
const CHECK_MS = 250;

interface Watcher {
  event: (event: StreamEvent) => void;
  state: (state: LinkState) => void;
}

/**
 * Follows the stream until `stop`: resumes after the last event, and says so when beats are
 * missing, also where the connection itself seems to stand.
 */
export function follow(watcher: Watcher, stop: AbortSignal): void {
  let lastId = "";
  let heardAt = Date.now();
  let failures = 0;
  let current: LinkState = { state: "connecting", since: heardAt };

  const say = (state: LinkState["state"]): void => {
    if (current.state === state) return;
    current = { state, since: Date.now() };
    watcher.state(current);
  };
  const heard = (event: StreamEvent): void => {
    if (event.id) lastId = event.id;
    watcher.event(event);
  };

  async function once(signal: AbortSignal): Promise<void> {
    const headers = new Headers({ Accept: "text/event-stream" });
    withProof(headers, "GET");
    if (lastId) headers.set("Last-Event-ID", lastId);
    const response = await fetch("/api/v1/stream", { headers, signal });
    // A position that the appliance no longer knows: begin anew rather than ask for ever.
    if (response.status === 422) lastId = "";
    if (!response.ok || !response.body) return;
    const parser = new EventParser();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heardAt = Date.now(); // any octet: beats carry nothing else
      failures = 0;
      say("live");
      for (const event of parser.push(value)) heard(event);
    }
  }

  async function connection(): Promise<void> {
    const giveUp = new AbortController();
    const begun = Date.now();
    const check = setInterval(() => {
      const now = Date.now();
      if (now - heardAt > SILENT_MS) say("lost");
      if (now - Math.max(heardAt, begun) > SILENT_MS) giveUp.abort();
    }, CHECK_MS);
    try {
      await once(AbortSignal.any([stop, giveUp.signal]));
    } catch {
      // Whatever ended it: it is tried again, and the state says how long it has been silent.
    } finally {
      clearInterval(check);
    }
  }

  async function run(): Promise<void> {
    while (!stop.aborted) {
      await connection();
      const base = AGAIN_MS[Math.min(failures++, AGAIN_MS.length - 1)] ?? 4_000;
      const until = Date.now() + base * (0.5 + Math.random());
      while (!stop.aborted && Date.now() < until) {
        await new Promise((resolve) => setTimeout(resolve, CHECK_MS));
        if (Date.now() - heardAt > SILENT_MS) say("lost");
      }
    }
  }
  void run();
}
