/** The pages in the order of the navigation; the first part of each address is in the
 * appliance's `ROUTES` too. */
export const PAGES = [
  { path: "/", title: "Overview" },
  { path: "/topology", title: "Topology" },
  { path: "/nodes", title: "Nodes" },
  { path: "/join", title: "Join a node" },
  { path: "/vsubnets", title: "vSubnets" },
  { path: "/gateways", title: "Gateways" },
  { path: "/latency", title: "Latency" },
  { path: "/events", title: "Events" },
  { path: "/audit", title: "Audit" },
  { path: "/cluster", title: "Cluster" },
  { path: "/access", title: "Access" },
  { path: "/settings", title: "Settings" },
] as const;
