import {
  Button,
  Form,
  FormGroup,
  FormHelperText,
  HelperText,
  HelperTextItem,
  Modal,
  ModalBody,
  ModalFooter,
  ModalHeader,
  TextInput,
} from "@patternfly/react-core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { answered, answeredWithTag, api, type Schemas } from "../../api/client";
import { refresh } from "../../api/queries";
import { LinkLost } from "../../app/LinkBanner";
import { FailureAlert } from "../../parts/states";
import { inert } from "../../parts/words";
import { changeOf, EMPTY, fieldsOf, orderOf, type Fields } from "./fields";

type VSubnet = Schemas["VSubnetOut"];

interface FormProps {
  vsubnet?: VSubnet;
  onClose: () => void;
  onDone?: (vsubnet: VSubnet) => void;
}

/** Makes a vSubnet, or changes what differs from what was shown when the dialogue opened. */
export function VSubnetForm({ vsubnet, onClose, onDone }: FormProps) {
  const [shown] = useState(vsubnet);
  const [fields, setFields] = useState<Fields>(shown ? fieldsOf(shown) : EMPTY);
  const client = useQueryClient();
  const saving = useMutation({
    mutationFn: () => (shown ? change(shown, fields) : create(fields)),
    onSuccess: (saved) => {
      onClose();
      onDone?.(saved);
    },
    onSettled: () => refresh(client, "vsubnets", "members", "events", "status", "overview"),
  });
  const title = shown ? `Change ${inert(shown.name)}` : "Create a vSubnet";
  const field = (key: keyof Fields, label: string, help: string, isRequired = false) => (
    <FormGroup label={label} fieldId={`vsubnet-${key}`} isRequired={isRequired}>
      <TextInput
        id={`vsubnet-${key}`}
        value={fields[key]}
        isRequired={isRequired}
        aria-describedby={`vsubnet-${key}-help`}
        onChange={(_, value) => setFields((before) => ({ ...before, [key]: value }))}
      />
      <FormHelperText>
        <HelperText id={`vsubnet-${key}-help`}>
          <HelperTextItem>{help}</HelperTextItem>
        </HelperText>
      </FormHelperText>
    </FormGroup>
  );
  return (
    <Modal isOpen variant="medium" onClose={onClose} aria-labelledby="vsubnet-title">
      <ModalHeader title={title} labelId="vsubnet-title" />
      <ModalBody>
        <LinkLost />
        <Form
          id="vsubnet-form"
          onSubmit={(event) => {
            event.preventDefault();
            saving.mutate();
          }}
        >
          {saving.isError && <FailureAlert error={saving.error} title="It was not saved" />}
          {field("name", "Name", "At most 63 characters", true)}
          {field(
            "prefixes",
            "Prefixes",
            "One of IPv4, one of IPv6, or none: 10.7.0.0/24, fd00:7::/64",
          )}
          {field(
            "reserved",
            "Reserved addresses",
            "Never allocated: 10.7.0.10-10.7.0.20, 10.7.0.1",
          )}
          {field("mtu", "MTU in octets", "Of the inner IP packet")}
          {field("bum_pps", "BUM frames per second", "Of each sending member")}
          {field("bum_burst", "BUM burst in frames", "At once, of each sending member")}
          {field("ageing_s", "Ageing in seconds", "Life of a learned address")}
          {field(
            "offline_trust_s",
            "Offline trust in seconds",
            "How long a node without an appliance is believed; 0: without limit, else 86400 or more",
          )}
          {field("shared_ips", "Shared addresses", "Virtual addresses that any member may claim")}
        </Form>
      </ModalBody>
      <ModalFooter>
        <Button
          type="submit"
          form="vsubnet-form"
          isLoading={saving.isPending}
          isDisabled={saving.isPending || !fields.name}
        >
          {shown ? "Save" : "Create"}
        </Button>
        <Button variant="link" onClick={onClose}>
          Cancel
        </Button>
      </ModalFooter>
    </Modal>
  );
}

function create(fields: Fields): Promise<VSubnet> {
  return answered(api.POST("/api/v1/vsubnets", { body: orderOf(fields) }));
}

async function change(shown: VSubnet, fields: Fields): Promise<VSubnet> {
  const path = { vsubnet: shown.id };
  const { tag } = await answeredWithTag(
    api.GET("/api/v1/vsubnets/{vsubnet}", { params: { path } }),
  );
  return answered(
    api.PATCH("/api/v1/vsubnets/{vsubnet}", {
      params: { path, header: { "if-match": tag } },
      body: changeOf(shown, fields),
    }),
  );
}
