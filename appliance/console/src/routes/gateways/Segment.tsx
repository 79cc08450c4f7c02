import { Alert, Button, Card, CardBody, CardTitle, Label } from "@patternfly/react-core";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import { useState } from "react";
import { useNavigate, useParams } from "react-router";
import { answered, api } from "../../api/client";
import { useMay } from "../../app/session";
import { addressColumns } from "../../parts/addresses";
import { Confirm } from "../../parts/confirm";
import { Facts } from "../../parts/facts";
import { Help } from "../../parts/help";
import { NodeLink, VSubnetLink } from "../../parts/node";
import { Page } from "../../parts/page";
import { Shown } from "../../parts/states";
import { ListTable, type Column } from "../../parts/table";
import { Age, Foreign } from "../../parts/text";
import { inert, plural } from "../../parts/words";
import { AttachGateway, SegmentForm } from "./form";
import { useSegment, useStations, type Gateway, type Segment, type Station } from "./queries";
import { GatewayState, SegmentState, whyNot } from "./state";

type Dialogue = "stop" | "resume" | "change" | "attach" | "delete" | undefined;
const CHANGES = ["segments", "topology", "members", "nodes"];

export function Component() {
  const { segment: asked = "" } = useParams();
  const segment = useSegment(asked);
  const [dialogue, setDialogue] = useState<Dialogue>();
  const mayOperate = useMay("operator");
  const mayDelete = useMay("admin");
  const name = inert(segment.data?.name ?? "Segment");
  return (
    <Page
      title={name}
      shownTitle={
        <>
          Segment <bdi>{name}</bdi> {segment.data && <SegmentState segment={segment.data} />}
        </>
      }
      help={<Help word="segment" />}
      actions={
        segment.data &&
        mayOperate && (
          <>
            <Button variant="secondary" onClick={() => setDialogue("change")}>
              Change
            </Button>
            {mayDelete && (
              <Button variant="secondary" isDanger onClick={() => setDialogue("delete")}>
                Delete
              </Button>
            )}
            {segment.data.bridging ? (
              <Button variant="danger" size="lg" onClick={() => setDialogue("stop")}>
                Stop bridging
              </Button>
            ) : (
              <Button size="lg" onClick={() => setDialogue("resume")}>
                Resume bridging
              </Button>
            )}
          </>
        )
      }
    >
      <Shown query={segment} what="segment">
        {(value) => (
          <div className="cairn-stack">
            <Why segment={value} />
            <Settings segment={value} />
            <Gateways
              segment={value}
              attach={mayOperate ? () => setDialogue("attach") : undefined}
            />
            <Stations segment={value} />
            <Dialogues segment={value} which={dialogue} close={() => setDialogue(undefined)} />
          </div>
        )}
      </Shown>
    </Page>
  );
}

function Why({ segment }: { segment: Segment }) {
  const why = whyNot(segment);
  return (
    <>
      {why && (
        <Alert variant="warning" isInline component="p" title={`Nothing crosses: ${why.cause}`}>
          <p>What to do: {why.remedy}</p>
        </Alert>
      )}
      {segment.held_down && (
        <Alert
          variant="warning"
          isInline
          component="p"
          title="It has moved too often between its gateways and stays as it is for now"
        >
          <p>What to do: find out which gateway or port comes and goes.</p>
        </Alert>
      )}
    </>
  );
}

function Settings({ segment }: { segment: Segment }) {
  const { guards } = segment;
  return (
    <Card>
      <CardTitle component="h2">What is bridged</CardTitle>
      <CardBody className="cairn-columns">
        <Facts
          facts={[
            ["vSubnet", <VSubnetLink key="vsubnet" vsubnet={segment.vsubnet} />],
            [
              "Forwarder",
              segment.forwarder ? <NodeLink key="node" node={segment.forwarder} /> : "nobody",
            ],
            ["Since", <Age key="since" at={segment.since} />],
            ["Term", String(segment.term)],
            ["Prefers", segment.preference],
            ["ID", <Foreign key="id" text={segment.id} code />],
          ]}
        />
        <Facts
          facts={[
            ["DHCP answers", guards.dhcp ? "cross" : "are stopped"],
            ["Router adverts", guards.router_advertisements ? "cross" : "are stopped"],
            ["Machines", `${guards.mac_limit.toLocaleString("en")} at most`],
            ["BUM", `${guards.bum_pps.toLocaleString("en")} frames/s per direction`],
            ["BUM of one", `${guards.source_bum_pps.toLocaleString("en")} frames/s per machine`],
            [
              "Silent hosts",
              <Foreign key="silent" text={guards.silent_hosts.join(", ") || "none"} code />,
            ],
          ]}
        />
      </CardBody>
    </Card>
  );
}

