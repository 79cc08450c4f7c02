import { Label } from "@patternfly/react-core";
import { Link } from "react-router";
import { Foreign } from "../../parts/text";
import { inert } from "../../parts/words";
import type { Gateway, Segment } from "./queries";

type State = "forwards" | "stopped" | "switching" | "unable" | "nobody" | "no gateway";

/** What a segment does, in one word, as its gateways say. */
export function stateOf(segment: Segment): State {
  if (!segment.bridging) return "stopped";
  if (segment.gateways.length === 0) return "no gateway";
  if (segment.next) return "switching";
  if (!segment.forwarder) return "nobody";
  return segment.gateways.some(({ forwards }) => forwards) ? "forwards" : "unable";
}

const WORDS: Record<State, { text: string; status?: "success" | "warning" | "danger" | "info" }> = {
  forwards: { text: "forwards", status: "success" },
  stopped: { text: "bridging stopped", status: "warning" },
  switching: { text: "switches over", status: "info" },
  unable: { text: "its forwarder does not forward", status: "danger" },
  nobody: { text: "nobody forwards", status: "danger" },
  "no gateway": { text: "no gateway" },
};

export function SegmentState({ segment }: { segment: Segment }) {
  const { text, status } = WORDS[stateOf(segment)];
  return <Label status={status}>{text}</Label>;
}

export function GatewayState({ gateway }: { gateway: Gateway }) {
  if (gateway.forwards) return <Label status="success">forwards</Label>;
  if (gateway.able) return <Label status="info">stands by</Label>;
  return <Label status="danger">could not forward</Label>;
}

/** Why a segment does not carry frames and what to do; nothing where it does. */
export function whyNot(segment: Segment): { cause: string; remedy: string } | undefined {
  const reasons = segment.gateways
    .filter(({ why_not }) => why_not)
    .map(({ node, why_not }) => `${inert(node.name)}: ${inert(why_not)}`)
    .join("; ");
  switch (stateOf(segment)) {
    case "stopped":
      return {
        cause: "an operator stopped its bridging: nothing crosses between LAN and vSubnet",
        remedy: "resume it when what it was stopped for is mended",
      };
    case "no gateway":
      return {
        cause: "it has no gateway yet",
        remedy: "run a pre-flight on the node's port, then attach the node",
      };
    case "nobody":
    case "unable":
      return {
        cause: reasons || "no gateway has been heard with the right to forward",
        remedy: "look at the gateways below and at `cairn-agent doctor` on their nodes",
      };
    default:
      return undefined;
  }
}

export function SegmentLink({ segment }: { segment: { id: string; name: string } }) {
  return (
    <Link to={`/segments/${segment.id}`}>
      <Foreign text={segment.name} />
    </Link>
  );
}
