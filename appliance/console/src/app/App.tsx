import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import type { ComponentType } from "react";
import { createBrowserRouter, Navigate, type RouteObject } from "react-router";
import { RouterProvider } from "react-router/dom";
import { failureFrom } from "../api/failure";
import { askForOverview } from "../api/queries";
import { Loading } from "../parts/states";
import { Component as Overview } from "../routes/overview/Overview";
import { patiently } from "./patience";
import { RouteFailed } from "./RouteFailed";
import { askForSession, SessionProvider } from "./session";
import { Root } from "./Root";

const STALE_MS = 5_000;
const AGAIN_MS = 15_000; // also where the stream says nothing

const client = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: STALE_MS,
      refetchInterval: AGAIN_MS,
      networkMode: "always", // the appliance may be near where the internet is not
      retry: (count, error) => {
        const { status } = failureFrom(error);
        return count < 1 && (status === 0 || status >= 500);
      },
      retryDelay: () => 500 + Math.random() * 500,
    },
    mutations: { networkMode: "always", retry: false },
  },
});

// Beside each other, and before the first drawing: what is seen first waits for both.
askForSession(client);
if (window.location.pathname === "/") askForOverview(client);

interface Loaded {
  Component: ComponentType;
}
// Not a rejected `lazy`: where a route above has a fallback the router shows nothing at all then.
const failing = (error: unknown): Loaded => ({
  Component: () => {
    throw error;
  },
});
const page = (path: string, load: () => Promise<Loaded>): RouteObject => ({
  path,
  lazy: async () => patiently(load).catch(failing),
  errorElement: <RouteFailed />,
});

const router = createBrowserRouter([
  {
    element: <Root />,
    errorElement: <RouteFailed />,
    hydrateFallbackElement: <Loading what="console" />,
    children: [
      // Not by itself: where nearly everybody arrives, it would be asked for one step later.
      { path: "/", element: <Overview />, errorElement: <RouteFailed /> },
      page("/nodes", async () => import("../routes/nodes/Nodes")),
      page("/nodes/:node", async () => import("../routes/nodes/Node")),
      page("/join", async () => import("../routes/join/Join")),
      page("/vsubnets", async () => import("../routes/vsubnets/VSubnets")),
      page("/vsubnets/:vsubnet", async () => import("../routes/vsubnets/VSubnet")),
      page("/topology", async () => import("../routes/topology/Topology")),
      page("/gateways", async () => import("../routes/gateways/Gateways")),
      page("/segments/:segment", async () => import("../routes/gateways/Segment")),
      page("/events", async () => import("../routes/events/Events")),
      page("/latency", async () => import("../routes/latency/Latency")),
      page("/audit", async () => import("../routes/audit/Audit")),
      page("/access", async () => import("../routes/access/Access")),
      page("/settings", async () => import("../routes/settings/Settings")),
      page("/cluster", async () => import("../routes/cluster/Cluster")),
      { path: "/oidc", element: null }, // Root has it
      { path: "/tokens", element: <Navigate to="/join" replace /> },
      page("*", async () => import("../routes/NotFound")),
    ],
  },
]);

export function App() {
  return (
    <QueryClientProvider client={client}>
      <SessionProvider>
        <RouterProvider router={router} />
      </SessionProvider>
    </QueryClientProvider>
  );
}
