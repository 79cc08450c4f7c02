import { Card, CardBody, CardTitle, Label } from "@patternfly/react-core";
import { useMemo } from "react";
import type { Schemas } from "../../api/client";
import { useTable } from "../../api/queries";
import { addressColumns } from "../../parts/addresses";
import { Help } from "../../parts/help";
import { NodeLink } from "../../parts/node";
import { Shown } from "../../parts/states";
import { ListTable, type Column } from "../../parts/table";
import { Age } from "../../parts/text";
import { lengthOf } from "../../parts/words";

type Table = Schemas["TableOut"];
type Sent = Table["bum"]["by_node"][number];

type Row = Schemas["TableEntryOut"] & {
  /** What its node has sent to many: a member's own frames, or those of a gateway's whole LAN. */
  sent?: Sent;
};

const CONFLICTS = { duplicate_mac: "duplicate MAC", duplicate_ip: "duplicate IP" } as const;
const perSecond = (frames: number): string =>
  `${frames.toLocaleString("en", { maximumFractionDigits: 1 })} frames/s`;

const COLUMNS: Column<Row>[] = [
  ...addressColumns,
  {
    key: "node",
    title: "At node",
    text: ({ node_name }) => node_name,
    cell: ({ node, node_name }) => node && <NodeLink node={{ id: node, name: node_name }} />,
  },
  { key: "kind", title: "Kind", text: ({ kind }) => kind, cell: ({ kind }) => kind },
  {
    key: "age",
    title: "Age",
    text: ({ age_s }) => age_s ?? Number.MAX_VALUE,
    cell: ({ age_s }) => (age_s === null ? "not known" : lengthOf(age_s)),
  },
  { key: "moves", title: "Moves", text: ({ moves }) => moves, cell: ({ moves }) => moves },
  {
    key: "bum",
    title: "BUM sent",
    text: ({ sent }) => sent?.frames_per_s ?? sent?.frames ?? -1,
    cell: ({ kind, sent }) => kind === "member" && <BumOf sent={sent} />,
  },
  {
    key: "conflict",
    title: "Conflict",
    text: ({ conflict, frozen }) => (conflict ? 0 : frozen ? 1 : 2),
    cell: ({ conflict, frozen }) => (
      <>
        {conflict && <Label status="danger">{CONFLICTS[conflict]}</Label>}
        {frozen && <Label status="warning">frozen: it moved too often</Label>}
      </>
    ),
  },
];

function BumOf({ sent }: { sent?: Sent }) {
  const { frames = null, frames_per_s = null } = sent ?? {};
  if (frames_per_s !== null) return <>{perSecond(frames_per_s)}</>;
  return <>{frames === null ? "none counted" : `${frames.toLocaleString("en")} frames`}</>;
}

/** Every MAC of the vSubnet, those in conflict first. */
export function L2Table({ vsubnet }: { vsubnet: { id: string } }) {
  const table = useTable(vsubnet.id);
  return (
    <Card>
      <CardTitle component="h2">MAC and IP table</CardTitle>
      <CardBody>
        <Shown
          query={table}
          what="addresses"
          isEmpty={({ entries }) => entries.length === 0}
          empty={{
            title: "No address yet",
            body: "Members and what their data planes learn appear here.",
          }}
        >
          {(value) => <Entries table={value} />}
        </Shown>
      </CardBody>
    </Card>
  );
}

function Entries({ table }: { table: Table }) {
  const { at, entries, bum } = table;
  const rows = useMemo(() => {
    const byNode = new Map(bum.by_node.map((each) => [each.node, each]));
    const all = entries.map((each): Row => ({ ...each, sent: byNode.get(each.node) }));
    return all.sort((a, b) => (a.mac < b.mac ? -1 : 1));
  }, [entries, bum.by_node]);
  return (
    <>
      <p>
        {entries.length.toLocaleString("en")} MACs as of <Age at={at} />. BUM <Help word="BUM" />:{" "}
        {bum.frames_per_s === null
          ? "not counted yet"
          : `members send ${perSecond(bum.frames_per_s)}`}
        ; limits drop {perSecond(bum.dropped_per_s)}.
      </p>
      <ListTable
        label="Addresses"
        prefix="mac-"
        rows={rows}
        columns={COLUMNS}
        id={({ mac, node }) => `${mac}/${node}`}
        searched={({ mac, ips, node_name, kind }) => [mac, ...ips, node_name, kind]}
        sort="conflict"
      />
    </>
  );
}
