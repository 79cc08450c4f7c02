import { Button, Card, CardBody, CardTitle, Checkbox } from "@patternfly/react-core";
import { useState } from "react";
import { Link, useNavigate, useParams } from "react-router";
import { answered, api, type Schemas } from "../../api/client";
import { useMembers, useVSubnet } from "../../api/queries";
import { useMay } from "../../app/session";
import { addressColumns } from "../../parts/addresses";
import { Confirm } from "../../parts/confirm";
import { Facts } from "../../parts/facts";
import { Help } from "../../parts/help";
import { NodeLink } from "../../parts/node";
import { Page } from "../../parts/page";
import { Shown } from "../../parts/states";
import { ListTable, type Column } from "../../parts/table";
import { Age, Foreign } from "../../parts/text";
import { inert, lengthOf, plural } from "../../parts/words";
import { AttachForm } from "./attach";
import { VSubnetForm } from "./form";
import { L2Table } from "./L2Table";

type VSubnet = Schemas["VSubnetOut"];
type Member = Schemas["MemberOut"];

const COLUMNS: Column<Member>[] = [
  {
    key: "node",
    title: "Node",
    text: ({ node }) => node.name,
    cell: ({ node }) => <NodeLink node={node} />,
  },
  ...addressColumns,
  { key: "role", title: "Role", text: ({ role }) => role, cell: ({ role }) => inert(role) },
  {
    key: "since",
    title: "Member since",
    text: ({ created_at }) => Date.parse(created_at),
    cell: ({ created_at }) => <Age at={created_at} />,
  },
];

type Dialogue = "change" | "rotate" | "delete" | "attach" | undefined;

export function Component() {
  const { vsubnet: asked = "" } = useParams();
  const vsubnet = useVSubnet(asked);
  const [dialogue, setDialogue] = useState<Dialogue>();
  const mayOperate = useMay("operator");
  const mayDelete = useMay("admin");
  const name = inert(vsubnet.data?.name ?? "vSubnet");
  return (
    <Page
      title={name}
      shownTitle={
        <>
          vSubnet <bdi>{name}</bdi>
        </>
      }
      help={<Help word="vSubnet" />}
      actions={
        vsubnet.data &&
        mayOperate && (
          <>
            <Button
              component={(props) => <Link {...props} to={`/join?vsubnet=${vsubnet.data.id}`} />}
            >
              Join a node
            </Button>
            <Button variant="secondary" onClick={() => setDialogue("change")}>
              Change
            </Button>
            <Button variant="secondary" onClick={() => setDialogue("rotate")}>
              Rotate secret
            </Button>
            {mayDelete && (
              <Button variant="secondary" isDanger onClick={() => setDialogue("delete")}>
                Delete
              </Button>
            )}
          </>
        )
      }
    >
      <Shown query={vsubnet} what="vSubnet">
        {(value) => (
          <div className="cairn-stack">
            <Settings vsubnet={value} />
            <Members
              vsubnet={value}
              attach={mayOperate ? () => setDialogue("attach") : undefined}
            />
            <L2Table vsubnet={value} />
            <Dialogues vsubnet={value} which={dialogue} close={() => setDialogue(undefined)} />
          </div>
        )}
      </Shown>
    </Page>
  );
}

function Settings({ vsubnet }: { vsubnet: VSubnet }) {
  const { policy } = vsubnet;
  return (
    <Card>
      <CardTitle component="h2">Settings</CardTitle>
      <CardBody className="cairn-columns">
        <Facts
          facts={[
            ["VNI", String(vsubnet.vni)],
            ["ID", <Foreign key="id" text={vsubnet.id} code />],
            [
              "Prefixes",
              <Foreign key="prefixes" text={vsubnet.prefixes.join(", ") || "unmanaged"} code />,
            ],
            [
              "Reserved",
              <Foreign key="reserved" text={vsubnet.reserved.join(", ") || "none"} code />,
            ],
            ["MTU", `${String(vsubnet.mtu)} octets`],
          ]}
        />
        <Facts
          facts={[
            ["BUM", `${String(policy.bum_pps)} frames/s, ${String(policy.bum_burst)} at once`],
            ["Ageing", lengthOf(policy.ageing_s)],
            [
              "Offline trust",
              policy.offline_trust_s ? lengthOf(policy.offline_trust_s) : "without limit",
            ],
            [
              "Shared addresses",
              <Foreign key="shared" text={policy.shared_ips.join(", ") || "none"} code />,
            ],
            ["Created", <Age key="created" at={vsubnet.created_at} />],
          ]}
        />
      </CardBody>
    </Card>
  );
}