function Gateways({ segment, attach }: { segment: Segment; attach?: () => void }) {
  const [chosen, setChosen] = useState<{ gateway: Gateway; act: "switch" | "detach" }>();
  const close = (): void => setChosen(undefined);
  const path = { segment: segment.id };
  return (
    <Card>
      <CardTitle component="h2">
        Gateways <Help word="gateway" />
      </CardTitle>
      <CardBody className="cairn-stack">
        <Table aria-label="Gateways" variant="compact">
          <Thead>
            <Tr>
              <Th>Node</Th>
              <Th>State</Th>
              <Th>Port</Th>
              <Th>Heard</Th>
              <Th>Stations</Th>
              <Th modifier="nowrap">Counted by its guards</Th>
              {attach && <Th screenReaderText="Actions" />}
            </Tr>
          </Thead>
          <Tbody>
            {segment.gateways.map((gateway) => (
              <Tr key={gateway.node.id}>
                <Td dataLabel="Node">
                  <NodeLink node={gateway.node} />
                </Td>
                <Td dataLabel="State">
                  <GatewayState gateway={gateway} />
                  {gateway.why_not && (
                    <div>
                      <Foreign text={gateway.why_not} />
                    </div>
                  )}
                </Td>
                <Td dataLabel="Port">
                  <Foreign text={gateway.port} code />
                  {gateway.vlan > 0 && ` VLAN ${String(gateway.vlan)}`}
                </Td>
                <Td dataLabel="Heard">
                  {gateway.heard_ago_s === null
                    ? "not at this appliance"
                    : `${gateway.heard_ago_s.toFixed(1)} s ago`}
                </Td>
                <Td dataLabel="Stations">{gateway.stations.toLocaleString("en")}</Td>
                <Td dataLabel="Guards">
                  <Counters counters={gateway.counters} />
                </Td>
                {attach && (
                  <Td isActionCell>
                    <span className="cairn-actions">
                      <Button
                        size="sm"
                        variant="secondary"
                        isDisabled={gateway.forwards || !segment.bridging}
                        onClick={() => setChosen({ gateway, act: "switch" })}
                      >
                        Switch over to it
                      </Button>
                      <Button
                        size="sm"
                        variant="secondary"
                        isDanger
                        onClick={() => setChosen({ gateway, act: "detach" })}
                      >
                        Detach
                      </Button>
                    </span>
                  </Td>
                )}
              </Tr>
            ))}
            {segment.gateways.length === 0 && (
              <Tr>
                <Td colSpan={attach ? 7 : 6}>It has no gateway yet: attach a node.</Td>
              </Tr>
            )}
          </Tbody>
        </Table>
        {attach && (
          <div>
            <Button variant="secondary" onClick={attach}>
              Attach a gateway
            </Button>
          </div>
        )}
        {chosen?.act === "switch" && (
          <Confirm
            title={`Let ${inert(chosen.gateway.node.name)} forward?`}
            act="Switch over"
            changes={CHANGES}
            onClose={close}
            run={() =>
              answered(
                api.POST("/api/v1/segments/{segment}/switch-over", {
                  params: { path },
                  body: { to: chosen.gateway.node.id },
                }),
              )
            }
          >
            <p>
              {segment.forwarder ? (
                <>
                  <Foreign text={segment.forwarder.name} /> stops first, then it begins:
                </>
              ) : (
                "It begins to forward:"
              )}{" "}
              the LAN is cut off for that long, under a second where both are well.
            </p>
          </Confirm>
        )}
        {chosen?.act === "detach" && (
          <Confirm
            title={`Detach ${inert(chosen.gateway.node.name)} from ${inert(segment.name)}?`}
            act="Detach"
            isDestructive
            changes={CHANGES}
            onClose={close}
            run={() =>
              answered(
                api.DELETE("/api/v1/segments/{segment}/gateways/{node}", {
                  params: { path: { ...path, node: chosen.gateway.node.id } },
                }),
              )
            }
          >
            <p>
              Its port <Foreign text={chosen.gateway.port} code /> is as it was before, and it is no
              member of <Foreign text={segment.vsubnet.name} /> any more.{" "}
              {segment.gateways.length === 1 ? (
                <CutOff segment={segment} />
              ) : (
                "Another gateway forwards from then on."
              )}
            </p>
          </Confirm>
        )}
      </CardBody>
    </Card>
  );
}

function Counters({ counters }: { counters: Record<string, number> }) {
  const counted = Object.entries(counters).filter(([, count]) => count > 0);
  if (counted.length === 0) return <>nothing</>;
  return (
    <span className="cairn-labels">
      {counted.map(([name, count]) => (
        <Label key={name} isCompact>
          {inert(name.replaceAll("_", " "))}: {count.toLocaleString("en")}
        </Label>
      ))}
    </span>
  );
}

