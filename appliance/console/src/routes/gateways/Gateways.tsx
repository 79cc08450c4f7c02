import { Button } from "@patternfly/react-core";
import { useState } from "react";
import { useNavigate } from "react-router";
import { useMay } from "../../app/session";
import { Help } from "../../parts/help";
import { NodeLink, VSubnetLink } from "../../parts/node";
import { Page } from "../../parts/page";
import { Shown } from "../../parts/states";
import { ListTable, type Column } from "../../parts/table";
import { Age } from "../../parts/text";
import { SegmentForm } from "./form";
import { Preflight } from "./Preflight";
import { useSegments, type Segment } from "./queries";
import { GatewayState, SegmentLink, SegmentState, stateOf } from "./state";

const COLUMNS: Column<Segment>[] = [
  {
    key: "name",
    title: "Segment",
    text: ({ name }) => name,
    cell: (each) => <SegmentLink segment={each} />,
  },
  {
    key: "state",
    title: "State",
    text: stateOf,
    cell: (each) => <SegmentState segment={each} />,
  },
  {
    key: "vsubnet",
    title: "vSubnet",
    text: ({ vsubnet }) => vsubnet.name,
    cell: ({ vsubnet }) => <VSubnetLink vsubnet={vsubnet} />,
  },
  {
    key: "forwarder",
    title: "Forwarder",
    text: ({ forwarder }) => forwarder?.name ?? "",
    cell: ({ forwarder }) => (forwarder ? <NodeLink node={forwarder} /> : "nobody"),
  },
  {
    key: "since",
    title: "Since",
    text: ({ since }) => (since ? Date.parse(since) : 0),
    cell: ({ since }) => <Age at={since} never="" />,
  },
  {
    key: "gateways",
    title: "Gateways",
    text: ({ gateways }) => gateways.length,
    cell: ({ gateways }) => (
      <span className="cairn-labels">
        {gateways.map((each) => (
          <span key={each.node.id}>
            <NodeLink node={each.node} /> <GatewayState gateway={each} />
          </span>
        ))}
      </span>
    ),
  },
  {
    key: "stations",
    title: "Stations",
    text: stationsOf,
    cell: (each) => stationsOf(each).toLocaleString("en"),
  },
];

function stationsOf({ gateways }: Segment): number {
  return Math.max(0, ...gateways.map(({ stations }) => stations));
}

/** LANs that are bridged into vSubnets, by whom, and whether they are. */
export function Component() {
  const segments = useSegments();
  const mayOperate = useMay("operator");
  const [isOpen, setOpen] = useState(false);
  const navigate = useNavigate();
  return (
    <Page
      title="Gateways"
      help={<Help word="gateway" />}
      lead="LAN segments that are bridged into vSubnets, and the nodes that do it."
      actions={mayOperate && <Button onClick={() => setOpen(true)}>Create a segment</Button>}
    >
      <div className="cairn-stack">
        <Shown
          query={segments}
          what="segments"
          isEmpty={(rows) => rows.length === 0}
          empty={{
            title: "No LAN is bridged yet",
            body: mayOperate
              ? "Run a pre-flight on a node's port first, then create a segment and attach the node."
              : "An operator or administrator can create a segment.",
          }}
        >
          {(rows) => (
            <ListTable
              label="Segments"
              rows={rows}
              columns={COLUMNS}
              id={({ id }) => id}
              searched={({ name, id, vsubnet, gateways }) => [
                name,
                id,
                vsubnet.name,
                ...gateways.map(({ node }) => node.name),
              ]}
              sort="name"
            />
          )}
        </Shown>
        <Preflight />
      </div>
      {isOpen && (
        <SegmentForm
          onClose={() => setOpen(false)}
          onDone={({ id }) => void navigate(`/segments/${id}`)}
        />
      )}
    </Page>
  );
}
