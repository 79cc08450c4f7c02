import { Alert, Button, Card, CardBody, CardTitle, Label } from "@patternfly/react-core";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { answered, api, type Schemas } from "../../api/client";
import { refresh, useCluster } from "../../api/queries";
import { useMay } from "../../app/session";
import { Copy } from "../../parts/copy";
import { Help } from "../../parts/help";
import { Page } from "../../parts/page";
import { FailureAlert, Shown } from "../../parts/states";
import { Age, Foreign } from "../../parts/text";
import { inert, octets } from "../../parts/words";
import { Updates } from "./Updates";

type Cluster = Schemas["ClusterOut"];

/** The appliances, how they are, and the backups of what they know. */
export function Component() {
  const cluster = useCluster();
  const mayAdminister = useMay("admin");
  return (
    <Page title="Cluster" help={<Help word="quorum" />}>
      <Shown query={cluster} what="appliances">
        {(value) => (
          <div className="cairn-stack">
            <Alert
              variant={value.has_quorum ? "success" : "danger"}
              isInline
              component="p"
              title={value.has_quorum ? "There is a quorum" : "There is no quorum: changes wait"}
            />
            {value.problems.map(({ name, cause, remedy, urgent }) => (
              <Alert
                key={name + cause}
                variant={urgent ? "danger" : "warning"}
                isInline
                component="p"
                title={inert(cause)}
              >
                <p>What to do: {inert(remedy)}</p>
              </Alert>
            ))}
            <Appliances cluster={value} />
            {mayAdminister && <JoinString />}
          </div>
        )}
      </Shown>
      <Updates mayAdminister={mayAdminister} />
      {mayAdminister && <Backups />}
    </Page>
  );
}

function Appliances({ cluster }: { cluster: Cluster }) {
  return (
    <Card>
      <CardTitle component="h2">Appliances of cluster {inert(cluster.id)}</CardTitle>
      <CardBody>
        <Table aria-label="Appliances" variant="compact">
          <Thead>
            <Tr>
              <Th>Name</Th>
              <Th>State</Th>
              <Th>Version</Th>
              <Th>Console and API</Th>
              <Th>Store</Th>
              <Th>Behind</Th>
              <Th>Up since</Th>
            </Tr>
          </Thead>
          <Tbody>
            {cluster.appliances.map((each) => (
              <Tr key={each.name}>
                <Td dataLabel="Name">
                  <Foreign text={each.name} />
                  {each.leads && " (leads)"}
                </Td>
                <Td dataLabel="State">
                  <Label status={each.healthy && each.serves ? "success" : "danger"}>
                    {each.healthy ? (each.serves ? "serves" : "does not serve") : "store down"}
                  </Label>
                  {!each.votes && <Label status="info">no vote yet</Label>}
                </Td>
                <Td dataLabel="Version">
                  <Foreign text={each.version} />
                </Td>
                <Td dataLabel="Console and API">
                  <Foreign text={each.operations.join(", ")} code />
                </Td>
                <Td dataLabel="Store">
                  {each.db_octets === null ? "not known" : octets(each.db_octets)}
                </Td>
                <Td dataLabel="Behind">
                  {each.behind === null ? "not known" : `${String(each.behind)} entries`}
                </Td>
                <Td dataLabel="Up since">
                  <Age at={each.since} />
                </Td>
              </Tr>
            ))}
          </Tbody>
        </Table>
      </CardBody>
    </Card>
  );
}

function JoinString() {
  const making = useMutation({
    mutationFn: () =>
      answered(api.POST("/api/v1/cluster/join-strings", { body: { life_s: 3600 } })),
  });
  return (
    <Card>
      <CardTitle component="h2">
        Another appliance <Help word="join string" />
      </CardTitle>
      <CardBody className="cairn-stack">
        {making.isError && <FailureAlert error={making.error} title="No join string was made" />}
        {making.data && (
          <>
            <p>
              For one new appliance, which will be called {inert(making.data.name)}; it is shown
              only now and ends <Age at={making.data.expires_at} />.
            </p>
            <Copy text={making.data.join_string} label="join string" />
          </>
        )}
        <div>
          <Button variant="secondary" isLoading={making.isPending} onClick={() => making.mutate()}>
            Make a join string
          </Button>
        </div>
      </CardBody>
    </Card>
  );
}

function Backups() {
  const client = useQueryClient();
  const backups = useQuery({
    queryKey: ["cluster", "backups"],
    queryFn: ({ signal }) => answered(api.GET("/api/v1/backups", { signal })),
  });
  const making = useMutation({
    mutationFn: () => answered(api.POST("/api/v1/backups")),
    onSettled: () => refresh(client, "cluster", "events"),
  });
  return (
    <Card className="cairn-gap">
      <CardTitle component="h2">Backups</CardTitle>
      <CardBody className="cairn-stack">
        {making.isError && <FailureAlert error={making.error} title="No backup was made" />}
        <div>
          <Button
            isLoading={making.isPending}
            isDisabled={making.isPending}
            onClick={() => making.mutate()}
          >
            Back up now
          </Button>
        </div>
        <Shown
          query={backups}
          what="backups"
          isEmpty={(items) => items.length === 0}
          empty={{ title: "There is no backup", body: "Make one now; else one is made soon." }}
        >
          {(items) => (
            <Table aria-label="Backups" variant="compact">
              <Thead>
                <Tr>
                  <Th>Name</Th>
                  <Th>At appliance</Th>
                  <Th>Made</Th>
                  <Th>Size</Th>
                  <Th>Opened by key</Th>
                  <Th screenReaderText="File" />
                </Tr>
              </Thead>
              <Tbody>
                {items.map((each) => (
                  <Tr key={`${each.appliance}/${each.name}`}>
                    <Td dataLabel="Name">
                      <Foreign text={each.name} code />
                    </Td>
                    <Td dataLabel="At appliance">
                      <Foreign text={each.appliance} />
                    </Td>
                    <Td dataLabel="Made">
                      <Age at={each.made_at} />
                    </Td>
                    <Td dataLabel="Size">{octets(each.octets)}</Td>
                    <Td dataLabel="Opened by key">
                      <Foreign text={each.key_id} code />
                    </Td>
                    <Td dataLabel="File">
                      <a href={`/api/v1/backups/${encodeURIComponent(each.name)}/file`} download>
                        Download<span className="pf-v6-screen-reader"> {inert(each.name)}</span>
                      </a>
                    </Td>
                  </Tr>
                ))}
              </Tbody>
            </Table>
          )}
        </Shown>
      </CardBody>
    </Card>
  );
}
