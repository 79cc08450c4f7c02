import { Alert, Button, Card, CardBody, CardTitle, Label } from "@patternfly/react-core";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { answered, api, type Schemas } from "../../api/client";
import { refresh } from "../../api/queries";
import { Confirm } from "../../parts/confirm";
import { FailureAlert, Shown } from "../../parts/states";
import { Age, Foreign } from "../../parts/text";
import { inert } from "../../parts/words";

type Update = Schemas["UpdateOut"];
type Machine = Schemas["MachineOut"];

const WATCHED_EACH_MS = 3000;
const STATES: Record<Machine["state"], string> = {
  none: "not updated yet",
  installing: "is written",
  restarting: "starts again",
  on_trial: "on trial",
  confirmed: "confirmed",
  rolled_back: "rolled back",
  failed: "not made",
};
const PHASES: Record<NonNullable<Update["phase"]>, string> = {
  backup: "a backup is made first",
  choosing: "waits until all appliances are well",
  updating: "is under way",
  done: "is done",
  stopped: "has stopped",
};

/** The image of the appliances: which version runs in which slot, an update, and the way back. */
export function Updates({ mayAdminister }: { mayAdminister: boolean }) {
  const update = useQuery({
    queryKey: ["cluster", "update"],
    queryFn: ({ signal }) => answered(api.GET("/api/v1/cluster/update", { signal })),
    refetchInterval: WATCHED_EACH_MS,
  });
  return (
    <Card className="cairn-gap">
      <CardTitle component="h2">Updates of the image</CardTitle>
      <CardBody>
        <Shown
          query={update}
          what="updates"
          isEmpty={(value) => value.appliances.length === 0}
          empty={{
            title: "No appliance runs from the image",
            body: "What runs from a clone is updated as docs/operate.md, Upgrading, says.",
          }}
        >
          {(value) => (
            <div className="cairn-stack">
              <Progress update={value} />
              <Machines machines={value.appliances} />
              {mayAdminister && <Actions update={value} />}
            </div>
          )}
        </Shown>
      </CardBody>
    </Card>
  );
}

function Progress({ update }: { update: Update }) {
  if (update.phase === null) return null;
  const kind = update.action === "rollback" ? "The way back" : "The update";
  const what = `${kind} to ${inert(update.version)}`;
  const where = update.current ? ` at ${inert(update.current)}` : "";
  const variant =
    update.phase === "stopped" ? "danger" : update.phase === "done" ? "success" : "info";
  return (
    <Alert
      variant={variant}
      isInline
      component="p"
      title={`${what}: ${PHASES[update.phase]}${where}`}
    >
      {update.cause && (
        <>
          <p>{inert(update.cause)}</p>
          <p>What to do: {inert(update.remedy)}</p>
        </>
      )}
    </Alert>
  );
}

function Machines({ machines }: { machines: Machine[] }) {
  return (
    <Table aria-label="Slots" variant="compact">
      <Thead>
        <Tr>
          <Th>Appliance</Th>
          <Th>Runs</Th>
          <Th>In the other slot</Th>
          <Th>Last update</Th>
          <Th>Since</Th>
          <Th>Uploaded</Th>
        </Tr>
      </Thead>
      <Tbody>
        {machines.map((each) => (
          <Tr key={each.name}>
            <Td dataLabel="Appliance">
              <Foreign text={each.name} />
            </Td>
            <Td dataLabel="Runs">
              <Foreign text={`${each.version} (slot ${each.slot.toUpperCase()})`} />
            </Td>
            <Td dataLabel="In the other slot">
              <Foreign text={each.other_version || "no whole system"} />
            </Td>
            <Td dataLabel="Last update">
              <State machine={each} />
            </Td>
            <Td dataLabel="Since">{each.at === null ? "-" : <Age at={each.at} />}</Td>
            <Td dataLabel="Uploaded">
              <Foreign text={each.uploaded || "-"} />
            </Td>
          </Tr>
        ))}
      </Tbody>
    </Table>
  );
}

function State({ machine }: { machine: Machine }) {
  const isBad = machine.state === "rolled_back" || machine.state === "failed";
  const about = machine.state === "none" || !machine.wanted ? "" : ` (${inert(machine.wanted)})`;
  return (
    <>
      <Label status={isBad ? "danger" : machine.state === "confirmed" ? "success" : "info"}>
        {STATES[machine.state] + about}
      </Label>
      {machine.cause && <p>{inert(machine.cause)}</p>}
    </>
  );
}

function Actions({ update }: { update: Update }) {
  const client = useQueryClient();
  // What is asked about stays what was shown, whatever is uploaded meanwhile.
  const [version, setVersion] = useState<string | null>(null);
  const [asksBack, setAsksBack] = useState(false);
  const [file, setFile] = useState<File | null>(null);
  const uploading = useMutation({
    mutationFn: (chosen: File) =>
      answered(
        api.PUT("/api/v1/cluster/update/file", {
          body: chosen as unknown as string,
          bodySerializer: (body: unknown) => body as BodyInit,
          headers: { "Content-Type": "application/octet-stream" },
        }),
      ),
    onSettled: () => refresh(client, "cluster", "events"),
  });
  const isUnderWay = update.phase !== null && !["done", "stopped"].includes(update.phase);
  return (
    <>
      {uploading.isError && <FailureAlert error={uploading.error} title="It was not uploaded" />}
      <div>
        <label htmlFor="update-file">
          The file of an update (cairn-appliance_VERSION.update):{" "}
        </label>
        <input
          id="update-file"
          type="file"
          accept=".update"
          onChange={(event) => setFile(event.target.files?.[0] ?? null)}
        />
        <Button
          variant="secondary"
          isDisabled={file === null || isUnderWay || uploading.isPending}
          isLoading={uploading.isPending}
          onClick={() => file !== null && uploading.mutate(file)}
        >
          Upload
        </Button>
      </div>
      <div>
        <Button
          isDisabled={!update.uploaded || isUnderWay}
          onClick={() => setVersion(update.uploaded)}
        >
          {update.uploaded ? `Update all to ${inert(update.uploaded)}` : "Update all"}
        </Button>{" "}
        <Button variant="secondary" isDisabled={isUnderWay} onClick={() => setAsksBack(true)}>
          Go back
        </Button>
      </div>
      {version !== null && (
        <Confirm
          title={`Update all appliances to ${inert(version)}?`}
          act="Update"
          changes={["cluster"]}
          run={() => answered(api.POST("/api/v1/cluster/update/start", { body: { version } }))}
          onClose={() => setVersion(null)}
        >
          <p>
            A backup is made, then one appliance after the other is written and started again. What
            the other slots have is lost: the way back is then to the versions of now.
          </p>
        </Confirm>
      )}
      {asksBack && (
        <Confirm
          title="Go back to the versions of before?"
          act="Go back"
          isDestructive
          changes={["cluster"]}
          run={() => answered(api.POST("/api/v1/cluster/update/rollback"))}
          onClose={() => setAsksBack(false)}
        >
          <p>
            One appliance after the other is started from its other slot, but for those that were
            not updated. What only the version of now can do is lost.
          </p>
        </Confirm>
      )}
    </>
  );
}
