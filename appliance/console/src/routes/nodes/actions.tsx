import { Button, Checkbox, Form, FormGroup, TextInput } from "@patternfly/react-core";
import { useState } from "react";
import { answered, api } from "../../api/client";
import { useMay } from "../../app/session";
import { Confirm } from "../../parts/confirm";
import type { Node } from "../../parts/node";
import { Foreign } from "../../parts/text";
import { inert, plural } from "../../parts/words";

type Act = "approve" | "claim" | "unfreeze" | "reject" | "remove";
const CHANGES = ["nodes", "members", "vsubnets"];

/** What can be done with a node now, each asked for before it is done. */
export function NodeActions({ node, onGone }: { node: Node; onGone?: () => void }) {
  const [act, setAct] = useState<Act | undefined>();
  const mayOperate = useMay("operator");
  if (!mayOperate || node.state === "removed") return null;
  const path = { node: node.id };
  const close = (): void => setAct(undefined);
  const name = inert(node.name);
  const isPending = node.state === "pending";
  return (
    <span className="cairn-actions">
      {isPending && (
        <>
          <Button size="sm" onClick={() => setAct("approve")}>
            Approve
          </Button>
          {node.copy_of && (
            <Button size="sm" variant="secondary" onClick={() => setAct("claim")}>
              Claim
            </Button>
          )}
          <Button size="sm" variant="secondary" isDanger onClick={() => setAct("reject")}>
            Reject
          </Button>
        </>
      )}
      {node.frozen_at && (
        <Button size="sm" variant="secondary" onClick={() => setAct("unfreeze")}>
          Unfreeze
        </Button>
      )}
      {!isPending && (
        <Button size="sm" variant="secondary" isDanger onClick={() => setAct("remove")}>
          Remove
        </Button>
      )}
      {act === "approve" && (
        <Confirm
          title={`Approve ${name}?`}
          act="Approve"
          changes={CHANGES}
          onClose={close}
          run={() => answered(api.POST("/api/v1/nodes/{node}/approve", { params: { path } }))}
        >
          <p>
            {node.wanted.length > 0
              ? "It becomes a member of "
              : "It becomes a node without a vSubnet."}
            {node.wanted.map((each) => (
              <Foreign key={each.id} text={`${each.name} `} />
            ))}
          </p>
          {node.copy_of && (
            <p>
              It becomes a node of its own beside <Foreign text={node.copy_of.name} />, with other
              addresses.
            </p>
          )}
        </Confirm>
      )}
      {act === "claim" && node.copy_of && (
        <Confirm
          title={`Is this machine ${inert(node.copy_of.name)}?`}
          act="Claim"
          isDestructive
          changes={CHANGES}
          onClose={close}
          onDone={onGone}
          run={() => answered(api.POST("/api/v1/nodes/{node}/claim", { params: { path } }))}
        >
          <p>
            The identity, the addresses and the memberships of <Foreign text={node.copy_of.name} />{" "}
            pass to this machine. The machine that has them now loses its connections and is refused
            from then on.
          </p>
        </Confirm>
      )}
      {act === "unfreeze" && (
        <Confirm
          title={`Unfreeze ${name}?`}
          act="Unfreeze"
          changes={CHANGES}
          onClose={close}
          run={() => answered(api.POST("/api/v1/nodes/{node}/unfreeze", { params: { path } }))}
        >
          <p>
            The machine that asks first becomes this node again. Stop the other one before, else
            they go on taking it from each other.
          </p>
        </Confirm>
      )}
      {(act === "reject" || act === "remove") && (
        <Ending node={node} act={act} onClose={close} onGone={onGone} />
      )}
    </span>
  );
}

interface EndingProps {
  node: Node;
  act: "reject" | "remove";
  onClose: () => void;
  onGone?: () => void;
}

/** Refuses a node that waits, or takes one out: for either there is a reason to be told. */
function Ending({ node, act, onClose, onGone }: EndingProps) {
  const [reason, setReason] = useState("");
  const [revokeNow, setRevokeNow] = useState(false);
  const path = { node: node.id };
  const isRemoval = act === "remove";
  const word = isRemoval ? "Remove" : "Reject";
  return (
    <Confirm
      title={`${word} ${inert(node.name)}?`}
      act={word}
      isDestructive
      changes={CHANGES}
      onClose={onClose}
      onDone={onGone}
      run={() =>
        isRemoval
          ? answered(
              api.DELETE("/api/v1/nodes/{node}", {
                params: { path, query: { reason, revoke_now: revokeNow } },
              }),
            )
          : answered(
              api.POST("/api/v1/nodes/{node}/reject", { params: { path }, body: { reason } }),
            )
      }
    >
      <p>
        {isRemoval ? lostBy(node) : "It is refused from then on; "}to come back it needs a new
        token.
      </p>
      <Form className="cairn-gap">
        <FormGroup label="Reason, for the events" fieldId="node-reason">
          <TextInput
            id="node-reason"
            value={reason}
            maxLength={200}
            onChange={(_, value) => setReason(value)}
          />
        </FormGroup>
        {isRemoval && (
          <Checkbox
            id="node-revoke"
            label="Replace the secrets of its vSubnets at once, not after 10 minutes"
            description="Members that no appliance reaches meanwhile lose their sessions"
            isChecked={revokeNow}
            onChange={(_, checked) => setRevokeNow(checked)}
          />
        )}
      </Form>
    </Confirm>
  );
}

function lostBy({ members }: Node): string {
  const addresses = members.reduce((sum, { ips }) => sum + ips.length, 0);
  const lost = `${plural(members.length, "membership")} with ${plural(addresses, "address", "addresses")}`;
  return `It is cut off within a second: ${lost} ${members.length === 1 ? "is" : "are"} lost; `;
}