function Members({ vsubnet, attach }: { vsubnet: VSubnet; attach?: () => void }) {
  const members = useMembers(vsubnet.id);
  const [leaving, setLeaving] = useState<Member>();
  return (
    <Card>
      <CardTitle component="h2">
        Members <Help word="member" />
      </CardTitle>
      <CardBody>
        <Shown
          query={members}
          what="members"
          isEmpty={(rows) => rows.length === 0}
          empty={{
            title: "No member yet",
            body: "Let a node join with a token, or attach one that has joined already.",
            action: attach && (
              <Button variant="secondary" onClick={attach}>
                Attach a node
              </Button>
            ),
          }}
        >
          {(rows) => (
            <ListTable
              label="Members"
              rows={rows}
              columns={COLUMNS}
              id={({ node }) => node.id}
              searched={({ node, mac, ips }) => [node.name, node.id, mac, ...ips]}
              sort="node"
              actions={
                attach && (
                  <Button variant="secondary" onClick={attach}>
                    Attach a node
                  </Button>
                )
              }
              rowActions={
                attach &&
                ((row) => (
                  <Button size="sm" variant="secondary" isDanger onClick={() => setLeaving(row)}>
                    Detach
                  </Button>
                ))
              }
            />
          )}
        </Shown>
        {leaving && (
          <Confirm
            title={`Detach ${inert(leaving.node.name)} from ${inert(vsubnet.name)}?`}
            act="Detach"
            isDestructive
            changes={["members", "nodes", "vsubnets"]}
            onClose={() => setLeaving(undefined)}
            run={() =>
              answered(
                api.DELETE("/api/v1/vsubnets/{vsubnet}/members/{node}", {
                  params: { path: { vsubnet: vsubnet.id, node: leaving.node.id } },
                }),
              )
            }
          >
            <p>
              It loses {leaving.ips.length > 0 ? inert(leaving.ips.join(", ")) : "its place"} and
              all its connections in this vSubnet within a second.
            </p>
          </Confirm>
        )}
      </CardBody>
    </Card>
  );
}

interface DialoguesProps {
  vsubnet: VSubnet;
  which: Dialogue;
  close: () => void;
}

function Dialogues({ vsubnet, which, close }: DialoguesProps) {
  const navigate = useNavigate();
  const [revokeNow, setRevokeNow] = useState(false);
  const path = { vsubnet: vsubnet.id };
  const name = inert(vsubnet.name);
  if (which === "change") return <VSubnetForm vsubnet={vsubnet} onClose={close} />;
  if (which === "attach") return <AttachForm vsubnet={vsubnet} onClose={close} />;
  if (which === "rotate") {
    return (
      <Confirm
        title={`Rotate the secret of ${name}?`}
        act="Rotate"
        isDestructive={revokeNow}
        changes={["vsubnets"]}
        onClose={close}
        run={() =>
          answered(
            api.POST("/api/v1/vsubnets/{vsubnet}/rotate", {
              params: { path },
              body: { revoke_now: revokeNow },
            }),
          )
        }
      >
        <p>
          Sessions go on; new ones use the new secret. {plural(vsubnet.members, "member")} get it.
        </p>
        <Checkbox
          id="rotate-now"
          label="End the old secret at once, not after 10 minutes"
          description="Members that no appliance reaches meanwhile lose their sessions"
          isChecked={revokeNow}
          onChange={(_, checked) => setRevokeNow(checked)}
        />
      </Confirm>
    );
  }
  if (which === "delete") {
    return (
      <Confirm
        title={`Delete ${name}?`}
        act="Delete"
        isDestructive
        typed={vsubnet.name}
        changes={["vsubnets"]}
        onClose={close}
        onDone={() => void navigate("/vsubnets")}
        run={() => answered(api.DELETE("/api/v1/vsubnets/{vsubnet}", { params: { path } }))}
      >
        <p>
          It has {plural(vsubnet.members, "member")}
          {vsubnet.members > 0
            ? ": detach them first."
            : ". Its VNI, secret and settings are lost."}
        </p>
      </Confirm>
    );
  }
  return null;
}
