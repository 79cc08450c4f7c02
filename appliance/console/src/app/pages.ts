/** The pages in the order of the navigation; the first part of each address is the appliance's
 * `ROUTES` too. */
export const PAGES = [
  { path: "/", title: "Overview" },
  { path: "/nodes", title: "Nodes" },
  { path: "/join", title: "Join a node" },
  { path: "/vsubnets", title: "vSubnets" },
  { path: "/topology", title: "Topology" },
  { path: "/latency", title: "Latency" },
  { path: "/gateways", title: "Gateways" },
  { path: "/events", title: "Events" },
  { path: "/cluster", title: "Cluster" },
  { path: "/access", title: "Access" },
  { path: "/settings", title: "Settings" },
] as const;
