import { Checkbox } from "@patternfly/react-core";
import { useState } from "react";
import { answered, answeredWithTag, api } from "../../api/client";
import { useNodes, useVSubnets } from "../../api/queries";
import { FormDialogue } from "../../parts/dialogue";
import { Choose, Field } from "../../parts/field";
import { inert } from "../../parts/words";
import type { Segment } from "./queries";

const PREFERENCES = [
  { value: "safety", label: "Safety: without appliances the LAN is cut off" },
  { value: "availability", label: "Availability: the forwarder goes on without appliances" },
] as const;
const MACS = /[\s,]+/;

/** Makes a segment, or changes what it is called, what it prefers and what its guards let by. */
export function SegmentForm({
  segment,
  onClose,
  onDone,
}: {
  segment?: Segment;
  onClose: () => void;
  onDone?: (segment: Segment) => void;
}) {
  const [shown] = useState(segment);
  const vsubnets = useVSubnets();
  const [name, setName] = useState(shown?.name ?? "");
  const [vsubnet, setVSubnet] = useState(shown?.vsubnet.id ?? "");
  const [isSafe, setSafe] = useState(shown?.preference !== "availability");
  const [dhcp, setDhcp] = useState(shown?.guards.dhcp ?? false);
  const [ra, setRa] = useState(shown?.guards.router_advertisements ?? false);
  const [silent, setSilent] = useState(shown?.guards.silent_hosts.join(", ") ?? "");
  const [macs, setMacs] = useState(String(shown?.guards.mac_limit ?? 1024));
  const [bum, setBum] = useState(String(shown?.guards.bum_pps ?? 1000));
  const [sourceBum, setSourceBum] = useState(String(shown?.guards.source_bum_pps ?? 200));
  const preference = isSafe ? ("safety" as const) : ("availability" as const);
  const guards = {
    dhcp,
    router_advertisements: ra,
    silent_hosts: silent.split(MACS).filter(Boolean),
    mac_limit: Number(macs),
    bum_pps: Number(bum),
    source_bum_pps: Number(sourceBum),
  };
  const save = async (): Promise<Segment> => {
    if (!shown) {
      return answered(
        api.POST("/api/v1/segments", { body: { name, vsubnet, preference, guards } }),
      );
    }
    const path = { segment: shown.id };
    const { tag } = await answeredWithTag(
      api.GET("/api/v1/segments/{segment}", { params: { path } }),
    );
    return answered(
      api.PATCH("/api/v1/segments/{segment}", {
        params: { path, header: { "if-match": tag } },
        body: { name: name === shown.name ? undefined : name, preference, guards },
      }),
    );
  };
  return (
    <FormDialogue
      title={shown ? `Change ${inert(shown.name)}` : "Create a segment"}
      act={shown ? "Save" : "Create"}
      mayAct={Boolean(name && vsubnet)}
      changes={["segments", "topology"]}
      run={save}
      onDone={onDone}
      onClose={onClose}
    >
      <Field label="Name" value={name} set={setName} isRequired maxLength={63} />
      {!shown && (
        <Choose
          label="vSubnet that the LAN is bridged into"
          value={vsubnet}
          set={setVSubnet}
          none="Choose a vSubnet"
          isRequired
          options={(vsubnets.data ?? []).map(({ id, name }) => ({ value: id, label: inert(name) }))}
        />
      )}
      <Choose
        label="Prefers"
        value={preference}
        set={(value) => setSafe(value === "safety")}
        options={PREFERENCES}
      />
      <Checkbox
        id="segment-dhcp"
        label="Answers of DHCP servers cross, both ways"
        isChecked={dhcp}
        onChange={(_, checked) => setDhcp(checked)}
      />
      <Checkbox
        id="segment-ra"
        label="Router advertisements and redirects cross, both ways"
        isChecked={ra}
        onChange={(_, checked) => setRa(checked)}
      />
      <Field label="Machines on the LAN, at most" value={macs} set={setMacs} type="number" />
      <Field
        label="BUM frames per second"
        value={bum}
        set={setBum}
        type="number"
        help="Per direction"
      />
      <Field
        label="BUM frames per second of one machine"
        value={sourceBum}
        set={setSourceBum}
        type="number"
      />
      <Field
        label="Silent hosts"
        value={silent}
        set={setSilent}
        help="MACs that get frames though they never spoke, with commas between"
      />
    </FormDialogue>
  );
}

/** Makes a node a gateway of the segment. */
export function AttachGateway({ segment, onClose }: { segment: Segment; onClose: () => void }) {
  const nodes = useNodes("approved");
  const [node, setNode] = useState("");
  const [port, setPort] = useState("");
  const [vlan, setVlan] = useState("0");
  const taken = new Set(segment.gateways.map((each) => each.node.id));
  return (
    <FormDialogue
      title={`Attach a gateway to ${inert(segment.name)}`}
      act="Attach"
      mayAct={Boolean(node && port)}
      changes={["segments", "nodes", "members", "topology"]}
      onClose={onClose}
      run={() =>
        answered(
          api.POST("/api/v1/segments/{segment}/gateways", {
            params: { path: { segment: segment.id } },
            body: { node, port, vlan: Number(vlan) },
          }),
        )
      }
    >
      <Choose
        label="Node"
        value={node}
        set={setNode}
        none="Choose a node"
        isRequired
        options={(nodes.data ?? [])
          .filter(({ id }) => !taken.has(id))
          .map(({ id, name }) => ({ value: id, label: inert(name) }))}
      />
      <PortFields port={port} setPort={setPort} vlan={vlan} setVlan={setVlan} />
    </FormDialogue>
  );
}

export function PortFields(props: {
  port: string;
  setPort: (port: string) => void;
  vlan: string;
  setVlan: (vlan: string) => void;
}) {
  return (
    <>
      <Field
        label="Port"
        value={props.port}
        set={props.setPort}
        isRequired
        maxLength={15}
        help="Interface of the node that is on the LAN, as eth1"
      />
      <Field
        label="VLAN"
        value={props.vlan}
        set={props.setVlan}
        type="number"
        help="0: frames without a tag"
      />
    </>
  );
}
