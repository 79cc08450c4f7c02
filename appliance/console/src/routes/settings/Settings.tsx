import { Alert, Button, Card, CardBody, CardTitle, Label } from "@patternfly/react-core";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { answered, answeredWithTag, api, type Schemas } from "../../api/client";
import { refresh } from "../../api/queries";
import { useMay } from "../../app/session";
import { Confirm } from "../../parts/confirm";
import { Help } from "../../parts/help";
import { Page } from "../../parts/page";
import { FailureAlert, Shown } from "../../parts/states";
import { Age, Foreign } from "../../parts/text";
import { inert } from "../../parts/words";
import { ReceiverForm } from "./form";
import { IdentityProvider } from "./IdentityProvider";
import { receiversOf, without, type Receiver } from "./receivers";

const CHANGES = ["settings", "audit"];

/** What is set for the whole cluster: who outside is told of events, and whom it vouches for. */
export function Component() {
  const isAdmin = useMay("admin");
  return (
    <Page title="Settings" lead="They hold for all appliances of the cluster.">
      {isAdmin ? (
        <div className="cairn-stack">
          <Receivers />
          <IdentityProvider />
        </div>
      ) : (
        <Alert
          variant="info"
          isInline
          component="p"
          title="Settings are seen and changed by administrators"
        />
      )}
    </Page>
  );
}

export async function change(
  edit: (now: Schemas["OutputsOut"]) => Schemas["OutputsAsked"],
): Promise<Schemas["OutputsOut"]> {
  const { value, tag } = await answeredWithTag(api.GET("/api/v1/settings/events"));
  return answered(
    api.PUT("/api/v1/settings/events", {
      params: { header: { "if-match": tag } },
      body: edit(value),
    }),
  );
}

function Receivers() {
  const client = useQueryClient();
  const outputs = useQuery({
    queryKey: ["settings", "events"],
    queryFn: ({ signal }) => answered(api.GET("/api/v1/settings/events", { signal })),
  });
  const [open, setOpen] = useState<{ kind: Receiver["kind"]; receiver?: Receiver }>();
  const [removing, setRemoving] = useState<Receiver>();
  const testing = useMutation({
    mutationFn: (id: string) =>
      answered(api.POST("/api/v1/settings/events/test", { body: { id } })),
    onSettled: () => refresh(client, ...CHANGES),
  });
  return (
    <Card>
      <CardTitle component="h2">
        Receivers of events <Help word="receiver" />
      </CardTitle>
      <CardBody className="cairn-stack">
        {testing.isError && <FailureAlert error={testing.error} title="It was not tested" />}
        {testing.data?.results.map(({ id, ok, error }) => (
          <Alert
            key={id}
            variant={ok ? "success" : "danger"}
            isInline
            isLiveRegion
            component="p"
            title={ok ? `${inert(id)} took the test` : `${inert(id)} did not take the test`}
          >
            {inert(error)}
          </Alert>
        ))}
        <Shown
          query={outputs}
          what="receivers"
          isEmpty={(value) => receiversOf(value).length === 0}
          empty={{
            title: "Nobody outside is told of events",
            body: "A syslog server (RFC 5424) or a webhook can be told of each, from now on.",
          }}
        >
          {(value) => (
            <Table aria-label="Receivers" variant="compact">
              <Thead>
                <Tr>
                  <Th>Receiver</Th>
                  <Th>Where</Th>
                  <Th>From severity</Th>
                  <Th>State</Th>
                  <Th screenReaderText="Actions" />
                </Tr>
              </Thead>
              <Tbody>
                {receiversOf(value).map((receiver) => (
                  <Tr key={receiver.id}>
                    <Td dataLabel="Receiver">
                      {receiver.kind} <Foreign text={receiver.id} code />
                    </Td>
                    <Td dataLabel="Where">
                      <Foreign text={receiver.where} code />
                    </Td>
                    <Td dataLabel="From severity">{inert(receiver.min_severity)}</Td>
                    <Td dataLabel="State">
                      <Delivery receiver={receiver} />
                    </Td>
                    <Td isActionCell>
                      <span className="cairn-actions">
                        <Button
                          size="sm"
                          variant="secondary"
                          isLoading={testing.isPending && testing.variables === receiver.id}
                          isDisabled={testing.isPending}
                          onClick={() => testing.mutate(receiver.id)}
                        >
                          Test
                        </Button>
                        <Button
                          size="sm"
                          variant="secondary"
                          onClick={() => setOpen({ kind: receiver.kind, receiver })}
                        >
                          Change
                        </Button>
                        <Button
                          size="sm"
                          variant="secondary"
                          isDanger
                          onClick={() => setRemoving(receiver)}
                        >
                          Remove
                        </Button>
                      </span>
                    </Td>
                  </Tr>
                ))}
              </Tbody>
            </Table>
          )}
        </Shown>
        <div className="cairn-actions">
          <Button onClick={() => setOpen({ kind: "syslog" })}>Add a syslog server</Button>
          <Button variant="secondary" onClick={() => setOpen({ kind: "webhook" })}>
            Add a webhook
          </Button>
        </div>
        {open && (
          <ReceiverForm
            kind={open.kind}
            receiver={open.receiver}
            changes={CHANGES}
            save={change}
            onClose={() => setOpen(undefined)}
          />
        )}
        {removing && (
          <Confirm
            title={`Remove the ${removing.kind} ${inert(removing.id)}?`}
            act="Remove"
            isDestructive
            changes={CHANGES}
            onClose={() => setRemoving(undefined)}
            run={() => change((now) => without(now, removing.id))}
          >
            <p>
              <Foreign text={removing.where} code /> is told of no event any more
              {removing.kind === "webhook" && "; its secret is forgotten"}.
            </p>
          </Confirm>
        )}
      </CardBody>
    </Card>
  );
}

function Delivery({ receiver }: { receiver: Receiver }) {
  if (receiver.failing_since) {
    return (
      <>
        <Label status="danger">
          fails since <Age at={receiver.failing_since} />
        </Label>{" "}
        <Foreign text={receiver.last_error} />
      </>
    );
  }
  if (!receiver.last_ok_at) return <Label>not told yet</Label>;
  return (
    <>
      <Label status="success">
        told <Age at={receiver.last_ok_at} />
      </Label>
      {receiver.skipped > 0 && ` ${String(receiver.skipped)} events were refused and skipped`}
    </>
  );
}
