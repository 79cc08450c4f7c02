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
      {event.node && <About to="nodes" what={event.node} />}{" "}
      {event.vsubnet && <About to="vsubnets" what={event.vsubnet} />}
    </>
  );
}

/** What an event is about; what has no name any more was deleted, and has no page. */
function About({ to, what }: { to: string; what: { id: string; name: string } }) {
  if (!what.name) return <span title={what.id}>since deleted</span>;
  return (
    <Link to={`/${to}/${what.id}`}>
      <Foreign text={what.name} />
    </Link>
  );
}
