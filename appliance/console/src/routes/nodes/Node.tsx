import { Alert, Card, CardBody, CardTitle } from "@patternfly/react-core";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import { useNavigate, useParams } from "react-router";
import { useEvents, useNode } from "../../api/queries";
import { EventLine } from "../../parts/events";
import { Facts } from "../../parts/facts";
import { NodeLink, StateLabel, VSubnetLink, whyNot, type Node } from "../../parts/node";
import { Page } from "../../parts/page";
import { Shown } from "../../parts/states";
import { Age, Foreign } from "../../parts/text";
import { inert } from "../../parts/words";
import { NodeActions } from "./actions";
import { Report } from "./Report";

export function Component() {
  const { node: asked = "" } = useParams();
  const node = useNode(asked);
  const events = useEvents({ node: node.data?.id ?? asked, limit: 20 });
  const navigate = useNavigate();
  const name = inert(node.data?.name ?? "Node");
  return (
    <Page
      title={name}
      shownTitle={
        <>
          Node <bdi>{name}</bdi> {node.data && <StateLabel node={node.data} />}
        </>
      }
      actions={node.data && <NodeActions node={node.data} onGone={() => void navigate("/nodes")} />}
    >
      <Shown query={node} what="node">
        {(value) => <Details node={value} />}
      </Shown>
      {node.data && node.data.state !== "removed" && <Report node={node.data.id} />}
      <Card className="cairn-gap">
        <CardTitle component="h2">What happened to it last</CardTitle>
        <CardBody>
          <Shown
            query={events}
            what="events"
            isEmpty={({ items }) => items.length === 0}
            empty={{ title: "Nothing", body: "No event of this node is kept." }}
          >
            {({ items }) =>
              items.map((each) => (
                <p key={each.id}>
                  <EventLine event={each} />
                </p>
              ))
            }
          </Shown>
        </CardBody>
      </Card>
    </Page>
  );
}

function Details({ node }: { node: Node }) {
  const why = whyNot(node);
  const link = node.link;
  const labels = Object.entries(node.labels).map(([key, value]) => `${key}=${value}`);
  return (
    <div className="cairn-stack">
      {why && (
        <Alert
          variant="warning"
          isInline
          component="p"
          title={`This node is not well: ${why.cause}`}
        >
          <p>What to do: {why.remedy}</p>
        </Alert>
      )}
      <div className="cairn-columns">
        <Card>
          <CardTitle component="h2">Link to the appliances</CardTitle>
          <CardBody>
            <Facts
              facts={[
                ["Connected", link ? (link.connected ? "yes" : "no") : "never seen"],
                ["Since", <Age key="since" at={link?.since} />],
                ["Last seen", <Age key="seen" at={link?.last_seen} />],
                ["At appliance", <Foreign key="replica" text={link?.replica ?? ""} />],
                ["Netmap loaded", link ? `revision ${String(link.loaded_revision)}` : "none"],
                ["Seen address", <Foreign key="seen-at" text={node.seen_address} code />],
                ["Endpoints", <Foreign key="endpoints" text={node.endpoints.join(", ")} code />],
              ]}
            />
          </CardBody>
        </Card>
        <Card>
          <CardTitle component="h2">Identity</CardTitle>
          <CardBody>
            <Facts
              facts={[
                ["Node ID", <Foreign key="id" text={node.id} code />],
                ["Site", <Foreign key="site" text={node.site || "none"} />],
                ["Labels", <Foreign key="labels" text={labels.join(", ") || "none"} />],
                ["Enrolled", <Age key="enrolled" at={node.created_at} />],
                ["Generation", String(node.generation)],
                ["Token", <Foreign key="token" text={node.token} code />],
                ...(node.copy_of
                  ? ([["Copy of", <NodeLink key="copy" node={node.copy_of} />]] as const)
                  : []),
              ]}
            />
          </CardBody>
        </Card>
        <Card>
          <CardTitle component="h2">Machine</CardTitle>
          <CardBody>
            <Facts
              facts={[
                ["Agent", <Foreign key="agent" text={node.agent_version} />],
                ["Data plane", <Foreign key="plane" text={node.dataplane_version} />],
                ...Object.entries(node.machine).map(
                  ([key, value]) => [inert(key), <Foreign key={key} text={value} />] as const,
                ),
                ...Object.entries(node.offloads).map(
                  ([key, value]) =>
                    [`Offload ${inert(key)}`, <Foreign key={key} text={value} />] as const,
                ),
              ]}
            />
          </CardBody>
        </Card>
      </div>
      <Card>
        <CardTitle component="h2">Memberships</CardTitle>
        <CardBody>
          <Table aria-label="Memberships" variant="compact">
            <Thead>
              <Tr>
                <Th>vSubnet</Th>
                <Th>VNI</Th>
                <Th>MAC</Th>
                <Th>Addresses</Th>
                <Th>Role</Th>
              </Tr>
            </Thead>
            <Tbody>
              {node.members.map(({ vsubnet, mac, ips, role }) => (
                <Tr key={vsubnet.id}>
                  <Td dataLabel="vSubnet">
                    <VSubnetLink vsubnet={vsubnet} />
                  </Td>
                  <Td dataLabel="VNI">{vsubnet.vni}</Td>
                  <Td dataLabel="MAC">
                    <Foreign text={mac} code />
                  </Td>
                  <Td dataLabel="Addresses">
                    <Foreign text={ips.join(", ")} code />
                  </Td>
                  <Td dataLabel="Role">{inert(role)}</Td>
                </Tr>
              ))}
              {node.members.length === 0 && (
                <Tr>
                  <Td colSpan={5}>It is no member of any vSubnet.</Td>
                </Tr>
              )}
            </Tbody>
          </Table>
        </CardBody>
      </Card>
    </div>
  );
}
