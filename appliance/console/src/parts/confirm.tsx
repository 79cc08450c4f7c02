import {
  Button,
  Form,
  FormGroup,
  Modal,
  ModalBody,
  ModalFooter,
  ModalHeader,
  TextInput,
} from "@patternfly/react-core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState, type ReactNode } from "react";
import { refresh } from "../api/queries";
import { LinkLost } from "../app/LinkBanner";
import { FailureAlert } from "./states";

interface ConfirmProps {
  title: string;
  /** The button's words: what will be done. */
  act: string;
  /** What is lost, named. */
  children: ReactNode;
  isDestructive?: boolean;
  /** Has to be typed before it can be done. */
  typed?: string;
  /** Lists to be read again afterwards. */
  changes: string[];
  run: () => Promise<unknown>;
  onDone?: () => void;
  onClose: () => void;
}

/** Asks before something is done, and stays open with cause and remedy where it fails. */
export function Confirm(props: ConfirmProps) {
  const [typed, setTyped] = useState("");
  const client = useQueryClient();
  const doing = useMutation({
    mutationFn: props.run,
    onSuccess: () => {
      props.onClose();
      props.onDone?.();
    },
    onSettled: () => refresh(client, ...props.changes, "events", "status", "overview"),
  });
  const mayRun = props.typed === undefined || typed === props.typed;
  return (
    <Modal isOpen variant="small" onClose={props.onClose} aria-labelledby="confirm-title">
      <ModalHeader
        title={props.title}
        labelId="confirm-title"
        titleIconVariant={props.isDestructive ? "warning" : undefined}
      />
      <ModalBody>
        <LinkLost />
        {props.children}
        {props.typed !== undefined && (
          <Form
            className="cairn-gap"
            onSubmit={(event) => {
              event.preventDefault();
              if (mayRun) doing.mutate();
            }}
          >
            <FormGroup label={`Type ${props.typed} to go on`} fieldId="confirm-typed">
              <TextInput
                id="confirm-typed"
                value={typed}
                autoComplete="off"
                onChange={(_, value) => setTyped(value)}
              />
            </FormGroup>
          </Form>
        )}
        {doing.isError && <FailureAlert error={doing.error} title="It was not done" />}
      </ModalBody>
      <ModalFooter>
        <Button
          variant={props.isDestructive ? "danger" : "primary"}
          isDisabled={!mayRun || doing.isPending}
          isLoading={doing.isPending}
          onClick={() => doing.mutate()}
        >
          {props.act}
        </Button>
        <Button variant="link" onClick={props.onClose}>
          Cancel
        </Button>
      </ModalFooter>
    </Modal>
  );
}