/** Who loses whom where nothing crosses any more. */
function CutOff({ segment }: { segment: Segment }) {
  const stations = useStations(segment.id);
  const named = (stations.data ?? []).slice(0, 8).map(({ mac, ips }) => ips[0] ?? mac);
  const count = stations.data?.length ?? Math.max(0, ...segment.gateways.map((g) => g.stations));
  return (
    <>
      {plural(count, "station")} on the LAN
      {named.length > 0 && ` (${inert(named.join(", "))}${count > named.length ? ", …" : ""})`}{" "}
      {count === 1 ? "is" : "are"} cut off from all members of{" "}
      <Foreign text={segment.vsubnet.name} />. They go on among themselves, and so do the members.
    </>
  );
}

const STATIONS: Column<Station>[] = [
  ...addressColumns,
  {
    key: "since",
    title: "Here since",
    text: ({ since }) => Date.parse(since),
    cell: ({ since }) => <Age at={since} />,
  },
  { key: "moves", title: "Moves", text: ({ moves }) => moves, cell: ({ moves }) => moves },
  {
    key: "state",
    title: "State",
    text: ({ frozen }) => (frozen ? 0 : 1),
    cell: ({ frozen }) =>
      frozen ? <Label status="danger">moved too often: frozen here</Label> : "well",
  },
];

function Stations({ segment }: { segment: Segment }) {
  const stations = useStations(segment.id);
  const mayOperate = useMay("operator");
  const [frozen, setFrozen] = useState<Station>();
  return (
    <Card>
      <CardTitle component="h2">
        Stations <Help word="station" />
      </CardTitle>
      <CardBody>
        <Shown
          query={stations}
          what="stations"
          isEmpty={(rows) => rows.length === 0}
          empty={{
            title: "No station was heard",
            body: "Machines on the LAN are listed here as soon as they send something.",
          }}
        >
          {(rows) => (
            <ListTable
              label="Stations"
              rows={rows}
              columns={STATIONS}
              id={({ mac }) => mac}
              searched={({ mac, ips }) => [mac, ...ips]}
              sort="mac"
              rowActions={
                mayOperate
                  ? (row) =>
                      row.frozen && (
                        <Button size="sm" variant="secondary" onClick={() => setFrozen(row)}>
                          Unfreeze
                        </Button>
                      )
                  : undefined
              }
            />
          )}
        </Shown>
        {frozen && (
          <Confirm
            title={`Unfreeze ${inert(frozen.mac)}?`}
            act="Unfreeze"
            changes={["segments"]}
            onClose={() => setFrozen(undefined)}
            run={() =>
              answered(
                api.POST("/api/v1/segments/{segment}/stations/{mac}/unfreeze", {
                  params: { path: { segment: segment.id, mac: frozen.mac } },
                }),
              )
            }
          >
            <p>
              It may be on another LAN again. Where two machines have this MAC, give one another
              first.
            </p>
          </Confirm>
        )}
      </CardBody>
    </Card>
  );
}

function Dialogues({
  segment,
  which,
  close,
}: {
  segment: Segment;
  which: Dialogue;
  close: () => void;
}) {
  const navigate = useNavigate();
  const params = { path: { segment: segment.id } };
  const name = inert(segment.name);
  if (which === "change") return <SegmentForm segment={segment} onClose={close} />;
  if (which === "attach") return <AttachGateway segment={segment} onClose={close} />;
  if (which === "stop") {
    return (
      <Confirm
        title={`Stop bridging ${name}?`}
        act="Stop bridging"
        isDestructive
        changes={CHANGES}
        onClose={close}
        run={() => answered(api.POST("/api/v1/segments/{segment}/stop", { params }))}
      >
        <p>
          <CutOff segment={segment} />
        </p>
      </Confirm>
    );
  }
  if (which === "resume") {
    return (
      <Confirm
        title={`Resume bridging ${name}?`}
        act="Resume bridging"
        changes={CHANGES}
        onClose={close}
        run={() => answered(api.POST("/api/v1/segments/{segment}/resume", { params }))}
      >
        <p>
          The LAN and <Foreign text={segment.vsubnet.name} /> are one Ethernet again. Where a loop
          was why it was stopped, remove the second connection first.
        </p>
      </Confirm>
    );
  }
  if (which === "delete") {
    return (
      <Confirm
        title={`Delete ${name}?`}
        act="Delete"
        isDestructive
        typed={segment.name}
        changes={CHANGES}
        onClose={close}
        onDone={() => void navigate("/gateways")}
        run={() => answered(api.DELETE("/api/v1/segments/{segment}", { params }))}
      >
        <p>
          It has {plural(segment.gateways.length, "gateway")}
          {segment.gateways.length > 0 ? ": detach them first." : ". Its settings are lost."}
        </p>
      </Confirm>
    );
  }
  return null;
}
