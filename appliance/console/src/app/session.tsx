import { queryOptions, useQuery, useQueryClient, type QueryClient } from "@tanstack/react-query";
import { createContext, useContext, useEffect, useMemo, useState, type ReactNode } from "react";
import { answered, api, onSignedOut, setCsrf, type Schemas } from "../api/client";
import { failureFrom } from "../api/failure";

export type Session = Schemas["SessionOut"];

interface SessionState {
  session: Session | undefined;
  /** It ended while the console was open: what was typed stays, the login comes over it. */
  ended: boolean;
  checking: boolean;
  problem: unknown;
  /** Why a login by the identity provider came to nothing. */
  refused: unknown;
  login: (name: string, password: string, code: string) => Promise<void>;
  /** Logs in with what an identity provider sent the browser back with; returns where to go. */
  enter: (back: Schemas["OidcBack"]) => Promise<string>;
  /** Goes on with a session that was opened in another tab. */
  resume: () => Promise<void>;
  logout: () => Promise<void>;
  again: () => void;
}

const Context = createContext<SessionState | undefined>(undefined);

export function useSession(): SessionState {
  const state = useContext(Context);
  if (!state) throw new Error("there is no SessionProvider");
  return state;
}

const RANKS = ["viewer", "operator", "admin"];

/** Says whether the person may do what needs `role`. */
export function useMay(role: "operator" | "admin"): boolean {
  const { session } = useSession();
  return RANKS.indexOf(session?.role ?? "") >= RANKS.indexOf(role);
}

const question = queryOptions({
  queryKey: ["session"],
  staleTime: Infinity,
  refetchInterval: false,
  retry: false,
  queryFn: async ({ signal }) => {
    const session = await answered(api.GET("/api/v1/session", { signal }));
    setCsrf(session.csrf);
    return session;
  },
});

/** Asks whose session this is before anything is drawn. */
export function askForSession(client: QueryClient): void {
  void client.prefetchQuery(question);
}

export function SessionProvider({ children }: { children: ReactNode }) {
  const client = useQueryClient();
  const [ended, setEnded] = useState(false);
  const [refused, setRefused] = useState<unknown>();
  const query = useQuery(question);
  useEffect(() => onSignedOut(() => setEnded(true)), []);

  const known = query.data;
  const state = useMemo<SessionState>(() => {
    const opened = async (session: Session): Promise<void> => {
      setCsrf(session.csrf);
      if (known && known.user !== session.user) client.clear(); // nothing of another person stays
      await query.refetch();
      setEnded(false);
      setRefused(undefined);
      await client.invalidateQueries();
    };
    const isStranger = failureFrom(query.error).status === 401;
    return {
      session: known,
      ended: ended && known !== undefined,
      checking: query.isPending,
      problem: query.isError && !isStranger ? query.error : undefined,
      refused,
      again: () => void query.refetch(),
      login: async (name, password, code) => {
        const body = { name, password, code };
        await opened(await answered(api.POST("/api/v1/login", { body })));
      },
      enter: async (back) => {
        try {
          const entered = await answered(api.POST("/api/v1/oidc/callback", { body: back }));
          await opened(entered);
          return entered.to;
        } catch (error) {
          setRefused(error);
          return "/";
        }
      },
      resume: async () => opened(await answered(api.GET("/api/v1/session"))),
      logout: async () => {
        await answered(api.POST("/api/v1/logout"));
        window.location.assign("/"); // a fresh page: nothing stays in memory
      },
    };
  }, [known, ended, refused, query, client]);
  return <Context.Provider value={state}>{children}</Context.Provider>;
}
