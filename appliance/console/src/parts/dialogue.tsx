import { Button, Form, Modal, ModalBody, ModalFooter, ModalHeader } from "@patternfly/react-core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useId, type ReactNode } from "react";
import { refresh } from "../api/queries";
import { LinkLost } from "../app/LinkBanner";
import { FailureAlert } from "./states";

interface FormDialogueProps<T> {
  title: string;
  /** The button's word. */
  act: string;
  mayAct: boolean;
  /** Lists to be read again afterwards. */
  changes: string[];
  run: () => Promise<T>;
  onDone?: (made: T) => void;
  onClose: () => void;
  children: ReactNode;
}

/** Fields and a button; stays open, with what was typed, where it fails. */
export function FormDialogue<T>(props: FormDialogueProps<T>) {
  const id = useId();
  const client = useQueryClient();
  const saving = useMutation({
    mutationFn: props.run,
    onSuccess: (made) => {
      props.onClose();
      props.onDone?.(made);
    },
    onSettled: () => refresh(client, ...props.changes, "events", "status", "overview"),
  });
  return (
    <Modal isOpen variant="medium" onClose={props.onClose} aria-labelledby={`${id}-title`}>
      <ModalHeader title={props.title} labelId={`${id}-title`} />
      <ModalBody>
        <Form
          id={id}
          onSubmit={(event) => {
            event.preventDefault();
            if (props.mayAct) saving.mutate();
          }}
        >
          <LinkLost />
          {saving.isError && <FailureAlert error={saving.error} title="It was not done" />}
          {props.children}
        </Form>
      </ModalBody>
      <ModalFooter>
        <Button
          type="submit"
          form={id}
          isDisabled={!props.mayAct || saving.isPending}
          isLoading={saving.isPending}
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
