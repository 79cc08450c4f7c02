import { Button } from "@patternfly/react-core";
import { useState } from "react";
import { useNavigate } from "react-router";
import type { Schemas } from "../../api/client";
import { useVSubnets } from "../../api/queries";
import { useMay } from "../../app/session";
import { Help } from "../../parts/help";
import { VSubnetLink } from "../../parts/node";
import { Page } from "../../parts/page";
import { Shown } from "../../parts/states";
import { ListTable, type Column } from "../../parts/table";
import { Age, Foreign } from "../../parts/text";
import { VSubnetForm } from "./form";

type VSubnet = Schemas["VSubnetOut"];

const COLUMNS: Column<VSubnet>[] = [
  {
    key: "name",
    title: "Name",
    text: ({ name }) => name,
    cell: (each) => <VSubnetLink vsubnet={each} />,
  },
  { key: "vni", title: "VNI", text: ({ vni }) => vni, cell: ({ vni }) => vni },
  {
    key: "prefixes",
    title: "Prefixes",
    text: ({ prefixes }) => prefixes.join(" "),
    cell: ({ prefixes }) => <Foreign text={prefixes.join(", ") || "unmanaged"} code />,
  },
  { key: "mtu", title: "MTU, octets", text: ({ mtu }) => mtu, cell: ({ mtu }) => mtu },
  {
    key: "members",
    title: "Members",
    text: ({ members }) => members,
    cell: ({ members }) => members,
  },
  {
    key: "created",
    title: "Created",
    text: ({ created_at }) => Date.parse(created_at),
    cell: ({ created_at }) => <Age at={created_at} />,
  },
];

export function Component() {
  const vsubnets = useVSubnets();
  const mayOperate = useMay("operator");
  const [isOpen, setOpen] = useState(false);
  const navigate = useNavigate();
  const create = mayOperate && <Button onClick={() => setOpen(true)}>Create a vSubnet</Button>;
  return (
    <Page title="vSubnets" help={<Help word="vSubnet" />} actions={create}>
      <Shown
        query={vsubnets}
        what="vSubnets"
        isEmpty={(rows) => rows.length === 0}
        empty={{
          title: "There is no vSubnet yet",
          body: mayOperate
            ? "Create one, then let nodes join it."
            : "An operator or administrator can create one.",
        }}
      >
        {(rows) => (
          <ListTable
            label="vSubnets"
            rows={rows}
            columns={COLUMNS}
            id={({ id }) => id}
            searched={({ name, id, vni, prefixes }) => [name, id, String(vni), ...prefixes]}
            sort="name"
          />
        )}
      </Shown>
      {isOpen && (
        <VSubnetForm
          onClose={() => setOpen(false)}
          onDone={({ id }) => void navigate(`/vsubnets/${id}`)}
        />
      )}
    </Page>
  );
}
