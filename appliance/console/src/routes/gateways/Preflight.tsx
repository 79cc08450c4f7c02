import {
  Alert,
  Button,
  Card,
  CardBody,
  CardTitle,
  Form,
  Label,
  Spinner,
} from "@patternfly/react-core";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { useSearchParams } from "react-router";
import { answered, api, type Schemas } from "../../api/client";
import { useNodes, useVSubnets } from "../../api/queries";
import { useMay } from "../../app/session";
import { Choose, Field } from "../../parts/field";
import { Help } from "../../parts/help";
import { NodeLink, VSubnetLink } from "../../parts/node";
import { FailureAlert, Shown } from "../../parts/states";
import { useParameter } from "../../parts/table";
import { Age, Foreign } from "../../parts/text";
import { inert } from "../../parts/words";
import { PortFields } from "./form";

type Report = Schemas["PreflightOut"];
const OFTEN_MS = 1_000;

/** Listens on a port before it is bridged; the report has an address of its own. */
export function Preflight() {
  const [search] = useSearchParams();
  const set = useParameter();
  const mayOperate = useMay("operator");
  const task = search.get("preflight") ?? "";
  return (
    <Card>
      <CardTitle component="h2">
        Pre-flight <Help word="pre-flight" />
      </CardTitle>
      <CardBody className="cairn-stack">
        <p>
          Before a LAN is bridged, the node listens on its port, transmits nothing, and says what it
          heard: which guard handles it, or why not to go on.
        </p>
        {task && <Running task={task} />}
        {task && (
          <div>
            <Button variant="secondary" onClick={() => set("preflight", "")}>
              Another pre-flight
            </Button>
          </div>
        )}
        {!task && mayOperate && <Ask onAsked={({ task: asked }) => set("preflight", asked)} />}
        {!task && !mayOperate && <p>An operator or administrator can run one.</p>}
      </CardBody>
    </Card>
  );
}

function Ask({ onAsked }: { onAsked: (report: Report) => void }) {
  const nodes = useNodes("approved");
  const vsubnets = useVSubnets();
  const [node, setNode] = useState("");
  const [vsubnet, setVSubnet] = useState("");
  const [port, setPort] = useState("");
  const [vlan, setVlan] = useState("0");
  const [seconds, setSeconds] = useState("20");
  const asking = useMutation({
    mutationFn: () =>
      answered(
        api.POST("/api/v1/preflights", {
          body: { node, port, vlan: Number(vlan), vsubnet, listen_s: Number(seconds) },
        }),
      ),
    onSuccess: onAsked,
  });
  return (
    <Form
      isWidthLimited
      onSubmit={(event) => {
        event.preventDefault();
        asking.mutate();
      }}
    >
      {asking.isError && <FailureAlert error={asking.error} title="No pre-flight was begun" />}
      <Choose
        label="Node that is to listen"
        value={node}
        set={setNode}
        none="Choose a node"
        isRequired
        options={(nodes.data ?? []).map(({ id, name }) => ({ value: id, label: inert(name) }))}
      />
      <Choose
        label="vSubnet to compare with"
        value={vsubnet}
        set={setVSubnet}
        none="Choose a vSubnet"
        isRequired
        options={(vsubnets.data ?? []).map(({ id, name }) => ({ value: id, label: inert(name) }))}
      />
      <PortFields port={port} setPort={setPort} vlan={vlan} setVlan={setVlan} />
      <Field
        label="How long to listen, in seconds"
        value={seconds}
        set={setSeconds}
        type="number"
        help="1 to 300; rare things need longer"
      />
      <div>
        <Button
          type="submit"
          isDisabled={!node || !vsubnet || !port || asking.isPending}
          isLoading={asking.isPending}
        >
          Listen
        </Button>
      </div>
    </Form>
  );
}

function Running({ task }: { task: string }) {
  const report = useQuery<Report>({
    queryKey: ["preflights", task],
    refetchInterval: ({ state }) => (state.data?.done ? false : OFTEN_MS),
    queryFn: ({ signal }) =>
      answered(api.GET("/api/v1/preflights/{task}", { params: { path: { task } }, signal })),
  });
  return (
    <Shown query={report} what="pre-flight">
      {(value) => <ReportOf report={value} />}
    </Shown>
  );
}

const LEVELS: Record<string, { text: string; status: "info" | "success" | "danger" }> = {
  info: { text: "to know", status: "info" },
  handled: { text: "a guard handles it", status: "success" },
  no_go: { text: "no go", status: "danger" },
};

function ReportOf({ report }: { report: Report }) {
  return (
    <div className="cairn-stack" aria-live="polite">
      <p>
        <NodeLink node={report.node} />, port <Foreign text={report.port} code />
        {report.vlan > 0 && `, VLAN ${String(report.vlan)}`}, for{" "}
        <VSubnetLink vsubnet={report.vsubnet} />; asked for <Age at={report.asked_at} />.
      </p>
      {!report.done && (
        <div>
          <Spinner size="md" aria-label="Listening" /> It listens for {report.listen_s} s.
        </div>
      )}
      {report.done && report.error && (
        <Alert variant="danger" isInline component="p" title="It could not listen">
          {inert(report.error)}
        </Alert>
      )}
      {report.done && !report.error && (
        <Alert
          variant={report.go ? "success" : "danger"}
          isInline
          component="p"
          title={report.go ? "Go: nothing was heard that no guard handles" : "No go"}
        >
          {report.frames.toLocaleString("en")} frames in {report.heard_s.toFixed(0)} s.
        </Alert>
      )}
      {report.findings.length > 0 && (
        <Table aria-label="What was heard" variant="compact">
          <Thead>
            <Tr>
              <Th width={15}>Verdict</Th>
              <Th>What</Th>
              <Th>Guard, or what to do first</Th>
            </Tr>
          </Thead>
          <Tbody>
            {report.findings.map(({ code, level, what, guard }) => (
              <Tr key={code + what}>
                <Td dataLabel="Verdict">
                  <Label status={LEVELS[level]?.status}>{LEVELS[level]?.text ?? level}</Label>
                </Td>
                <Td dataLabel="What">
                  <Foreign text={what} />
                </Td>
                <Td dataLabel="Guard, or what to do first">
                  <Foreign text={guard} />
                </Td>
              </Tr>
            ))}
          </Tbody>
        </Table>
      )}
    </div>
  );
}
