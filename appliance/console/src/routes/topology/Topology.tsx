import {
  Button,
  Card,
  CardBody,
  CardTitle,
  FormSelect,
  FormSelectOption,
  Label,
} from "@patternfly/react-core";
import { useQuery } from "@tanstack/react-query";
import { useMemo } from "react";
import { useSearchParams } from "react-router";
import { answered, api } from "../../api/client";
import { useVSubnets } from "../../api/queries";
import { Facts } from "../../parts/facts";
import { NodeLink, VSubnetLink } from "../../parts/node";
import { Page } from "../../parts/page";
import { Shown } from "../../parts/states";
import { ListTable, useParameter, type Column } from "../../parts/table";
import { Age, Foreign } from "../../parts/text";
import { inert, plural } from "../../parts/words";
import { SegmentLink } from "../gateways/state";
import { BANDS, bandOf, bundlesOf, layoutOf, strokesOf, type Edge, type Topology } from "./layout";
import { Picture } from "./Picture";

const HEALTH = {
  up: { text: "up", status: "success" },
  stale: { text: "not heard of late", status: "warning" },
  down: { text: "down", status: "danger" },
  pending: { text: "waits for approval", status: "info" },
} as const;
const DRAWN_MAX = 1_000; // of more paths nobody sees one: a line for each two sites

/** Who is where and how they reach each other: picture first, the paths as a table below. */
export function Component() {
  const [search] = useSearchParams();
  const set = useParameter();
  const vsubnets = useVSubnets();
  const topology = useQuery({
    queryKey: ["topology", "picture"],
    queryFn: ({ signal }) => answered(api.GET("/api/v1/topology", { signal })),
  });
  const vsubnet = search.get("vsubnet") ?? "";
  return (
    <Page title="Topology" lead="As the nodes report it; the table below has the same.">
      <div className="cairn-filters">
        <FormSelect
          aria-label="vSubnet"
          value={vsubnet}
          onChange={(_, value) => set("vsubnet", value)}
        >
          <FormSelectOption value="" label="vSubnet: all" />
          {(vsubnets.data ?? []).map(({ id, name }) => (
            <FormSelectOption key={id} value={id} label={inert(name)} />
          ))}
        </FormSelect>
      </div>
      <Shown
        query={topology}
        what="topology"
        isEmpty={({ nodes }) => nodes.length === 0}
        empty={{
          title: "No node yet",
          body: "As soon as nodes join they are here, and the paths between them.",
        }}
      >
        {(value) => <Shape topology={value} vsubnet={vsubnet} />}
      </Shown>
    </Page>
  );
}

function Shape({ topology, vsubnet }: { topology: Topology; vsubnet: string }) {
  const [search] = useSearchParams();
  const set = useParameter();
  const chosen = search.get("node") ?? "";
  const there = useMemo(() => {
    if (!vsubnet) return topology;
    return {
      ...topology,
      nodes: topology.nodes.filter(({ vsubnets }) => vsubnets.includes(vsubnet)),
      edges: topology.edges.filter(({ vsubnets }) => vsubnets.includes(vsubnet)),
    };
  }, [topology, vsubnet]);
  const layout = useMemo(() => layoutOf(there.nodes), [there.nodes]);
  const isMuch = there.edges.length > DRAWN_MAX;
  const strokes = useMemo(
    () => (isMuch ? bundlesOf(there.edges, layout) : strokesOf(there.edges, layout.places)),
    [isMuch, there.edges, layout],
  );
  const picture = useMemo(() => {
    const own = there.edges.filter(({ a, b }) => a === chosen || b === chosen);
    return { layout, strokes, own: strokesOf(own, layout.places), chosen };
  }, [there.edges, layout, strokes, chosen]);
  const summary =
    `${plural(there.nodes.length, "node")} in ${plural(layout.sites.length, "site")}, ` +
    `${plural(there.edges.length, "path")}`;
  return (
    <div className="cairn-stack">
      <div className="cairn-beside">
        <Card>
          <CardBody className="cairn-stack">
            <Picture
              picture={picture}
              label={`Topology: ${summary}. Arrow keys move it, plus and minus zoom.`}
              choose={(node) => set("node", node)}
            />
            <Legend />
            <p>
              {summary}, as of <Age at={topology.at} />.
              {isMuch &&
                " A line stands for all paths between two sites, by their median; click a node to see its own."}
            </p>
          </CardBody>
        </Card>
        <Side topology={topology} chosen={chosen} close={() => set("node", "")} />
      </div>
      <Paths topology={there} choose={(node) => set("node", node)} />
    </div>
  );
}

function Legend() {
  return (
    <div className="cairn-legend">
      {BANDS.map(({ band, says }) => (
        <span key={band}>
          <span className={`cairn-band cairn-band-${band.replace(" ", "-")}`} /> {says}
        </span>
      ))}
      <span>solid: direct</span>
      <span>dashed: relayed</span>
      <span>dotted: through a gateway</span>
      <span>circle: node</span>
      <span>square: gateway</span>
    </div>
  );
}

const ms = (value: number | null): string =>
  value === null ? "not measured" : `${value.toFixed(2)} ms`;
const PEERS_MAX = 12;

