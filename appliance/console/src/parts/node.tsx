import { Label } from "@patternfly/react-core";
import { Link } from "react-router";
import type { Schemas } from "../api/client";
import { inert } from "./words";
import { Foreign } from "./text";

export type Node = Schemas["NodeOut"];

/** What a node's state is, in one word, the worst first. */
export function stateOf(
  node: Node,
): "removed" | "pending" | "frozen" | "refuses" | "away" | "well" {
  if (node.state === "removed") return "removed";
  if (node.frozen_at) return "frozen";
  if (node.state === "pending") return "pending";
  if (node.link?.refused) return "refuses";
  return node.link?.connected ? "well" : "away";
}

export const STATES = [
  { value: "well", label: "connected" },
  { value: "away", label: "away" },
  { value: "pending", label: "pending" },
  { value: "frozen", label: "frozen" },
  { value: "refuses", label: "refuses its netmap" },
  { value: "removed", label: "removed" },
] as const;

export function StateLabel({ node }: { node: Node }) {
  const state = stateOf(node);
  const text = STATES.find(({ value }) => value === state)?.label ?? state;
  if (state === "well") return <Label status="success">{text}</Label>;
  if (state === "pending") return <Label status="info">{text}</Label>;
  if (state === "removed") return <Label>{text}</Label>;
  return <Label status={state === "away" ? "warning" : "danger"}>{text}</Label>;
}

/** Why it is not well and what to do; nothing where it is. */
export function whyNot(node: Node): { cause: string; remedy: string } | undefined {
  switch (stateOf(node)) {
    case "removed":
      return {
        cause: `it was removed${node.removed_why ? `: ${inert(node.removed_why)}` : ""}`,
        remedy: "to use the machine again, let it leave and join with a new token",
      };
    case "frozen":
      return {
        cause: "two machines took this identity from each other too often",
        remedy: "stop the machine that should not have it, then unfreeze the node",
      };
    case "pending":
      return node.copy_of
        ? {
            cause: `it came with the identity of ${inert(node.copy_of.name)}, which is in use`,
            remedy:
              "approve it as a new node, claim it where it is the same machine after a move or roll-back, or reject it",
          }
        : { cause: "its token asks for approval", remedy: "approve or reject it" };
    case "refuses":
      return {
        cause: `its newest netmap is not loaded: ${inert(node.link?.refused ?? "")}`,
        remedy: "look at `cairn-agent doctor` on the node",
      };
    case "away":
      return {
        cause: node.link ? "it has no link to any appliance" : "it was never seen",
        remedy:
          "check that the machine runs and that TCP 8002 to the appliances passes; its vSubnets run on meanwhile",
      };
    case "well":
      return undefined;
  }
}

export function NodeLink({ node }: { node: { id: string; name: string } }) {
  return (
    <Link to={`/nodes/${node.id}`}>
      <Foreign text={node.name || node.id} />
    </Link>
  );
}

export function VSubnetLink({ vsubnet }: { vsubnet: { id: string; name: string } }) {
  return (
    <Link to={`/vsubnets/${vsubnet.id}`}>
      <Foreign text={vsubnet.name || vsubnet.id} />
    </Link>
  );
}
