import {
  Alert,
  Button,
  Card,
  CardBody,
  CardTitle,
  Checkbox,
  Form,
  FormGroup,
  FormSelect,
  FormSelectOption,
  Spinner,
  Tab,
  Tabs,
  TabTitleText,
  TextInput,
} from "@patternfly/react-core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { useSearchParams } from "react-router";
import { allPages, answered, api, type Schemas } from "../../api/client";
import { LIMIT, refresh, useVSubnets } from "../../api/queries";
import { useMay } from "../../app/session";
import { Copy } from "../../parts/copy";
import { Help } from "../../parts/help";
import { NodeLink, StateLabel } from "../../parts/node";
import { Page } from "../../parts/page";
import { FailureAlert, Shown } from "../../parts/states";
import { Age, Foreign } from "../../parts/text";
import { inert, listed, plural } from "../../parts/words";
import { NodeActions } from "../nodes/actions";
import { recipesFor } from "./recipes";
import { Tokens } from "./Tokens";

type Created = Schemas["TokenCreated"];

const LIVES = [
  { value: "3600", label: "1 hour" },
  { value: "86400", label: "1 day" },
  { value: "604800", label: "7 days" },
  { value: "2592000", label: "30 days" },
];
const WATCH_MS = 1_000;

export function Component() {
  const mayOperate = useMay("operator");
  const [made, setMade] = useState<Created>();
  return (
    <Page
      title="Join a node"
      help={<Help word="enrolment token" />}
      lead="An enrolment token is one string to paste on the machine that is to join."
    >
      <div className="cairn-stack">
        {!mayOperate && (
          <Alert
            variant="info"
            isInline
            component="p"
            title="A token can be made by an operator or an administrator"
          />
        )}
        {mayOperate && !made && <TokenForm onMade={setMade} />}
        {made && <Made token={made} another={() => setMade(undefined)} />}
        <Tokens />
      </div>
    </Page>
  );
}

function TokenForm({ onMade }: { onMade: (token: Created) => void }) {
  const [search] = useSearchParams();
  const vsubnets = useVSubnets();
  const [chosen, setChosen] = useState<string[]>(search.getAll("vsubnet"));
  const [uses, setUses] = useState("1");
  const [life, setLife] = useState("86400");
  const [site, setSite] = useState("");
  const [needsApproval, setNeedsApproval] = useState(false);
  const [sources, setSources] = useState("");
  const [instances, setInstances] = useState("");
  const client = useQueryClient();
  const making = useMutation({
    mutationFn: () =>
      answered(
        api.POST("/api/v1/tokens", {
          body: {
            vsubnets: chosen,
            max_uses: Number(uses),
            life_s: Number(life),
            site,
            labels: {},
            needs_approval: needsApproval,
            sources: listed(sources),
            instances: listed(instances),
          },
        }),
      ),
    onSuccess: onMade,
    onSettled: () => refresh(client, "tokens", "events", "status", "overview"),
  });
  return (
    <Card>
      <CardTitle component="h2">A new token</CardTitle>
      <CardBody>
        <Form
          isWidthLimited
          onSubmit={(event) => {
            event.preventDefault();
            making.mutate();
          }}
        >
          {making.isError && <FailureAlert error={making.error} title="No token was made" />}
          <FormGroup
            role="group"
            label="vSubnets that the node becomes a member of"
            fieldId="join-vsubnets"
          >
            <Shown query={vsubnets} what="vSubnets">
              {(rows) =>
                rows.length === 0 ? (
                  <p>There is none yet: the node joins without one.</p>
                ) : (
                  rows.map(({ id, name, prefixes }) => (
                    <Checkbox
                      key={id}
                      id={`join-${id}`}
                      label={<Foreign text={name} />}
                      description={<Foreign text={prefixes.join(", ")} />}
                      isChecked={chosen.includes(id)}
                      onChange={(_, checked) =>
                        setChosen((before) =>
                          checked ? [...before, id] : before.filter((each) => each !== id),
                        )
                      }
                    />
                  ))
                )
              }
            </Shown>
          </FormGroup>
          <FormGroup label="How many nodes may join with it" fieldId="join-uses" isRequired>
            <TextInput
              id="join-uses"
              type="number"
              min={1}
              max={100_000}
              isRequired
              value={uses}
              onChange={(_, value) => setUses(value)}
            />
          </FormGroup>
          <FormGroup label="How long" fieldId="join-life">
            <FormSelect id="join-life" value={life} onChange={(_, value) => setLife(value)}>
              {LIVES.map((each) => (
                <FormSelectOption key={each.value} {...each} />
              ))}
            </FormSelect>
          </FormGroup>
          <FormGroup label="Site" fieldId="join-site">
            <TextInput
              id="join-site"
              maxLength={63}
              value={site}
              onChange={(_, value) => setSite(value)}
            />
          </FormGroup>
          <FormGroup label="Only from these networks" fieldId="join-sources">
            <TextInput
              id="join-sources"
              placeholder="from anywhere, or for example 192.0.2.0/24"
              value={sources}
              onChange={(_, value) => setSources(value)}
            />
          </FormGroup>
          <FormGroup label="Only for machines with these instance IDs" fieldId="join-instances">
            <TextInput
              id="join-instances"
              placeholder="any machine, or as cairn-agent doctor shows it there"
              value={instances}
              onChange={(_, value) => setInstances(value)}
            />
          </FormGroup>
          <Checkbox
            id="join-approval"
            label="Nodes wait for approval"
            isChecked={needsApproval}
            onChange={(_, checked) => setNeedsApproval(checked)}
          />
          <Button type="submit" isLoading={making.isPending} isDisabled={making.isPending}>
            Make the token
          </Button>
        </Form>
      </CardBody>
    </Card>
  );
}