/** What is known of the node that was clicked, with the ways on. */
function Side({
  topology,
  chosen,
  close,
}: {
  topology: Topology;
  chosen: string;
  close: () => void;
}) {
  const vsubnets = useVSubnets();
  const node = topology.nodes.find(({ id }) => id === chosen);
  if (!node) {
    return (
      <Card>
        <CardTitle component="h2">Sites and segments</CardTitle>
        <CardBody className="cairn-stack">
          <p>Click a node to see its paths.</p>
          {topology.segments.map((segment) => (
            <div key={segment.id}>
              <SegmentLink segment={segment} />{" "}
              <Label status={segment.state === "forwarding" ? "success" : "warning"}>
                {segment.state.replaceAll("_", " ")}
              </Label>
            </div>
          ))}
          {topology.segments.length === 0 && <p>No LAN is bridged.</p>}
        </CardBody>
      </Card>
    );
  }
  const name = (id: string): string => topology.nodes.find((each) => each.id === id)?.name ?? id;
  const edges = topology.edges
    .filter(({ a, b }) => a === chosen || b === chosen)
    .sort((a, b) => Number(a.up) - Number(b.up) || (b.rtt_ms ?? 0) - (a.rtt_ms ?? 0));
  const segments = topology.segments.filter(({ id }) => node.gateways.includes(id));
  const { text, status } = HEALTH[node.health];
  return (
    <Card>
      <CardTitle component="h2">
        <NodeLink node={node} /> <Label status={status}>{text}</Label>
      </CardTitle>
      <CardBody className="cairn-stack" aria-live="polite">
        <Facts
          facts={[
            ["Site", <Foreign key="site" text={node.site || "none"} />],
            ["Reported", <Age key="reported" at={node.reported_at} />],
            [
              "vSubnets",
              <span key="vsubnets" className="cairn-labels">
                {node.vsubnets.map((id) => (
                  <VSubnetLink
                    key={id}
                    vsubnet={vsubnets.data?.find((each) => each.id === id) ?? { id, name: id }}
                  />
                ))}
              </span>,
            ],
            ...(segments.length > 0
              ? ([
                  [
                    "Gateway of",
                    <span key="segments" className="cairn-labels">
                      {segments.map((each) => (
                        <SegmentLink key={each.id} segment={each} />
                      ))}
                    </span>,
                  ],
                ] as const)
              : []),
          ]}
        />
        <h3>
          {plural(edges.length, "path")}
          {edges.length > 0 && ", the worst first"}
        </h3>
        <ul>
          {edges.slice(0, PEERS_MAX).map((edge) => {
            const peer = edge.a === chosen ? edge.b : edge.a;
            return (
              <li key={peer}>
                <NodeLink node={{ id: peer, name: name(peer) }} />:{" "}
                {edge.up ? `${edge.path}, ${ms(edge.rtt_ms)}` : "down"}
              </li>
            );
          })}
        </ul>
        <div>
          <Button variant="secondary" size="sm" onClick={close}>
            Close
          </Button>
        </div>
      </CardBody>
    </Card>
  );
}

interface Row extends Omit<Edge, "a" | "b"> {
  a: { id: string; name: string };
  b: { id: string; name: string };
}

const COLUMNS: Column<Row>[] = [
  { key: "a", title: "Node", text: ({ a }) => a.name, cell: ({ a }) => <NodeLink node={a} /> },
  { key: "b", title: "Peer", text: ({ b }) => b.name, cell: ({ b }) => <NodeLink node={b} /> },
  {
    key: "state",
    title: "State",
    text: ({ up }) => (up ? 1 : 0),
    cell: ({ up, stale }) =>
      up ? (
        <Label status={stale ? "warning" : "success"}>{stale ? "not heard of late" : "up"}</Label>
      ) : (
        <Label status="danger">down</Label>
      ),
  },
  { key: "path", title: "Path", text: ({ path }) => path, cell: ({ path }) => path },
  {
    key: "rtt",
    title: "RTT",
    text: ({ rtt_ms }) => rtt_ms ?? -1,
    cell: ({ rtt_ms }) => ms(rtt_ms),
  },
  {
    key: "loss",
    title: "Loss",
    text: ({ loss }) => loss ?? -1,
    cell: ({ loss }) => (loss === null ? "not measured" : `${(loss * 100).toFixed(1)} %`),
  },
  {
    key: "mtu",
    title: "Path MTU, octets",
    text: ({ mtu }) => mtu ?? 0,
    cell: ({ mtu }) => mtu ?? "not known",
  },
  {
    key: "at",
    title: "Heard",
    text: ({ at }) => Date.parse(at),
    cell: ({ at }) => <Age at={at} />,
  },
];

function Paths({ topology, choose }: { topology: Topology; choose: (node: string) => void }) {
  const rows = useMemo(() => {
    const names = new Map(topology.nodes.map(({ id, name }) => [id, name]));
    const named = (id: string) => ({ id, name: names.get(id) ?? id });
    return topology.edges.map((edge): Row => ({ ...edge, a: named(edge.a), b: named(edge.b) }));
  }, [topology]);
  return (
    <Card>
      <CardTitle component="h2">Paths</CardTitle>
      <CardBody>
        {rows.length === 0 && <p>No two nodes have a session yet.</p>}
        {rows.length > 0 && (
          <ListTable
            label="Paths"
            rows={rows}
            columns={COLUMNS}
            id={({ a, b }) => `${a.id}/${b.id}`}
            searched={({ a, b, path }) => [a.name, b.name, a.id, b.id, path]}
            sort="state"
            choices={[
              {
                key: "path",
                label: "Path",
                options: ["direct", "relayed", "gateway"].map((value) => ({ value, label: value })),
                wants: ({ path }, value) => path === value,
              },
              {
                key: "rtt",
                label: "RTT",
                options: BANDS.map(({ band, says }) => ({ value: band, label: says })),
                wants: (row, value) => bandOf(row) === value,
              },
            ]}
            rowActions={({ a }) => (
              <Button size="sm" variant="secondary" onClick={() => choose(a.id)}>
                Show<span className="pf-v6-screen-reader"> {inert(a.name)} in the picture</span>
              </Button>
            )}
          />
        )}
      </CardBody>
    </Card>
  );
}
