import { Alert, Card, CardBody, CardTitle, Label, List, ListItem } from "@patternfly/react-core";
import type { ReactNode } from "react";
import { Link } from "react-router";
import type { Schemas } from "../../api/client";
import { useOverview } from "../../api/queries";
import { EventLine } from "../../parts/events";
import { Help } from "../../parts/help";
import { Page } from "../../parts/page";
import { NodeLink } from "../../parts/node";
import { Shown } from "../../parts/states";
import { Age, Foreign } from "../../parts/text";
import { inert } from "../../parts/words";

type Overview = Schemas["OverviewOut"];

/** Is it all right, since when, what changed? */
export function Component() {
  const overview = useOverview();
  return (
    <Page title="Overview">
      <Shown query={overview} what="state of the cluster">
        {(value) => (
          <div className="cairn-stack">
            <Problems overview={value} />
            <Counts counts={value.counts} />
            <div className="cairn-columns">
              <Appliances overview={value} />
              <Recent events={value.recent} />
            </div>
            <p>
              As of <Age at={value.at} />
            </p>
          </div>
        )}
      </Shown>
    </Page>
  );
}

function Appliances({ overview }: { overview: Overview }) {
  return (
    <Card>
      <CardTitle component="h2">
        Appliances <Help word="appliance" />
      </CardTitle>
      <CardBody>
        <List isPlain>
          {overview.appliances.map(({ id, name, up, leader, version }) => (
            <ListItem key={id}>
              <Label status={up ? "success" : "danger"}>{up ? "up" : "down"}</Label>{" "}
              <Foreign text={name} /> {version && `version ${inert(version)}`}
              {leader && ", leads"}
            </ListItem>
          ))}
        </List>
      </CardBody>
    </Card>
  );
}

function Recent({ events }: { events: Overview["recent"] }) {
  return (
    <Card>
      <CardTitle component="h2">What happened last</CardTitle>
      <CardBody>
        {events.length === 0 && <p>Nothing has happened yet.</p>}
        <List isPlain>
          {events.map((event) => (
            <ListItem key={event.id}>
              <EventLine event={event} />
            </ListItem>
          ))}
        </List>
        <Link to="/events">All events</Link>
      </CardBody>
    </Card>
  );
}

function Problems({ overview }: { overview: Overview }) {
  const { problems, counts } = overview;
  return (
    <>
      {problems.length === 0 && (
        <Alert
          variant="success"
          isInline
          component="p"
          title="All is well with cluster, gateways and nodes"
        />
      )}
      {problems.map((problem) => (
        <Alert
          key={`${problem.name}/${problem.subject.id}/${problem.cause}`}
          variant={problem.urgent ? "danger" : "warning"}
          isInline
          component="p"
          title={`${inert(problem.cause)}${problem.urgent ? " (urgent: changes wait because of it)" : ""}`}
        >
          <p>What to do: {inert(problem.remedy)}</p>
          <p>
            {problem.since && (
              <>
                Since <Age at={problem.since} />.{" "}
              </>
            )}
            {problem.subject.kind === "node" && <NodeLink node={problem.subject} />} Alarm{" "}
            <code>{inert(problem.name)}</code>, docs/operate/alarms.md
          </p>
        </Alert>
      ))}
      <Waiting count={counts.nodes_pending} />
    </>
  );
}

function Waiting({ count }: { count: number }) {
  if (count === 0) return null;
  return (
    <Alert
      variant="info"
      isInline
      component="p"
      title={`${String(count)} ${count === 1 ? "node waits" : "nodes wait"} for approval`}
    >
      <Link to="/nodes?state=pending">Approval queue</Link>
    </Alert>
  );
}

function Counts({ counts }: { counts: Overview["counts"] }) {
  const away = counts.nodes - counts.nodes_connected;
  return (
    <div className="cairn-cards">
      <Count title="Nodes" to="/nodes" value={counts.nodes} help="node">
        <Label status={away ? "warning" : counts.nodes ? "success" : undefined}>
          {counts.nodes_connected.toLocaleString("en")} connected
        </Label>
        {counts.nodes_refusing > 0 && (
          <Label status="danger">{counts.nodes_refusing} refuse their newest netmap</Label>
        )}
      </Count>
      <Count title="vSubnets" to="/vsubnets" value={counts.vsubnets} help="vSubnet" />
      <Count title="Members" to="/vsubnets" value={counts.members} help="member" />
      <Count title="Gateways" to="/gateways" value={counts.gateways} help="gateway" />
      <Count title="Sites" to="/nodes" value={counts.sites} help="site" />
      <Count title="Enrolment tokens" to="/join" value={counts.tokens} help="enrolment token" />
    </div>
  );
}

interface CountProps {
  title: string;
  to?: string;
  value: number;
  help: string;
  children?: ReactNode;
}

function Count({ title, to, value, help, children }: CountProps) {
  return (
    <Card isCompact>
      <CardTitle component="h2">
        {to ? <Link to={to}>{title}</Link> : title} <Help word={help} />
      </CardTitle>
      <CardBody>
        <div className="cairn-count">{value.toLocaleString("en")}</div>
        <div className="cairn-labels">{children}</div>
      </CardBody>
    </Card>
  );
}
