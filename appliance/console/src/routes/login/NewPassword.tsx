import { Button, Form, FormGroup, TextInput, Title } from "@patternfly/react-core";
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { answered, api } from "../../api/client";
import { useSession } from "../../app/session";
import { FailureAlert } from "../../parts/states";

/** For a person whose password somebody else knows: nothing else is open before it is changed. */
export function NewPassword() {
  const { again, logout } = useSession();
  const [old, setOld] = useState("");
  const [wanted, setWanted] = useState("");
  const saving = useMutation({
    mutationFn: () =>
      answered(api.POST("/api/v1/session/password", { body: { old, new: wanted } })),
    onSuccess: again,
  });
  const field = (id: string, label: string, value: string, set: (value: string) => void) => (
    <FormGroup label={label} isRequired fieldId={id}>
      <TextInput
        id={id}
        type="password"
        isRequired
        maxLength={1024}
        autoComplete={id === "password-old" ? "current-password" : "new-password"}
        value={value}
        onChange={(_, typed) => set(typed)}
      />
    </FormGroup>
  );
  return (
    <div className="cairn-login cairn-stack">
      <Title headingLevel="h1">Choose a password of your own</Title>
      <p>Somebody else knows the one that you logged in with.</p>
      <Form
        onSubmit={(event) => {
          event.preventDefault();
          saving.mutate();
        }}
      >
        {saving.isError && <FailureAlert error={saving.error} title="It was not changed" />}
        {field("password-old", "Password until now", old, setOld)}
        {field("password-new", "New password", wanted, setWanted)}
        <Button
          type="submit"
          isLoading={saving.isPending}
          isDisabled={!old || !wanted || saving.isPending}
        >
          Change it
        </Button>
        <Button variant="link" onClick={() => void logout()}>
          Log out
        </Button>
      </Form>
    </div>
  );
}
