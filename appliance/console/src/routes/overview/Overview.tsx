import {
  Alert,
  Card,
  CardBody,
  CardTitle,
  Label,
  List,
  ListItem,
} from "@patternfly/react-core";
import type { ReactNode } from "react";
import { Link } from "react-router";
import type { Schemas } from "../../api/client";
import { useEvents, useStatus } from "../../api/queries";
import { EventLine } from "../../parts/events";
import { Help } from "../../parts/help";
import { Page } from "../../parts/page";
import { Shown } from "../../parts/states";
import { Age } from "../../parts/text";
import { inert } from "../../parts/words";

/** Is it all right, since when, what changed? */
export function Component() {
  const status = useStatus();
  const events = useEvents({ limit: 10 });
  return (
    <Page title="Overview">
      <Shown query={status} what="state of the cluster">
        {(value) => (
          <div className="cairn-stack">
            <Problems status={value} />
            {value.counts && <Counts counts={value.counts} />}
            <p>
              Cairn {inert(value.version)}, {value.appliances.length} addresses of appliances, store{" "}
              {value.store.healthy
                ? `answered in ${String(value.store.answered_in_ms)} ms`
                : `not well: ${inert(value.store.detail)}`}
              ; as of <Age at={value.at} />
            </p>
          </div>
        )}
      </Shown>
      <Card className="cairn-gap">
        <CardTitle component="h2">What happened last</CardTitle>
        <CardBody>
          <Shown
            query={events}
            what="events"
            isEmpty={({ items }) => items.length === 0}
            empty={{ title: "Nothing has happened yet", body: "Events appear here as they happen." }}
          >
            {({ items }) => (
              <List isPlain>
                {items.map((event) => (
                  <ListItem key={event.id}>
                    <EventLine event={event} />
                  </ListItem>
                ))}
              </List>
            )}
          </Shown>
          
        </CardBody>
      </Card>
    </Page>
  );
}

function Problems({ status }: { status: Schemas["StatusOut"] }) {
  const waiting = status.counts?.nodes_pending ?? 0;
  if (status.problems.length === 0) {
    return (
      <>
        <Alert variant="success" isInline component="p" title="All is well with cluster and gateways" />
        <Waiting count={waiting} />
      </>
    );
  }
  return (
    <>
      {status.problems.map((problem, index) => (
        <Alert
          key={`${problem.name}/${String(index)}`}
          variant={problem.urgent ? "danger" : "warning"}
          isInline
          component="p"
          title={`${inert(problem.cause)}${problem.urgent ? " (urgent: changes wait because of it)" : ""}`}
        >
          <p>What to do: {inert(problem.remedy)}</p>
          <p>
            <code>{inert(problem.name)}</code> in docs/operate/alarms.md
          </p>
        </Alert>
      ))}
      <Waiting count={waiting} />
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

function Counts({ counts }: { counts: Schemas["Counts"] }) {
  const away = counts.nodes - counts.nodes_connected;
  return (
    <div className="cairn-cards">
      <Count title="Nodes" to="/nodes" value={counts.nodes} help="node">
        <Label status={away ? "warning" : "success"}>
          {counts.nodes_connected.toLocaleString("en")} connected
        </Label>
        {counts.nodes_refusing > 0 && (
          <Label status="danger">{counts.nodes_refusing} refuse their newest netmap</Label>
        )}
      </Count>
      <Count title="vSubnets" to="/vsubnets" value={counts.vsubnets} help="vSubnet" />
      <Count title="Members" to="/vsubnets" value={counts.members} help="member" />
      <Count title="Sites" to="/topology" value={counts.sites} help="site" />
      <Count title="Enrolment tokens" to="/join" value={counts.tokens} help="enrolment token" />
    </div>
  );
}

interface CountProps {
  title: string;
  to: string;
  value: number;
  help: string;
  children?: ReactNode;
}

function Count({ title, to, value, help, children }: CountProps) {
  return (
    <Card isCompact>
      <CardTitle component="h2">
        <Link to={to}>{title}</Link> <Help word={help} />
      </CardTitle>
      <CardBody>
        <div className="cairn-count">{value.toLocaleString("en")}</div>
        <div className="cairn-labels">{children}</div>
      </CardBody>
    </Card>
  );
}
