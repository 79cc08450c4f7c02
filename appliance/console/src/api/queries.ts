import { queryOptions, useQuery, type QueryClient } from "@tanstack/react-query";
import { allPages, answered, api, type Schemas } from "./client";

/** What a list is called in the cache; the stream names the same. */
export const LIMIT = 1000;

export function useStatus() {
  return useQuery({
    queryKey: ["status"],
    queryFn: ({ signal }) => answered(api.GET("/api/v1/status", { signal })),
  });
}

const overview = queryOptions({
  queryKey: ["overview"],
  queryFn: ({ signal }) => answered(api.GET("/api/v1/overview", { signal })),
});

export function useOverview() {
  return useQuery(overview);
}

/** Asks for the overview before anything is drawn. */
export function askForOverview(client: QueryClient): void {
  void client.prefetchQuery(overview);
}

export function useCluster() {
  return useQuery({
    queryKey: ["cluster"],
    queryFn: ({ signal }) => answered(api.GET("/api/v1/cluster", { signal })),
  });
}

export type NodeState = Schemas["NodeState"];

export function useNodes(state?: NodeState) {
  return useQuery({
    queryKey: ["nodes", "list", state ?? ""],
    queryFn: ({ signal }) =>
      allPages((cursor) =>
        api.GET("/api/v1/nodes", { params: { query: { limit: LIMIT, cursor, state } }, signal }),
      ),
  });
}

export function useNode(node: string) {
  return useQuery({
    queryKey: ["nodes", "one", node],
    queryFn: ({ signal }) =>
      answered(api.GET("/api/v1/nodes/{node}", { params: { path: { node } }, signal })),
  });
}

export function useVSubnets() {
  return useQuery({
    queryKey: ["vsubnets", "list"],
    queryFn: ({ signal }) =>
      allPages((cursor) =>
        api.GET("/api/v1/vsubnets", { params: { query: { limit: LIMIT, cursor } }, signal }),
      ),
  });
}

export function useVSubnet(vsubnet: string) {
  return useQuery({
    queryKey: ["vsubnets", "one", vsubnet],
    queryFn: ({ signal }) =>
      answered(api.GET("/api/v1/vsubnets/{vsubnet}", { params: { path: { vsubnet } }, signal })),
  });
}

export function useMembers(vsubnet: string) {
  return useQuery({
    queryKey: ["members", vsubnet],
    queryFn: ({ signal }) =>
      allPages((cursor) =>
        api.GET("/api/v1/members", {
          params: { query: { limit: LIMIT, cursor, vsubnet } },
          signal,
        }),
      ),
  });
}

export function useTable(vsubnet: string) {
  return useQuery({
    queryKey: ["topology", "table", vsubnet],
    queryFn: ({ signal }) =>
      answered(
        api.GET("/api/v1/vsubnets/{vsubnet}/table", { params: { path: { vsubnet } }, signal }),
      ),
  });
}

export interface EventFilter {
  kind?: string;
  severity?: Schemas["Severity"][];
  node?: string;
  vsubnet?: string;
  since?: string;
  limit?: number;
}

export function useEvents(filter: EventFilter) {
  return useQuery({
    queryKey: ["events", filter],
    queryFn: ({ signal }) =>
      answered(api.GET("/api/v1/events", { params: { query: { limit: 100, ...filter } }, signal })),
  });
}

/** Lets everything be read again that a change of `what` may have touched. */
export function refresh(client: QueryClient, ...what: string[]): void {
  for (const each of what) void client.invalidateQueries({ queryKey: [each] });
}
