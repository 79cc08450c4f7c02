import { useQueryClient } from "@tanstack/react-query";
import { createContext, useContext, useEffect, useState, type ReactNode } from "react";
import { follow, type LinkState } from "../api/live";
import { refresh } from "../api/queries";

interface Live extends LinkState {
  appliance: string;
}

const START: Live = { state: "connecting", since: Date.now(), appliance: "" };
const Context = createContext<Live>(START);

export const useLive = (): Live => useContext(Context);

const KNOWN = new Set([
  "nodes",
  "vsubnets",
  "members",
  "segments",
  "tokens",
  "cluster",
  "topology",
  "latency",
]);

/** Lets what changes be read again as the stream says so. */
export function LiveProvider({ children }: { children: ReactNode }) {
  const client = useQueryClient();
  const [live, setLive] = useState<Live>(START);
  useEffect(() => {
    const stop = new AbortController();
    const watcher = {
      state: (state: LinkState) => {
        setLive((before) => ({ ...before, ...state }));
        if (state.state === "live") void client.invalidateQueries();
      },
      event: ({ type, data }: { type: string; data: string }) => {
        const said = parsed(data);
        if (type === "hello") {
          setLive((before) => ({ ...before, appliance: String(said["appliance"] ?? "") }));
        } else if (type === "event") {
          refresh(client, "events", "overview", "status");
        } else if (type === "changed" && KNOWN.has(String(said["what"]))) {
          refresh(client, String(said["what"]), "overview", "status");
        }
      },
    };
    follow(watcher, stop.signal);
    return () => stop.abort();
  }, [client]);
  return <Context.Provider value={live}>{children}</Context.Provider>;
}

function parsed(data: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(data);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {}; // not ours: nothing to be read again
  }
}
