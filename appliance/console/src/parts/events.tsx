import { Label } from "@patternfly/react-core";
import { Link } from "react-router";
import type { Schemas } from "../api/client";
import { Age, Foreign } from "./text";

type Event = Schemas["EventOut"];

export function SeverityLabel({ severity }: { severity: string }) {
  if (severity === "alarm" || severity === "error")
    return <Label status="danger">{severity}</Label>;
  if (severity === "warning") return <Label status="warning">{severity}</Label>;
  return <Label status="info">{severity}</Label>;
}

/** One event in a line: when, what, by whom, about what. */
export function EventLine({ event }: { event: Event }) {
  return (
    <span>
      <Age at={event.at} /> <SeverityLabel severity={event.severity} />{" "}
      <Foreign text={event.text} /> <EventLinks event={event} />
    </span>
  );
}

export function EventLinks({ event }: { event: Event }) {
  return (
    <>
      {event.node && (
        <Link to={`/nodes/${event.node.id}`}>
          <Foreign text={event.node.name} />
        </Link>
      )}{" "}
      {event.vsubnet && (
        <Link to={`/vsubnets/${event.vsubnet.id}`}>
          <Foreign text={event.vsubnet.name} />
        </Link>
      )}
    </>
  );
}
