import { FormGroup, TextArea } from "@patternfly/react-core";
import { useState } from "react";
import type { Schemas } from "../../api/client";
import { FormDialogue } from "../../parts/dialogue";
import { Choose, Field } from "../../parts/field";
import { inert } from "../../parts/words";
import {
  protocolOf,
  severityOf,
  withSyslog,
  withWebhook,
  type Protocol,
  type Receiver,
  type Severity,
} from "./receivers";

const SEVERITIES = [
  { value: "info", label: "info: all events" },
  { value: "warning", label: "warning and alarm" },
  { value: "alarm", label: "alarm only" },
];
const PROTOCOLS = ["udp", "tcp", "tls"].map((value) => ({ value, label: value.toUpperCase() }));

interface ReceiverFormProps {
  kind: Receiver["kind"];
  receiver?: Receiver;
  changes: string[];
  save: (
    edit: (now: Schemas["OutputsOut"]) => Schemas["OutputsAsked"],
  ) => Promise<Schemas["OutputsOut"]>;
  onClose: () => void;
}

/** Adds a receiver or changes one; a secret is written, never read. */
export function ReceiverForm({ kind, receiver, changes, save, onClose }: ReceiverFormProps) {
  const [host, setHost] = useState(receiver?.host ?? "");
  const [port, setPort] = useState(String(receiver?.port || 514));
  const [protocol, setProtocol] = useState<Protocol>(protocolOf(receiver?.protocol ?? "udp"));
  const [url, setUrl] = useState(receiver?.kind === "webhook" ? receiver.where : "");
  const [secret, setSecret] = useState("");
  const [severity, setSeverity] = useState<Severity>(severityOf(receiver?.min_severity ?? "info"));
  const [ca, setCa] = useState(receiver?.ca ?? "");
  const isSyslog = kind === "syslog";
  const common = { id: receiver?.id ?? "", min_severity: severity, ca };
  const what = isSyslog ? "syslog server" : "webhook";
  return (
    <FormDialogue
      title={receiver ? `Change the ${what} ${inert(receiver.id)}` : `Add a ${what}`}
      act={receiver ? "Save" : "Add"}
      mayAct={isSyslog ? Boolean(host && port) : Boolean(url && (receiver ?? secret))}
      changes={changes}
      onClose={onClose}
      run={() =>
        save((now) =>
          isSyslog
            ? withSyslog(now, { ...common, host, port: Number(port), protocol })
            : withWebhook(now, { ...common, url, secret }),
        )
      }
    >
      {isSyslog ? (
        <>
          <Field label="Host" value={host} set={setHost} isRequired help="Name or address" />
          <Field label="Port" value={port} set={setPort} type="number" isRequired />
          <Choose
            label="Protocol"
            value={protocol}
            set={(value) => setProtocol(protocolOf(value))}
            options={PROTOCOLS}
          />
        </>
      ) : (
        <>
          <Field label="URL" value={url} set={setUrl} isRequired help="https://HOST/PATH" />
          <Field
            label="Secret to sign with"
            type="password"
            autoComplete="new-password"
            value={secret}
            set={setSecret}
            isRequired={!receiver}
            help={
              receiver
                ? "Empty: the one that it has"
                : "16 characters or more; the receiver checks the signature with it"
            }
          />
        </>
      )}
      <Choose
        label="From severity"
        value={severity}
        set={(value) => setSeverity(severityOf(value))}
        options={SEVERITIES}
      />
      {(!isSyslog || protocol === "tls") && (
        <FormGroup label="CA to believe, PEM; empty: the appliance's system" fieldId="receiver-ca">
          <TextArea id="receiver-ca" rows={4} value={ca} onChange={(_, value) => setCa(value)} />
        </FormGroup>
      )}
    </FormDialogue>
  );
}
