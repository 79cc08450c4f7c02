import { useQuery } from "@tanstack/react-query";
import { allPages, answered, api, type Schemas } from "../../api/client";
import { LIMIT } from "../../api/queries";

export type Segment = Schemas["SegmentOut"];
export type Gateway = Schemas["GatewayOut"];
export type Station = Schemas["StationOut"];

const OFTEN_MS = 2_000; // who forwards changes by beats, not by what is stored

export function useSegments() {
  return useQuery({
    queryKey: ["segments", "list"],
    refetchInterval: OFTEN_MS,
    queryFn: ({ signal }) =>
      allPages((cursor) =>
        api.GET("/api/v1/segments", { params: { query: { limit: LIMIT, cursor } }, signal }),
      ),
  });
}

export function useSegment(segment: string) {
  return useQuery({
    queryKey: ["segments", "one", segment],
    refetchInterval: OFTEN_MS,
    queryFn: ({ signal }) =>
      answered(api.GET("/api/v1/segments/{segment}", { params: { path: { segment } }, signal })),
  });
}

export function useStations(segment: string) {
  return useQuery({
    queryKey: ["segments", "stations", segment],
    queryFn: ({ signal }) =>
      allPages((cursor) =>
        api.GET("/api/v1/segments/{segment}/stations", {
          params: { path: { segment }, query: { limit: LIMIT, cursor } },
          signal,
        }),
      ),
  });
}
