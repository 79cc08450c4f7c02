import { Alert, Card, CardBody, CardTitle, Label } from "@patternfly/react-core";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import { useQuery } from "@tanstack/react-query";
import { answered, api, type Schemas } from "../../api/client";
import { failureFrom } from "../../api/failure";
import { NodeLink, VSubnetLink } from "../../parts/node";
import { Shown } from "../../parts/states";
import { Age, Foreign } from "../../parts/text";
import { inert, octets } from "../../parts/words";

type NodeReport = Schemas["NodeReportOut"];

/** What the node last said of itself: what is wrong, its data plane, its peers. */
export function Report({ node }: { node: string }) {
  const report = useQuery({
    queryKey: ["topology", "report", node],
    queryFn: async ({ signal }): Promise<NodeReport | null> => {
      try {
        return await answered(
          api.GET("/api/v1/nodes/{node}/report", { params: { path: { node } }, signal }),
        );
      } catch (error) {
        if (failureFrom(error).status === 404) return null; // it has reported nothing yet
        throw error;
      }
    },
  });
  return (
    <Card className="cairn-gap">
      <CardTitle component="h2">What it reports of itself</CardTitle>
      <CardBody>
        <Shown
          query={report}
          what="report"
          isEmpty={(value) => value === null}
          empty={{
            title: "No report yet",
            body: "An agent that is connected reports each few seconds.",
          }}
        >
          {(value) => value && <Details report={value} />}
        </Shown>
      </CardBody>
    </Card>
  );
}

function dropsOf(drops: Record<string, number>): string {
  const some = Object.entries(drops).filter(([, count]) => count > 0);
  return some.map(([why, count]) => `${why} ${count.toLocaleString("en")}`).join(", ") || "none";
}

function Details({ report }: { report: NodeReport }) {
  const { dataplane } = report;
  return (
    <div className="cairn-stack">
      <p>
        <Label status={dataplane.up ? "success" : "danger"}>
          {dataplane.up ? "data plane runs" : "data plane is down"}
        </Label>{" "}
        {report.stale && <Label status="warning">old: it says nothing of now</Label>} Reported{" "}
        <Age at={report.at} />; frames dropped by the data plane:{" "}
        <Foreign text={dropsOf(dataplane.drops)} />.
      </p>
      {report.problems.map(({ name, cause, remedy }) => (
        <Alert key={name + cause} variant="warning" isInline component="p" title={inert(cause)}>
          <p>What to do: {inert(remedy)}</p>
        </Alert>
      ))}
      <Table aria-label="vSubnets as reported" variant="compact">
        <Thead>
          <Tr>
            <Th>vSubnet</Th>
            <Th>Peers</Th>
            <Th>MTU, octets</Th>
            <Th>Sent</Th>
            <Th>Received</Th>
            <Th>Dropped frames</Th>
          </Tr>
        </Thead>
        <Tbody>
          {report.vsubnets.map((each) => (
            <Tr key={each.vsubnet}>
              <Td dataLabel="vSubnet">
                <VSubnetLink vsubnet={{ id: each.vsubnet, name: each.name }} />
                {each.problem && (
                  <div>
                    <Foreign text={each.problem} />
                  </div>
                )}
              </Td>
              <Td dataLabel="Peers">
                {each.peers_up} up, {each.members} members
              </Td>
              <Td dataLabel="MTU, octets">{each.mtu}</Td>
              <Td dataLabel="Sent">
                {octets(each.tx_octets)}, {each.tx_frames.toLocaleString("en")} frames
              </Td>
              <Td dataLabel="Received">
                {octets(each.rx_octets)}, {each.rx_frames.toLocaleString("en")} frames
              </Td>
              <Td dataLabel="Dropped frames">
                <Foreign text={dropsOf(each.drops)} />
              </Td>
            </Tr>
          ))}
          {report.vsubnets.length === 0 && (
            <Tr>
              <Td colSpan={6}>Its data plane has no vSubnet.</Td>
            </Tr>
          )}
        </Tbody>
      </Table>
      <Peers report={report} />
    </div>
  );
}

const PEERS_MAX = 100;
const ms = (value: number | null): string =>
  value === null ? "not measured" : `${value.toFixed(2)} ms`;

function Peers({ report }: { report: NodeReport }) {
  return (
    <>
      <Table aria-label="Peers" variant="compact">
        <Thead>
          <Tr>
            <Th>Peer</Th>
            <Th>Session</Th>
            <Th>Path</Th>
            <Th>Endpoint</Th>
            <Th>RTT</Th>
            <Th>Path MTU, octets</Th>
            <Th>Sent</Th>
            <Th>Received</Th>
          </Tr>
        </Thead>
        <Tbody>
          {report.peers.slice(0, PEERS_MAX).map((peer) => (
            <Tr key={`${peer.node}/${peer.vsubnet}`}>
              <Td dataLabel="Peer">
                <NodeLink node={{ id: peer.node, name: peer.name }} />
              </Td>
              <Td dataLabel="Session">
                <Label status={peer.session === "up" ? "success" : "warning"}>{peer.session}</Label>
              </Td>
              <Td dataLabel="Path">
                <Foreign text={peer.path} />
              </Td>
              <Td dataLabel="Endpoint">
                <Foreign text={peer.endpoint} code />
              </Td>
              <Td dataLabel="RTT">{ms(peer.rtt_ms)}</Td>
              <Td dataLabel="Path MTU, octets">{peer.mtu ?? "not known"}</Td>
              <Td dataLabel="Sent">{octets(peer.tx_octets)}</Td>
              <Td dataLabel="Received">{octets(peer.rx_octets)}</Td>
            </Tr>
          ))}
          {report.peers.length === 0 && (
            <Tr>
              <Td colSpan={8}>It has no session.</Td>
            </Tr>
          )}
        </Tbody>
      </Table>
      {report.peers.length > PEERS_MAX && (
        <p>
          The first {PEERS_MAX} of {report.peers.length.toLocaleString("en")}.
        </p>
      )}
    </>
  );
}
