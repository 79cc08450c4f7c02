import { useQuery } from "@tanstack/react-query";
import { useMemo } from "react";
import { useSearchParams } from "react-router";
import { answered, api, type Schemas } from "../../api/client";
import { useNodes } from "../../api/queries";
import { inert } from "../../parts/words";
import { NodeLink } from "../../parts/node";
import { Page } from "../../parts/page";
import { Shown } from "../../parts/states";
import { ListTable, type Column } from "../../parts/table";
import { Age } from "../../parts/text";
import { History } from "./History";
import { PairLink, Square } from "./Square";
import { NO_SITE } from "./matrix";

interface Row extends Omit<Schemas["LatencyRowOut"], "a" | "b"> {
  a: { id: string; name: string };
  b: { id: string; name: string };
}

const ms = (value: number | null): string => (value === null ? "" : `${value.toFixed(2)} ms`);
const percent = (value: number | null): string =>
  value === null ? "" : `${(value * 100).toFixed(1)} %`;

const COLUMNS: Column<Row>[] = [
  { key: "a", title: "Node", text: ({ a }) => a.name, cell: ({ a }) => <NodeLink node={a} /> },
  { key: "b", title: "Peer", text: ({ b }) => b.name, cell: ({ b }) => <NodeLink node={b} /> },
  { key: "rtt", title: "RTT", text: ({ rtt_ms }) => rtt_ms, cell: (row) => ms(row.rtt_ms) },
  {
    key: "max",
    title: "Highest RTT",
    text: (row) => row.rtt_max_ms ?? 0,
    cell: (row) => ms(row.rtt_max_ms),
  },
  {
    key: "jitter",
    title: "Jitter",
    text: (row) => row.jitter_ms ?? 0,
    cell: (row) => ms(row.jitter_ms),
  },
  { key: "loss", title: "Loss", text: ({ loss }) => loss ?? 0, cell: ({ loss }) => percent(loss) },
  { key: "path", title: "Path", text: ({ path }) => path, cell: ({ path }) => path },
  {
    key: "at",
    title: "Measured",
    text: ({ at }) => Date.parse(at),
    cell: ({ at }) => <Age at={at} />,
  },
];

/** RTT and loss between nodes, from the probes in their sessions: by site, by node, one by one. */
export function Component() {
  const nodes = useNodes();
  const [search] = useSearchParams();
  const latency = useQuery({
    queryKey: ["latency", "rows"],
    queryFn: ({ signal }) => answered(api.GET("/api/v1/latency", { signal })),
  });
  const known = useMemo(() => new Map((nodes.data ?? []).map((node) => [node.id, node])), [nodes]);
  const named = (id: string) => ({ id, name: known.get(id)?.name ?? id });
  const site = (id: string): string => known.get(id)?.site || NO_SITE;
  const between = search.getAll("site");
  const [a, b] = search.getAll("pair");
  return (
    <Page title="Latency" lead="Measured by the nodes themselves, inside their sessions.">
      <Shown
        query={latency}
        what="latencies"
        isEmpty={({ rows }) => rows.length === 0}
        empty={{
          title: "No session yet",
          body: "As soon as two nodes talk, what they measure is here.",
        }}
      >
        {({ rows, at }) => (
          <div className="cairn-stack">
            <Square rows={rows} site={site} named={named} between={between} />
            {a && b && <History a={named(a)} b={named(b)} />}
            <p>
              As of <Age at={at} />
            </p>
            <ListTable
              label="Latencies"
              rows={rows.map((row): Row => ({ ...row, a: named(row.a), b: named(row.b) }))}
              columns={COLUMNS}
              id={({ a, b }) => `${a.id}/${b.id}`}
              searched={({ a, b, path }) => [a.name, b.name, a.id, b.id, path]}
              sort="-rtt"
              choices={[
                {
                  key: "path",
                  label: "Path",
                  options: ["direct", "relayed", "gateway"].map((value) => ({
                    value,
                    label: value,
                  })),
                  wants: ({ path }, value) => path === value,
                },
              ]}
              rowActions={(row) => (
                <PairLink a={row.a.id} b={row.b.id}>
                  History
                  <span className="pf-v6-screen-reader">
                    {" "}
                    of {inert(row.a.name)} and {inert(row.b.name)}
                  </span>
                </PairLink>
              )}
            />
          </div>
        )}
      </Shown>
    </Page>
  );
}