function Made({ token, another }: { token: Created; another: () => void }) {
  const [tab, setTab] = useState<string | number>("shell");
  return (
    <Card>
      <CardTitle component="h2">The token is made</CardTitle>
      <CardBody className="cairn-stack">
        <Alert variant="warning" isInline component="p" title="It is shown only now">
          {plural(token.max_uses, "node")} can join with it; it ends <Age at={token.expires_at} />.{" "}
          <Packages />
        </Alert>
        <Tabs activeKey={tab} onSelect={(_, key) => setTab(key)} aria-label="Ways to join">
          {recipesFor(token.token).map(({ key, title, lead, text }) => (
            <Tab key={key} eventKey={key} title={<TabTitleText>{title}</TabTitleText>}>
              <div className="cairn-stack cairn-gap">
                <p>{lead}</p>
                <Copy text={text} label="commands" />
              </div>
            </Tab>
          ))}
        </Tabs>
        <Arrivals token={token} />
        <div>
          <Button variant="secondary" onClick={another}>
            Another token
          </Button>
        </div>
      </CardBody>
    </Card>
  );
}

/** Where the agent comes from: this appliance, or packages that are there already. */
function Packages() {
  const enrolment = useQuery({
    queryKey: ["enrolment"],
    queryFn: ({ signal }) => answered(api.GET("/api/v1/enrolment", { signal })),
  });
  const url = enrolment.data?.install_url;
  if (!url) return <>The agent has to be on the machine already (docs/install.md).</>;
  return (
    <>
      The agent has to be on the machine: it is to be had at <Foreign text={url} code />.
    </>
  );
}

/** Who has joined with the token, as it happens. */
function Arrivals({ token }: { token: Created }) {
  const nodes = useQuery({
    queryKey: ["nodes", "joined", token.id],
    refetchInterval: WATCH_MS,
    queryFn: async ({ signal }) => {
      const all = await allPages((cursor) =>
        api.GET("/api/v1/nodes", { params: { query: { limit: LIMIT, cursor } }, signal }),
      );
      return all.filter((node) => node.token === token.id);
    },
  });
  return (
    <Shown query={nodes} what="nodes that joined">
      {(rows) => (
        <div aria-live="polite" className="cairn-stack">
          {rows.map((node) => (
            <div key={node.id}>
              <StateLabel node={node} /> <NodeLink node={node} /> joined{" "}
              <Age at={node.created_at} />
              {node.members.map(({ vsubnet, ips }) => (
                <span key={vsubnet.id}>
                  {" "}
                  as <Foreign text={ips.join(", ")} code /> in {inert(vsubnet.name)}
                </span>
              ))}{" "}
              {node.state === "pending" && <NodeActions node={node} />}
            </div>
          ))}
          {rows.length < token.max_uses && (
            <div>
              <Spinner size="md" aria-label="Waiting" /> Waiting for{" "}
              {plural(token.max_uses - rows.length, rows.length ? "more node" : "node")}
            </div>
          )}
        </div>
      )}
    </Shown>
  );
}
