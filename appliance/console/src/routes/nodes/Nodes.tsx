import { Alert, Button } from "@patternfly/react-core";
import { Link, useSearchParams } from "react-router";
import { useNodes } from "../../api/queries";
import { Help } from "../../parts/help";
import { NodeLink, StateLabel, STATES, stateOf, VSubnetLink, type Node } from "../../parts/node";
import { Page } from "../../parts/page";
import { Shown } from "../../parts/states";
import { ListTable, useParameter, type Choice, type Column } from "../../parts/table";
import { Age, Foreign } from "../../parts/text";
import { plural } from "../../parts/words";
import { NodeActions } from "./actions";

const COLUMNS: Column<Node>[] = [
  {
    key: "name",
    title: "Name",
    text: ({ name }) => name,
    cell: (node) => <NodeLink node={node} />,
  },
  {
    key: "state",
    title: "State",
    text: stateOf,
    cell: (node) => (
      <>
        <StateLabel node={node} />
        {node.copy_of && (
          <div>
            copy of <NodeLink node={node.copy_of} />
          </div>
        )}
      </>
    ),
  },
  {
    key: "site",
    title: "Site",
    text: ({ site }) => site,
    cell: ({ site }) => <Foreign text={site} />,
  },
  {
    key: "vsubnets",
    title: "vSubnets",
    text: ({ members }) => members.length,
    cell: ({ members, wanted, state }) => (
      <span className="cairn-labels">
        {members.map(({ vsubnet }) => (
          <VSubnetLink key={vsubnet.id} vsubnet={vsubnet} />
        ))}
        {state === "pending" && wanted.length > 0 && `wants ${plural(wanted.length, "vSubnet")}`}
      </span>
    ),
  },
  {
    key: "ips",
    title: "Addresses",
    text: ({ members }) => members[0]?.ips[0] ?? "",
    cell: ({ members }) => <Foreign text={members.flatMap(({ ips }) => ips).join(", ")} code />,
  },
  {
    key: "version",
    title: "Agent",
    text: ({ agent_version }) => agent_version,
    cell: ({ agent_version }) => <Foreign text={agent_version} />,
  },
  {
    key: "seen",
    title: "Last seen",
    text: ({ link }) => (link ? Date.parse(link.last_seen) : 0),
    cell: ({ link }) => <Age at={link?.last_seen} />,
  },
];

function searched(node: Node): string[] {
  const members = node.members.flatMap(({ mac, ips }) => [mac, ...ips]);
  return [node.name, node.id, node.site, node.seen_address, ...node.endpoints, ...members];
}

export function Component() {
  const [search] = useSearchParams();
  const set = useParameter();
  const wantsRemoved = search.get("state") === "removed";
  const nodes = useNodes(wantsRemoved ? "removed" : undefined);
  return (
    <Page
      title="Nodes"
      help={<Help word="node" />}
      actions={<Button component={(props) => <Link {...props} to="/join" />}>Join a node</Button>}
    >
      <Shown
        query={nodes}
        what="nodes"
        isEmpty={(rows) => rows.length === 0 && !wantsRemoved}
        empty={{
          title: "No node has joined yet",
          body: "A VM joins with an enrolment token: one string to paste.",
          action: (
            <Button component={(props) => <Link {...props} to="/join" />}>Join a node</Button>
          ),
        }}
      >
        {(rows) => {
          const pending = rows.filter(({ state }) => state === "pending").length;
          return (
            <>
              {pending > 0 && search.get("state") !== "pending" && (
                <Alert
                  variant="info"
                  isInline
                  component="p"
                  title={`${plural(pending, "node")} waiting for approval`}
                >
                  <Button variant="link" isInline onClick={() => set("state", "pending")}>
                    Show the approval queue
                  </Button>
                </Alert>
              )}
              <ListTable
                label="Nodes"
                rows={rows}
                columns={COLUMNS}
                id={({ id }) => id}
                searched={searched}
                sort="name"
                choices={choices(rows)}
                rowActions={(node) =>
                  node.state === "pending" || node.frozen_at ? <NodeActions node={node} /> : null
                }
              />
            </>
          );
        }}
      </Shown>
    </Page>
  );
}

function choices(rows: readonly Node[]): Choice<Node>[] {
  const sites = [...new Set(rows.map(({ site }) => site))].sort();
  return [
    {
      key: "state",
      label: "State",
      options: STATES,
      wants: (node, value) => stateOf(node) === value,
    },
    {
      key: "site",
      label: "Site",
      options: sites.filter(Boolean).map((site) => ({ value: site, label: site })),
      wants: (node, value) => node.site === value,
    },
  ];
}
