import {
  Button,
  Form,
  FormGroup,
  FormSelect,
  FormSelectOption,
  Modal,
  ModalBody,
  ModalFooter,
  ModalHeader,
  TextInput,
} from "@patternfly/react-core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { answered, api, type Schemas } from "../../api/client";
import { refresh, useNodes } from "../../api/queries";
import { LinkLost } from "../../app/LinkBanner";
import { FailureAlert, Shown } from "../../parts/states";
import { inert, listed } from "../../parts/words";

interface AttachProps {
  vsubnet: Schemas["VSubnetOut"];
  onClose: () => void;
}

/** Makes a node that has joined a member of this vSubnet. */
export function AttachForm({ vsubnet, onClose }: AttachProps) {
  const nodes = useNodes("approved");
  const [node, setNode] = useState("");
  const [ips, setIps] = useState("");
  const client = useQueryClient();
  const saving = useMutation({
    mutationFn: () =>
      answered(
        api.POST("/api/v1/vsubnets/{vsubnet}/members", {
          params: { path: { vsubnet: vsubnet.id } },
          body: { node, ips: listed(ips), role: "host" },
        }),
      ),
    onSuccess: onClose,
    onSettled: () => refresh(client, "members", "vsubnets", "nodes", "events"),
  });
  return (
    <Modal isOpen variant="small" onClose={onClose} aria-labelledby="attach-title">
      <ModalHeader title={`Attach a node to ${inert(vsubnet.name)}`} labelId="attach-title" />
      <ModalBody>
        <LinkLost />
        <Shown query={nodes} what="nodes">
          {(rows) => (
            <Form
              id="attach-form"
              onSubmit={(event) => {
                event.preventDefault();
                saving.mutate();
              }}
            >
              {saving.isError && <FailureAlert error={saving.error} title="It was not attached" />}
              <FormGroup label="Node" fieldId="attach-node" isRequired>
                <FormSelect id="attach-node" value={node} onChange={(_, value) => setNode(value)}>
                  <FormSelectOption value="" label="Choose a node" isPlaceholder />
                  {rows
                    .filter(({ members }) =>
                      members.every((each) => each.vsubnet.id !== vsubnet.id),
                    )
                    .map(({ id, name }) => (
                      <FormSelectOption key={id} value={id} label={inert(name)} />
                    ))}
                </FormSelect>
              </FormGroup>
              <FormGroup
                label="Addresses, or none: one of each prefix is allocated"
                fieldId="attach-ips"
              >
                <TextInput id="attach-ips" value={ips} onChange={(_, value) => setIps(value)} />
              </FormGroup>
            </Form>
          )}
        </Shown>
      </ModalBody>
      <ModalFooter>
        <Button
          type="submit"
          form="attach-form"
          isDisabled={!node || saving.isPending}
          isLoading={saving.isPending}
        >
          Attach
        </Button>
        <Button variant="link" onClick={onClose}>
          Cancel
        </Button>
      </ModalFooter>
    </Modal>
  );
}
