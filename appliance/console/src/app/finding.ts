import { allPages, api, type Schemas } from "../api/client";
import { LIMIT } from "../api/queries";

export interface Found {
  kind: string;
  id: string;
  name: string;
  matched: string;
  where: string;
  link: string;
}

const MOST = 50;

/** Finds nodes and vSubnets by any of their names and addresses. */
export async function find(text: string, signal: AbortSignal): Promise<Found[]> {
  const [nodes, vsubnets] = await Promise.all([
    allPages((cursor) =>
      api.GET("/api/v1/nodes", { params: { query: { limit: LIMIT, cursor } }, signal }),
    ),
    allPages((cursor) =>
      api.GET("/api/v1/vsubnets", { params: { query: { limit: LIMIT, cursor } }, signal }),
    ),
  ]);
  return foundIn(text, nodes, vsubnets);
}

export function foundIn(
  text: string,
  nodes: readonly Schemas["NodeOut"][],
  vsubnets: readonly Schemas["VSubnetOut"][],
): Found[] {
  const wanted = text.toLowerCase();
  const places: (Omit<Found, "matched" | "where"> & { at: [string, string][] })[] = [
    ...vsubnets.map((each) => ({
      kind: "vSubnet",
      id: each.id,
      name: each.name,
      link: `/vsubnets/${each.id}`,
      at: [
        ["name", each.name],
        ["VNI", String(each.vni)],
        ["ID", each.id],
      ] as [string, string][],
    })),
    ...nodes.map((each) => ({
      kind: "node",
      id: each.id,
      name: each.name,
      link: `/nodes/${each.id}`,
      at: [
        ["name", each.name],
        ["ID", each.id],
        ...each.members.flatMap(({ mac, ips }): [string, string][] => [
          ["MAC", mac],
          ...ips.map((ip): [string, string] => ["IP", ip]),
        ]),
        ...each.endpoints.map((endpoint): [string, string] => ["endpoint", endpoint]),
      ] as [string, string][],
    })),
  ];
  return places
    .flatMap(({ at, ...rest }) => {
      const hit = at.find(([, value]) => value.toLowerCase().includes(wanted));
      return hit ? [{ ...rest, where: hit[0], matched: hit[1] }] : [];
    })
    .slice(0, MOST);
}
